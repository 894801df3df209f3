// SPDX-License-Identifier: Apache-2.0
//! A small cluster of network namespaces with real traffic, for the demo and the tests.
//!
//! ```no_run
//! use lb_lab::{Family, Lab, Proto, Topology};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::build(&Topology::cluster(3, 2))?;
//! lab.serve_in_pods(8080)?;
//! let pod = lab.at("pod2-1")?.socket(Family::V6, 8080);
//! let shares = lab.at("pod1-1")?.probe(Proto::Tcp, pod, 20)?;
//! assert!(shares.all_answered(), "{shares}");
//! # Ok(()) // dropping the lab removes everything
//! # }
//! ```
//!
//! [`Topology`] is a plain value (`links` and `podnet` turn it into commands, `netfilter` into rules); [`Lab`]
//! builds and removes it; a [`Place`] is a node, pod or client to act from: probe, transfer, stream, capture.
//! `server` answers all of these, [`Child`] runs other programs. No knowledge of Services or Kubernetes here.

mod addr;
mod bpf;
mod capture;
mod cgroup;
mod cleanup;
mod client;
mod configure;
mod crowd;
mod lab;
mod links;
mod netfilter;
mod netns;
mod pattern;
mod pins;
mod place;
mod podnet;
mod process;
mod ready;
mod server;
mod shares;
mod stream;
mod sys;
mod topology;
mod transfer;
mod wait;
mod wire;
mod wiring;

pub use addr::{Cidr, Dual, DualCidr, Family, Proto};
pub use capture::{Capture, Packet, hex_dump};
pub use cleanup::on_signal;
pub use client::{Options, Outcome};
pub use crowd::{Crowd, Echoing, Failure, Fault, Member, Numbered, Progress, Tally};
pub use lab::Lab;
pub use netns::Netns;
pub use nix::sys::signal::Signal;
pub use place::Place;
pub use process::Child;
pub use server::Server;
pub use shares::Shares;
pub use stream::{Report, Stream};
pub use topology::{
    AddressPlan, ClientSpec, FABRIC, Netfilter, NodeSpec, Offload, PodNetwork, PodSpec, Topology,
};
pub use transfer::{Held, Transfer};
pub use wait::{is_root, require_root, skip, wait_for};
pub use wire::Answer;
pub use wiring::{Cable, End, Wired, Wiring};
