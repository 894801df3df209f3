//! What tests of the data path share: packets built and checked from scratch, and tables to try them on.
//!
//! [`packet`] builds frames, [`checksum`] verifies them without [`crate::net`], [`dump`] shows how two of
//! them differ, [`pcap`] keeps them for other tools. [`tables`] and [`rewrite`] stand in for the kernel,
//! [`node`] puts everything together.

mod arena;
pub mod chance;
pub mod checksum;
pub mod dump;
pub mod node;
pub mod odd;
pub mod packet;
pub mod pcap;
pub mod rewrite;
pub mod tables;
