//! The Kubernetes source against a real API server: what it tells, and how it fares when the server fails.

mod common;

use std::{future::Future, time::Duration};

use common::relay::Relay;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use lb_cases::apiserver::{ApiServer, NONE_FOUND};
use lb_userspace::{
    kubernetes::Annotations,
    model::{DesiredState, Index, NodeIdentity, ObjectKey},
    source::{
        Event, SourceStatus,
        kubernetes::{KubeOptions, spawn},
    },
};
use serde_json::json;
use tokio::sync::mpsc;

/// What was heard from a source, put together.
struct Listener {
    events: mpsc::Receiver<Event>,
    index: Index,
    status: SourceStatus,
    /// All messages of failures, also of those that are over.
    said: Vec<String>,
    synced: u32,
}

impl Listener {
    async fn new(options: KubeOptions) -> Self {
        let (sender, events) = mpsc::channel(16);
        let connection = options.connect().await.expect("the kubeconfig is valid");
        spawn(connection, Annotations::default(), sender);
        let index = Index::new(NodeIdentity::new("node-a"));
        Self {
            events,
            index,
            status: SourceStatus::default(),
            said: Vec::new(),
            synced: 0,
        }
    }

    /// Listens until what was heard satisfies `condition`.
    async fn hear(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let listen = async {
            while !condition(self) {
                match self.events.recv().await.expect("the source goes on for ever") {
                    Event::Change(change) => self.index.apply(change),
                    Event::Synced => self.synced += 1,
                    Event::Remembered => {}
                    Event::Status(status) => {
                        self.said
                            .extend(status.failures.iter().map(|failure| failure.message.clone()));
                        self.status = status;
                    }
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), listen).await;
        assert!(
            heard.is_ok(),
            "{what}: heard {:#?}\n{:#?}",
            self.index.desired(),
            self.status
        );
    }

    fn desired(&self) -> DesiredState {
        self.index.desired()
    }

    /// Backends of a Service's only port, as `address:port`.
    fn backends(&self, name: &str) -> Option<Vec<String>> {
        let ports = self.index.desired_service(&ObjectKey::new("shop", name));
        let port = ports.first()?;
        Some(
            port.backends
                .iter()
                .map(|b| format!("{}:{}", b.address, b.port))
                .collect(),
        )
    }
}

async fn in_shop<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), "shop")
}

async fn create<K>(api: &Api<K>, object: serde_json::Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object = serde_json::from_value(object).expect("the test's objects are well-formed");
    api.create(&PostParams::default(), &object)
        .await
        .expect("the server takes the test's objects");
}

async fn patch<K>(api: &Api<K>, name: &str, patch: serde_json::Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("the server takes the patch");
}

fn service(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(service: &str, address: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address]}],
    })
}

fn endpoints(address: &str) -> serde_json::Value {
    json!({"endpoints": [{"addresses": [address]}]})
}

