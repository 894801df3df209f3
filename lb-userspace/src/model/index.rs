//! Joins Services, EndpointSlices and Nodes by name into what this node should serve.
//!
//! Input: changes, in any order. Output: the desired state, as a whole or one Service at a time.
//! *Invariant*: the result depends on the objects alone, not on the order in which they came.
//! *Not here*: which endpoints are chosen, see `select`; who owns an address, see `claims`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
};

use lb_common::abi::FrontendKind;

use super::{
    BackendEndpoint, Candidate, Change, DesiredState, Endpoint, EndpointSlice, NodeObject, ObjectKey,
    Origins, Port, Problem, Scopes, Service, ServicePort, ServicePortId,
    address::is_inside,
    claims::{Claim, Claims},
    select,
};

/// Which node this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeIdentity {
    /// Name of its Node object, and of it in `nodeName` of endpoints.
    pub name: String,
    /// externalIPs outside these (address and length in bits) are not served; empty: all are.
    pub external_ip_ranges: Vec<(IpAddr, u8)>,
}

impl NodeIdentity {
    /// This node, by name, with no limits.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            external_ip_ranges: Vec::new(),
        }
    }

    /// Takes those externalIPs from a Service that are not inside the ranges, and says so.
    fn deny_external_ips(&self, service: &mut Service) -> Vec<Problem> {
        let ranges = &self.external_ip_ranges;
        let allowed = |ip: &IpAddr| ranges.is_empty() || ranges.iter().any(|range| is_inside(*ip, *range));
        let (kept, denied): (Vec<_>, Vec<_>) = service.external_ips.drain(..).partition(allowed);
        service.external_ips = kept;
        let problem = |ip| Problem {
            object: format!("Service {}", service.key),
            message: format!(
                "spec.externalIPs: {ip} is not served: it is outside the ranges that externalIPs are \
                 allowed in; remove it, or have the agent's --external-ip-ranges include it"
            ),
        };
        denied.into_iter().map(problem).collect()
    }
}

/// What may have to be looked at anew.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changed {
    /// Services whose [`Index::desired_service`] may differ.
    pub services: BTreeSet<ObjectKey>,
    /// [`Index::this_node`] or [`Index::other_nodes`] may differ.
    pub nodes: bool,
    /// [`Index::problems`] may differ.
    pub problems: bool,
    /// What made Services differ.
    pub origins: Origins,
}

/// What a load balancer is told of a Service on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// The port that it asks.
    pub port: u16,
    /// Distinct addresses of ready endpoints here, over all ports of the Service and both families.
    pub ready_here: usize,
}

impl Changed {
    /// Nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All objects known, joined.
#[derive(Debug)]
pub struct Index {
    identity: NodeIdentity,
    services: BTreeMap<ObjectKey, Joined>,
    /// The Service that each slice was last known to belong to.
    owners: HashMap<ObjectKey, ObjectKey>,
    nodes: BTreeMap<String, NodeObject>,
    claims: Claims,
    reported: BTreeMap<String, Vec<Problem>>,
    /// externalIPs that are outside the configured ranges.
    denied: BTreeMap<ObjectKey, Vec<Problem>>,
    changed: Changed,
}

/// A Service with its slices, of which either may still be missing. State is kept slice by slice, so that
/// an endpoint on its way from one slice to another survives the deletion of either.
#[derive(Default, Debug)]
struct Joined {
    service: Option<Service>,
    /// Sorted by name. Most Services have one: a tree for it would be ten times its size.
    slices: Vec<EndpointSlice>,
}

impl Joined {
    /// Where the slice of this name is, or belongs.
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.slices
            .binary_search_by(|slice| slice.key.name.as_str().cmp(name))
    }
}

impl Index {
    /// An index for the node `identity`, without objects.
    #[must_use]
    pub fn new(identity: NodeIdentity) -> Self {
        Self {
            identity,
            services: BTreeMap::new(),
            owners: HashMap::new(),
            nodes: BTreeMap::new(),
            claims: Claims::default(),
            reported: BTreeMap::new(),
            denied: BTreeMap::new(),
            changed: Changed::default(),
        }
    }

