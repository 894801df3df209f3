// SPDX-License-Identifier: Apache-2.0
//! The node agent: from Kubernetes objects to BPF maps, in one direction.
//!
//! [`source`] → [`model`] → [`plan`] → [`maps`] → packets; [`node`] supplies what is known of this node,
//! [`load`] puts programs and maps into the kernel, [`apply`] drives the writes, [`agent`] starts it all.

pub mod agent;
pub mod apply;
pub mod cli;
pub mod config;
pub mod explain;
pub mod gc;
pub mod health;
pub mod http;
pub mod inspect;
pub mod kubernetes;
pub mod load;
pub mod maps;
mod membarrier;
pub mod metrics;
pub mod model;
pub mod node;
pub mod plan;
pub mod source;
pub mod trace;
