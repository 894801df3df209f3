//! One object of an API server by its name: a Pod or a Node that somebody asks about.
//!
//! *Input*: a name. *Output*: the object's value, or why there is none and what helps. One GET, not waited for longer
//! than a few seconds. *Not here*: following objects, see `kubernetes`; Pods of a directory, see `pods`.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use tokio::time::timeout;

use super::{
    kubernetes::{ConnectError, KubeOptions},
    pods::Pod,
};
use crate::{
    kubernetes::{Annotations, Object as _},
    model::{Change, NodeObject, ObjectKey, parse_address},
};

/// How long an answer is waited for: somebody sits before the screen.
const LIMIT: Duration = Duration::from_secs(3);

/// Why an object is not known.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    /// Nobody can be asked.
    #[error("{object} cannot be looked up; {INSTEAD}")]
    Connect {
        /// What was asked for.
        object: String,
        /// Why not.
        source: ConnectError,
    },
    /// Nobody answers.
    #[error(
        "{object} cannot be looked up: the API server has not answered within {} s; is it the right one (--kubeconfig, \
         --context, --api-server)? Or {INSTEAD}",
        LIMIT.as_secs()
    )]
    Silent {
        /// What was asked for.
        object: String,
    },
    /// The server says no.
    #[error(
        "{object} cannot be looked up: the API server does not let this user `get` {plural} ({message}); use a kubeconfig \
         whose user may (--kubeconfig, --context), or {INSTEAD}"
    )]
    Forbidden {
        /// What was asked for.
        object: String,
        /// Its kind.
        plural: &'static str,
        /// In the server's words.
        message: String,
    },
    /// There is no such object.
    #[error("there is no {object} in the cluster: check the name (kubectl get {plural}), or give an address")]
    Absent {
        /// What was asked for.
        object: String,
        /// Its kind, and all namespaces.
        plural: &'static str,
    },
    /// It connects to nothing any more.
    #[error(
        "{object} has ended (phase {phase}), and its address may be another's by now: name one that runs"
    )]
    Ended {
        /// The pod.
        object: String,
        /// How.
        phase: String,
    },
    /// Anything else.
    #[error("{object} cannot be looked up; {INSTEAD}")]
    Failed {
        /// What was asked for.
        object: String,
        /// What went wrong.
        source: kube::Error,
    },
}

/// What always helps.
const INSTEAD: &str = "give its address instead, or ask of manifests with --manifests";

/// A Pod.
///
/// # Errors
/// If the API server does not tell in time, there is no such Pod, or it has ended.
pub async fn pod(options: &KubeOptions, key: &ObjectKey) -> Result<Pod, NamedError> {
    let object = format!("Pod {key}");
    let client = client(options, &object).await?;
    let api: Api<core::Pod> = Api::namespaced(client, &key.namespace);
    from_pod(&object, get(&api, &key.name, object.clone(), "pods").await?)
}

/// A Node.
///
/// # Errors
/// If the API server does not tell in time, or there is no such Node.
pub async fn node(options: &KubeOptions, name: &str) -> Result<NodeObject, NamedError> {
    let object = format!("Node {name}");
    let client = client(options, &object).await?;
    let api: Api<core::Node> = Api::all(client);
    let found = get(&api, name, object.clone(), "nodes").await?;
    match found.convert(&Annotations::default()).change {
        Change::NodeApplied(node) => Ok(node),
        _ => Err(NamedError::Absent {
            object,
            plural: "nodes",
        }),
    }
}

async fn client(options: &KubeOptions, object: &str) -> Result<Client, NamedError> {
    let failed = |source| NamedError::Connect {
        object: object.to_owned(),
        source,
    };
    options.client().await.map_err(failed)
}

async fn get<K>(api: &Api<K>, name: &str, object: String, plural: &'static str) -> Result<K, NamedError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match timeout(LIMIT, api.get_opt(name)).await {
        Err(_) => Err(NamedError::Silent { object }),
        Ok(Ok(Some(found))) => Ok(found),
        Ok(Ok(None)) => Err(NamedError::Absent { object, plural }),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => Err(NamedError::Forbidden {
            object,
            plural,
            message: status.message.clone(),
        }),
        Ok(Err(source)) => Err(NamedError::Failed { object, source }),
    }
}

/// What of a Pod concerns those who ask who it is.
fn from_pod(object: &str, pod: core::Pod) -> Result<Pod, NamedError> {
    let status = pod.status.unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    if matches!(phase.as_str(), "Succeeded" | "Failed") {
        return Err(NamedError::Ended {
            object: object.to_owned(),
            phase,
        });
    }
    let spec = pod.spec.unwrap_or_default();
    let several = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
    Ok(Pod {
        addresses: several
            .chain(status.pod_ip)
            .filter_map(|text| parse_address(&text))
            .collect(),
        node: spec.node_name.filter(|name| !name.is_empty()),
        host_network: spec.host_network.unwrap_or(false),
        owner: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(spec: serde_json::Value, status: serde_json::Value) -> Result<Pod, NamedError> {
        let pod = json!({"metadata": {"name": "web-0"}, "spec": spec, "status": status});
        from_pod("Pod shop/web-0", serde_json::from_value(pod).expect("it is one"))
    }

    #[test]
    fn a_pod_is_its_addresses_its_node_and_whose_network_it_has() {
        let both = json!({"phase": "Running", "podIP": "10.1.0.5", "podIPs": [{"ip": "10.1.0.5"}, {"ip": "fd00:1::5"}]});
        let spec = |host: bool| json!({"containers": [], "nodeName": "node1", "hostNetwork": host});
        let web = told(spec(false), both.clone()).unwrap();
        let ip = |text: &str| text.parse().unwrap();
        assert_eq!(web.addresses, [ip("10.1.0.5"), ip("fd00:1::5")].into());
        assert_eq!((web.node.as_deref(), web.host_network), (Some("node1"), false));
        assert!(told(spec(true), both).unwrap().host_network);
        let waiting = told(json!({"containers": []}), json!({"phase": "Pending"})).unwrap();
        assert_eq!(waiting, Pod::default());
    }

    #[test]
    fn a_pod_that_has_ended_is_nobody() {
        for phase in ["Succeeded", "Failed"] {
            let status = json!({"phase": phase, "podIP": "10.1.0.5"});
            let error = told(json!({"containers": [], "nodeName": "node1"}), status).unwrap_err();
            assert!(error.to_string().contains(phase), "{error}");
        }
    }
}
