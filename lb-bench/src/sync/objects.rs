//! Services and EndpointSlices, as values of the model and as manifests.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::abi::Protocol;
use lb_userspace::model::{
    Change, Endpoint, EndpointPort, EndpointSlice, ObjectKey, Port, Service, SourceRanges,
};
use serde_json::{Value, json};

/// How many endpoints each Service has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Endpoints {
    /// All the same.
    Each(u32),
    /// 70 % have 1 to 3, 25 % have 4 to 20, 5 % have 21 to 200.
    Mixed,
}

impl Endpoints {
    /// Of a Service by its number.
    pub(crate) fn of(self, service: u32) -> u32 {
        match self {
            Self::Each(count) => count,
            Self::Mixed => {
                let step = service / 20;
                match service % 20 {
                    0..14 => 1 + step % 3,
                    14..19 => 4 + step % 17,
                    _ => 21 + step % 180,
                }
            }
        }
    }
}

const NAMESPACE: &str = "bench";

/// Everything that is told of so many Services.
pub(crate) fn changes(services: u32, endpoints: Endpoints) -> Vec<Change> {
    let both = |number| {
        let slice = slice(number, 0..endpoints.of(number));
        [
            Change::ServiceApplied(service(number)),
            Change::SliceApplied(slice),
        ]
    };
    (0..services).flat_map(both).collect()
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn cluster_ip(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a60_0001 + number).into()
}

fn endpoint_ip(service: u32, endpoint: u32) -> IpAddr {
    // 10.128.0.0/9: enough for 30,000 times 200.
    Ipv4Addr::from_bits(0x0a80_0000 + (service * 251 + endpoint) % 0x7f_ffff).into()
}

fn service(number: u32) -> Service {
    Service {
        key: ObjectKey::new(NAMESPACE, &name(number)),
        created: Some(1_700_000_000 + i64::from(number)),
        cluster_ips: vec![cluster_ip(number)],
        passed_by: None,
        external_ips: vec![],
        ingress: vec![],
        ports: vec![Port {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        internal_local: false,
        external_local: false,
        affinity: None,
        source_ranges: SourceRanges::default(),
        health_check_port: None,
    }
}

/// The slice of a Service with these endpoints.
pub(crate) fn slice(number: u32, endpoints: impl IntoIterator<Item = u32>) -> EndpointSlice {
    let endpoint = |endpoint| Endpoint {
        address: endpoint_ip(number, endpoint),
        node: Some(format!("node-{}", (number + endpoint) % 100).into()),
        ready: true,
        serving: true,
        terminating: false,
        for_zones: [].into(),
        for_nodes: [].into(),
    };
    EndpointSlice {
        key: ObjectKey::new(NAMESPACE, &format!("{}-a", name(number))),
        service: name(number),
        ipv6: false,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        triggered: None,
    }
}

/// The same as a manifest.
pub(crate) fn manifest(services: std::ops::Range<u32>, endpoints: Endpoints) -> Value {
    let both = |number: u32| {
        let listed: Vec<Value> = (0..endpoints.of(number))
            .map(|endpoint| {
                json!({
                    "addresses": [endpoint_ip(number, endpoint)],
                    "nodeName": format!("node-{}", (number + endpoint) % 100),
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                })
            })
            .collect();
        [
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": NAMESPACE, "name": name(number)},
                "spec": {
                    "type": "ClusterIP", "clusterIP": cluster_ip(number), "clusterIPs": [cluster_ip(number)],
                    "ipFamilies": ["IPv4"],
                    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
                },
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": NAMESPACE, "name": format!("{}-a", name(number)),
                    "labels": {"kubernetes.io/service-name": name(number)},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": listed,
            }),
        ]
    };
    let items: Vec<Value> = services.flat_map(both).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixture_has_the_promised_shares() {
        let mut shares = [0; 3];
        for service in 0..10_000 {
            match Endpoints::Mixed.of(service) {
                1..=3 => shares[0] += 1,
                4..=20 => shares[1] += 1,
                21..=200 => shares[2] += 1,
                other => panic!("{other} endpoints"),
            }
        }
        assert_eq!(shares, [7000, 2500, 500]);
    }
}
