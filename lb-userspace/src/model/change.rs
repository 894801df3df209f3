//! What the sources report: one change of one object.

use std::{fmt, time::SystemTime};

use super::{EndpointSlice, NodeObject, Problem, Service};

/// Identity of an object in a namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a change of what is served comes from.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Origins {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices of Services.
    pub endpoints: u64,
    /// When endpoints changed in the cluster, as far as slices say so: IPv4 and IPv6.
    pub triggered: [Vec<SystemTime>; 2],
}

impl Origins {
    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        let Self {
            services,
            endpoints,
            triggered,
        } = later;
        self.services += services;
        self.endpoints += endpoints;
        for (all, more) in self.triggered.iter_mut().zip(triggered) {
            all.extend(more);
        }
    }
}

/// One change. Changes of different objects may come in any order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A Service is there, or is different.
    ServiceApplied(Service),
    /// A Service is gone, or is not ours to serve any more.
    ServiceDeleted(ObjectKey),
    /// An EndpointSlice is there, or is different.
    SliceApplied(EndpointSlice),
    /// An EndpointSlice is gone, or belongs to no Service any more.
    SliceDeleted(ObjectKey),
    /// A Node is there, or is different.
    NodeApplied(NodeObject),
    /// A Node is gone.
    NodeDeleted(String),
    /// What is wrong with one object (or one file): replaces all that was said about it before. An empty
    /// list takes everything back.
    Reported {
        /// What it is about: `Kind namespace/name`, or the path of a file.
        subject: String,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
}
