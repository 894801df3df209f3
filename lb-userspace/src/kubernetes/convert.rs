//! Converts one Kubernetes object into one model value.
//!
//! Pure, and never fatal: what cannot be understood is left out and reported, the rest of the object is
//! served. *Invariant*: the fields that the API server guards (unique ports, one ClusterIP per family) are
//! checked here again, because manifests in a directory have passed no API server.

mod annotations;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, net::IpAddr, time::SystemTime};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    jiff::Timestamp,
};
use kube::Resource;
use lb_common::abi::Protocol;
use serde::de::DeserializeOwned;

use crate::model::{
    Change, Endpoint, EndpointPort, EndpointSlice, Ingress, NodeObject, ObjectKey, Port, Problem, Service,
    SourceRanges, is_reachable, parse_address, parse_prefix,
};

pub use annotations::Annotations;

/// Names the proxy that is to serve a Service instead of us.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Marks what has no virtual address.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Names the Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names the zone of a Node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Taint of a Node that the cluster autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Says on an EndpointSlice when that changed which made it change.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The API's own default of `sessionAffinityConfig.clientIP.timeoutSeconds`, and its largest value.
const AFFINITY_DEFAULT: i32 = 10_800;
const AFFINITY_MAX: i32 = 86_400;

/// What became of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// It, as applied; or, if it is none of our business (any more), as deleted.
    pub change: Change,
    /// What had to be left out.
    pub problems: Vec<Problem>,
}

/// A kind of object that we follow.
pub trait Object:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static
{
    /// Name of the kind.
    const KIND: &'static str;
    /// Which objects of the kind concern us, as a label selector. The objects that it leaves out are also
    /// left out by [`Object::convert`]; the selector merely keeps them off the wire.
    const SELECTOR: Option<&'static str>;

    /// The object as a value, with what these annotations say of it.
    fn convert(&self, annotations: &Annotations) -> Converted;

    /// The end of the object.
    fn deleted(key: ObjectKey) -> Change;

    /// Which one it is. The namespace of a Node is empty.
    fn key(&self) -> ObjectKey {
        let meta = self.meta();
        ObjectKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// How it is called in a [`Problem`].
    fn subject(key: &ObjectKey) -> String {
        if key.namespace.is_empty() {
            format!("{} {}", Self::KIND, key.name)
        } else {
            format!("{} {key}", Self::KIND)
        }
    }
}

impl Object for core::Service {
    const KIND: &'static str = "Service";
    const SELECTOR: Option<&'static str> = Some(OURS);

    fn deleted(key: ObjectKey) -> Change {
        Change::ServiceDeleted(key)
    }

    fn convert(&self, annotations: &Annotations) -> Converted {
        let key = self.key();
        let mut report = Report::new(Self::subject(&key));
        let nothing = core::ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&nothing);
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");

        let texts: Vec<_> = match spec.cluster_ips.as_deref() {
            None | Some([]) => spec.cluster_ip.as_deref().into_iter().collect(),
            Some(several) => several.iter().map(String::as_str).collect(),
        };
        let headless = texts.contains(&"None") || spec.cluster_ip.as_deref() == Some("None");
        if kind == "ExternalName" || headless || !is_ours(self.meta().labels.as_ref()) {
            return report.finish(Self::deleted(key));
        }
        let cluster_ips = cluster_ips(&texts, &mut report);
        if cluster_ips.is_empty() {
            return report.finish(Self::deleted(key));
        }

        let has_node_ports = matches!(kind, "NodePort" | "LoadBalancer");
        let balanced = kind == "LoadBalancer";
        let of_service = self.meta().annotations.as_ref().filter(|_| balanced);
        let passed_by = annotations::passed_by(annotations, of_service, external_local(self), &mut report);
        let change = Change::ServiceApplied(Service {
            created: self
                .meta()
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.as_second()),
            cluster_ips,
            external_ips: (spec.external_ips.iter().flatten())
                .filter_map(|text| report.address("spec.externalIPs", text))
                .collect(),
            ingress: if balanced {
                ingress(self, passed_by.is_some(), &mut report)
            } else {
                Vec::new()
            },
            passed_by,
            ports: ports(
                spec.ports.as_deref().unwrap_or_default(),
                has_node_ports,
                &mut report,
            ),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: external_local(self),
            affinity: affinity(spec),
            source_ranges: if kind == "LoadBalancer" {
                source_ranges(spec, &mut report)
            } else {
                SourceRanges::default()
            },
            health_check_port: health_check_port(spec, &mut report),
            key,
        });
        report.finish(change)
    }
}

