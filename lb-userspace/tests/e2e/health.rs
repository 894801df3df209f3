//! What load balancers, probes and Prometheus are told, over real connections.

use std::{fs, net::SocketAddr};

use lb_lab::{Proto, Signal, Topology, wait_for};

use crate::{
    cluster::{Cluster, SETTLED, possible},
    detach::programs,
    service::{Endpoint, Service},
};

const CHECK: u16 = 31_000;

/// An answer: status, head and body. `None`: refused.
type Answer = Option<(u16, String, String)>;

/// Asks by HTTP from a place of the lab.
fn get(cluster: &Cluster, from: &str, url: &str) -> Answer {
    let place = cluster.lab.at(from).expect("it is there");
    let text = place.output(&["curl", "-sgi", "--max-time", "5", url]).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_lowercase(), body.to_owned()))
}

/// Asks until the status is the expected one; `None`: until nobody listens.
fn eventually(cluster: &Cluster, from: &str, url: &str, status: Option<u16>) -> (String, String) {
    let mut last = None;
    let what = format!("{from} asks {url}: {status:?}");
    let result = wait_for(SETTLED, &what, || {
        last = get(cluster, from, url);
        last.as_ref().map(|answer| answer.0) == status
    });
    assert!(result.is_ok(), "{what}, last {last:?}\n{}", cluster.diagnosis());
    last.map(|(_, head, body)| (head, body)).unwrap_or_default()
}

fn json(body: &str) -> serde_json::Value {
    serde_json::from_str(body).expect("it is JSON")
}

#[test]
fn a_health_check_follows_its_service_as_root() {
    if !possible("a_health_check_follows_its_service_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2), &[]);
    let address = |node: &str| cluster.lab.node(node).expect("it is there").addr;
    let shop = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, 30_080)
        .set("externalTrafficPolicy", "Local")
        .set("healthCheckNodePort", CHECK)
        .with(&cluster.lab, &["pod1-1"]);
    cluster.apply(&shop);
    for [here, elsewhere] in [
        [address("node1").v4.to_string(), address("node2").v4.to_string()],
        [
            format!("[{}]", address("node1").v6),
            format!("[{}]", address("node2").v6),
        ],
    ] {
        let (head, body) = eventually(
            &cluster,
            "client",
            &format!("http://{here}:{CHECK}/healthz"),
            Some(200),
        );
        for line in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            // One address in each family.
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(head.contains(line), "{head}");
        }
        assert_eq!(
            json(&body),
            serde_json::json!({
                "service": {"namespace": "shop", "name": "shop"},
                "localEndpoints": 2,
                "serviceProxyHealthy": true,
            })
        );
        eventually(
            &cluster,
            "client",
            &format!("http://{elsewhere}:{CHECK}/"),
            Some(503),
        );
    }

    // A terminating endpoint serves on, but is not offered.
    let url = format!("http://{}:{CHECK}/healthz", address("node1").v4);
    let draining = vec![Endpoint::of(&cluster.lab, "pod1-1").draining()];
    cluster.apply(&shop.clone().with_endpoints(draining));
    let (_, body) = eventually(&cluster, "client", &url, Some(503));
    assert_eq!(json(&body)["localEndpoints"], 0);
    assert_eq!(json(&body)["serviceProxyHealthy"], true);
    let node_port = SocketAddr::new(address("node1").v4.into(), 30_080);
    let shares = cluster.probe("client", Proto::Tcp, node_port, 5);
    assert!(shares.all_answered(), "{shares}");

    // It closes with the policy, moves with the port, and ends with the Service.
    cluster.apply(&shop.clone().set("externalTrafficPolicy", "Cluster"));
    eventually(&cluster, "client", &url, None);
    cluster.apply(&shop.clone().set("healthCheckNodePort", CHECK + 1));
    let moved = format!("http://{}:{}/", address("node1").v4, CHECK + 1);
    eventually(&cluster, "client", &moved, Some(200));
    eventually(&cluster, "client", &url, None);

    // A port that somebody has is named, hinders nothing else, and is taken once it is free.
    let node = cluster.lab.at("node1").expect("it is there");
    let taken = node
        .netns()
        .run(|| Ok(std::net::TcpListener::bind((address("node1").v4, CHECK))?))
        .expect("the port is free");
    cluster.apply(&shop);
    let status = cluster.eventually_status(0, "the taken port is named", |status| {
        status["problems"].to_string().contains("healthCheckNodePort")
    });
    assert_eq!(status["problems"][0]["object"], "Service shop/shop", "{status:#}");
    eventually(
        &cluster,
        "client",
        &format!("http://[{}]:{CHECK}/", address("node1").v6),
        Some(200),
    );
    drop(taken);
    eventually(&cluster, "client", &url, Some(200));
    cluster.eventually_status(0, "nothing is wrong any more", |status| {
        status["problems"] == serde_json::json!([])
    });
    cluster.delete(&shop);
    eventually(&cluster, "client", &url, None);
}

