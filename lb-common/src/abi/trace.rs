//! Traces: what a program writes down about a packet, for as long as somebody watches.
//!
//! Nobody watches most of the time, and then a program only looks whether somebody does. While somebody does, a second
//! instance of each program takes the packet over at once (a tail call), one that notes every step.

use super::Hook;

/// Who watches: one of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Trace {
    /// The tick from which on nobody watches; 0: nobody does. Moved on while somebody does.
    pub until: u32,
    /// Sum of the constants below.
    pub flags: u32,
}

impl Trace {
    /// Only packets from an end at [`End::FROM`], and answers to it.
    pub const FROM: u32 = 1;
    /// Only packets to an end at [`End::TO`], and answers from it.
    pub const TO: u32 = 2;
}

/// An end of the connections that somebody watches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct End {
    /// Its address; IPv4 as an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
    pub address: [u8; 16],
    /// Its port, host order; 0 with any protocol but [`End::NO_PORTS`]: every port.
    pub port: u16,
    /// IANA number of the protocol; 0: every one; [`End::NO_PORTS`].
    pub protocol: u8,
    /// [`End::FROM`] or [`End::TO`].
    pub side: u8,
}

impl End {
    /// Who begins.
    pub const FROM: u8 = 0;
    /// Whom it is about.
    pub const TO: u8 = 1;
    /// Stands for a protocol: packets whose ports are not known (ICMP, later fragments).
    pub const NO_PORTS: u8 = 255;
}

/// Bytes that a [`Record`] has for a value: those of the largest one, an IPv6 flow.
pub const VALUE: usize = size_of::<super::Flow<super::Addr6>>();

/// A step of a packet's way through a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Record {
    /// Time since the node has started, in nanoseconds.
    pub time: u64,
    /// Number of the packet, counted by the CPU.
    pub packet: u64,
    /// Interface index of the device; 0: at a socket.
    pub device: u32,
    /// The CPU.
    pub cpu: u16,
    /// [`Step`] as a number.
    pub step: u8,
    /// [`Hook`] as a number.
    pub hook: u8,
    /// 4 or 6: how addresses in `key` and `value` are to be read.
    pub family: u8,
    /// 1: something was found, or done.
    pub found: u8,
    /// Records of this CPU that were lost before this one for want of room (at most 65,535 are counted).
    pub lost: u16,
    /// What was asked for, see [`Step`]; zero behind it.
    pub key: [u8; 40],
    /// What was found, see [`Step`]; zero behind it.
    pub value: [u8; VALUE],
}

/// What a program sees at first of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Entered {
    /// Bytes, with link header.
    pub length: u32,
    /// Bytes of each segment that the device is to make of it; 0: none (TC).
    pub segment: u32,
    /// Flags of TCP, where they are known.
    pub tcp_flags: u32,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Way {
    /// Interface index of the device that it leaves by; 0: no route.
    pub device: u32,
    /// Link address of the next hop; zero: the kernel finds it.
    pub neighbour: [u8; 6],
    /// Zero.
    pub reserved: u16,
}

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal $text:literal;)+) => {
        /// What a [`Record`] is about. `A` stands for the address of its family.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Step { $($(#[doc = $doc])+ $variant = $number),+ }

        impl Step {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// From its number; `None` if there is none of it.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that operators see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

steps! {
    /// A packet has come. Key: [`super::Tuple`]`<A>`; value: [`Entered`]; found: its ports are known.
    Enter = 0 "enter";
    /// What the destination is to this node. Key: `A`; value: [`super::Address`].
    Address = 1 "address";
    /// Whose the source is. Key: `A`; value: [`super::Source`].
    Source = 2 "source";
    /// A frontend. Key: [`super::FrontendKey`]`<A>`; value: [`super::Frontend`].
    Frontend = 3 "frontend";
    /// The set in use of a Service port. Key: its index, `u32`; value: [`super::Set`].
    Set = 4 "set";
    /// A row of a Maglev table. Key: element, rows and hash, `[u32; 3]`; value: the backend within its set, `u16`.
    Row = 5 "row";
    /// A backend. Key: its index, `u32`; value: [`super::Backend`]`<A>`.
    Backend = 6 "backend";
    /// A source range that has the client. Key: [`super::RangeKey`]`<A>`; no value.
    Range = 7 "range";
    /// The backend that a client had last. Key: [`super::AffinityKey`]`<A>`; value: [`super::Affinity`]`<A>`.
    Affinity = 8 "affinity";
    /// An entry of the flow table. Key: [`super::Tuple`]`<A>`; value: [`super::Flow`]`<A>`.
    Flow = 9 "flow";
    /// An entry that was made for a new flow. Key, value: as above.
    Create = 10 "create";
    /// The kernel's route. Key: [`super::Tuple`]`<A>`; value: [`Way`].
    Route = 11 "route";
    /// A translation. Key, value: [`super::Tuple`]`<A>` before and after it; found: it was written.
    Rewrite = 12 "rewrite";
    /// The transport's checksum follows. Key: the offset of the field, `u32`; found: the kernel did it, since its sender may have
    /// left it to the device; else it was complete, and was changed in place.
    Checksum = 13 "checksum";
    /// The packet's outcome is counted. Key: [`super::Outcome`] as a `u32`; no value.
    Outcome = 14 "outcome";
    /// What the kernel is told to do. Key: the verdict of TC or XDP, `i32`; no value.
    Verdict = 15 "verdict";
}

/// A program of which there is an instance that notes every step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Traced {
    /// `uplink_in`.
    UplinkIn = 0,
    /// `uplink_out`.
    UplinkOut = 1,
    /// `pod_in`.
    PodIn = 2,
    /// `bridge_port_in`.
    BridgePortIn = 3,
    /// `pod_out`.
    PodOut = 4,
    /// `host_out`.
    HostOut = 5,
    /// `loopback_out`.
    LoopbackOut = 6,
}

impl Traced {
    /// All of them, in the order of their numbers: their places in the map `trace_tc`.
    pub const ALL: [Self; 7] = [
        Self::UplinkIn,
        Self::UplinkOut,
        Self::PodIn,
        Self::BridgePortIn,
        Self::PodOut,
        Self::HostOut,
        Self::LoopbackOut,
    ];

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::UplinkIn => "uplink_in",
            Self::UplinkOut => "uplink_out",
            Self::PodIn => "pod_in",
            Self::BridgePortIn => "bridge_port_in",
            Self::PodOut => "pod_out",
            Self::HostOut => "host_out",
            Self::LoopbackOut => "loopback_out",
        }
    }

    /// The hook that it is at.
    #[inline(always)]
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::UplinkIn => Hook::UplinkIn,
            Self::UplinkOut => Hook::UplinkOut,
            Self::PodIn | Self::BridgePortIn => Hook::PodIn,
            Self::PodOut => Hook::PodOut,
            Self::HostOut => Hook::HostOut,
            Self::LoopbackOut => Hook::LoopbackOut,
        }
    }
}
