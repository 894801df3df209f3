//! What the image says about itself: the same that `deploy/Dockerfile` says.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::child;
use crate::workspace::Workspace;

/// Names and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Of the workspace.
    pub(crate) version: String,
    /// The commit, with `-dirty` if the work tree differs; `unknown` outside a clone.
    pub(crate) revision: String,
}

impl Spec {
    /// The workspace as it is.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        Self {
            // All crates have the workspace's version.
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision(workspace).unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    /// The image's name.
    pub(crate) fn reference(&self) -> String {
        // Without a registry engines take it to be docker.io's; `localhost/` keeps a kubelet from asking there.
        format!("localhost/lb-agent:{}", self.version)
    }

    /// The labels, sorted.
    pub(crate) fn labels(&self) -> BTreeMap<&'static str, &str> {
        BTreeMap::from([
            ("org.opencontainers.image.title", "lb-agent"),
            (
                "org.opencontainers.image.description",
                "Serves Kubernetes Services on a node by eBPF programs, in place of kube-proxy",
            ),
            ("org.opencontainers.image.licenses", "Apache-2.0"),
            ("org.opencontainers.image.version", &self.version),
            ("org.opencontainers.image.revision", &self.revision),
        ])
    }
}

fn revision(workspace: &Workspace) -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut command = child::command("git", workspace);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(if changed {
        format!("{commit}-dirty")
    } else {
        commit
    })
}
