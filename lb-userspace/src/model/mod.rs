//! Plain values: what the cluster wants and what this node is. No Kubernetes types, no aya, no I/O.

mod address;
mod change;
mod claims;
mod desired;
mod endpoint;
mod facts;
mod index;
mod node;
mod select;
mod service;

pub use address::{is_inside, is_reachable, parse_address, parse_prefix};
pub use change::{Change, ObjectKey};
pub use desired::{BackendEndpoint, DesiredState, FrontendAddress, Problem, ServicePort, ServicePortId};
pub use endpoint::{Endpoint, EndpointPort, EndpointSlice};
pub use facts::{DeviceFacts, NodeFacts};
pub use index::{Changed, Index, NodeIdentity};
pub use node::NodeObject;
pub use select::{Candidate, Scopes, Selection, select};
pub use service::{Ingress, Port, Service, SourceRanges};
