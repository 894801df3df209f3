//! An operator with kubectl: what is created, edited, labelled and deleted there is what is served.

use std::{fs, net::SocketAddr};

use lb_cases::apiserver::{ApiServer, NONE_FOUND};
use lb_lab::{Proto, Shares, Topology, wait_for};
use serde_json::json;

use crate::{
    cluster::{Cluster, SETTLED, possible},
    service::TARGET,
};

/// kubectl on the node that the API server listens on.
struct Kubectl<'a> {
    cluster: &'a Cluster,
    kubeconfig: String,
}

impl Kubectl<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        let node = self.cluster.lab.at("node1").expect("it is there");
        let kubectl = ["kubectl", "--kubeconfig", &self.kubeconfig, "--namespace", "shop"];
        let argv: Vec<_> = kubectl.iter().chain(arguments).copied().collect();
        let output = node.output(&argv);
        output.unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    fn patch(&self, what: &[&str], patch: &serde_json::Value) {
        let patch = patch.to_string();
        let arguments = ["patch", "--type=merge", "--patch", &patch];
        self.run(&[&arguments[..], what].concat());
    }

    /// Pods and the node's own processes by the ClusterIP, and a client outside by the external address.
    fn eventually(&self, to: SocketAddr, from: &str, wanted: impl Fn(&Shares) -> bool) {
        for proto in Proto::BOTH {
            self.cluster.eventually(from, proto, to, 10, &wanted);
        }
    }

    fn nobody_answers(&self, to: SocketAddr, from: &str) {
        for proto in Proto::BOTH {
            self.cluster
                .eventually(from, proto, to, 2, |shares| shares.answers() == 0);
        }
    }

    fn serves(&self, served: bool) {
        self.cluster
            .eventually_status(0, &format!("served: {served}"), |status| {
                status["services"].to_string().contains("shop/web") == served
                    && status["generation"] == status["generation_live"]
            });
    }
}

fn manifests(lab: &lb_lab::Lab) -> String {
    let pods = lab.node("node1").expect("it is there").pods.clone();
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| json!({"addresses": [pod.addr.v4.to_string()], "nodeName": "node1"}))
        .collect();
    let ports = |port: u16| {
        ["TCP", "UDP"]
            .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}))
    };
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"externalIPs": [external(lab, 10)], "ports": ports(80)},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports(TARGET),
        }),
    ];
    objects.map(|object| format!("---\n{object}\n")).concat()
}

fn external(lab: &lb_lab::Lab, number: u16) -> String {
    lab.topology().plan.external.nth(number).v4.to_string()
}

#[test]
fn what_an_operator_does_with_kubectl_is_followed_as_root() {
    const NAME: &str = "what_an_operator_does_with_kubectl_is_followed_as_root";
    if !possible(NAME) {
        return;
    }
    let lab = Cluster::lab(Topology::cluster(1, 2));
    let node = lab.at("node1").expect("it is there");
    if node.output(&["kubectl", "version", "--client"]).is_err() {
        lb_lab::skip(&format!("{NAME}: kubectl is not installed"));
        return;
    }
    let server = node
        .netns()
        .run(|| Ok(ApiServer::start("")))
        .expect("the node's namespace can be entered");
    let Some(server) = server else {
        lb_lab::skip(&format!("{NAME}: {NONE_FOUND}"));
        return;
    };
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let source = ["kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned);
    let allowed = external(&lab, 10);
    let range = format!("{allowed}/32");
    let cluster = Cluster::run(lab, &source, &["--external-ip-ranges", &range]);
    let kubectl = Kubectl {
        cluster: &cluster,
        kubeconfig,
    };

    // Create.
    let spec = cluster.lab.node("node1").expect("it is there").clone();
    let file = cluster.lab.folder().join("objects.yaml");
    fs::write(&file, manifests(&cluster.lab)).expect("the lab's folder can be written");
    kubectl.run(&["apply", "--filename", &file.to_string_lossy()]);
    let status =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": spec.addr.v4.to_string()}]}});
    kubectl.patch(&["--subresource=status", "node", "node1"], &status);
    let cluster_ip = kubectl.run(&["get", "service", "web", "--output", "jsonpath={.spec.clusterIP}"]);
    let at = |address: &str, port: u16| -> SocketAddr {
        SocketAddr::new(address.trim().parse().expect("an address"), port)
    };
    let (inside, outside) = (at(&cluster_ip, 80), at(&allowed, 80));
    let both = |shares: &Shares| shares.names() == ["pod1-1", "pod1-2"].into();
    let clients = [("pod1-1", inside), ("node1", inside), ("client", outside)];
    let all_served = || {
        clients
            .iter()
            .for_each(|(from, to)| kubectl.eventually(*to, from, both));
    };
    all_served();

    // Edit: another port, and the old one is none any more.
    let ports = ["TCP", "UDP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 8000}));
    kubectl.patch(&["service", "web"], &json!({"spec": {"ports": ports}}));
    kubectl.eventually(at(&cluster_ip, 8000), "pod1-1", both);
    kubectl.nobody_answers(inside, "pod1-1");
    let ports = ["TCP", "UDP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80}));
    kubectl.patch(&["service", "web"], &json!({"spec": {"ports": ports}}));
    all_served();

    // Label: another proxy's, headless; and ours again.
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        kubectl.run(&["label", "service", "web", &format!("{label}=x")]);
        kubectl.serves(false);
        kubectl.nobody_answers(inside, "pod1-1");
        kubectl.run(&["label", "service", "web", &format!("{label}-")]);
        kubectl.serves(true);
        all_served();
    }

    // What cannot be served is told where the operator looks; the rest is served.
    let denied = external(&cluster.lab, 11);
    kubectl.patch(
        &["service", "web"],
        &json!({"spec": {"externalIPs": [allowed, denied]}}),
    );
    let mut events = String::new();
    let told = wait_for(SETTLED, "kubectl shows the event", || {
        // Of the Service; not all API servers select by the object, which `kubectl describe` relies on.
        events = kubectl.run(&["get", "events", "--output", "json"]);
        events.contains("CannotServe") && events.contains(&format!("{denied} is not served"))
    });
    assert!(told.is_ok(), "{events}\n{}", cluster.diagnosis());
    let events: serde_json::Value = serde_json::from_str(&events).expect("it is JSON");
    let event = &events["items"][0];
    assert_eq!(event["type"], "Warning", "{event:#}");
    assert_eq!(
        (&event["involvedObject"]["kind"], &event["involvedObject"]["name"]),
        (&"Service".into(), &"web".into())
    );
    let uid = kubectl.run(&["get", "service", "web", "--output", "jsonpath={.metadata.uid}"]);
    assert_eq!(
        event["involvedObject"]["uid"],
        uid.trim(),
        "kubectl describe finds it by this"
    );
    all_served();

    // Scale to nothing, and delete.
    kubectl.patch(&["endpointslice", "web-1"], &json!({"endpoints": []}));
    for (from, to) in clients {
        kubectl.eventually(to, from, Shares::all_refused);
    }
    kubectl.run(&["delete", "service", "web"]);
    kubectl.serves(false);
}
