//! Counters: every packet that a program sees has exactly one outcome; what happens to the flow tables is
//! counted beside it.

/// Packets and bytes (with link header, as the program sees them).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Counter {
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal $(, $extra:path)?;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// From its number; `None` if there is none of it.
            #[inline(always)]
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $(n if n == Self::$variant as u32 => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that operators see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

numbered! {
    /// A place where a program of ours sees packets, or what processes ask of their sockets.
    Hook {
        /// XDP on an uplink.
        UplinkXdp = "uplink-xdp";
        /// TC ingress of an uplink or tunnel.
        UplinkIn = "uplink-in";
        /// TC egress of an uplink or tunnel.
        UplinkOut = "uplink-out";
        /// TC ingress of a pod's host-side device: packets from the pod.
        PodIn = "pod-in";
        /// TC egress of a pod's host-side device: packets to the pod.
        PodOut = "pod-out";
        /// TC egress of lb0: node processes to Service addresses.
        HostOut = "host-out";
        /// TC egress of lo: node processes to their own node.
        LoopbackOut = "loopback-out";
        /// `connect` of a TCP socket: counted once for a connection, without bytes.
        Connect = "connect";
        /// `bind` of a socket of this node's own processes: counted once, without bytes.
        Bind = "bind";
    }
}

/// What an outcome means for the packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Untouched.
    Passed,
    /// Translated.
    Forwarded,
    /// Answered with a refusal.
    Rejected,
    /// Silently discarded.
    Dropped,
}

numbered! {
    /// What became of a packet, and why.
    Outcome {
        /// Passed: not IPv4 or IPv6, or a protocol that Services cannot have.
        PassedOther = "passed-other";
        /// Passed: neither address nor flow is ours.
        PassedNotOurs = "passed-not-ours";
        /// Passed: one of our addresses, but no frontend has this port.
        PassedNoFrontend = "passed-no-frontend";
        /// Passed: a fragment of no flow's datagram, or one that does not start its datagram and whose first was not seen.
        PassedFragment = "passed-fragment";
        /// Passed: in a frame that is tagged for a VLAN; the VLAN's own device sees the packet again.
        PassedVlan = "passed-vlan";
        /// Passed: left by XDP to the TC program of the same device: the route leads into a tunnel.
        PassedToTcTunnel = "passed-to-tc-tunnel";
        /// Passed: left by XDP to the TC program of the same device: the next hop's link address is not known.
        PassedToTcNeighbour = "passed-to-tc-neighbour";
        /// Passed: left by XDP to the TC program of the same device: XDP cannot send by the device that the route names.
        PassedToTcDevice = "passed-to-tc-device";
        /// Passed: left by XDP to the TC program of the same device: too large for the route.
        PassedToTcMtu = "passed-to-tc-mtu";
        /// Passed: left by XDP to the TC program of the same device: the kernel names no way that XDP could send it.
        PassedToTcRoute = "passed-to-tc-route";
        /// Passed: left by XDP to the TC program of the same device: for a process of this node, received on another device.
        PassedToTcHost = "passed-to-tc-host";
        /// Passed: left by XDP to the TC program of the same device: to be refused, but the frame has no room for the answer.
        PassedToTcRefusal = "passed-to-tc-refusal";
        /// Passed: IPv6 extension headers that are not understood, or more of them than are followed.
        PassedExtension = "passed-extension";
        /// Passed: left by XDP to the TC program of the same device: a later fragment whose first one is not known or that goes to another node, or a first one that others wait for.
        PassedToTcFragment = "passed-to-tc-fragment";
        /// Passed: left by XDP to the TC program of the same device: an ICMP error that goes to another node.
        PassedToTcError = "passed-to-tc-error";
        /// Passed: a connection that the socket leaves to TC: what becomes of it depends on its source address, or it gets no answer.
        PassedToTcSource = "passed-to-tc-source";
        /// Passed: headers that are cut short or contradict themselves.
        PassedMalformed = "passed-malformed";
        /// Passed: of a connection of this node's own, on a port that is a frontend too.
        PassedOwnConnection = "passed-own-connection";
        /// Passed: in the middle of a TCP connection that is not known, while the kernel's connection tracking translates some to Services: it may be one of those.
        PassedTracked = "passed-tracked";
        /// Forwarded: a flow that is known.
        ForwardedFlow = "forwarded-flow";
        /// Forwarded: the first packet of a new flow.
        ForwardedNew = "forwarded-new";
        /// Forwarded: in the middle of a TCP connection that was not known, to the backend that any node would choose.
        ForwardedMidstream = "forwarded-midstream";
        /// Forwarded: a later fragment of a flow's datagram.
        ForwardedFragment = "forwarded-fragment";
        /// Forwarded: a later fragment that came before the first one of its datagram; kept, and seen again when that one comes.
        ForwardedHeld = "forwarded-held";
        /// Forwarded: an ICMP error about a known flow.
        ForwardedError = "forwarded-error";
        /// Forwarded: larger than the link it goes to; made into fragments, which are seen again.
        ForwardedSplit = "forwarded-split";
        /// Rejected: the Service has no endpoint anywhere.
        RejectedNoEndpoints = "rejected-no-endpoints";
        /// Rejected: sent to a ClusterIP that has no such port, or by this node itself to another Service address.
        RejectedNoFrontend = "rejected-no-frontend";
        /// Rejected: in the middle of a TCP connection that is not known.
        RejectedUnknownFlow = "rejected-unknown-flow";
        /// Rejected: larger than the link it goes to; the sender is told how large it may be.
        RejectedTooBig = "rejected-too-big";
        /// Rejected: a process of this node that would take the port of a Service's NodePort for itself.
        RejectedNodePort = "rejected-node-port";
        /// Dropped: policy Local, and endpoints on other nodes only.
        DroppedNoLocalEndpoints = "dropped-no-local-endpoints";
        /// Dropped: the source is in none of the Service's `loadBalancerSourceRanges`.
        DroppedSourceRange = "dropped-source-range";
        /// Dropped: to an address of the Services' range that no Service has.
        DroppedNoService = "dropped-no-service";
        /// Dropped: in the middle of a TCP connection that is not known, and no answer is allowed (a RST).
        DroppedUnknownFlow = "dropped-unknown-flow";
        /// Dropped: a source address that cannot come in on this device.
        DroppedSpoofed = "dropped-spoofed";
        /// Dropped: the flow table is full.
        DroppedFlowsFull = "dropped-flows-full";
        /// Dropped: no SNAT port is free for this backend.
        DroppedNoPort = "dropped-no-port";
        /// Dropped: no route to the backend, or no address for SNAT on the way to it.
        DroppedNoRoute = "dropped-no-route";
        /// Dropped: the maps contradict each other (a set without its backend).
        DroppedInconsistent = "dropped-inconsistent";
        /// Dropped: the packet could not be rewritten.
        DroppedRewrite = "dropped-rewrite";
        /// Dropped: on lb0, but nothing that a Service could answer.
        DroppedOther = "dropped-other";
        /// Dropped: its time to live ended here.
        DroppedExpired = "dropped-expired";
    }
}

