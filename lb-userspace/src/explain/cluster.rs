//! The objects of a cluster as values that can be changed and asked again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    model::{Change, Endpoint, EndpointSlice, NodeObject, ObjectKey, Problem, Service, is_inside},
    source::pods::{Pod, Pods},
};

/// A pod, by what is known of it.
pub type PodObject = Pod;

/// All objects.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cluster {
    /// Services that are served.
    pub services: BTreeMap<ObjectKey, Service>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Nodes.
    pub nodes: BTreeMap<String, NodeObject>,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, PodObject>,
    /// The labels by which Services select their pods.
    pub selectors: BTreeMap<ObjectKey, BTreeMap<String, String>>,
    /// Services that are not served: headless, ExternalName, another proxy's.
    pub unserved: BTreeSet<ObjectKey>,
    /// Ranges that all ClusterIPs are from, as agents are told by `--service-cidr`.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// What is wrong with objects and files.
    pub problems: Vec<Problem>,
}

impl Cluster {
    /// The objects that `changes` add up to, and what is known of pods.
    #[must_use]
    pub fn new(changes: Vec<Change>, pods: Pods) -> Self {
        let mut cluster = Self {
            pods: pods.pods,
            selectors: pods.selectors,
            ..Self::default()
        };
        for change in changes {
            match change {
                Change::ServiceApplied(service) => {
                    cluster.services.insert(service.key.clone(), service);
                }
                Change::ServiceDeleted(key) => {
                    cluster.unserved.insert(key);
                }
                Change::SliceApplied(slice) => {
                    cluster.slices.insert(slice.key.clone(), slice);
                }
                Change::NodeApplied(node) => {
                    cluster.nodes.insert(node.name.clone(), node);
                }
                Change::SliceDeleted(_) | Change::NodeDeleted(_) => {}
                Change::Reported { problems, .. } => cluster.problems.extend(problems),
            }
        }
        cluster
    }

    /// The same as changes, for the model.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let services = self.services.values().cloned().map(Change::ServiceApplied);
        let slices = self.slices.values().cloned().map(Change::SliceApplied);
        let nodes = self.nodes.values().cloned().map(Change::NodeApplied);
        nodes.chain(slices).chain(services)
    }

    /// The node that has an address as its own.
    pub(super) fn node_of_address(&self, address: IpAddr) -> Option<&NodeObject> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }

    /// The pod that has an address, but for those that share their node's.
    pub(super) fn pod_of_address(&self, address: IpAddr) -> Option<(&ObjectKey, &PodObject)> {
        let has_it = |pod: &PodObject| !pod.host_network && pod.addresses.contains(&address);
        self.pods.iter().find(|(_, pod)| has_it(pod))
    }

    /// The node on which an address is a pod's, as far as anything says so.
    pub(super) fn node_of_pod_address(&self, address: IpAddr) -> Option<&str> {
        let by_pod = self
            .pod_of_address(address)
            .and_then(|(_, pod)| pod.node.as_deref());
        let by_endpoint = || {
            let mut endpoints = self.endpoints();
            endpoints
                .find(|endpoint| endpoint.address == address)?
                .node
                .as_deref()
        };
        let by_prefix = || {
            let has_it =
                |node: &&NodeObject| node.pod_prefixes.iter().any(|prefix| is_inside(address, *prefix));
            self.nodes.values().find(has_it).map(|node| node.name.as_str())
        };
        by_pod.or_else(by_endpoint).or_else(by_prefix)
    }

    /// All endpoints.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slices.values().flat_map(|slice| slice.endpoints.iter())
    }

    /// What somebody with this address is called. Pods that share their node's cannot be told apart.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        if let Some(node) = self.node_of_address(address) {
            return Some(format!("node {}", node.name));
        }
        let (key, _) = self.pod_of_address(address)?;
        Some(format!("pod {key}"))
    }
}
