//! The agent as `deploy/` starts it: with those rights on the node and in the cluster, and no others.

mod capabilities;
mod manifest;
mod role;
mod sandbox;