impl Object for discovery::EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const SELECTOR: Option<&'static str> = Some(OURS);

    fn deleted(key: ObjectKey) -> Change {
        Change::SliceDeleted(key)
    }

    fn convert(&self, _: &Annotations) -> Converted {
        let key = self.key();
        let mut report = Report::new(Self::subject(&key));
        let labels = self.metadata.labels.as_ref();
        let service = labels
            .and_then(|labels| labels.get(SERVICE_NAME))
            .filter(|name| !name.is_empty());
        let ipv6 = match self.address_type.as_str() {
            "IPv4" => Some(false),
            "IPv6" => Some(true),
            _ => None, // FQDN: there is nothing to send a packet to
        };
        let (Some(service), Some(ipv6), true) = (service, ipv6, is_ours(labels)) else {
            return report.finish(Self::deleted(key));
        };
        let change = Change::SliceApplied(EndpointSlice {
            service: service.clone(),
            ipv6,
            ports: self
                .ports
                .iter()
                .flatten()
                .filter_map(|port| endpoint_port(port, &mut report))
                .collect(),
            endpoints: (self.endpoints.iter())
                .filter_map(|one| endpoint(one, ipv6, &mut report))
                .collect(),
            triggered: trigger_time(self.metadata.annotations.as_ref()),
            key,
        });
        report.finish(change)
    }
}

impl Object for core::Node {
    const KIND: &'static str = "Node";
    const SELECTOR: Option<&'static str> = None;

    fn deleted(key: ObjectKey) -> Change {
        Change::NodeDeleted(key.name)
    }

    fn convert(&self, _: &Annotations) -> Converted {
        let key = self.key();
        let mut report = Report::new(Self::subject(&key));
        let labels = self.meta().labels.as_ref();
        let status = self.status.as_ref();
        let addresses = status
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten();
        let addresses: BTreeSet<_> = (addresses.filter(|address| address.type_ == "InternalIP"))
            .filter_map(|address| report.address("status.addresses", &address.address))
            .collect();
        let conditions = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten();
        let spec = self.spec.as_ref();
        let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
        let several = spec
            .and_then(|spec| spec.pod_cidrs.as_ref())
            .into_iter()
            .flatten();
        let prefixes: BTreeSet<_> = several
            .chain(one)
            .filter_map(|text| report.prefix("spec.podCIDRs", text))
            .collect();
        let change = Change::NodeApplied(NodeObject {
            zone: labels
                .and_then(|labels| labels.get(ZONE))
                .filter(|zone| !zone.is_empty())
                .cloned(),
            leaving: self.meta().deletion_timestamp.is_some()
                || (spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten())
                    .any(|taint| taint.key == TO_BE_DELETED),
            ready: !conditions
                .into_iter()
                .any(|c| c.type_ == "Ready" && c.status != "True"),
            addresses: addresses.into_iter().collect(),
            pod_prefixes: prefixes.into_iter().collect(),
            name: key.name,
        });
        report.finish(change)
    }
}

/// Selects what neither names another proxy nor is headless.
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

fn is_ours(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_none_or(|labels| !labels.contains_key(PROXY_NAME) && !labels.contains_key(HEADLESS))
}

/// One address of each family at most. The address tells its family; `spec.ipFamilies` repeats that.
fn cluster_ips(texts: &[&str], report: &mut Report) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in texts.iter().filter(|text| !text.trim().is_empty()) {
        let Some(address) = report.address("spec.clusterIPs", text) else {
            continue;
        };
        if found.iter().any(|other| other.is_ipv6() == address.is_ipv6()) {
            report.say(format!(
                "spec.clusterIPs has two addresses of one family; remove {address}"
            ));
        } else {
            found.push(address);
        }
    }
    if found.is_empty() && report.problems.is_empty() {
        report.say(
            "it has no spec.clusterIP, so nothing of it is served; API servers allocate addresses, \
             directories of manifests do not: set spec.clusterIP (None for a headless Service)"
                .into(),
        );
    }
    found
}

fn ports(ports: &[core::ServicePort], has_node_ports: bool, report: &mut Report) -> Vec<Port> {
    let mut converted: Vec<Port> = Vec::new();
    for port in ports {
        let name = port.name.clone().unwrap_or_default();
        let what = if name.is_empty() {
            format!("port {}", port.port)
        } else {
            format!("port {name:?}")
        };
        let Some(protocol) = report.protocol(&what, port.protocol.as_deref()) else {
            continue;
        };
        let Some(number) = report.port(&what, port.port) else {
            continue;
        };
        let wanted = port
            .node_port
            .filter(|node_port| has_node_ports && *node_port != 0);
        let node_port = wanted.and_then(|node_port| report.port(&format!("nodePort of {what}"), node_port));
        let clash = converted.iter().any(|other| {
            let same_number = other.port == number || (node_port.is_some() && other.node_port == node_port);
            other.name == name || (other.protocol == protocol && same_number)
        });
        if clash {
            report.say(format!(
                "{what} is not served: another port has its name, number or nodePort"
            ));
        } else {
            converted.push(Port {
                name,
                protocol,
                port: number,
                node_port,
            });
        }
    }
    converted
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client_ip = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref());
        let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
        seconds
            .unwrap_or(AFFINITY_DEFAULT)
            .clamp(1, AFFINITY_MAX)
            .unsigned_abs()
    })
}

