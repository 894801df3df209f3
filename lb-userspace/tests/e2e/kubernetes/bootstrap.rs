//! An agent that nobody helps to the API server: dead addresses, endpoints remembered from before, and the Service of the
//! API servers served before anybody has answered.

use std::{fs, net::Ipv4Addr};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use lb_cases::apiserver::{ApiServer, NONE_FOUND};
use lb_lab::{Signal, Topology, wait_for};
use serde_json::json;

use super::Apis;
use crate::cluster::{Cluster, SETTLED, possible};

#[test]
fn an_agent_finds_the_api_server_by_what_it_remembers_as_root() {
    const TEST: &str = "an_agent_finds_the_api_server_by_what_it_remembers_as_root";
    if !possible(TEST) {
        return;
    }
    let lab = Cluster::lab(Topology::cluster(1, 2));
    let node = lab.at("node1").expect("it is there");
    let started = node.netns().run(|| Ok(ApiServer::on_all_addresses()));
    let started = started.expect("the node's namespace can be entered");
    let Some(server) = started.expect("the kit works") else {
        lb_lab::skip(&format!("{TEST}: {NONE_FOUND}"));
        return;
    };
    let address = lab.node("node1").expect("it is there").addr.v4;
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let servers = format!("127.0.0.1:1,https://127.0.0.1:{}", server.port());
    let source = [
        "kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--api-server",
        &servers,
    ];
    let mut cluster = Cluster::run(lab, &source.map(str::to_owned), &[]);
    cluster.eventually_status(0, "the second address answers", |status| {
        status["source"]["server"] == format!("https://127.0.0.1:{}", server.port())
    });

    cluster.eventually_status(0, "the node is missed", |status| {
        let failures = status["failures"].to_string();
        failures.contains("Node node1: there is no such object") && failures.contains("--node-name")
    });

    let cluster_ip = publish(&cluster, &server, address);
    let memory = cluster.instance_on("node1").memory_file();
    let endpoint = format!("{address}:{}", server.port());
    let remembered = wait_for(SETTLED, "the endpoint is remembered", || {
        fs::read_to_string(&memory).is_ok_and(|text| text.contains(&endpoint))
    });
    let text = fs::read_to_string(&memory).unwrap_or_default();
    assert!(remembered.is_ok(), "{text}\n{}", cluster.log(0));
    let token = fs::read_to_string(server.kubeconfig()).expect("it is there");
    let token = token
        .split_once("token: ")
        .map(|(_, rest)| rest.trim())
        .expect("it has one");
    let token = token.lines().next().unwrap_or_default();
    assert!(!text.contains(token), "credentials are nobody's business: {text}");

    // As after a restart of the node: nothing is attached, and only the Service's address is configured.
    begin_anew(&mut cluster);
    let by_service = by_service(&cluster, &server, cluster_ip);
    cluster.set_source(&["kubernetes", "--kubeconfig", &by_service]);
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    cluster.eventually_status(0, "the remembered endpoint answers", |status| {
        status["source"]["server"] == format!("https://{endpoint}") && status["source"]["synced"] == true
    });
    reaches(&cluster, "pod1-1", cluster_ip);
    reaches(&cluster, "node1", cluster_ip);

    // Nobody can show the certificate that is asked for: pods get to the API server nevertheless.
    begin_anew(&mut cluster);
    cluster.set_source(&[
        "kubernetes",
        "--kubeconfig",
        &by_service,
        "--api-server-name",
        "other.example",
    ]);
    cluster.start_agent(0);
    let status = cluster.eventually_status(0, "what is remembered is served", |status| {
        status["source"]["remembered"] == true && status["services_live"] == 1
    });
    assert_eq!(status["source"]["synced"], false, "{status:#}");
    assert!(
        status["failures"].to_string().contains("no API server answers"),
        "{status:#}"
    );
    reaches(&cluster, "pod1-1", cluster_ip);
    let health = [
        "curl",
        "-sm",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://127.0.0.1:10256/healthz",
    ];
    let health = cluster.lab.at("node1").expect("it is there").output(&health);
    assert_eq!(health.expect("curl runs").trim(), "503");
}

/// Has the Service of the API servers lead to where this one can be reached; gives the Service's address.
fn publish(cluster: &Cluster, server: &ApiServer, address: Ipv4Addr) -> Ipv4Addr {
    let apis = Apis { cluster, server };
    // The server's own guess may be of the other family, which a slice keeps for life.
    let slice = json!({
        "metadata": {"name": "kubernetes-here", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "protocol": "TCP", "port": server.port()}],
    });
    apis.run(async |client| {
        let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
        slices
            .create(&PostParams::default(), &super::object(slice))
            .await?;
        slices
            .delete("kubernetes", &DeleteParams::default())
            .await
            .map(drop)
    });
    let service: Service =
        apis.run(async |client| Api::namespaced(client, "default").get("kubernetes").await);
    let cluster_ip = service.spec.and_then(|spec| spec.cluster_ip);
    cluster_ip.and_then(|ip| ip.parse().ok()).expect("it has one")
}

/// A kubeconfig with the Service's address, by which the server has to show who it is.
fn by_service(cluster: &Cluster, server: &ApiServer, cluster_ip: Ipv4Addr) -> String {
    let text = fs::read_to_string(server.kubeconfig()).expect("it is there");
    let certificate = server.kubeconfig().with_file_name("pki").join("apiserver.crt");
    let text = text
        .replace(
            &format!("https://127.0.0.1:{}", server.port()),
            &format!("https://{cluster_ip}:443"),
        )
        .replace(
            "insecure-skip-tls-verify: true",
            &format!("certificate-authority: {}", certificate.display()),
        );
    assert!(text.contains(&cluster_ip.to_string()), "{text}");
    let file = cluster.lab.folder().join("by-service");
    fs::write(&file, text).expect("the lab's folder can be written");
    file.to_string_lossy().into_owned()
}

/// Ends the agent and takes out its programs; what it remembers stays, as in a directory that outlives the node's restart.
fn begin_anew(cluster: &mut Cluster) {
    cluster.end_agent(0, Signal::SIGTERM);
    let memory = cluster.instance_on("node1").memory_file();
    let remembered = fs::read(&memory).expect("it was written");
    let (said, detached) = cluster.agent(0, &["detach"]);
    assert!(detached, "{said}");
    assert!(!memory.exists(), "nothing is left behind");
    fs::create_dir_all(memory.parent().expect("it has one")).expect("the lab's folder can be written");
    fs::write(&memory, remembered).expect("the lab's folder can be written");
}

/// The API server answers by its Service's address.
fn reaches(cluster: &Cluster, from: &str, cluster_ip: Ipv4Addr) {
    let url = format!("https://{cluster_ip}:443/readyz");
    let place = cluster.lab.at(from).expect("it is there");
    let answer = wait_for(SETTLED, "the API server answers by its Service", || {
        let answer = place.output(&["curl", "-ksm", "5", &url]);
        answer.is_ok_and(|answer| answer.trim() == "ok")
    });
    assert!(answer.is_ok(), "{from}: {url}\n{}", cluster.diagnosis());
}
