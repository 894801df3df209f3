//! Random Node objects.

use k8s_openapi::{
    api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use lb_common::testing::chance::Chance;

use crate::{cluster::Object, places};

/// Node number `number`; 0 is this one.
pub(super) fn node(chance: &mut Chance, number: u8) -> Object {
    let zone = *chance.pick(&[None, Some(""), Some("zone-a"), Some("zone-a"), Some("zone-b")]);
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    let mut addresses = vec![
        address("Hostname", places::NODES[usize::from(number)].to_owned()),
        address("InternalIP", places::node(number, false).to_string()),
        address("InternalIP", places::node(number, true).to_string()),
        address("ExternalIP", places::outside(false, false).to_string()),
    ];
    if chance.one_in(2) {
        addresses.reverse();
    }
    let ready = *chance.pick(&[None, Some("True"), Some("True"), Some("False"), Some("Unknown")]);
    let condition = |status: &str| NodeCondition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        ..NodeCondition::default()
    };
    let node = Node {
        metadata: ObjectMeta {
            name: Some(places::NODES[usize::from(number)].to_owned()),
            labels: zone.map(|zone| [("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(places::pod_cidr(number, false)),
            pod_cidrs: Some(vec![
                places::pod_cidr(number, false),
                places::pod_cidr(number, true),
            ]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses),
            conditions: ready.map(|status| vec![condition(status)]),
            ..NodeStatus::default()
        }),
    };
    Object::Node(Box::new(node))
}