#[test]
fn probes_and_metrics_tell_how_the_node_fares_as_root() {
    if !possible("probes_and_metrics_tell_how_the_node_fares_as_root") {
        return;
    }
    let fault = std::env::temp_dir().join(format!("lb-e2e-fault-{}", std::process::id()));
    let cluster = Cluster::with(
        Topology::cluster(2, 2),
        &[
            "--health-timeout",
            "1",
            "--test-fail-writes",
            &fault.to_string_lossy(),
        ],
    );
    let node = cluster.lab.node("node1").expect("it is there").addr;
    let shop = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, 30_080)
        .set("externalTrafficPolicy", "Local")
        .set("healthCheckNodePort", CHECK)
        .with(&cluster.lab, &["pod1-1"]);
    cluster.apply(&shop);
    let healthz = format!("http://{}:10256/healthz", node.v4);
    let livez = format!("http://[{}]:10256/livez", node.v6);
    let check = format!("http://{}:{CHECK}/", node.v4);
    let told = |status: Option<u16>, url: &str| json(&eventually(&cluster, "client", url, status).1);
    assert_eq!(told(Some(200), &healthz)["nodeEligible"], true);
    assert_eq!(told(Some(200), &livez)["healthy"], true);
    told(Some(200), &check);

    // The node is about to go: load balancers leave it, while all goes on.
    let nodes = crate::service::nodes(&cluster.lab);
    let marked = nodes.replacen(
        "\"spec\":{",
        "\"spec\":{\"taints\":[{\"key\":\"ToBeDeletedByClusterAutoscaler\",\"effect\":\"NoSchedule\"}],",
        1,
    );
    assert_ne!(nodes, marked, "the manifest is as expected: {nodes}");
    cluster.write_file("nodes.yaml", &marked);
    let body = told(Some(503), &healthz);
    assert_eq!(
        (&body["nodeEligible"], &body["healthy"]),
        (&false.into(), &true.into()),
        "{body}"
    );
    told(Some(200), &livez);
    told(Some(200), &check);
    cluster.write_file("nodes.yaml", &nodes);
    told(Some(200), &healthz);

    // The maps cannot be written: after the timeout nobody is to come here, until they can again.
    fs::write(&fault, "").expect("the temporary directory is writable");
    cluster.write(&shop.clone().with(&cluster.lab, &["pod1-1", "pod1-2"]));
    let body = told(Some(503), &healthz);
    assert_eq!(
        (&body["nodeEligible"], &body["healthy"]),
        (&true.into(), &false.into()),
        "{body}"
    );
    told(Some(503), &livez);
    let body = told(Some(503), &check);
    assert_eq!(body["serviceProxyHealthy"], false);
    assert_eq!(
        body["localEndpoints"], 2,
        "the second pod is not live, so only the first counts: {body}"
    );
    fs::remove_file(&fault).expect("it is there");
    told(Some(200), &healthz);
    told(Some(200), &livez);
    assert_eq!(told(Some(200), &check)["localEndpoints"], 4);

    let metrics = eventually(&cluster, "node1", "http://127.0.0.1:10249/metrics", Some(200)).1;
    let value = |line: &str| -> f64 {
        let found = metrics.lines().find_map(|found| found.strip_prefix(line));
        let found = found.unwrap_or_else(|| panic!("{line} is not in\n{metrics}"));
        found.trim().parse().expect("a number")
    };
    for (line, least) in [
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            2.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
            1.7e9,
        ),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 3.0),
        ("kubeproxy_proxy_healthz_total{code=\"503\"}", 2.0),
        ("kubeproxy_proxy_livez_total{code=\"503\"}", 1.0),
        ("lb_sync_failures_total", 1.0),
        (
            "lb_map_operations_total{map=\"frontends4\",operation=\"write\"}",
            6.0,
        ),
        ("lb_health_check_listeners", 2.0),
        ("lb_devices", 5.0),
        ("process_resident_memory_bytes", 1e6),
    ] {
        assert!(value(line) >= least, "{line} {} is below {least}", value(line));
    }
    assert_eq!(value("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 0.0);
    assert_eq!(value("lb_generation_live"), value("lb_generation"));
    for some in [
        "lb_map_errors_total{map=\"",
        "lb_packets_total{hook=\"uplink-in\",outcome=\"",
    ] {
        assert!(metrics.contains(some), "{some} is not in\n{metrics}");
    }
    let mode = eventually(&cluster, "node1", "http://127.0.0.1:10249/proxyMode", Some(200)).1;
    assert_eq!(mode, "ebpf");
    let outside = format!("http://{}:10249/metrics", node.v4);
    eventually(&cluster, "client", &outside, None);
}

#[test]
fn a_node_is_not_healthy_before_programs_are_on_its_devices_as_root() {
    if !possible("a_node_is_not_healthy_before_programs_are_on_its_devices_as_root") {
        return;
    }
    let mut cluster = Cluster::with(Topology::cluster(1, 2), &[]);
    for _ in 0..3 {
        cluster.end_agent(0, Signal::SIGTERM);
        let (text, done) = cluster.agent(0, &["detach"]);
        assert!(done && programs(&cluster) == 0, "{text}");
        cluster.start_agent(0);
        eventually(&cluster, "node1", "http://127.0.0.1:10256/healthz", Some(200));
        assert_ne!(programs(&cluster), 0, "{}", cluster.diagnosis());
    }
}
