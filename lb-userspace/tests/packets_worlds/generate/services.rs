//! Random Services.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
        ServiceStatus, SessionAffinityConfig,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{SWITCHES, Traits, label, namespace, service_name, spelled};
use lb_common::testing::chance::Chance;

use crate::{cluster::Object, places};

/// Service number `number`, in any form.
pub(super) fn service(chance: &mut Chance, traits: &Traits, number: u8) -> Object {
    let mut labels = Vec::new();
    label(
        chance,
        14,
        &mut labels,
        "service.kubernetes.io/service-proxy-name",
    );
    label(chance, 20, &mut labels, "service.kubernetes.io/headless");
    let service = Service {
        metadata: ObjectMeta {
            name: Some(service_name(number)),
            namespace: Some(namespace(number)),
            labels: (!labels.is_empty()).then(|| labels.into_iter().collect()),
            annotations: pass_through(chance),
            ..ObjectMeta::default()
        },
        spec: Some(spec(chance, traits, number)),
        status: status(chance),
    };
    Object::Service(Box::new(service))
}

fn pass_through(chance: &mut Chance) -> Option<BTreeMap<String, String>> {
    let values = ["true", "onlyLocal", "onlyLocal", "false", "perhaps"];
    chance.one_in(6).then(|| {
        let name = "kubernetes.io/elb.pass-through".to_owned();
        BTreeMap::from([(name, (*chance.pick(&values)).to_owned())])
    })
}

fn spec(chance: &mut Chance, traits: &Traits, number: u8) -> ServiceSpec {
    let kinds = [
        None,
        Some("ClusterIP"),
        Some("ClusterIP"),
        Some("NodePort"),
        Some("NodePort"),
        Some("LoadBalancer"),
        Some("LoadBalancer"),
        Some("LoadBalancer"),
    ];
    let kind = if chance.one_in(14) {
        Some("ExternalName")
    } else {
        *chance.pick(&kinds)
    };
    let families: [&[bool]; 4] = [&[false], &[true], &[false, true], &[true, false]];
    let families = *chance.pick(&families);
    let mut ips: Vec<String> = families
        .iter()
        .map(|ipv6| spelled(chance, places::cluster_ip(10 + number, *ipv6)))
        .collect();
    match chance.below(24) {
        0 => ips = vec!["None".to_owned()],
        1 => ips = vec![String::new()],
        _ => {}
    }
    let names = families
        .iter()
        .map(|ipv6| if *ipv6 { "IPv6" } else { "IPv4" }.to_owned());
    let policy = |chance: &mut Chance| {
        let policies = [None, Some("Cluster"), Some("Local"), Some("Local")];
        chance.pick(&policies).map(str::to_owned)
    };
    let affine = SWITCHES.affinity && chance.one_in(4);
    ServiceSpec {
        type_: kind.map(str::to_owned),
        cluster_ip: ips.first().cloned(),
        // Old objects have the first one only.
        cluster_ips: (ips.len() > 1 || !chance.one_in(5)).then(|| ips.clone()),
        ip_families: (!chance.one_in(5)).then(|| names.collect()),
        ports: Some(ports(chance, traits, number, kind.unwrap_or("ClusterIP"))),
        external_ips: external_ips(chance),
        internal_traffic_policy: policy(chance),
        external_traffic_policy: policy(chance),
        load_balancer_source_ranges: source_ranges(chance),
        health_check_node_port: chance.one_in(4).then_some(31_900 + i32::from(number)),
        session_affinity: if affine { Some("ClientIP".to_owned()) } else { None },
        session_affinity_config: (affine && chance.one_in(2)).then(|| SessionAffinityConfig {
            client_ip: Some(ClientIPConfig {
                timeout_seconds: Some(*chance.pick(&[600, 86_400])),
            }),
        }),
        ..ServiceSpec::default()
    }
}

