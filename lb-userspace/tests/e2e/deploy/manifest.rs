//! What `deploy/kustomize` says, read as the API server would.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, PodSpec},
    rbac::v1::ClusterRole,
};
use serde::de::DeserializeOwned;

/// The first object of this kind in a file of `deploy/kustomize`.
fn object<T: DeserializeOwned>(file: &str, kind: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize");
    let text = fs::read_to_string(folder.join(file)).expect("the file is there");
    let objects = serde_norway::Deserializer::from_str(&text)
        .map(|document| serde_norway::Value::deserialize(document).expect("it is YAML"));
    let value = objects
        .into_iter()
        .find(|value| value["kind"] == kind)
        .expect("the object is there");
    serde_norway::from_value(value).expect("it is of its type")
}

use serde::Deserialize as _;

/// What the agent may ask of the API server.
pub(super) fn role() -> ClusterRole {
    object("rbac.yaml", "ClusterRole")
}

/// How the agent is started on a node.
pub(super) struct Pod {
    spec: PodSpec,
}

/// A directory of the node in the container.
pub(super) struct Mount {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) read_only: bool,
}

impl Pod {
    pub(super) fn read() -> Self {
        let set: DaemonSet = object("daemonset.yaml", "DaemonSet");
        let spec = set.spec.and_then(|spec| spec.template.spec);
        Self {
            spec: spec.expect("it has pods"),
        }
    }

    fn container(&self) -> &Container {
        &self.spec.containers[0]
    }

    /// As setpriv(1) names them.
    pub(super) fn capabilities(&self) -> Vec<String> {
        let context = self.container().security_context.as_ref().expect("it has one");
        let capabilities = context.capabilities.as_ref().expect("they are listed");
        assert_eq!(capabilities.drop, Some(vec!["ALL".into()]));
        assert_eq!(
            (context.privileged, context.read_only_root_filesystem),
            (Some(false), Some(true))
        );
        let added = capabilities.add.iter().flatten();
        added.map(|name| name.to_lowercase()).collect()
    }

    pub(super) fn arguments(&self) -> Vec<String> {
        self.container().args.clone().unwrap_or_default()
    }

    /// Variables; those that come from the pod's fields are of this node.
    pub(super) fn environment(&self, node: &str) -> BTreeMap<String, String> {
        let variables = self.container().env.iter().flatten();
        variables
            .map(|variable| {
                let value = variable.value.clone().unwrap_or_else(|| node.to_owned());
                (variable.name.clone(), value)
            })
            .collect()
    }

    pub(super) fn mounts(&self) -> Vec<Mount> {
        let volumes: BTreeMap<_, _> = (self.spec.volumes.iter().flatten())
            .filter_map(|volume| Some((&*volume.name, &*volume.host_path.as_ref()?.path)))
            .collect();
        let mounts = self.container().volume_mounts.iter().flatten();
        mounts
            .map(|mount| Mount {
                host: volumes[&*mount.name].to_owned(),
                path: mount.mount_path.clone(),
                read_only: mount.read_only == Some(true),
            })
            .collect()
    }
}
