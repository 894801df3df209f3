// SPDX-License-Identifier: MIT OR GPL-2.0-only OR Apache-2.0
//! What both sides of the kernel boundary must agree on, and the decision they share.
//!
//! * [`abi`]: the types of keys and values in the BPF maps, their names and capacities.
//! * [`net`]: packets: parsing, checksums, NAT edits, TCP states, the flow hash, the decision.
//! * [`maglev`]: builds the lookup tables that the decision reads.
//! * `testing` (feature of that name): packets built from scratch, and tables to try the decision on.
//!
//! *Byte order*: an address is kept as it lies in the packet, in a type of its own
//! ([`abi::Addr4`], [`abi::Addr6`]). Everything else, ports included, is in host order.
//!
//! *Padding*: no map type has hidden padding; every gap is a named `reserved` field that is zero.
//! Keys are compared byte by byte by the kernel.
//!
//! *Invariants*: no allocation, no panic on any input, no knowledge of the hook it runs at beyond
//! [`abi::Hook`].
#![no_std]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod abi;
pub mod maglev;
pub mod net;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