/// Names and protocols that the ports of one Service can have.
pub(super) const PORTS: [&[(&str, &str)]; 8] = [
    &[("", "TCP")],
    &[("", "UDP")],
    &[("http", "TCP")],
    &[("http", "TCP"), ("https", "TCP")],
    &[("dns", "UDP"), ("dns-tcp", "TCP")],
    &[("http", "TCP"), ("dns", "UDP"), ("sig", "SCTP")],
    &[("sig", "SCTP"), ("http", "TCP")],
    &[("http", "UDP"), ("dns-tcp", "TCP")],
];

fn ports(chance: &mut Chance, traits: &Traits, number: u8, kind: &str) -> Vec<ServicePort> {
    let base = if traits.clashing {
        80
    } else {
        80 + 100 * i32::from(number)
    };
    // Where protocols allow it, all ports may have one number.
    let same_number = chance.one_in(2);
    let mut ports: Vec<ServicePort> = Vec::new();
    for (name, protocol) in *chance.pick(&PORTS) {
        let shared = same_number
            && ports
                .iter()
                .all(|other| other.protocol.as_deref().unwrap_or("TCP") != *protocol);
        let offset = if shared { 0 } else { 1 + ports.len() as i32 };
        let has_node_port = match kind {
            "NodePort" => true,
            "LoadBalancer" => !chance.one_in(4),
            // Left over from another type.
            _ => chance.one_in(6),
        };
        let first = if traits.clashing {
            30_000
        } else {
            30_000 + 16 * i32::from(number)
        };
        ports.push(ServicePort {
            name: (!name.is_empty()).then(|| (*name).to_owned()),
            // The default.
            protocol: (*protocol != "TCP" || chance.one_in(2)).then(|| (*protocol).to_owned()),
            port: base + offset,
            node_port: if has_node_port {
                Some(first + offset)
            } else {
                *chance.pick(&[None, Some(0)])
            },
            ..ServicePort::default()
        });
    }
    ports
}

fn external_ips(chance: &mut Chance) -> Option<Vec<String>> {
    chance.one_in(3).then(|| {
        let mut ips = Vec::new();
        for _ in 0..=chance.below(3) {
            let ip = places::external_ip(chance.below(4) as u8 + 1, chance.one_in(2));
            ips.push(spelled(chance, ip));
        }
        ips
    })
}

fn source_ranges(chance: &mut Chance) -> Option<Vec<String>> {
    if !SWITCHES.source_ranges || !chance.one_in(3) {
        return None;
    }
    let all = [
        "203.0.113.0/25",
        " 203.0.113.0/24 ",
        "10.180.0.0/30",
        "10.0.0.0/8",
        "192.168.0.2/32",
        "2001:db8:c11e:a::/64",
        "fd00:10:180::/64 ",
        "2001:db8:0:1::/64",
        "0.0.0.0/0",
        "",
    ];
    let count = chance.below(4);
    Some((0..count).map(|_| (*chance.pick(&all)).to_owned()).collect())
}

fn status(chance: &mut Chance) -> Option<ServiceStatus> {
    // Also on Services of other types: left over.
    (!chance.one_in(3)).then(|| {
        let mut ingress = Vec::new();
        for _ in 0..=chance.below(3) {
            let hostname = chance.one_in(8);
            let ip = places::vip(chance.below(3) as u8 + 1, chance.one_in(2));
            ingress.push(LoadBalancerIngress {
                hostname: hostname.then(|| "lb.example.org".to_owned()),
                ip: if hostname { None } else { Some(spelled(chance, ip)) },
                ip_mode: chance
                    .pick(&[None, None, Some("VIP"), Some("VIP"), Some("Proxy")])
                    .map(str::to_owned),
                ports: None,
            });
        }
        ServiceStatus {
            load_balancer: Some(LoadBalancerStatus {
                ingress: Some(ingress),
            }),
            ..ServiceStatus::default()
        }
    })
}
