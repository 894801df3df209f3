//! A node that follows a real API server: a Service made there is served, one deleted there is not; and it is explained
//! by the names that objects have there.

mod asked;
mod bootstrap;

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_cases::apiserver::{ApiServer, NONE_FOUND};
use lb_lab::{Proto, Topology};
use serde_json::json;

use crate::{
    cluster::{Cluster, possible},
    service::TARGET,
};

/// A client of the API server, inside the namespace that the server listens in.
struct Apis<'a> {
    cluster: &'a Cluster,
    server: &'a ApiServer,
}

impl Apis<'_> {
    /// Runs `work` with a client, on a thread in the server's namespace.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(Client) -> kube::Result<T> + Send) -> T {
        let node = self.cluster.lab.at("node1").expect("it is there");
        let kubeconfig = self.server.kubeconfig();
        let inside = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                Ok(work(Client::try_from(config)?).await?)
            })
        };
        node.netns()
            .run(inside)
            .expect("the API server does as it is told")
    }
}

#[test]
fn what_the_api_server_has_is_what_is_served_as_root() {
    if !possible("what_the_api_server_has_is_what_is_served_as_root") {
        return;
    }
    let lab = Cluster::lab(Topology::cluster(1, 2));
    let node = lab.at("node1").expect("it is there");
    // Started by a thread of the node: it listens on the node's loopback.
    let server = node
        .netns()
        .run(|| Ok(ApiServer::start("")))
        .expect("the node's namespace can be entered");
    let Some(server) = server else {
        lb_lab::skip(&format!(
            "what_the_api_server_has_is_what_is_served_as_root: {NONE_FOUND}"
        ));
        return;
    };
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let source = ["kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned);
    let cluster = Cluster::run(lab, &source, &[]);
    let apis = Apis {
        cluster: &cluster,
        server: &server,
    };
    let (external, [one, other]) = objects(&apis);
    let node_port = SocketAddr::new(
        cluster.lab.node("node1").expect("it is there").addr.v4.into(),
        30_080,
    );
    let service: Service = apis.run(async |client| Api::namespaced(client, "shop").get("web").await);
    let cluster_ip = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .expect("the server gave one");
    let cluster_ip: SocketAddr = format!("{cluster_ip}:80").parse().expect("an address");
    let ways = [
        ("client", external),
        ("client", node_port),
        ("pod1-1", cluster_ip),
        ("pod1-2", external),
        ("node1", cluster_ip),
        ("node1", node_port),
    ];
    let answered_by = |names: &[&str]| {
        for (from, to) in ways {
            for proto in Proto::BOTH {
                cluster.eventually(from, proto, to, 20, |shares| {
                    shares.all_answered() && shares.names() == names.iter().copied().collect()
                });
            }
        }
    };
    answered_by(&["pod1-1", "pod1-2"]);
    asked::check(&apis, &one, &[one.clone(), other.clone()]);

    // One endpoint goes; then the slice with the other; then the Service.
    let one_less =
        json!({"endpoints": [{"addresses": [other], "nodeName": "node1", "conditions": {"ready": true}}]});
    apis.run(async |client| {
        let slices: Api<EndpointSlice> = Api::namespaced(client, "shop");
        slices
            .patch("web-1", &PatchParams::default(), &Patch::Merge(&one_less))
            .await
    });
    answered_by(&["pod1-2"]);
    apis.run(async |client| {
        let slices: Api<EndpointSlice> = Api::namespaced(client, "shop");
        slices.delete("web-1", &DeleteParams::default()).await.map(drop)
    });
    for (from, to) in ways {
        for proto in Proto::BOTH {
            cluster.eventually(from, proto, to, 4, lb_lab::Shares::all_refused);
        }
    }
    apis.run(async |client| {
        let services: Api<Service> = Api::namespaced(client, "shop");
        services.delete("web", &DeleteParams::default()).await.map(drop)
    });
    cluster.eventually_status(0, "the Service is gone", |status| {
        !status["services"].to_string().contains("shop/web")
            && status["generation"] == status["generation_live"]
    });
    let shares = cluster
        .lab
        .at("pod1-1")
        .expect("it is there")
        .probe_with(
            Proto::Tcp,
            external,
            4,
            &lb_lab::Options::within(Duration::from_millis(300)),
        )
        .expect("the probe runs");
    assert_eq!(shares.answers(), 0, "{shares}; {one} is still asked");
}

/// Makes the node, a Service with an external address, and its endpoints.
fn objects(apis: &Apis<'_>) -> (SocketAddr, [String; 2]) {
    let lab = &apis.cluster.lab;
    let spec = lab.node("node1").expect("it is there").clone();
    let external = lab.topology().plan.external.nth(10).v4;
    let pods = [0, 1].map(|pod| spec.pods[pod].addr.v4.to_string());
    let ports = |target: &str| -> Vec<_> {
        ["TCP", "UDP"]
            .iter()
            .map(|protocol| {
                let mut port = json!({"name": protocol.to_lowercase(), "protocol": protocol});
                if target == "service" {
                    port["port"] = 80.into();
                    port["targetPort"] = TARGET.into();
                    port["nodePort"] = 30_080.into();
                } else {
                    port["port"] = TARGET.into();
                }
                port
            })
            .collect()
    };
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": spec.addr.v4.to_string()}],
    });
    let node = json!({
        "metadata": {"name": "node1"},
        "spec": {"podCIDR": spec.pod_cidr.v4.to_string(), "podCIDRs": [spec.pod_cidr.v4.to_string()]},
        "status": status,
    });
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "externalIPs": [external.to_string()], "ports": ports("service")},
    });
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| json!({"addresses": [pod], "nodeName": "node1", "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": ports("slice"), "endpoints": endpoints,
    });
    apis.run(async |client| {
        let new = PostParams::default();
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.create(&new, &object(node)).await?;
        let patch = Patch::Merge(json!({"status": status}));
        nodes
            .patch_status("node1", &PatchParams::default(), &patch)
            .await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&new, &object(json!({"metadata": {"name": "shop"}})))
            .await?;
        Api::<Service>::namespaced(client.clone(), "shop")
            .create(&new, &object(service))
            .await?;
        Api::<EndpointSlice>::namespaced(client, "shop")
            .create(&new, &object(slice))
            .await
    });
    (SocketAddr::new(external.into(), 80), pods)
}

fn object<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).expect("the object is complete")
}
