//! An API server that has the same objects as the folder of manifests, for the agents that follow one.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_cases::apiserver::ApiServer;
use lb_lab::{Lab, Place};
use serde_json::{Value, json};

use crate::service;

/// How long is waited before a server that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a request may take: the server is killed in the middle of some.
const REQUEST: Duration = Duration::from_secs(5);

/// What the server is to have.
#[derive(Default)]
pub(super) struct Mirror {
    /// By name of the Service: its manifests, or that it is to be gone.
    wanted: Mutex<BTreeMap<String, Option<String>>>,
    /// Changes that the server has taken in.
    pub(super) taken: AtomicU64,
    stop: AtomicBool,
}

impl Mirror {
    /// A Service is to be like this, or gone.
    pub(super) fn wants(&self, name: &str, manifests: Option<String>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.insert(name.into(), manifests);
    }

    fn next(&self) -> Option<(String, Option<String>)> {
        self.wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_first()
    }

    /// What could not be done is still wanted, unless something newer is.
    fn failed(&self, name: String, manifests: Option<String>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.entry(name).or_insert(manifests);
    }
}

/// A server in a node's namespace, and the thread that tells it.
pub(super) struct Server {
    server: ApiServer,
    place: Place,
    pub(super) mirror: Arc<Mirror>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on this node, with the lab's nodes; `None` if there is none to be had here.
    pub(super) fn start(lab: &Lab, node: &str) -> Option<Self> {
        let place = lab.at(node).expect("it is there").clone();
        let [v4, v6] = lab.topology().plan.services.both();
        let server = place
            .netns()
            .run(|| ApiServer::with_service_cidrs(&format!("{v4},{v6}")))
            .expect("the API server starts")?;
        let mirror = Arc::new(Mirror::default());
        mirror.wants(
            "",
            Some(format!(
                "---\n{}\n{}",
                json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop"}}),
                service::nodes(lab)
            )),
        );
        let (own, inside, kubeconfig) = (Arc::clone(&mirror), place.clone(), server.kubeconfig());
        let thread = thread::spawn(move || tell(&own, &inside, &kubeconfig));
        Some(Self {
            server,
            place,
            mirror,
            thread: Some(thread),
        })
    }

    /// For its clients.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        self.server.stop();
    }

    /// Starts it again.
    pub(super) fn run(&mut self) {
        let (place, server) = (&self.place, &mut self.server);
        place
            .netns()
            .run(|| {
                server.run();
                Ok(())
            })
            .expect("the node's namespace can be entered");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mirror.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Tells the server what it is to have, again and again where it does not answer.
fn tell(mirror: &Mirror, place: &Place, kubeconfig: &PathBuf) {
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut client = None;
            while !mirror.stop.load(Ordering::Relaxed) {
                let Some((name, manifests)) = mirror.next() else {
                    tokio::time::sleep(AGAIN / 10).await;
                    continue;
                };
                let done = tokio::time::timeout(REQUEST, async {
                    let client = match &client {
                        Some(client) => client,
                        None => client.insert(connect(kubeconfig).await?),
                    };
                    make(client, &name, manifests.as_deref()).await
                });
                match done.await {
                    Ok(Ok(())) => {
                        mirror.taken.fetch_add(1, Ordering::Relaxed);
                    }
                    // Killed, or starting: a new connection then, and everything again.
                    failed => {
                        if let Ok(Err(kube::Error::Api(error))) = failed {
                            eprintln!("the API server refuses {name}: {error}");
                        }
                        client = None;
                        mirror.failed(name, manifests);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
            Ok(())
        })
    };
    place
        .netns()
        .run(inside)
        .expect("the node's namespace can be entered");
}

async fn connect(kubeconfig: &PathBuf) -> kube::Result<Client> {
    let unreadable = |error: kube::config::KubeconfigError| kube::Error::Service(error.into());
    let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(unreadable)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unreadable)?;
    Client::try_from(config)
}

async fn make(client: &Client, name: &str, manifests: Option<&str>) -> kube::Result<()> {
    let Some(manifests) = manifests else {
        for (kind, name) in [
            ("Service", name.to_owned()),
            ("EndpointSlice", format!("{name}-ipv4")),
            ("EndpointSlice", format!("{name}-ipv6")),
        ] {
            let deleted = api(client, kind).delete(&name, &DeleteParams::default()).await;
            match deleted {
                Err(kube::Error::Api(error)) if error.code == 404 => {}
                other => drop(other?),
            }
        }
        return Ok(());
    };
    for document in manifests.split("---\n").filter(|text| !text.trim().is_empty()) {
        let mut object: Value = serde_json::from_str(document).map_err(kube::Error::SerdeError)?;
        // It is a resource of its own, and to apply one with two addresses of a kind is an error.
        let status = object.as_object_mut().and_then(|object| object.remove("status"));
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        let api = api(client, kind.as_str().unwrap_or_default());
        let name = name.as_str().unwrap_or_default();
        let params = PatchParams::apply("chaos").force();
        api.patch(name, &params, &Patch::Apply(&object)).await?;
        if let Some(status) = status {
            let status = json!({"status": status});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await?;
        }
    }
    Ok(())
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let (group, plural) = match kind {
        "Node" => ("", "nodes"),
        "Namespace" => ("", "namespaces"),
        "Service" => ("", "services"),
        _ => ("discovery.k8s.io", "endpointslices"),
    };
    let resource = ApiResource {
        group: group.into(),
        version: "v1".into(),
        api_version: if group.is_empty() {
            "v1".into()
        } else {
            format!("{group}/v1")
        },
        kind: kind.into(),
        plural: plural.into(),
    };
    match plural {
        "nodes" | "namespaces" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), "shop", &resource),
    }
}
