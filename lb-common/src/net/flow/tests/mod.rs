//! Flows on a whole node: opened, followed, translated back, and forgotten.
//!
//! Every scenario is written once, in IPv4 addresses, and runs in both families.

/// Makes a test of each scenario in each family.
macro_rules! in_both_families {
    ($($scenario:ident),+ $(,)?) => {
        mod ipv4 { $(#[test] fn $scenario() { super::$scenario::<crate::abi::V4>(); })+ }
        mod ipv6 { $(#[test] fn $scenario() { super::$scenario::<crate::abi::V6>(); })+ }
    };
}

mod affinity;
mod clash;
mod full;
mod handover;
mod life;
mod ports;
mod refusals;
mod roundtrip;
mod socket;
mod ways;
mod world;
