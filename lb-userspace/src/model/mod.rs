//! Plain values: what the cluster wants and what this node is. No Kubernetes types, no aya, no I/O.

mod desired;
mod facts;

pub use desired::{BackendEndpoint, DesiredState, FrontendAddress, Problem, ServicePort, ServicePortId};
pub use facts::{DeviceFacts, NodeFacts};
