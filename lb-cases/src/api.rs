//! A client of an API server, and a cluster's state kept in it.

mod client;
mod relay;

use std::{collections::BTreeMap, fs, sync::Mutex, sync::PoisonError};

use anyhow::{Context as _, Result, bail};
use lb_lab::Netns;
use serde_json::{Value, json};

use crate::{
    apiserver::ApiServer,
    format::State,
    layout::SERVICE_CIDRS,
    manifests::{self, FINALIZER},
};

use client::Client;
use relay::Relay;

/// API servers that are not in use: starting one takes seconds, emptying one does not.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<ApiServer>>);

/// An API server with one scenario's cluster in it, reachable from the node with the agent.
pub(crate) struct Cluster<'a> {
    pool: &'a Pool,
    server: Option<ApiServer>,
    client: Client,
    _relay: Relay,
    /// What is there, by path, as it was last sent.
    known: BTreeMap<String, Value>,
    namespaces: Vec<String>,
}

impl Pool {
    /// A cluster with nothing in it; `None` if no API server can be had.
    pub(crate) fn cluster(&self, node: &Netns) -> Result<Option<Cluster<'_>>> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let server = match idle {
            Some(server) => server,
            None => match ApiServer::with_service_cidrs(&SERVICE_CIDRS.join(","))? {
                Some(server) => server,
                None => return Ok(None),
            },
        };
        let kubeconfig = fs::read_to_string(server.kubeconfig()).context("the API server's kubeconfig")?;
        Ok(Some(Cluster {
            pool: self,
            client: Client::new(server.port(), &kubeconfig)?,
            _relay: Relay::start(node, server.port())?,
            server: Some(server),
            known: BTreeMap::new(),
            namespaces: Vec::new(),
        }))
    }
}

/// An object that is to be sent.
struct Wanted {
    collection: String,
    path: String,
    object: Value,
}

impl Cluster<'_> {
    /// The file by which the agent finds the server.
    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.server
            .as_ref()
            .map(ApiServer::kubeconfig)
            .unwrap_or_default()
    }

    /// Brings the cluster into this state: what is new or different in order, then what is gone.
    pub(crate) fn apply(&mut self, state: &State, marker: &[Value; 2]) -> Result<()> {
        let objects = manifests::objects(state);
        let wanted = objects.iter().map(wanted).collect::<Result<Vec<_>>>()?;
        for one in &wanted {
            self.send(one).with_context(|| format!("object {}", one.path))?;
        }
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|path| !wanted.iter().any(|one| one.path == **path) && !is_marker(path))
            .cloned()
            .collect();
        for path in gone {
            self.delete(&path)?;
        }
        // Last of each kind: who sees it has seen the rest.
        for object in marker {
            self.send(&self::wanted(object)?)?;
        }
        Ok(())
    }

    fn send(&mut self, wanted: &Wanted) -> Result<()> {
        let Wanted {
            collection,
            path,
            object,
        } = wanted;
        let before = self.known.get(path);
        if before == Some(object) {
            return Ok(());
        }
        let deleting = |object: &Value| object["metadata"]["deletionTimestamp"].is_string();
        // A Node that was deleted cannot come back to life.
        let again = before.is_some_and(|before| deleting(before) && !deleting(object));
        let exists = before.is_some() && !again;
        if again {
            self.delete(path)?;
        }
        self.ensure_namespace(object)?;
        let mut sent = object.clone();
        if let Some(metadata) = sent["metadata"].as_object_mut() {
            metadata.remove("deletionTimestamp");
            metadata.remove("deletionGracePeriodSeconds");
        }
        if exists {
            let answer = self.client.put(path, &sent)?;
            // What cannot be changed in place is made anew.
            if answer.is_refusal() {
                self.delete(path)?;
                self.client.post(collection, &sent)?.good()?;
            } else {
                answer.good()?;
            }
        } else {
            self.client.post(collection, &sent)?.good()?;
        }
        self.known.insert(path.clone(), object.clone());
        self.send_status(path, object)?;
        if deleting(object) {
            self.client.delete(path)?.good()?;
        }
        Ok(())
    }

    fn send_status(&self, path: &str, object: &Value) -> Result<()> {
        let mut status = object["status"].clone();
        match object["kind"].as_str() {
            Some("Service") => {
                let ingress = object["status"]["loadBalancer"]["ingress"].clone();
                if ingress.is_null() && object["spec"]["type"] != "LoadBalancer" {
                    return Ok(());
                }
                if status.is_null() {
                    status = json!({});
                }
                status["loadBalancer"]["ingress"] = ingress;
            }
            Some("Node") => {}
            _ => return Ok(()),
        }
        let patch = json!({"status": status});
        self.client
            .patch(&format!("{path}/status"), &patch)?
            .good()
            .map(drop)
    }

    fn ensure_namespace(&mut self, object: &Value) -> Result<()> {
        let Some(namespace) = object["metadata"]["namespace"].as_str() else {
            return Ok(());
        };
        if self.namespaces.iter().any(|known| known == namespace) {
            return Ok(());
        }
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let answer = self.client.post("/api/v1/namespaces", &object)?;
        if answer.status != 409 {
            answer.good()?;
        }
        self.namespaces.push(namespace.into());
        Ok(())
    }

    fn delete(&mut self, path: &str) -> Result<()> {
        let held = self.known.remove(path).is_some_and(|object| {
            object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|f| f.contains(&json!(FINALIZER)))
        });
        if held {
            let free = json!({"metadata": {"finalizers": null}});
            self.client.patch(path, &free)?.good()?;
        }
        let answer = self.client.delete(path)?;
        if answer.status != 404 {
            answer.good()?;
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let paths: Vec<_> = self.known.keys().cloned().collect();
        let emptied = paths.iter().try_for_each(|path| self.delete(path));
        // A server that is not empty is of no use to the next.
        if let (Ok(()), Some(server)) = (emptied, self.server.take()) {
            self.pool
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(server);
        }
    }
}

fn is_marker(path: &str) -> bool {
    path.contains(&format!("/{}/", manifests::MARKER_NAMESPACE))
}

/// Where an object belongs.
fn wanted(object: &Value) -> Result<Wanted> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    let (name, namespace) = (
        text(&metadata["name"]),
        metadata["namespace"].as_str().unwrap_or("default"),
    );
    let collection = match (&*text(&object["apiVersion"]), &*kind) {
        ("v1", "Node") => "/api/v1/nodes".to_owned(),
        ("v1", "Service") => format!("/api/v1/namespaces/{namespace}/services"),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
        }
        (version, kind) => bail!("a {kind} of {version} has no place in a scenario"),
    };
    Ok(Wanted {
        path: format!("{collection}/{name}"),
        collection,
        object: object.clone(),
    })
}
