//! Services and their endpoints in few words, as the manifests that the agents read.

use std::{collections::BTreeMap, net::IpAddr};

use lb_lab::{Dual, Lab, Proto};
use serde_json::{Value, json};

/// The port that pods serve on.
pub(crate) const TARGET: u16 = 8080;
/// The port of every Service.
pub(crate) const PORT: u16 = 80;

/// The annotation that leaves a load balancer's addresses to it.
pub(crate) const PASS_THROUGH: &str = "kubernetes.io/elb.pass-through";

/// A Service with one port for TCP and one for UDP, dual stack.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    name: String,
    cluster: Dual,
    spec: Value,
    annotations: BTreeMap<String, String>,
    node_port: Option<u16>,
    ingress: Vec<IpAddr>,
    created: u32,
    endpoints: Vec<Endpoint>,
}

/// An endpoint of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    address: Dual,
    node: String,
    ready: bool,
    serving: bool,
    terminating: bool,
}

impl Endpoint {
    /// A pod or node of the lab, ready.
    pub(crate) fn of(lab: &Lab, name: &str) -> Self {
        let topology = lab.topology();
        let pod = topology.pods().find(|(_, pod)| pod.name == name);
        let (node, address) = match pod {
            Some((node, pod)) => (node.name.clone(), pod.addr),
            None => (name.to_owned(), lab.node(name).expect("a pod or a node").addr),
        };
        Self {
            address,
            node,
            ready: true,
            serving: true,
            terminating: false,
        }
    }

    /// On its way out, still serving.
    pub(crate) fn draining(mut self) -> Self {
        (self.ready, self.terminating) = (false, true);
        self
    }

    /// Neither ready nor serving: not yet started, or failing its probe.
    pub(crate) fn failing(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }
}

impl Service {
    /// A ClusterIP Service; `number` distinguishes its addresses from other Services'.
    pub(crate) fn new(lab: &Lab, name: &str, number: u16) -> Self {
        Self {
            name: name.to_owned(),
            cluster: lab.topology().plan.services.nth(number),
            spec: json!({"type": "ClusterIP"}),
            annotations: BTreeMap::new(),
            node_port: None,
            ingress: Vec::new(),
            created: 0,
            endpoints: Vec::new(),
        }
    }

    /// The same without an address of its own: its name leads to its pods.
    pub(crate) fn headless(mut self) -> Self {
        self.spec["clusterIP"] = "None".into();
        self
    }

    /// A Service that is another name for a host elsewhere.
    pub(crate) fn external_name(lab: &Lab, name: &str, number: u16, host: &str) -> Self {
        let service = Self::new(lab, name, number).set("externalName", host);
        service.set("type", "ExternalName")
    }

    /// The same with ready endpoints.
    pub(crate) fn with(mut self, lab: &Lab, names: &[&str]) -> Self {
        self.endpoints = names.iter().map(|name| Endpoint::of(lab, name)).collect();
        self
    }

    /// The same with these endpoints.
    pub(crate) fn with_endpoints(mut self, endpoints: Vec<Endpoint>) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// The same with a NodePort.
    pub(crate) fn node_port(mut self, port: u16) -> Self {
        self.spec["type"] = "NodePort".into();
        self.node_port = Some(port);
        self
    }

    /// The same with a load balancer's address in both families, and an external one.
    pub(crate) fn load_balancer(mut self, lab: &Lab, number: u16, port: u16) -> Self {
        let plan = &lab.topology().plan;
        self = self.node_port(port);
        self.spec["type"] = "LoadBalancer".into();
        self.spec["externalIPs"] = plan
            .external
            .nth(number)
            .both()
            .map(|ip| ip.to_string())
            .to_vec()
            .into();
        self.ingress = plan.vips.nth(number).both().to_vec();
        self
    }

    /// The same with another field of the spec.
    pub(crate) fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec[field] = value.into();
        self
    }

    /// The same with an annotation.
    pub(crate) fn annotate(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Whether agents with default settings are to leave its load balancer's addresses alone.
    pub(crate) fn passes_through(&self) -> bool {
        let value = self.annotations.get(PASS_THROUGH).map(String::as_str);
        value == Some("true") || (value == Some("onlyLocal") && self.spec["externalTrafficPolicy"] == "Local")
    }

    /// The same with the ClusterIPs of another Service's number, created so many seconds after the epoch.
    pub(crate) fn claiming(mut self, lab: &Lab, number: u16, created: u32) -> Self {
        self.cluster = lab.topology().plan.services.nth(number);
        self.created = created;
        self
    }

    /// Its load balancer's addresses.
    pub(crate) fn ingress(&self) -> &[IpAddr] {
        &self.ingress
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The Service and its two EndpointSlices, as a YAML stream.
    pub(crate) fn manifests(&self) -> String {
        let mut documents = vec![self.service()];
        documents.extend(["IPv4", "IPv6"].map(|family| self.slice(family)));
        documents
            .iter()
            .map(|document| format!("---\n{document}\n"))
            .collect()
    }

    fn service(&self) -> Value {
        let mut spec = self.spec.clone();
        let addresses: Vec<_> = self.cluster.both().iter().map(IpAddr::to_string).collect();
        if spec["clusterIP"] == "None" {
            spec["clusterIPs"] = json!(["None"]);
        } else if spec["type"] != "ExternalName" {
            spec["clusterIP"] = addresses[0].clone().into();
            spec["clusterIPs"] = addresses.into();
        }
        spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        spec["ports"] = Proto::BOTH
            .iter()
            .map(|proto| {
                let mut port = json!({
                    "name": port_name(*proto), "protocol": protocol(*proto), "port": PORT, "targetPort": TARGET,
                });
                if let Some(number) = self.node_port {
                    port["nodePort"] = number.into();
                }
                port
            })
            .collect::<Vec<_>>()
            .into();
        let ingress: Vec<_> = self
            .ingress
            .iter()
            .map(|ip| json!({"ip": ip.to_string()}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": self.name, "namespace": "shop", "annotations": self.annotations,
                "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", self.created / 60, self.created % 60),
            },
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    fn slice(&self, family: &str) -> Value {
        let ports: Vec<_> = Proto::BOTH
            .iter()
            .map(|proto| json!({"name": port_name(*proto), "protocol": protocol(*proto), "port": TARGET}))
            .collect();
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|e| {
                let address = if family == "IPv4" {
                    e.address.both()[0]
                } else {
                    e.address.both()[1]
                };
                json!({
                    "addresses": [address.to_string()], "nodeName": e.node,
                    "conditions": {"ready": e.ready, "serving": e.serving, "terminating": e.terminating},
                })
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    }
}

fn port_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    }
}

fn protocol(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

/// The lab's nodes as manifests.
pub(crate) fn nodes(lab: &Lab) -> String {
    lab.topology()
        .nodes
        .iter()
        .map(|node| {
            let cidrs: Vec<_> = node.pod_cidr.both().iter().map(ToString::to_string).collect();
            let addresses: Vec<_> = node
                .addr
                .both()
                .iter()
                .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
                .collect();
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node.name},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
                "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
            });
            format!("---\n{node}\n")
        })
        .collect()
}
