//! Ends a cluster and looks whether anything of it is left on the machine.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use lb_lab::Child;

use super::cluster::{self, Cluster};
use crate::report::{Check, Report};

/// Ends the cluster; every kind of thing that could remain is a check. `service` is an address that is answered
/// until then.
pub(super) fn end(cluster: Cluster, service: SocketAddr, report: &mut Report) {
    for agent in &cluster.agents {
        let left = match cluster::left_after_detach(&cluster, agent, service) {
            Ok(left) => left,
            Err(error) => vec![format!("{error:#}")],
        };
        nothing(
            report,
            &format!("detach-{}", agent.node()),
            "of the agent on the node",
            left,
        );
    }
    let prefix = cluster.lab.prefix().to_owned();
    let children: Vec<_> = cluster.children().cloned().collect();
    drop(cluster);

    let running = children.iter().filter(|child| child.is_running());
    let mut processes: Vec<_> = running
        .map(|child: &std::sync::Arc<Child>| child.pid().to_string())
        .collect();
    processes.extend(processes_with(&prefix));
    nothing(report, "processes", "of the cluster", processes);
    for (what, folder) in [
        ("namespaces", Path::new("/run/netns")),
        ("pins", Path::new("/sys/fs/bpf")),
        ("files", &std::env::temp_dir()),
    ] {
        nothing(report, what, "of the cluster", entries_with(folder, &prefix));
    }
}

fn nothing(report: &mut Report, what: &str, whose: &str, left: Vec<String>) {
    report.check(Check {
        id: format!("remains/{what}"),
        expected: format!("nothing {whose}"),
        ok: left.is_empty(),
        seen: if left.is_empty() {
            format!("nothing {whose}")
        } else {
            left.join(", ")
        },
    });
}

/// Names in a folder that begin with the prefix.
fn entries_with(folder: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Processes that have the prefix in their command line.
fn processes_with(prefix: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(prefix)
    };
    let found = processes.filter(ours);
    found
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect()
}