/// Runs a test with a server of its own that has a namespace, a Node, and the Service `web` with one slice.
fn with_server<F: Future<Output = ()>>(gates: &str, test: impl FnOnce(ApiServer, Client) -> F) {
    let Some(server) = ApiServer::start(gates) else {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        return lb_lab::skip(&format!("{test}: {NONE_FOUND}"));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("threads can be started").block_on(async {
        let client = options(&server).client().await.expect("the kubeconfig is valid");
        create(
            &Api::<Namespace>::all(client.clone()),
            json!({"metadata": {"name": "shop"}}),
        )
        .await;
        create(&in_shop::<Service>(&client).await, service("web")).await;
        create(
            &in_shop::<EndpointSlice>(&client).await,
            slice("web", "10.180.1.1"),
        )
        .await;
        let node =
            json!({"metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}}});
        create(&Api::<Node>::all(client.clone()), node).await;
        test(server, client).await;
    });
}

fn options(server: &ApiServer) -> KubeOptions {
    KubeOptions {
        kubeconfig: Some(server.kubeconfig()),
        ..KubeOptions::default()
    }
}

#[test]
fn objects_are_listed_watched_and_deleted() {
    with_server("", |server, client| async move {
        let (services, slices) = (
            in_shop::<Service>(&client).await,
            in_shop::<EndpointSlice>(&client).await,
        );
        let mut heard = Listener::new(options(&server)).await;

        heard.hear("the first lists", |heard| heard.synced == 1).await;
        assert_eq!(heard.backends("web"), Some(vec!["10.180.1.1:8080".into()]));
        assert_eq!(
            heard.index.this_node().and_then(|node| node.zone.as_deref()),
            Some("zone-a")
        );

        patch(&slices, "web-1", endpoints("10.180.1.2")).await;
        heard
            .hear("an update", |h| {
                h.backends("web") == Some(vec!["10.180.1.2:8080".into()])
            })
            .await;

        create(&services, service("api")).await;
        heard
            .hear("a new Service", |h| h.backends("api") == Some(vec![]))
            .await;

        services
            .delete("api", &DeleteParams::default())
            .await
            .expect("it is there");
        heard.hear("its end", |h| h.backends("api").is_none()).await;
        slices
            .delete("web-1", &DeleteParams::default())
            .await
            .expect("it is there");
        heard
            .hear("the end of a slice", |h| h.backends("web") == Some(vec![]))
            .await;
        assert_eq!((heard.synced, heard.status.errors), (1, 0));
    });
}

#[test]
fn a_label_that_names_another_proxy_takes_a_service_away_at_run_time_and_back() {
    with_server("", |server, client| async move {
        let services = in_shop::<Service>(&client).await;
        let mut heard = Listener::new(options(&server)).await;
        heard.hear("the first lists", |heard| heard.synced == 1).await;
        for label in [
            "service.kubernetes.io/service-proxy-name",
            "service.kubernetes.io/headless",
        ] {
            patch(&services, "web", json!({"metadata": {"labels": {label: "x"}}})).await;
            heard.hear("it goes", |h| h.backends("web").is_none()).await;
            patch(&services, "web", json!({"metadata": {"labels": {label: null}}})).await;
            heard.hear("it comes back", |h| h.backends("web").is_some()).await;
        }
    });
}

#[test]
fn a_forgotten_history_is_listed_anew_and_what_vanished_meanwhile_is_deleted() {
    with_server("", |mut server, client| async move {
        let (services, slices) = (
            in_shop::<Service>(&client).await,
            in_shop::<EndpointSlice>(&client).await,
        );
        create(&services, service("old")).await;
        let mut relay = Relay::to(server.port()).await;
        let mut heard = Listener::new(KubeOptions {
            servers: vec![relay.url()],
            ..options(&server)
        })
        .await;
        heard.hear("the first lists", |heard| heard.synced == 1).await;

        relay.cut();
        heard
            .hear("it is cut off", |h| h.status.failures.len() == 3)
            .await;
        services
            .delete("old", &DeleteParams::default())
            .await
            .expect("it is there");
        create(&services, service("new")).await;
        patch(&slices, "web-1", endpoints("10.180.1.3")).await;
        // A server that starts remembers nothing of what was before.
        server.stop();
        server.run();
        assert!(heard.backends("old").is_some(), "what was known stands");

        relay.mend().await;
        heard
            .hear("all is well again", |h| h.status.failures.is_empty())
            .await;
        assert!(
            heard.said.iter().any(|message| message.contains("(410)")),
            "{:?}",
            heard.said
        );
        heard.hear("what vanished", |h| h.backends("old").is_none()).await;
        heard.hear("what came", |h| h.backends("new").is_some()).await;
        heard
            .hear("what changed", |h| {
                h.backends("web") == Some(vec!["10.180.1.3:8080".into()])
            })
            .await;
        assert_eq!(heard.synced, 1);
    });
}

#[test]
fn the_next_address_is_asked_when_one_is_dead_or_breaks_off() {
    with_server("", |server, client| async move {
        let services = in_shop::<Service>(&client).await;
        let mut first = Relay::to(server.port()).await;
        let mut second = Relay::to(server.port()).await;
        first.cut();
        let mut heard = Listener::new(KubeOptions {
            servers: vec![first.url(), second.url()],
            ..options(&server)
        })
        .await;
        heard.hear("the first lists", |heard| heard.synced == 1).await;
        let (one, two) = (first.url(), second.url());
        heard
            .hear("the second answers", |h| h.status.server.as_ref() == Some(&two))
            .await;
        create(&services, service("by-the-second")).await;
        heard
            .hear("what came", |h| h.backends("by-the-second").is_some())
            .await;

        first.mend().await;
        second.cut();
        create(&services, service("by-the-first")).await;
        heard
            .hear("what came", |h| h.backends("by-the-first").is_some())
            .await;
        heard
            .hear("the first answers", |h| {
                h.status.server.as_ref() == Some(&one) && h.status.failures.is_empty()
            })
            .await;
        assert_eq!(heard.synced, 1);
    });
}

#[test]
fn the_last_state_stands_while_the_server_restarts() {
    with_server("", |mut server, client| async move {
        let mut heard = Listener::new(options(&server)).await;
        heard.hear("the first lists", |heard| heard.synced == 1).await;
        let before = heard.desired();

        server.stop();
        heard
            .hear("it is noticed", |h| h.status.failures.len() == 3)
            .await;
        let message = &heard.status.failures[0].message;
        assert!(
            message.contains("cannot reach the API server") && message.contains("refused"),
            "{message}"
        );
        assert_eq!(heard.desired(), before);

        server.run();
        heard.hear("it is back", |h| h.status.failures.is_empty()).await;
        assert_eq!(heard.desired(), before);
        patch(
            &in_shop::<EndpointSlice>(&client).await,
            "web-1",
            endpoints("10.180.1.4"),
        )
        .await;
        heard
            .hear("news", |h| {
                h.backends("web") == Some(vec!["10.180.1.4:8080".into()])
            })
            .await;
    });
}

#[test]
fn a_server_that_does_not_let_us_in_is_named_and_nothing_counts_as_complete() {
    with_server("", |server, _| async move {
        for (token, code, remedy) in [
            ("wrong", "(401)", "renew the token"),
            ("", "(403)", "grant this user"),
        ] {
            let kubeconfig = Some(server.kubeconfig_with_token(token));
            let mut heard = Listener::new(KubeOptions {
                kubeconfig,
                ..KubeOptions::default()
            })
            .await;
            heard
                .hear("it is refused", |h| {
                    h.status.failures.len() == 3 && h.status.errors > 5
                })
                .await;
            for failure in &heard.status.failures {
                assert!(
                    failure.message.contains(code) && failure.message.contains(remedy),
                    "{failure:?}"
                );
                assert!(failure.since <= std::time::SystemTime::now());
            }
            assert_eq!((heard.synced, heard.desired()), (0, DesiredState::default()));
        }
    });
}

#[test]
fn a_server_without_streaming_lists_is_listed_in_pages() {
    with_server("WatchList=false", |server, client| async move {
        let mut heard = Listener::new(options(&server)).await;
        heard.hear("the first lists", |heard| heard.synced == 1).await;
        assert_eq!(heard.backends("web"), Some(vec!["10.180.1.1:8080".into()]));
        patch(
            &in_shop::<EndpointSlice>(&client).await,
            "web-1",
            endpoints("10.180.1.2"),
        )
        .await;
        heard
            .hear("an update", |h| {
                h.backends("web") == Some(vec!["10.180.1.2:8080".into()])
            })
            .await;
        assert_eq!(heard.status.errors, 0);
    });
}
