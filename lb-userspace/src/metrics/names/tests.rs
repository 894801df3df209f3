//! Every metric has its lines, and no object its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::abi::{Counter, Event, FrontendKind, Hook, Outcome, Protocol};

use super::*;
use crate::{
    apply::{Objects, ROUNDS, Status, Waiting, Waits},
    maps::{counted::MapWrites, counters::Counters},
    metrics::{Flows, NoLocal, Process, ServiceTraffic, SourceState, no_local_endpoints},
    model::{BackendEndpoint, FrontendAddress, Problem, ServicePort, ServicePortId},
};

fn snapshot() -> Snapshot {
    let problem = |object: &str| Problem {
        object: object.into(),
        message: "is wrong".into(),
    };
    let mut status = Status {
        received: 7,
        live: 6,
        failed_rounds: 2,
        fill: vec![Fill {
            map: "sets4",
            entries: 3,
            capacity: 64,
        }],
        ..Status::default()
    };
    status.pace[0].full.observe(Duration::from_millis(3));
    status.pace[0].partial.observe(Duration::from_millis(5));
    status.pace[1].programming.observe(Duration::from_millis(700));
    let mut waits = Waits {
        services: Objects { total: 5, pending: 1 },
        endpoints: Objects { total: 9, pending: 0 },
        ..Waits::default()
    };
    waits.families[0] = Waiting {
        since: None,
        asked: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
        live: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)),
    };
    let mut walks = [(); 2].map(|()| Histogram::new(ROUNDS));
    walks[0].observe(Duration::from_millis(1));
    Snapshot {
        version: "1.2.3",
        waits,
        status,
        no_local: NoLocal {
            internal: [1, 2],
            external: [3, 4],
        },
        healthz: [10, 1],
        livez: [11, 2],
        health_checks: 3,
        flows: Flows {
            entries: [20, 21],
            capacity: 100,
            expired: [22, 23],
            walks,
            stale: [4, 5],
        },
        counters: Some(Counters {
            outcomes: vec![(
                Hook::PodIn,
                Outcome::ForwardedNew,
                Counter {
                    packets: 12,
                    bytes: 720,
                },
            )],
            events: vec![(Event::FlowDisplaced, 6)],
        }),
        services: None,
        writes: vec![MapWrites {
            map: "frontends4",
            puts: 8,
            removals: 2,
            failed: BTreeMap::from([(28, 1)]),
        }],
        source: SourceState {
            synced: true,
            failing: 1,
            remembered: false,
            last_heard: 998,
            failing_for: Duration::from_millis(2500),
            errors: 4,
            malformed: 3,
        },
        problems: vec![
            problem("Service a/b"),
            problem("Service a/c"),
            problem("/etc/x.yaml"),
        ],
        failures: 1,
        devices: 5,
        process: Process {
            cpu_seconds: 1.5,
            resident_bytes: 4096,
            open_files: 9,
            started: 100.25,
        },
    }
}

#[test]
fn operators_find_what_they_know_and_what_is_ours() {
    let answer = render(&snapshot());
    assert_eq!(answer.status, 200);
    let lines: BTreeSet<_> = answer.body.lines().collect();
    for line in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_sum{ip_family=\"IPv4\"} 0.005",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.5\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"1\"} 1",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 2",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 0",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1.5",
        "kubeproxy_sync_proxy_rules_service_changes_total 5",
        "kubeproxy_sync_proxy_rules_service_changes_pending 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 9",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 2",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 3",
        "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 10",
        "kubeproxy_proxy_livez_total{code=\"503\"} 2",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv6\"} 5",
        "lb_packets_total{hook=\"pod-in\",outcome=\"forwarded-new\"} 12",
        "lb_bytes_total{hook=\"pod-in\",outcome=\"forwarded-new\"} 720",
        "lb_flow_events_total{event=\"flow-displaced\"} 6",
        "lb_flow_entries{ip_family=\"IPv6\"} 21",
        "lb_flow_capacity{ip_family=\"IPv4\"} 100",
        "lb_flows_expired_total{ip_family=\"IPv4\"} 22",
        "lb_map_operations_total{map=\"frontends4\",operation=\"write\"} 8",
        "lb_map_errors_total{map=\"frontends4\",errno=\"28\"} 1",
        "lb_sync_failures_total 2",
        "lb_build_info{version=\"1.2.3\"} 1",
        "lb_generation 7",
        "lb_generation_live 6",
        "lb_problems{kind=\"Service\"} 2",
        "lb_problems{kind=\"file\"} 1",
        "lb_problems{kind=\"Node\"} 0",
        "lb_source_synced 1",
        "lb_source_last_heard_seconds 998",
        "lb_source_failing 1",
        "lb_source_failing_seconds 2.5",
        "lb_map_entries{map=\"sets4\"} 3",
        "lb_map_capacity{map=\"sets4\"} 64",
        "lb_source_errors_total 4",
        "lb_malformed_objects_total 3",
        "lb_devices 5",
        "lb_health_check_listeners 3",
        "process_resident_memory_bytes 4096",
        "process_start_time_seconds 100.25",
    ] {
        assert!(lines.contains(line), "{line} is not in\n{}", answer.body);
    }
    assert!(!answer.body.contains("a/b"), "no object has a line of its own");
}

