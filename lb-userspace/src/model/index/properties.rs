//! Objects in, desired state out: any changes in any order.

use proptest::{collection::vec, prelude::*, sample::select as one_of};

use super::{
    super::*,
    tests::{endpoint, ip, node, port, service, slice},
    *,
};

/// Few names and addresses, so that objects meet.
fn any_service() -> impl Strategy<Value = Service> {
    let cluster_ips = one_of(vec![
        vec!["172.30.0.1"],
        vec!["172.30.0.2", "fd00::1"],
        vec!["fd00::1"],
    ]);
    let external_ips = one_of(vec![
        vec![],
        vec!["198.51.100.1"],
        vec!["172.30.0.1", "2001:db8::1"],
    ]);
    let created = one_of(vec![None, Some(1), Some(2)]);
    let node_port = one_of(vec![None, Some(30001)]);
    (
        one_of(vec!["web", "api", "db"]),
        created,
        cluster_ips,
        external_ips,
        node_port,
        any::<[bool; 2]>(),
    )
        .prop_map(
            |(name, created, cluster_ips, external_ips, node_port, [internal_local, external_local])| {
                Service {
                    created,
                    cluster_ips: cluster_ips.into_iter().map(ip).collect(),
                    passed_by: None,
                    external_ips: external_ips.into_iter().map(ip).collect(),
                    ports: vec![
                        Port {
                            node_port,
                            ..port("http", 80)
                        },
                        port("alt", 81),
                    ],
                    internal_local,
                    external_local,
                    ..service(name)
                }
            },
        )
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let zones = one_of(vec![vec![], vec!["zone-a".to_owned()], vec!["zone-b".to_owned()]]);
    (
        1..4u8,
        one_of(vec!["", "node-a", "node-b"]),
        any::<[bool; 3]>(),
        zones,
    )
        .prop_map(|(n, node, [ready, serving, terminating], for_zones)| Endpoint {
            ready,
            serving,
            terminating,
            for_zones: for_zones.into(),
            ..endpoint(&format!("10.0.0.{n}"), node)
        })
}

fn any_change() -> impl Strategy<Value = Change> {
    let services = || one_of(vec!["web", "api", "db"]);
    let names = || one_of(vec!["s1", "s2", "s3"]);
    let nodes = || one_of(vec!["node-a", "node-b"]);
    let slice = (names(), services(), vec(any_endpoint(), 0..4)).prop_map(|(name, service, endpoints)| {
        EndpointSlice {
            service: service.into(),
            ..slice(name, endpoints)
        }
    });
    let node = (
        nodes(),
        one_of(vec!["", "zone-a", "zone-b"]),
        any::<bool>(),
        1..4u8,
    )
        .prop_map(|(name, zone, ready, n)| node(name, zone, ready, &format!("192.168.0.{n}")));
    prop_oneof![
        3 => any_service().prop_map(Change::ServiceApplied),
        1 => services().prop_map(|name| Change::ServiceDeleted(ObjectKey::new("shop", name))),
        3 => slice.prop_map(Change::SliceApplied),
        1 => names().prop_map(|name| Change::SliceDeleted(ObjectKey::new("shop", name))),
        2 => node.prop_map(Change::NodeApplied),
        1 => nodes().prop_map(|name| Change::NodeDeleted(name.into())),
    ]
}

/// The object that a change is about.
fn about(change: &Change) -> (u8, ObjectKey) {
    match change {
        Change::ServiceApplied(service) => (0, service.key.clone()),
        Change::ServiceDeleted(key) => (0, key.clone()),
        Change::SliceApplied(slice) => (1, slice.key.clone()),
        Change::SliceDeleted(key) => (1, key.clone()),
        Change::NodeApplied(node) => (2, ObjectKey::new("", &node.name)),
        Change::NodeDeleted(name) => (2, ObjectKey::new("", name)),
        Change::Reported { subject, .. } => (3, ObjectKey::new("", subject)),
    }
}

fn index_of(changes: impl IntoIterator<Item = Change>) -> Index {
    let mut index = Index::new(NodeIdentity::new("node-a"));
    changes.into_iter().for_each(|change| index.apply(change));
    index
}

proptest! {
    /// Whatever happened on the way, only the last word about each object counts, in any order.
    #[test]
    fn the_desired_state_depends_on_the_objects_not_on_their_history(
        (changes, last) in vec(any_change(), 0..40).prop_flat_map(|changes| {
            let last: BTreeMap<_, _> = changes.iter().map(|change| (about(change), change.clone())).collect();
            (Just(changes), Just(last.into_values().collect::<Vec<_>>()).prop_shuffle())
        })
    ) {
        prop_assert_eq!(index_of(changes).desired(), index_of(last).desired());
    }

    /// Whoever looks only at what is said to have changed, however rarely, misses nothing.
    #[test]
    fn following_the_changed_services_gives_the_whole(changes in vec((any_change(), any::<bool>()), 0..40)) {
        let mut index = Index::new(NodeIdentity::new("node-a"));
        let mut followed: BTreeMap<ObjectKey, Vec<ServicePort>> = BTreeMap::new();
        let (mut other_nodes, mut problems) = (Vec::new(), Vec::new());
        for (change, look) in changes.into_iter().chain([(Change::NodeDeleted("node-z".into()), true)]) {
            index.apply(change);
            if !look {
                continue;
            }
            let changed = index.take_changed();
            for key in changed.services {
                let ports = index.desired_service(&key);
                followed.insert(key, ports);
            }
            if changed.nodes {
                other_nodes = index.other_nodes();
            }
            if changed.problems {
                problems = index.problems();
            }
            let services = followed.values().flatten().cloned().collect();
            let seen = DesiredState { services, other_nodes: other_nodes.clone(), problems: problems.clone() };
            prop_assert_eq!(seen, index.desired());
        }
    }

    /// No two Service ports share a frontend; backends and ids are in order; every backend is of the family.
    #[test]
    fn the_desired_state_is_well_formed(changes in vec(any_change(), 0..40)) {
        let desired = index_of(changes).desired();
        prop_assert!(desired.services.is_sorted_by(|a, b| a.id < b.id));
        let mut taken = BTreeSet::new();
        for port in &desired.services {
            prop_assert!(!port.frontends.is_empty() && port.frontends.is_sorted());
            for frontend in &port.frontends {
                prop_assert!(taken.insert((frontend.address, frontend.port, port.id.protocol, port.id.ipv6)));
                prop_assert!(frontend.address.is_none_or(|address| address.is_ipv6() == port.id.ipv6));
            }
            prop_assert!(port.backends.is_sorted_by(|a, b| (a.address, a.port) < (b.address, b.port)));
            prop_assert!(port.serving.is_sorted_by(|a, b| a < b));
            for backend in port.backends.iter() {
                prop_assert!(backend.in_local || backend.in_cluster);
                prop_assert!(backend.on_this_node || !backend.in_local);
                prop_assert!(backend.address.is_ipv6() == port.id.ipv6 && port.endpoints_exist);
                prop_assert!(port.serving.contains(&(backend.address, backend.port)));
            }
        }
    }
}
