//! One agent of the demo: how it is started, asked and stopped.
//!
//! It is the real program with its real command line; nothing here knows its code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_lab::{Child, Lab, NodeSpec, wait_for};

/// Where Services have their ClusterIPs.
pub(super) const SERVICE_CIDRS: [&str; 2] = ["172.30.0.0/16", "fd00:172:30::/112"];
const BPFFS: &str = "/sys/fs/bpf";
const GRACE: Duration = Duration::from_secs(10);

/// It runs until the lab ends.
pub(super) struct Agent {
    node: String,
    instance: String,
    program: PathBuf,
    run_dir: PathBuf,
    child: Arc<Child>,
}

impl Agent {
    /// Starts it on a node.
    pub(super) fn start(lab: &Lab, program: &Path, node: &NodeSpec, manifests: &Path) -> Result<Self> {
        let node = node.name.clone();
        let instance = format!("{}{node}", lab.prefix());
        let run_dir = lab.folder().join(format!("{node}-run"));
        let words = [
            "run",
            "--source",
            "dir",
            "--manifests",
            &manifests.to_string_lossy(),
            "--node-name",
            &node,
            "--bpffs",
            BPFFS,
            "--instance",
            &instance,
            "--run-dir",
            &run_dir.to_string_lossy(),
            "--service-cidr",
            SERVICE_CIDRS[0],
            "--service-cidr",
            SERVICE_CIDRS[1],
        ]
        .map(str::to_owned);
        let argv: Vec<_> = std::iter::once(program.to_string_lossy().into_owned()).chain(words).collect();
        let child = lab.spawn(&node, &argv, &[])?;
        Ok(Self {
            node,
            instance,
            program: program.to_owned(),
            run_dir,
            child,
        })
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Where it pins its maps and links.
    pub(super) fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.instance)
    }
}