numbered! {
    /// What happened to the tables, beside what became of packets.
    Event {
        /// An unanswered flow made way for a newer one: its places were taken.
        FlowDisplaced = "flow-displaced";
        /// A lost half of a flow was made anew from the other.
        FlowRepaired = "flow-repaired";
        /// The backend of a client was not noted: the table of affinity could not be written.
        AffinityFailed = "affinity-failed";
        /// A fragment that was kept for the first one of its datagram was given up: that one did not come in time, or too many are kept.
        FragmentLost = "fragment-lost";
        /// An entry was not made: the table is full (E2BIG).
        CreateFull = "create-full";
        /// An entry was not made: the kernel has no memory for it (ENOMEM).
        CreateNoMemory = "create-no-memory";
        /// An entry was not made: the kernel's lock on its bucket was taken (EBUSY).
        CreateBusy = "create-busy";
        /// An entry was not made, for another reason.
        CreateFailed = "create-failed";
    }
}

impl Event {
    /// Position in the map `counters`, behind all outcomes.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        Hook::COUNT * Outcome::COUNT + self as u32
    }
}

impl Outcome {
    /// The kind of outcome, by which counters add up.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Kind {
        use Outcome as O;
        match self {
            O::PassedOther
            | O::PassedNotOurs
            | O::PassedNoFrontend
            | O::PassedFragment
            | O::PassedVlan
            | O::PassedToTcTunnel
            | O::PassedToTcNeighbour
            | O::PassedToTcDevice
            | O::PassedToTcMtu
            | O::PassedToTcRoute
            | O::PassedToTcHost
            | O::PassedToTcRefusal
            | O::PassedExtension
            | O::PassedToTcFragment
            | O::PassedToTcError
            | O::PassedToTcSource
            | O::PassedMalformed
            | O::PassedOwnConnection
            | O::PassedTracked => Kind::Passed,
            O::ForwardedFlow
            | O::ForwardedNew
            | O::ForwardedMidstream
            | O::ForwardedFragment
            | O::ForwardedHeld
            | O::ForwardedError
            | O::ForwardedSplit => Kind::Forwarded,
            O::RejectedNoEndpoints
            | O::RejectedNoFrontend
            | O::RejectedUnknownFlow
            | O::RejectedTooBig
            | O::RejectedNodePort => Kind::Rejected,
            O::DroppedNoLocalEndpoints
            | O::DroppedSourceRange
            | O::DroppedNoService
            | O::DroppedUnknownFlow
            | O::DroppedSpoofed
            | O::DroppedFlowsFull
            | O::DroppedNoPort
            | O::DroppedNoRoute
            | O::DroppedInconsistent
            | O::DroppedRewrite
            | O::DroppedOther
            | O::DroppedExpired => Kind::Dropped,
        }
    }

    /// Position in the map `counters`.
    #[inline(always)]
    #[must_use]
    pub const fn index(self, hook: Hook) -> u32 {
        hook as u32 * Self::COUNT + self as u32
    }
}

/// Elements of the map `counters`.
pub const COUNTERS: u32 = Hook::COUNT * Outcome::COUNT + Event::COUNT;
