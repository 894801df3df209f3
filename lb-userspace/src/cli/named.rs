//! Looks up whom a question names: where the agent of this node has its objects from, or where the flags say.

use std::{io, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    explain::{Named, Wanted},
    kubernetes::Annotations,
    model::Change,
    source::{directory, kubernetes::KubeOptions, named, pods},
};

/// Who `who` is; `source` is what the agent's status says of where its objects come from.
pub(super) async fn look_up(who: Wanted<'_>, server: KubeOptions, source: &str) -> Result<Named> {
    let folder = Path::new(source);
    // Only a directory is named by its absolute path.
    if server == KubeOptions::default() && folder.is_absolute() {
        return in_directory(who, folder);
    }
    Ok(match who {
        Wanted::Pod(key) => named::pod(&server, key).await?.into(),
        Wanted::Node(name) => named::node(&server, name).await?.into(),
    })
}

/// In the directory that the agent has its objects from.
fn in_directory(who: Wanted<'_>, folder: &Path) -> Result<Named> {
    let shown = folder.display();
    let (called, found) = match who {
        Wanted::Pod(key) => {
            let pod = pods::read(folder).map(|all| all.pods.get(key).cloned());
            (format!("Pod {key}"), pod.map(|pod| pod.map(Named::from)))
        }
        Wanted::Node(name) => (format!("Node {name}"), node(folder, name)),
    };
    let found = found.with_context(|| {
        format!(
            "{called} cannot be looked up: the agent's objects come from the directory {shown}, which cannot be read here; \
             give its address, or ask with --manifests"
        )
    })?;
    match found {
        Some(found) => Ok(found),
        None => bail!(
            "{called} is not among the manifests in {shown}, from where the agent has its objects, and no endpoint there names \
             it; add its manifest, give its address, or say where its API server is (--kubeconfig)"
        ),
    }
}

fn node(folder: &Path, wanted: &str) -> io::Result<Option<Named>> {
    let changes = directory::read_once(folder, Annotations::default())?;
    Ok(changes.into_iter().find_map(|change| match change {
        Change::NodeApplied(node) if node.name == wanted => Some(node.into()),
        _ => None,
    }))
}