    /// Takes in one change. What repeats the known costs nothing further.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::ServiceApplied(service) => self.set_service(&service.key.clone(), Some(service)),
            Change::ServiceDeleted(key) => self.set_service(&key, None),
            Change::SliceApplied(slice) => self.apply_slice(slice),
            Change::SliceDeleted(key) => self.delete_slice(&key),
            Change::NodeApplied(node) => self.set_node(&node.name.clone(), Some(node)),
            Change::NodeDeleted(name) => self.set_node(&name, None),
            Change::Reported { subject, problems } => {
                let before = match problems.is_empty() {
                    true => self.reported.remove(&subject),
                    false => self.reported.insert(subject.clone(), problems),
                };
                self.changed.problems |= before.as_ref() != self.reported.get(&subject);
            }
        }
    }

    /// What changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        mem::take(&mut self.changed)
    }

    /// Everything that this node should serve.
    #[must_use]
    pub fn desired(&self) -> DesiredState {
        DesiredState {
            services: self
                .services
                .keys()
                .flat_map(|key| self.desired_service(key))
                .collect(),
            other_nodes: self.other_nodes(),
            problems: self.problems(),
        }
    }

    /// The ports of one Service, sorted by [`ServicePort::id`]; none if it is not (or no longer) served.
    #[must_use]
    pub fn desired_service(&self, key: &ObjectKey) -> Vec<ServicePort> {
        let Some((joined, service)) = self
            .services
            .get(key)
            .and_then(|j| Some((j, j.service.as_ref()?)))
        else {
            return Vec::new();
        };
        let families = |port| [(port, false), (port, true)];
        let mut ports: Vec<_> = (service.ports.iter().flat_map(families))
            .filter_map(|(port, ipv6)| self.desired_port(joined, service, port, ipv6))
            .collect();
        ports.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        ports
    }

    /// What a load balancer is told of a Service; `None` if it is not to ask. Terminating endpoints do not
    /// count, whether or not they serve: the balancer is to go elsewhere before they end.
    #[must_use]
    pub fn health_check(&self, key: &ObjectKey) -> Option<HealthCheck> {
        let joined = self.services.get(key)?;
        let service = joined.service.as_ref()?;
        let port = service.health_check_port?;
        let families = |port| [(port, false), (port, true)];
        let endpoints = (service.ports.iter().flat_map(families))
            .filter(|(_, ipv6)| service.serves(*ipv6))
            .flat_map(|(port, ipv6)| self.merge(joined, port, ipv6));
        let ready_here: BTreeSet<_> = endpoints
            .filter(|(_, endpoint)| endpoint.ready && self.is_here(endpoint))
            .map(|((address, _), _)| address)
            .collect();
        Some(HealthCheck {
            port,
            ready_here: ready_here.len(),
        })
    }

    /// Whether any Node object is known.
    #[must_use]
    pub fn knows_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Addresses of all nodes but this one, sorted.
    #[must_use]
    pub fn other_nodes(&self) -> Vec<IpAddr> {
        let own: &[IpAddr] = self.this_node().map_or(&[], |node| &node.addresses);
        let others = self.nodes.values().filter(|node| node.name != self.identity.name);
        let addresses: BTreeSet<_> = others.flat_map(|node| &node.addresses).copied().collect();
        addresses
            .into_iter()
            .filter(|address| !own.contains(address))
            .collect()
    }

    /// Prefixes of the pods of all nodes but this one: address and length in bits.
    pub fn other_pod_prefixes(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let others = self.nodes.values().filter(|node| node.name != self.identity.name);
        others.flat_map(|node| node.pod_prefixes.iter().copied())
    }

    /// This node's own object.
    #[must_use]
    pub fn this_node(&self) -> Option<&NodeObject> {
        self.nodes.get(&self.identity.name)
    }

    /// What could not be served, and why: sorted, without repetitions.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let problems: BTreeSet<_> = self
            .reported
            .values()
            .chain(self.denied.values())
            .flatten()
            .cloned()
            .chain(self.claims.problems())
            .collect();
        problems.into_iter().collect()
    }

    fn set_service(&mut self, key: &ObjectKey, mut service: Option<Service>) {
        let denied = service
            .as_mut()
            .map_or_else(Vec::new, |service| self.identity.deny_external_ips(service));
        let before = match denied.is_empty() {
            true => self.denied.remove(key),
            false => self.denied.insert(key.clone(), denied),
        };
        self.changed.problems |= before.as_ref() != self.denied.get(key);
        let joined = self.services.entry(key.clone()).or_default();
        if joined.service != service {
            self.changed.problems |= self.claims.are_contested();
            if let Some(old) = &joined.service {
                self.claims.leave(old, &mut self.changed.services);
            }
            if let Some(new) = &service {
                self.claims.enter(new, &mut self.changed.services);
            }
            self.changed.problems |= self.claims.are_contested();
            self.changed.services.insert(key.clone());
            self.changed.origins.services += 1;
            joined.service = service;
        }
        self.forget_if_empty(key);
    }

    fn apply_slice(&mut self, slice: EndpointSlice) {
        let owner = ObjectKey {
            namespace: slice.key.namespace.clone(),
            name: slice.service.clone(),
        };
        let before = self.owners.get(&slice.key);
        if before.is_some_and(|before| *before != owner) {
            self.delete_slice(&slice.key.clone());
        }
        let joined = self.services.entry(owner.clone()).or_default();
        let position = joined.position(&slice.key.name);
        if position.is_ok_and(|position| joined.slices[position] == slice) {
            return;
        }
        if joined.service.is_some() {
            self.changed.services.insert(owner.clone());
            self.changed.origins.endpoints += 1;
            self.changed.origins.triggered[usize::from(slice.ipv6)].extend(slice.triggered);
        }
        self.owners.insert(slice.key.clone(), owner);
        match position {
            Ok(position) => joined.slices[position] = slice,
            Err(position) => {
                joined.slices.reserve_exact(1);
                joined.slices.insert(position, slice);
            }
        }
    }

    fn delete_slice(&mut self, key: &ObjectKey) {
        let Some(owner) = self.owners.remove(key) else {
            return;
        };
        if let Some(joined) = self.services.get_mut(&owner) {
            if let Ok(position) = joined.position(&key.name) {
                joined.slices.remove(position);
            }
            if joined.service.is_some() {
                self.changed.services.insert(owner.clone());
                self.changed.origins.endpoints += 1;
            }
        }
        self.forget_if_empty(&owner);
    }

    fn set_node(&mut self, name: &str, node: Option<NodeObject>) {
        let lost = |node: Option<&NodeObject>| node.is_some_and(|node| !node.ready);
        let before = match &node {
            Some(node) => self.nodes.insert(name.into(), node.clone()),
            None => self.nodes.remove(name),
        };
        if before == node {
            return;
        }
        self.changed.nodes = true;
        if name == self.identity.name {
            let zone = |node: &Option<NodeObject>| node.as_ref().and_then(|node| node.zone.clone());
            if zone(&before) != zone(&node) {
                self.mark_services(|endpoint| !endpoint.for_zones.is_empty());
            }
        } else if lost(before.as_ref()) != lost(node.as_ref()) {
            self.mark_services(|endpoint| endpoint.terminating && endpoint.node.as_deref() == Some(name));
        }
    }

    /// Marks the Services that have such an endpoint. Looks at all endpoints: for rare events only.
    fn mark_services(&mut self, concerned: impl Fn(&Endpoint) -> bool) {
        let has_one = |joined: &Joined| {
            joined.service.is_some()
                && joined
                    .slices
                    .iter()
                    .flat_map(|s| s.endpoints.iter())
                    .any(&concerned)
        };
        let marked = self
            .services
            .iter()
            .filter(|(_, joined)| has_one(joined))
            .map(|(key, _)| key.clone());
        self.changed.services.extend(marked);
    }

    fn forget_if_empty(&mut self, key: &ObjectKey) {
        if self
            .services
            .get(key)
            .is_some_and(|joined| joined.service.is_none() && joined.slices.is_empty())
        {
            self.services.remove(key);
        }
    }

    fn desired_port(
        &self,
        joined: &Joined,
        service: &Service,
        port: &Port,
        ipv6: bool,
    ) -> Option<ServicePort> {
        let mut frontends = service.frontends(port, ipv6);
        let exposed = frontends
            .iter()
            .any(|frontend| frontend.kind != FrontendKind::ClusterIp);
        frontends.retain(|frontend| self.claims.owns(&service.key, &Claim::new(*frontend, port, ipv6)));
        if frontends.is_empty() {
            return None;
        }
        let external_local = service.external_local && exposed;
        let scopes = Scopes {
            cluster: !service.internal_local || exposed,
            local: service.internal_local || external_local,
        };

        let endpoints = self.merge(joined, port, ipv6);
        let candidates: Vec<_> = endpoints
            .values()
            .map(|endpoint| self.candidate(endpoint))
            .collect();
        let zone = self.this_node().and_then(|node| node.zone.as_deref());
        let selection = select(&candidates, &self.identity.name, zone, scopes);
        let backends = endpoints
            .keys()
            .zip(&candidates)
            .zip(selection.in_local.iter().zip(&selection.in_cluster));
        Some(ServicePort {
            id: ServicePortId {
                namespace: service.key.namespace.clone(),
                name: service.key.name.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                ipv6,
            },
            frontends,
            internal_local: service.internal_local,
            external_local,
            endpoints_exist: selection.endpoints_exist,
            affinity: service.affinity,
            source_ranges: service.source_ranges.of_family(ipv6),
            backends: backends
                .filter(|(_, (in_local, in_cluster))| **in_local || **in_cluster)
                .map(
                    |((&(address, port), candidate), (&in_local, &in_cluster))| BackendEndpoint {
                        address,
                        port,
                        on_this_node: candidate.on_this_node,
                        in_local,
                        in_cluster,
                    },
                )
                .collect(),
            // A ready endpoint that does not call itself serving (publishNotReadyAddresses) gets new flows,
            // so it must be able to keep them.
            serving: (endpoints.iter())
                .filter(|(_, endpoint)| endpoint.serving || endpoint.ready)
                .map(|(at, _)| *at)
                .collect(),
        })
    }

    /// The endpoints of a port, each once. Where slices disagree about one (it is on its way from one slice
    /// to the other, or two people wrote it down), the copy on this node wins, then the one in better health.
    fn merge<'a>(
        &self,
        joined: &'a Joined,
        port: &Port,
        ipv6: bool,
    ) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
        let rank = |endpoint: &Endpoint| {
            (
                self.is_here(endpoint),
                endpoint.ready,
                endpoint.serving,
                !endpoint.terminating,
            )
        };
        let mut endpoints = BTreeMap::new();
        for slice in joined.slices.iter().filter(|slice| slice.ipv6 == ipv6) {
            let answers_for = |p: &&_| endpoint_port_matches(p, port);
            for number in slice.ports.iter().filter(answers_for).map(|p| p.port) {
                for endpoint in slice.endpoints.iter() {
                    let known = endpoints.entry((endpoint.address, number)).or_insert(endpoint);
                    if rank(endpoint) > rank(known) {
                        *known = endpoint;
                    }
                }
            }
        }
        endpoints
    }

    fn candidate<'a>(&self, endpoint: &'a Endpoint) -> Candidate<'a> {
        let on_this_node = self.is_here(endpoint);
        // Of this node the cluster may think what it likes: we are running. A node without an object is not
        // lost either: manifests in a directory need not describe the nodes.
        let node = endpoint.node.as_deref().and_then(|name| self.nodes.get(name));
        Candidate {
            on_this_node,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            node_lost: !on_this_node && node.is_some_and(|node| !node.ready),
            for_zones: &endpoint.for_zones,
            for_nodes: &endpoint.for_nodes,
        }
    }

    fn is_here(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_deref() == Some(self.identity.name.as_str())
    }
}

/// Never by number: a target port may have another number in each slice.
fn endpoint_port_matches(endpoint: &super::EndpointPort, port: &Port) -> bool {
    endpoint.name == port.name && endpoint.protocol == port.protocol
}

#[cfg(test)]
mod checks;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
