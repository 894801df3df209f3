//! Random EndpointSlices.

use k8s_openapi::{
    api::discovery::v1::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Whereabouts, endpoint_place, label, latest, namespace, service_name, services::PORTS, spelled};
use lb_common::testing::chance::Chance;

use crate::{
    cluster::{Event, Object},
    places,
};

/// Which hints the endpoints of a slice have.
#[derive(Clone, Copy)]
enum Hints {
    None,
    Zones,
    Nodes,
    Some,
}

/// Slice number `number` of a Service; `before`: what has happened to the Service, for the names of its ports.
pub(super) fn slice(chance: &mut Chance, before: &[Event], service: u8, number: u8) -> Object {
    let ipv6 = number % 2 == 1;
    let mut labels = Vec::new();
    let owner = match chance.below(24) {
        0 => None,
        1 => Some(service_name(service ^ 2)),
        2 => Some("nobody".to_owned()),
        _ => Some(service_name(service)),
    };
    labels.extend(owner.map(|owner| ("kubernetes.io/service-name".to_owned(), owner)));
    label(
        chance,
        30,
        &mut labels,
        "service.kubernetes.io/service-proxy-name",
    );
    label(chance, 30, &mut labels, "service.kubernetes.io/headless");
    let hints = *chance.pick(&[
        Hints::None,
        Hints::None,
        Hints::None,
        Hints::Zones,
        Hints::Nodes,
        Hints::Some,
    ]);
    let endpoints = if chance.one_in(12) { 0 } else { 1 + chance.below(4) };
    // Of some Services, all endpoints are elsewhere: that is what policy Local is about.
    let whereabouts = *chance.pick(&[
        Whereabouts::Any,
        Whereabouts::Any,
        Whereabouts::Here,
        Whereabouts::Elsewhere,
    ]);
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{number}", service_name(service))),
            namespace: Some(namespace(service)),
            labels: Some(labels.into_iter().collect()),
            ..ObjectMeta::default()
        },
        address_type: match ipv6 {
            _ if chance.one_in(24) => "FQDN".to_owned(),
            true => "IPv6".to_owned(),
            false => "IPv4".to_owned(),
        },
        ports: Some(ports(chance, before, service)),
        endpoints: (0..endpoints)
            .map(|_| endpoint(chance, ipv6, hints, whereabouts))
            .collect(),
    };
    Object::Slice(Box::new(slice))
}

fn ports(chance: &mut Chance, before: &[Event], service: u8) -> Vec<EndpointPort> {
    let is_ours = |object: &Object| match object {
        Object::Service(other) => {
            other.metadata.namespace == Some(namespace(service))
                && other.metadata.name == Some(service_name(service))
        }
        _ => false,
    };
    let mut wanted: Vec<(String, String)> = match latest(before, is_ours) {
        Some(Object::Service(service)) => {
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
            let named = ports.into_iter().flatten().map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                (port.name.clone().unwrap_or_default(), protocol)
            });
            named.collect()
        }
        _ => (chance.pick(&PORTS).iter())
            .map(|(name, protocol)| ((*name).to_owned(), (*protocol).to_owned()))
            .collect(),
    };
    if chance.one_in(10) {
        wanted.pop();
    }
    // A target port's name may stand for another number in each slice.
    let first = 8000 + chance.below(3) as i32 * 10;
    let mut ports: Vec<_> = (wanted.into_iter().zip(first..))
        .map(|((name, protocol), number)| EndpointPort {
            name: (!chance.one_in(24)).then_some(name),
            port: (!chance.one_in(24)).then_some(number),
            protocol: if protocol == "TCP" && chance.one_in(2) {
                None
            } else if chance.one_in(20) {
                Some("UDP".to_owned())
            } else {
                Some(protocol)
            },
            app_protocol: None,
        })
        .collect();
    if chance.one_in(2) {
        ports.reverse();
    }
    ports
}

fn endpoint(chance: &mut Chance, ipv6: bool, hints: Hints, whereabouts: Whereabouts) -> Endpoint {
    let (ip, node) = endpoint_place(chance, ipv6, whereabouts);
    let mut addresses = vec![spelled(chance, ip)];
    if chance.one_in(10) {
        // Only the first counts.
        addresses.push(places::pod(1, 77, ipv6).to_string());
    }
    Endpoint {
        addresses,
        conditions: conditions(chance),
        hints: self::hints(chance, hints),
        node_name: node.filter(|_| !chance.one_in(10)).map(str::to_owned),
        ..Endpoint::default()
    }
}

/// What the endpoint controller writes, mostly; and everything else that the API allows.
pub(super) fn conditions(chance: &mut Chance) -> Option<EndpointConditions> {
    let three = |ready, serving, terminating| {
        Some(EndpointConditions {
            ready,
            serving,
            terminating,
        })
    };
    let (no, yes) = (Some(false), Some(true));
    match chance.below(16) {
        0 => None,
        1..8 => three(yes, yes, no),
        8..11 => three(no, yes, yes),
        11 => three(no, no, yes),
        12 => three(no, no, no),
        13 => three(yes, yes, yes),
        _ => {
            let any = [None, no, yes];
            three(*chance.pick(&any), *chance.pick(&any), *chance.pick(&any))
        }
    }
}

fn hints(chance: &mut Chance, hints: Hints) -> Option<EndpointHints> {
    let zones = |chance: &mut Chance| {
        let zone = |chance: &mut Chance| ForZone {
            name: (*chance.pick(&["zone-a", "zone-a", "zone-b", "zone-c"])).to_owned(),
        };
        (0..=chance.below(2)).map(|_| zone(chance)).collect::<Vec<_>>()
    };
    let nodes = |chance: &mut Chance| {
        vec![ForNode {
            name: (*chance.pick(&[places::NODES[0], places::NODES[0], places::NODES[1]])).to_owned(),
        }]
    };
    match hints {
        Hints::None => None,
        Hints::Some if chance.one_in(2) => chance.one_in(2).then(EndpointHints::default),
        Hints::Zones | Hints::Some => Some(EndpointHints {
            for_zones: Some(zones(chance)),
            for_nodes: None,
        }),
        Hints::Nodes => Some(EndpointHints {
            for_zones: (!chance.one_in(6)).then(|| zones(chance)),
            for_nodes: (!chance.one_in(8)).then(|| nodes(chance)),
        }),
    }
}
