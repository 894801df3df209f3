//! The decision as one full table, written down by hand from the rules of Kubernetes: the class of the
//! destination picks the policy, a Local policy of an external destination spares pods and processes of
//! this node, and what nobody can serve is refused while what is served elsewhere is silent.

use std::vec;
use std::vec::Vec;

use super::*;

const LOCAL_TABLE: u32 = 100;
const CLUSTER_TABLE: u32 = 200;

/// Expected results, one letter each.
///
/// * `L`, `C`: forward within the Local, the Cluster scope
/// * `R`: reject, nobody can serve
/// * `D`: drop, somebody elsewhere can
fn choice(letter: char) -> Choice {
    match letter {
        'L' => Choice::Forward {
            scope: Scope::Local,
            table: LOCAL_TABLE,
            rows: 1,
        },
        'C' => Choice::Forward {
            scope: Scope::Cluster,
            table: CLUSTER_TABLE,
            rows: 307,
        },
        'R' => Choice::Refuse(Outcome::RejectedNoEndpoints),
        'D' => Choice::Refuse(Outcome::DroppedNoLocalEndpoints),
        other => panic!("no result {other}"),
    }
}

/// The endpoints there are, in the order of the letters of an expectation.
///
/// | column | Local scope | Cluster scope | somebody somewhere |
/// |---|---|---|---|
/// | 1 | yes | yes | yes |
/// | 2 | no | yes | yes |
/// | 3 | yes | no | yes |
/// | 4 | no | no | yes |
/// | 5 | no | no | no |
///
/// Column 3 comes from fall-backs that are chosen independently; column 4 from endpoints that serve but are
/// in neither scope.
const ENDPOINTS: [(bool, bool, bool); 5] = [
    (true, true, true),
    (false, true, true),
    (true, false, true),
    (false, false, true),
    (false, false, false),
];

fn sets(policies: u16) -> Vec<Set> {
    let set = |(local, cluster, exist)| Set {
        local_table: LOCAL_TABLE,
        local_rows: u32::from(local),
        cluster_table: CLUSTER_TABLE,
        cluster_rows: if cluster { 307 } else { 0 },
        flags: policies | if exist { Set::ENDPOINTS_EXIST } else { 0 },
        ..Set::default()
    };
    ENDPOINTS.into_iter().map(set).collect()
}

#[test]
fn every_client_gets_what_the_table_says() {
    use Client::{Node, Outside, Pod};
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    const INTERNAL: u16 = Set::INTERNAL_LOCAL;
    const EXTERNAL: u16 = Set::EXTERNAL_LOCAL;
    const BOTH: u16 = INTERNAL | EXTERNAL;
    let external = [NodePort, LoadBalancer, ExternalIp];
    let rows = [
        // The ClusterIP: only the internal policy counts, and it counts for every client.
        (vec![ClusterIp], 0, [Pod, Node, Outside], ["CCRRR"; 3]),
        (vec![ClusterIp], EXTERNAL, [Pod, Node, Outside], ["CCRRR"; 3]),
        (vec![ClusterIp], INTERNAL, [Pod, Node, Outside], ["LDLDR"; 3]),
        (vec![ClusterIp], BOTH, [Pod, Node, Outside], ["LDLDR"; 3]),
        // External destinations: only the external policy counts, and it spares this node and its pods.
        (external.to_vec(), 0, [Pod, Node, Outside], ["CCRRR"; 3]),
        (external.to_vec(), INTERNAL, [Pod, Node, Outside], ["CCRRR"; 3]),
        (
            external.to_vec(),
            EXTERNAL,
            [Pod, Node, Outside],
            ["CCRRR", "CCRRR", "LDLDR"],
        ),
        (
            external.to_vec(),
            BOTH,
            [Pod, Node, Outside],
            ["CCRRR", "CCRRR", "LDLDR"],
        ),
    ];
    for (kinds, policies, clients, expected) in rows {
        for kind in kinds {
            for (client, letters) in clients.into_iter().zip(expected) {
                for (set, letter) in sets(policies).iter().zip(letters.chars()) {
                    assert_eq!(
                        choose(kind, client, set),
                        choice(letter),
                        "{kind:?} {client:?} {set:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn affinity_does_not_change_the_scope() {
    for policies in 0..4 {
        for (plain, sticky) in sets(policies).iter().zip(sets(policies | Set::AFFINITY)) {
            for client in [Client::Pod, Client::Node, Client::Outside] {
                let kind = FrontendKind::LoadBalancer;
                assert_eq!(choose(kind, client, plain), choose(kind, client, &sticky));
            }
        }
    }
}

#[test]
fn a_client_is_whom_its_address_says_if_the_device_agrees() {
    use DeviceKind::{Bridge, BridgePort, Host, Loopback, Pod, Tunnel, Uplink};
    // By class of the address: outside, pod of this node, this node.
    let rows = [
        (Uplink, [Client::Outside, Client::Spoofed, Client::Spoofed]),
        (Tunnel, [Client::Outside, Client::Spoofed, Client::Spoofed]),
        (Pod, [Client::Outside, Client::Pod, Client::Spoofed]),
        (BridgePort, [Client::Outside, Client::Pod, Client::Spoofed]),
        (Bridge, [Client::Outside, Client::Spoofed, Client::Spoofed]),
        (Host, [Client::Node; 3]),
        (Loopback, [Client::Node; 3]),
    ];
    for (device, expected) in rows {
        for (class, client_expected) in [SourceClass::Outside, SourceClass::Pod, SourceClass::Node]
            .into_iter()
            .zip(expected)
        {
            assert_eq!(client(class, device), client_expected, "{class:?} by {device:?}");
        }
    }
}