/// An entry that cannot be read lets nobody in, rather than everybody: see [`SourceRanges::of_family`].
fn source_ranges(spec: &core::ServiceSpec, report: &mut Report) -> SourceRanges {
    let mut ranges = SourceRanges::default();
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    for text in texts.filter(|text| !text.trim().is_empty()) {
        match report.prefix("spec.loadBalancerSourceRanges", text) {
            Some(range) => ranges.ranges.push(range),
            None => ranges.unreadable = true,
        }
    }
    ranges
}

fn external_local(service: &core::Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// What is set on Services of other types or policies has no meaning.
fn health_check_port(spec: &core::ServiceSpec, report: &mut Report) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let checked = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    checked.then(|| report.port("spec.healthCheckNodePort", number))?
}

/// Entries with only a hostname have no address to capture.
///
/// `VIP` does not win over an annotation: API servers write it wherever nothing was written.
fn ingress(service: &core::Service, passed: bool, report: &mut Report) -> Vec<Ingress> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let entries = status
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| {
            let text = entry.ip.as_deref().filter(|text| !text.trim().is_empty())?;
            let address = report.address("status.loadBalancer.ingress", text)?;
            let proxied = passed || entry.ip_mode.as_deref().is_some_and(|mode| mode != "VIP");
            Some(Ingress { address, proxied })
        })
        .collect()
}

/// A time that cannot be read is none: it only serves to measure.
fn trigger_time(annotations: Option<&BTreeMap<String, String>>) -> Option<SystemTime> {
    let time: Timestamp = annotations?.get(TRIGGER_TIME)?.parse().ok()?;
    Some(time.into())
}

/// A port without a name or a number stands for "any", which there is no Service port for.
fn endpoint_port(port: &discovery::EndpointPort, report: &mut Report) -> Option<EndpointPort> {
    let (Some(name), Some(number)) = (&port.name, port.port) else {
        report.say("a port without name or number is ignored; give it both".into());
        return None;
    };
    let what = format!("port {name:?}");
    Some(EndpointPort {
        name: name.clone(),
        protocol: report.protocol(&what, port.protocol.as_deref())?,
        port: report.port(&what, number)?,
    })
}

fn endpoint(endpoint: &discovery::Endpoint, ipv6: bool, report: &mut Report) -> Option<Endpoint> {
    // Further addresses stand for the same endpoint; the API says to use the first.
    let Some(text) = endpoint.addresses.first() else {
        report.say("an endpoint without address is ignored; give it one".into());
        return None;
    };
    let address = report.address("endpoints", text)?;
    if address.is_ipv6() != ipv6 {
        report.say(format!(
            "endpoint {address} is ignored: it is not of the slice's addressType"
        ));
        return None;
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    Some(Endpoint {
        address,
        node: (endpoint.node_name.as_deref())
            .filter(|name| !name.is_empty())
            .map(Into::into),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        for_zones: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name)
            .collect(),
        for_nodes: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|node| node.name)
            .collect(),
    })
}

/// Collects what is wrong with one object.
struct Report {
    object: String,
    problems: Vec<Problem>,
}

impl Report {
    fn new(object: String) -> Self {
        Self {
            object,
            problems: Vec::new(),
        }
    }

    fn say(&mut self, message: String) {
        self.problems.push(Problem {
            object: self.object.clone(),
            message,
        });
    }

    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let address = parse_address(text);
        match address {
            None => self.say(format!("{field}: {text:?} is not an address; correct it")),
            Some(address) if !is_reachable(address) => {
                self.say(format!(
                    "{field}: {address} is loopback, link-local or otherwise special; remove it"
                ));
            }
            Some(_) => return address,
        }
        None
    }

    fn prefix(&mut self, field: &str, text: &str) -> Option<(IpAddr, u8)> {
        let prefix = parse_prefix(text);
        if prefix.is_none() {
            self.say(format!(
                "{field}: {text:?} is not of the form ADDRESS/BITS; correct it"
            ));
        }
        prefix
    }

    fn port(&mut self, what: &str, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.say(format!(
                "{what} is not served: {number} is no port number; use 1 to 65535"
            ));
        }
        port
    }

    fn protocol(&mut self, what: &str, name: Option<&str>) -> Option<Protocol> {
        let protocol = match name.unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => {
                self.say(format!("{what} is not served: {other:?} is not TCP, UDP or SCTP"));
                return None;
            }
        };
        Some(protocol)
    }

    fn finish(self, change: Change) -> Converted {
        Converted {
            change,
            problems: self.problems,
        }
    }
}

#[cfg(test)]
mod tests;