#[test]
fn services_have_lines_of_their_own_only_where_they_are_counted() {
    let counter = |packets, bytes| Counter { packets, bytes };
    let web = ServiceTraffic {
        namespace: "shop".into(),
        service: "web".into(),
        port: "http".into(),
        protocol: "TCP".into(),
        family: "IPv6",
        packets: [
            vec![
                ("forwarded-new", counter(2, 148)),
                ("dropped-source-range", counter(1, 74)),
            ],
            vec![("forwarded-flow", counter(3, 4000))],
        ],
        connections: [2, 9],
    };
    let body = render(&Snapshot {
        services: Some(vec![web]),
        ..snapshot()
    })
    .body;
    let of_web = "{namespace=\"shop\",service=\"web\",port=\"http\",protocol=\"TCP\",ip_family=\"IPv6\"";
    for line in [
        format!("lb_service_packets_total{of_web},from=\"client\",outcome=\"forwarded-new\"}} 2"),
        format!("lb_service_packets_total{of_web},from=\"client\",outcome=\"dropped-source-range\"}} 1"),
        format!("lb_service_bytes_total{of_web},from=\"backend\",outcome=\"forwarded-flow\"}} 4000"),
        format!("lb_service_connections_total{of_web},at=\"packet\"}} 2"),
        format!("lb_service_connections_total{of_web},at=\"socket\"}} 9"),
    ] {
        assert!(
            body.lines().any(|found| found == line),
            "{line} is not in\n{body}"
        );
    }
    assert!(
        !render(&snapshot()).body.contains("lb_service_packets_total"),
        "off: no line"
    );
}

#[test]
fn each_metric_is_told_once_and_typed() {
    let body = render(&snapshot()).body;
    let typed: Vec<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let names: BTreeSet<_> = typed.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), typed.len(), "{typed:?}");
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        assert!(
            names.contains(name) || base.is_some_and(|base| names.contains(base)),
            "{line} has no type"
        );
    }
}

#[test]
fn counters_that_cannot_be_read_are_missing_rather_than_zero() {
    let body = render(&Snapshot {
        counters: None,
        ..snapshot()
    })
    .body;
    assert!(body.contains("lb_counters_readable 0\n") && !body.contains("lb_packets_total"));
}

#[test]
fn a_port_counts_if_its_policy_keeps_clients_from_endpoints_that_exist_elsewhere() {
    let port = |internal_local, external_local, endpoints_exist, here: &[bool]| ServicePort {
        id: ServicePortId {
            namespace: "shop".into(),
            name: "web".into(),
            port_name: String::new(),
            protocol: Protocol::Tcp,
            ipv6: false,
        },
        frontends: vec![FrontendAddress {
            address: None,
            port: 30_001,
            kind: FrontendKind::NodePort,
        }],
        internal_local,
        external_local,
        endpoints_exist,
        affinity: None,
        source_ranges: None,
        backends: here
            .iter()
            .map(|here| BackendEndpoint {
                address: IpAddr::from([10, 0, 0, 1]),
                port: 80,
                on_this_node: *here,
                in_local: *here,
                in_cluster: true,
            })
            .collect(),
        serving: [].into(),
    };
    for (why, port, internal, external) in [
        (
            "both policies, one here",
            port(true, true, true, &[true, false]),
            0,
            0,
        ),
        ("internal, none here", port(true, false, true, &[false]), 1, 0),
        ("external, none here", port(false, true, true, &[false]), 0, 1),
        ("both, none here", port(true, true, true, &[false, false]), 1, 1),
        (
            "internal Local of a port whose Cluster scope is not in play",
            port(true, false, true, &[]),
            1,
            0,
        ),
        ("both, none anywhere", port(true, true, false, &[]), 0, 0),
        ("policy Cluster", port(false, false, true, &[false]), 0, 0),
    ] {
        let expected = NoLocal {
            internal: [internal, 0],
            external: [external, 0],
        };
        assert_eq!(no_local_endpoints([&port]), expected, "{why}");
    }
}
