//! A cluster's state as manifests: nodes made from their few facts, the rest as the scenario has it. Pure.

use serde_json::{Value, json};

use crate::format::{Node, State};

/// The Service, its slice's Service name, and their namespace, by which the runner sees that a state has arrived.
pub(crate) const MARKER: &str = "marker";
/// The marker's namespace.
pub(crate) const MARKER_NAMESPACE: &str = "lb-cases";
/// Keeps a deleted Node in the API until the scenario is over.
pub(crate) const FINALIZER: &str = "lb-cases/held";

/// A Node object.
pub(crate) fn node(node: &Node) -> Value {
    let mut labels = json!({"kubernetes.io/hostname": node.name});
    if let Some(zone) = &node.zone {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    let mut addresses: Vec<_> = std::iter::once(&node.ip)
        .chain(&node.ip6)
        .map(|ip| json!({"type": "InternalIP", "address": ip.0.to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    let mut metadata = json!({"name": node.name, "labels": labels});
    if node.deleting {
        metadata["finalizers"] = json!([FINALIZER]);
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        metadata["deletionGracePeriodSeconds"] = json!(0);
    }
    let cidrs: Vec<_> = node.pod_cidr.iter().chain(&node.pod_cidr6).collect();
    let mut spec = json!({"podCIDRs": cidrs});
    if let Some(first) = cidrs.first() {
        spec["podCIDR"] = json!(first);
    }
    if !node.taints.is_empty() {
        spec["taints"] = json!(node.taints);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec,
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The marker of the state of this number: a Service whose port has that name, and a slice with one or two
/// endpoints that nobody asks.
pub(crate) fn marker(number: usize, ipv6: bool) -> [Value; 2] {
    let (ip, family, ends) = if ipv6 {
        (
            "fd00:172:30::fffe",
            "IPv6",
            ["2001:db8:ffff::1", "2001:db8:ffff::2"],
        )
    } else {
        ("172.30.255.254", "IPv4", ["198.18.0.1", "198.18.0.2"])
    };
    let name = port_name(number);
    let endpoints: Vec<_> = ends
        .iter()
        .take(marker_endpoints(number))
        .map(|ip| json!({"addresses": [ip]}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": MARKER, "namespace": MARKER_NAMESPACE, "labels": {"kubernetes.io/service-name": MARKER},
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": name, "port": 9, "protocol": "TCP"}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": MARKER, "namespace": MARKER_NAMESPACE},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack", "ports": [{"name": name, "port": 9, "protocol": "TCP"}],
        },
    });
    [slice, service]
}

/// The marker's port name in the state of this number.
pub(crate) fn port_name(number: usize) -> String {
    format!("state-{number}")
}

/// The number of the marker's endpoints in the state of this number.
pub(crate) fn marker_endpoints(number: usize) -> usize {
    1 + number % 2
}

/// All objects of a state, in the order in which they are to arrive: nodes, slices, Services.
pub(crate) fn objects(state: &State) -> Vec<Value> {
    let nodes = state.nodes.iter().map(node);
    let rest = state.endpointslices.iter().chain(&state.services).cloned();
    nodes.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Node {
        serde_norway::from_str(text).unwrap()
    }

    #[test]
    fn an_absent_zone_and_an_empty_one_differ() {
        for (zone, expected) in [("", None), (", zone: ''", Some("")), (", zone: a", Some("a"))] {
            let node = node(&facts(&format!("{{name: n, ip: 192.168.0.2{zone}}}")));
            let label = &node["metadata"]["labels"]["topology.kubernetes.io/zone"];
            assert_eq!(label.as_str(), expected, "{zone}");
        }
    }

    #[test]
    fn a_node_has_its_addresses_ranges_taints_and_end() {
        let node = node(&facts(
            "{name: n, ip: 192.168.0.2, ip6: 'fd00::2', pod_cidr: 10.0.0.0/24, pod_cidr6: 'fd00:1::/64', \
             taints: [{key: a, effect: NoSchedule}], deleting: true}",
        ));
        assert_eq!(node["status"]["addresses"][1]["address"], "fd00::2");
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.0.0.0/24", "fd00:1::/64"]));
        assert_eq!(node["spec"]["taints"][0]["key"], "a");
        assert!(node["metadata"]["deletionTimestamp"].is_string());
    }
}
