//! The maps of the floors: keys and values as large as those of the real ones, and as many.
#![allow(non_upper_case_globals)]

use aya_ebpf::{
    btf_maps::{Array, HashMap, ProgramArray},
    macros::btf_map,
};
use lb_common::{
    abi::{Addr4, Addr6, Address, Backend, Flow, Frontend, FrontendKey, Rows, Tuple, V4, V6, capacity},
    net::Net,
};

use crate::settings::WORDS;

type Addresses<A> = HashMap<A, Address, { capacity::ADDRESSES as usize }>;
type Frontends<A> = HashMap<FrontendKey<A>, Frontend, { capacity::FRONTENDS as usize }>;
type Flows<A> = HashMap<Tuple<A>, Flow<A>, { capacity::FLOWS as usize }>;
type Backends<A> = Array<Backend<A>, 64>;

#[btf_map]
pub(crate) static settings: Array<[u64; WORDS], 1> = Array::new();
#[btf_map]
pub(crate) static xdp_target: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static tc_target: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static rows: Array<Rows, 16> = Array::new();

#[btf_map]
pub(crate) static addresses4: Addresses<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static addresses6: Addresses<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static frontends4: Frontends<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static frontends6: Frontends<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static flows4: Flows<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static flows6: Flows<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static backends4: Backends<Addr4> = Array::new();
#[btf_map]
pub(crate) static backends6: Backends<Addr6> = Array::new();

/// The maps of one family.
pub(crate) trait Maps: Net {
    fn addresses() -> &'static Addresses<Self::Addr>;
    fn frontends() -> &'static Frontends<Self::Addr>;
    fn flows() -> &'static Flows<Self::Addr>;
    fn backends() -> &'static Backends<Self::Addr>;
}

macro_rules! family {
    ($family:ty, $addr:ty: $addresses:ident $frontends:ident $flows:ident $backends:ident) => {
        impl Maps for $family {
            #[inline(always)]
            fn addresses() -> &'static Addresses<$addr> {
                &$addresses
            }
            #[inline(always)]
            fn frontends() -> &'static Frontends<$addr> {
                &$frontends
            }
            #[inline(always)]
            fn flows() -> &'static Flows<$addr> {
                &$flows
            }
            #[inline(always)]
            fn backends() -> &'static Backends<$addr> {
                &$backends
            }
        }
    };
}

family! { V4, Addr4: addresses4 frontends4 flows4 backends4 }
family! { V6, Addr6: addresses6 frontends6 flows6 backends6 }
