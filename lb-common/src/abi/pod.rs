//! The one macro that makes a type fit for a BPF map.
//!
//! It proves at compile time that the type is exactly as large as its fields (no hidden padding) and
//! gives it the two marker traits that copy it as bytes. This is the only file of the crate with
//! `unsafe`.
#![allow(unsafe_code)]

/// `pod!(Type, bytes, [field types])`: asserts the size and the absence of padding, then marks the type.
macro_rules! pod {
    ($($ty:ty, $size:literal, [$($field:ty),+ $(,)?];)+) => {$(
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size, "size of a map type changed: bump LAYOUT_VERSION");
            assert!(0 $(+ core::mem::size_of::<$field>())+ == $size, "a map type has hidden padding");
        };
        // SAFETY: `repr(C)`, no padding (asserted above), every bit pattern is valid: the fields are
        // integers and arrays of integers; enums are stored as integers and converted by checked functions.
        unsafe impl bytemuck::Zeroable for $ty {}
        // SAFETY: as above.
        unsafe impl bytemuck::Pod for $ty {}
        // SAFETY: as above; aya's trait asks for the same.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )+};
}

use super::{
    Addr4, Addr6, Address, Affinity, AffinityKey, Backend, Counter, Device, End, Entered, Flow, Fragment,
    FragmentKey, Frontend, FrontendKey, Held, Node, Peer, Range, RangeKey, Record, Rows, Service, Set,
    Source, Trace, TrafficKey, Tuple, VALUE, Waiting, Way,
};

pod! {
    Addr4, 4, [[u8; 4]];
    Addr6, 16, [[u8; 16]];
    Tuple<Addr4>, 16, [Addr4, Addr4, u16, u16, u8, u8, u16];
    Tuple<Addr6>, 40, [Addr6, Addr6, u16, u16, u8, u8, u16];
    FragmentKey<Addr4>, 16, [Addr4, Addr4, u32, u8, u8, u16];
    FragmentKey<Addr6>, 40, [Addr6, Addr6, u32, u8, u8, u16];
    Fragment, 12, [u16, u16, u32, u32];
    Held, 9216, [u32, u32, u32, u32, [u8; 9200]];
    Waiting, 1032, [u32, u32, [u32; 256]];
    FrontendKey<Addr4>, 8, [Addr4, u16, u8, u8];
    FrontendKey<Addr6>, 20, [Addr6, u16, u8, u8];
    Frontend, 8, [u32, u8, [u8; 3]];
    Address, 4, [u32];
    Backend<Addr4>, 8, [Addr4, u16, u16];
    Backend<Addr6>, 20, [Addr6, u16, u16];
    Set, 48, [u32, u16, u16, u16, u16, u32, u32, u32, u32, u32, u32, [u32; 2], u32];
    AffinityKey<Addr4>, 12, [[u32; 2], Addr4];
    AffinityKey<Addr6>, 24, [[u32; 2], Addr6];
    Affinity<Addr4>, 16, [Addr4, u16, u16, u32, u32];
    Affinity<Addr6>, 28, [Addr6, u16, u16, u32, u32];
    RangeKey<Addr4>, 8, [u32, Addr4];
    RangeKey<Addr6>, 20, [u32, Addr6];
    Range, 4, [u32];
    Service, 8, [u64];
    Rows, 128, [[u16; 64]];
    Node, 72, [u64, u32, u32, u16, u16, u32, u32, u32, u32, [u32; 8], u32];
    Peer, 36, [Addr6, Addr6, u16, u16];
    Device, 40, [u8, u8, [u8; 6], [u8; 6], u16, u32, Addr4, Addr6];
    Source, 4, [u32];
    Counter, 16, [u64, u64];
    TrafficKey<Addr4>, 16, [Addr4, Addr4, u16, u16, u8, u8, u8, u8];
    TrafficKey<Addr6>, 40, [Addr6, Addr6, u16, u16, u8, u8, u8, u8];
    Trace, 8, [u32, u32];
    End, 20, [[u8; 16], u16, u8, u8];
    Entered, 12, [u32, u32, u32];
    Way, 12, [u32, [u8; 6], u16];
}

#[cfg(not(feature = "other-layout"))]
pod! {
    Flow<Addr4>, 36, [Tuple<Addr4>, u32, u32, u32, u32, u8, u8, u16];
    Flow<Addr6>, 60, [Tuple<Addr6>, u32, u32, u32, u32, u8, u8, u16];
    Record, 128, [u64, u64, u32, u16, u8, u8, u8, u8, u16, [u8; 40], [u8; VALUE]];
}

// As above, with `Flow::moved`.
#[cfg(feature = "other-layout")]
pod! {
    Flow<Addr4>, 44, [Tuple<Addr4>, u32, u32, [u32; 2], u32, u32, u8, u8, u16];
    Flow<Addr6>, 68, [Tuple<Addr6>, u32, u32, [u32; 2], u32, u32, u8, u8, u16];
    Record, 136, [u64, u64, u32, u16, u8, u8, u8, u8, u16, [u8; 40], [u8; VALUE]];
}
