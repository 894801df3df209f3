//! Addresses that concern us, and the frontends behind them.

/// What a destination address is to this node. The first lookup of every packet: absent means "not ours".
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Address {
    /// Sum of the constants below. An address can be several things at once.
    pub flags: u32,
}

impl Address {
    /// Some frontend has exactly this address (ClusterIP, LoadBalancer address or externalIP).
    pub const VIP: u32 = 1;
    /// An address of this node: replies to translated flows arrive here.
    pub const OWN: u32 = 2;
    /// NodePorts are served on it: looked up in the frontends with the address left out (all zero).
    pub const NODE_PORTS: u32 = 4;
    /// An address of another node. NodePorts of it are served at the source, for clients on this node only.
    pub const OTHER_NODE: u32 = 8;
    /// A ClusterIP, at present or until lately. If it is one at present, a port that it does not have is refused; see
    /// [`FrontendKey::mark_of`].
    pub const CLUSTER_IP: u32 = 16;
    /// A LoadBalancer address or an externalIP, at present or until lately: what it does not serve goes on.
    pub const EXTERNAL: u32 = 32;
    /// A loopback address that NodePorts are served on, for what is sent by way of the loopback device only.
    pub const LOCALHOST: u32 = 64;

    /// Whether all bits of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// Identifies a frontend. NodePorts have the all-zero address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// Destination address; all zero for a NodePort.
    pub address: A,
    /// Destination port.
    pub port: u16,
    /// IANA number, see [`super::Protocol`].
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

impl<A> FrontendKey<A> {
    /// The key under which there is an entry while a Service has `address` as its ClusterIP. It is no frontend: no
    /// packet has this protocol. (A flag in [`Address`] would do as well, but a value in a hash can only be replaced
    /// with a grace period of its own, and a thousand Services may go at once.)
    #[inline(always)]
    #[must_use]
    pub const fn mark_of(address: A) -> Self {
        Self {
            address,
            port: 0,
            protocol: 0,
            reserved: 0,
        }
    }

    /// Whether this is the key of a mark rather than of a frontend.
    #[must_use]
    pub const fn is_mark(&self) -> bool {
        self.protocol == 0
    }
}

impl Frontend {
    /// The value under [`FrontendKey::mark_of`].
    pub const MARK: Self = Self {
        service: u32::MAX,
        kind: FrontendKind::ClusterIp as u8,
        reserved: [0; 3],
    };
}

/// Where a frontend leads. Replaced as a whole when another Service takes the frontend over.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Frontend {
    /// Index into `services4` or `services6`.
    pub service: u32,
    /// [`FrontendKind`] as a number.
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Which of a Service's addresses a frontend is. Decides which traffic policy applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum FrontendKind {
    /// The virtual address inside the cluster: `internalTrafficPolicy`.
    #[default]
    ClusterIp = 0,
    /// A port on node addresses: `externalTrafficPolicy`.
    NodePort = 1,
    /// An address from the Service's status: `externalTrafficPolicy`.
    LoadBalancer = 2,
    /// An address from `spec.externalIPs`: `externalTrafficPolicy`.
    ExternalIp = 3,
}

impl FrontendKind {
    /// From the number in a map; unknown numbers are ClusterIP, which never exposes more than intended.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::NodePort,
            2 => Self::LoadBalancer,
            3 => Self::ExternalIp,
            _ => Self::ClusterIp,
        }
    }
}
