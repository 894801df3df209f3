//! The role in the manifests is what the agent asks of the API server: no more, no less.

use std::{collections::BTreeSet, fs};

use lb_cases::apiserver::{ApiServer, NONE_FOUND};
use lb_lab::{Signal, Topology, wait_for};
use serde_json::{Value, json};

use super::manifest;
use crate::cluster::{Cluster, SETTLED, possible};

/// Verb, group, resource.
type Right = (String, String, String);

/// The test's own client, which the server knows by its name.
struct Curl<'a> {
    cluster: &'a Cluster,
    server: &'a ApiServer,
}

impl Curl<'_> {
    fn create(&self, path: &str, object: &Value) {
        let kubeconfig = fs::read_to_string(self.server.kubeconfig()).expect("the server runs");
        let token = kubeconfig
            .lines()
            .find_map(|line| line.trim().strip_prefix("token: "));
        let authorization = format!("Authorization: Bearer {}", token.unwrap_or_default());
        let url = format!("https://127.0.0.1:{}{path}", self.server.port());
        let node = self.cluster.lab.at("node1").expect("it is there");
        let body = object.to_string();
        let made = node.output(&[
            "curl",
            "--insecure",
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--header",
            &authorization,
            "--header",
            "Content-Type: application/json",
            "--data",
            &body,
            &url,
        ]);
        made.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    }
}

/// What the agent has asked until now.
fn asked(server: &ApiServer) -> BTreeSet<Right> {
    let others = ["curl", "kube-apiserver", "kubectl"];
    let requests = server.requests().into_iter();
    requests
        .filter(|request| !others.iter().any(|other| request.client.starts_with(other)))
        .map(|request| (request.verb, request.group, request.resource))
        .collect()
}

fn granted() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in manifest::role().rules.into_iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights
                    .extend((rule.verbs.iter()).map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    rights
}

#[test]
fn the_role_is_what_the_agent_asks_for_as_root() {
    const NAME: &str = "the_role_is_what_the_agent_asks_for_as_root";
    if !possible(NAME) {
        return;
    }
    let lab = Cluster::lab(Topology::cluster(1, 1));
    let node = lab.at("node1").expect("it is there");
    // Without streaming, lists are asked for as well.
    let server = node
        .netns()
        .run(|| Ok(ApiServer::start("WatchList=false")))
        .expect("the node's namespace can be entered");
    let Some(server) = server else {
        lb_lab::skip(&format!("{NAME}: {NONE_FOUND}"));
        return;
    };
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let source = ["kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned);
    let mut cluster = Cluster::run(lab, &source, &["--external-ip-ranges", "192.0.2.0/24"]);
    wrong_objects(&Curl {
        cluster: &cluster,
        server: &server,
    });
    let told = |rights: &[(&str, &str)]| {
        let wanted = |seen: &BTreeSet<Right>| {
            rights
                .iter()
                .all(|(verb, resource)| seen.iter().any(|(v, _, r)| v == verb && r == resource))
        };
        let told = wait_for(SETTLED, "the agent tells of what is wrong", || {
            wanted(&asked(&server))
        });
        assert!(told.is_ok(), "{:#?}\n{}", asked(&server), cluster.diagnosis());
    };
    told(&[
        ("get", "services"),
        ("get", "endpointslices"),
        ("get", "nodes"),
        ("create", "events"),
    ]);

    // The next agent says the same once more: the event is there already.
    cluster.end_agent(0, Signal::SIGTERM);
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    let repeated = wait_for(SETTLED, "an event is counted up", || {
        asked(&server)
            .iter()
            .any(|(verb, _, resource)| verb == "patch" && resource == "events")
    });
    assert!(repeated.is_ok(), "{:#?}\n{}", asked(&server), cluster.diagnosis());

    // A watch is in the log when it has ended.
    cluster.end_agent(0, Signal::SIGTERM);
    let all = wait_for(SETTLED, "watches are in the log", || asked(&server) == granted());
    assert!(
        all.is_ok(),
        "asked, not granted: {:#?}\ngranted, not asked: {:#?}",
        asked(&server).difference(&granted()).collect::<Vec<_>>(),
        granted().difference(&asked(&server)).collect::<Vec<_>>(),
    );
}

/// One of each kind that the agent has to complain about.
fn wrong_objects(curl: &Curl<'_>) {
    let namespace = "/api/v1/namespaces/shop";
    curl.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    curl.create(
        "/api/v1/nodes",
        &json!({"metadata": {"name": "node1"}, "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["nowhere"]}}),
    );
    curl.create(
        &format!("{namespace}/services"),
        &json!({"metadata": {"name": "web"}, "spec": {"externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]}}),
    );
    curl.create(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
        &json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["127.0.0.1"]}],
        }),
    );
}
