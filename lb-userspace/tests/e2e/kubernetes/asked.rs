//! `lb-agent explain` on a live node, of clients by their names: the one object that is named is asked of the API server,
//! and the answer is that of its address.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Apis, object};

/// Pods and nodes that are asked about: here, in this node's own network, elsewhere, and not yet anywhere.
fn clients(apis: &Apis<'_>, here: &str) {
    let own = apis
        .cluster
        .lab
        .node("node1")
        .expect("it is there")
        .addr
        .v4
        .to_string();
    let elsewhere = "10.99.0.9";
    let pods = [
        ("web-0", Some("node1"), false, Some(here)),
        ("host-0", Some("node1"), true, Some(&own)),
        ("far-0", Some("node2"), false, Some(elsewhere)),
        ("new-0", None, false, None),
    ];
    apis.run(async |client| {
        let api: Api<Pod> = Api::namespaced(client.clone(), "shop");
        for (name, node, host, address) in pods {
            let pod = json!({
                "metadata": {"name": name},
                "spec": {"nodeName": node, "hostNetwork": host, "containers": [{"name": "x", "image": "x"}]},
            });
            api.create(&PostParams::default(), &object(pod)).await?;
            let ips: Vec<_> = address.iter().map(|ip| json!({"ip": ip})).collect();
            let phase = if address.is_some() { "Running" } else { "Pending" };
            let status = json!({"status": {"phase": phase, "podIP": address, "podIPs": ips}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await?;
        }
        let nodes: Api<Node> = Api::all(client);
        nodes
            .create(
                &PostParams::default(),
                &object(json!({"metadata": {"name": "node2"}})),
            )
            .await?;
        let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.99.0.2"}]}});
        nodes
            .patch_status("node2", &PatchParams::default(), &Patch::Merge(addresses))
            .await
    });
}

/// `here` is the address of a pod of node1; the Service shop/web has `backends`.
pub(super) fn check(apis: &Apis<'_>, here: &str, backends: &[String]) {
    clients(apis, here);
    let kubeconfig = apis.server.kubeconfig().to_string_lossy().into_owned();
    let ask = |from: &str, to: &str, more: &[&str]| {
        let question = ["explain", "--from", from, "--to", to, "-o", "json"];
        apis.cluster.agent(0, &[&question[..], more].concat())
    };
    let answers = |from: &str, to: &str, more: &[&str]| -> Vec<Value> {
        let (text, success) = ask(from, to, more);
        assert!(success, "{from}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let by_name = ["--kubeconfig", &kubeconfig];

    // The same as by the address, but for the name, which is told.
    let to = "service/shop/web";
    let mut named = answers("pod/shop/web-0", to, &by_name);
    assert_eq!(named.len(), 2, "TCP and UDP: {named:?}");
    for answer in &mut named {
        assert_eq!(answer["verdict"], "forwarded", "{answer:#}");
        assert_eq!(answer["from"], "pod shop/web-0");
        assert_eq!(answer["source"], here);
        let mut seen: Vec<_> = (answer["backends"].as_array().into_iter().flatten())
            .map(|backend| backend["backend"].as_str().unwrap_or_default().to_owned())
            .collect();
        seen.sort();
        let mut expected: Vec<_> = backends
            .iter()
            .map(|ip| format!("{ip}:{}", crate::service::TARGET))
            .collect();
        expected.sort();
        assert_eq!(seen, expected);
    }
    for (one, other) in named.iter().zip(answers(here, to, &[])) {
        for same in ["verdict", "reason", "backends", "evidence", "node"] {
            assert_eq!(one[same], other[same], "{same}");
        }
    }
    let host = answers("pod/shop/host-0", to, &by_name);
    let node = answers("node/node1", to, &[]);
    assert_eq!(host[0]["from"], "pod shop/host-0");
    for same in ["source", "verdict", "backends", "evidence"] {
        assert_eq!(host[0][same], node[0][same], "{same}");
    }

    // Whose own node decides is asked of there; by way of this one it comes from outside.
    for (from, source, home) in [
        ("pod/shop/far-0", "10.99.0.9", "node node2"),
        ("node/node2", "10.99.0.2", "node node2"),
    ] {
        let (text, success) = ask(from, to, &by_name);
        assert!(
            !success && text.contains("ask on node node2") && text.contains("--via node1"),
            "{text}"
        );
        let by_way = answers(from, to, &[&by_name[..], &["--via", "node1"]].concat());
        assert_eq!(by_way[0]["source"], source);
        let first = by_way[0]["hops"][0].to_string();
        assert!(
            first.contains(home) && first.contains("like one from outside"),
            "{first}"
        );
    }
    for (from, more, words) in [
        ("pod/shop/new-0", &by_name[..], "pod shop/new-0|not scheduled"),
        ("pod/shop/none", &by_name, "no Pod shop/none|kubectl get pods"),
        (
            "pod/shop/web-0",
            &[by_name[0], by_name[1], "--api-server", "https://127.0.0.1:1"],
            "Pod shop/web-0|address|--manifests",
        ),
        (
            "pod/shop/web-0",
            &["--kubeconfig", "/none"],
            "Pod shop/web-0|address|/none",
        ),
    ] {
        let (text, success) = ask(from, to, more);
        let all = words.split('|').all(|word| text.contains(word));
        assert!(!success && all, "{from} {more:?}: {text}");
    }
}
