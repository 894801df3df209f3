//! The node's side of the agent in scratch network namespaces: facts, `lb0`, loading and attaching.
#![allow(clippy::unwrap_used)] // the lint's exemption for tests does not reach their helpers

mod attaching;
mod following;
mod lb0;
mod scratch;
mod xdp;
