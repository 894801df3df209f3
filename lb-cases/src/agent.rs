//! The agent under test: the real program with its real command line, its status and its counters.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_lab::{Child, Lab, wait_for};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    format::{PodDetection, Proxy},
    layout::{SELF, SERVICE_CIDRS},
    manifests::{MARKER, MARKER_NAMESPACE, marker_endpoints, port_name},
};

/// Where instances are pinned.
const BPFFS: &str = "/sys/fs/bpf";
/// How long it may take until a state is live.
const SETTLED: Duration = Duration::from_secs(40);
/// How often a state at rest is seen before it counts as such.
const AT_REST: u32 = 15;
/// Seconds until a change that cannot be written makes the agent unhealthy, where scenarios try that.
pub(crate) const HEALTH_TIMEOUT: u64 = 2;

/// Which programs face the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hook {
    /// TC.
    #[default]
    Tc,
    /// XDP, with TC for what it leaves.
    Xdp,
}

/// Where the agent gets its objects from.
pub(crate) enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// An API server, by this kubeconfig.
    Api(PathBuf),
}

/// What an agent is started with.
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Path,
    pub(crate) node: &'a str,
    pub(crate) source: Source,
    pub(crate) proxy: &'a Proxy,
    pub(crate) hook: Hook,
    /// The file that makes its writes fail while it exists, in scenarios that need it.
    pub(crate) switch: Option<&'a Path>,
}

/// A running agent. It ends with the lab.
pub(crate) struct Agent {
    program: PathBuf,
    instance: String,
    run_dir: PathBuf,
    child: Arc<Child>,
}

impl Agent {
    /// Starts it on `self`.
    pub(crate) fn start(lab: &Lab, start: &Start<'_>) -> Result<Self> {
        let instance = format!("{}{SELF}", lab.prefix());
        let run_dir = lab.folder().join("run");
        let mut agent = vec![OsString::from(start.program), "run".into()];
        agent.extend(["--node-name", start.node].map(Into::into));
        agent.extend(instance_flags(&instance, &run_dir));
        agent.extend(flags(start));
        match lab.cgroup(SELF) {
            Ok(cgroup) => agent.extend(["--cgroup".into(), cgroup.into_os_string()]),
            Err(_) => agent.extend(["--connect-hooks", "off"].map(Into::into)),
        }
        let child = lab.spawn(SELF, &agent, &[("RUST_BACKTRACE", "0")])?;
        Ok(Self {
            program: start.program.into(),
            instance,
            run_dir,
            child,
        })
    }

    /// Waits until the state of this number is completely live, and programs are on these devices.
    pub(crate) fn settle(&self, number: usize, devices: &[String]) -> Result<()> {
        let mut last = None;
        let mut at_rest = 0;
        let waited = wait_for(SETTLED, "the agent to serve the scenario's state", || {
            let status = self.status();
            let same = last.is_some() && status == last;
            let good = status.as_ref().is_some_and(|s| s.is_live(number, devices));
            at_rest = if good && same { at_rest + 1 } else { 0 };
            last = status;
            at_rest >= AT_REST || !self.child.is_running()
        });
        if !self.child.is_running() {
            bail!("the agent has ended; it printed:\n{}", self.child.tail(12));
        }
        waited.with_context(|| {
            let status = last.as_ref().map(Status::summary).unwrap_or_default();
            format!("{status}; the agent printed:\n{}", self.child.tail(8))
        })
    }

    /// Waits until changes have come in that are not written.
    pub(crate) fn wait_until_behind(&self) -> Result<()> {
        wait_for(SETTLED, "the agent to fall behind while its writes fail", || {
            self.status().is_some_and(|s| s.generation > s.generation_live)
        })
    }

    /// How many packets came to which end, by `hook outcome`.
    pub(crate) fn counters(&self, lab: &Lab) -> Result<BTreeMap<String, u64>> {
        let counters = self.counters_document(lab)?;
        let mut counted = BTreeMap::new();
        for row in counters["outcomes"].as_array().into_iter().flatten() {
            let name = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let packets = row["packets"].as_u64().unwrap_or_default();
            counted.insert(format!("{} {}", name("hook"), name("outcome")), packets);
        }
        for (event, count) in counters["events"].as_object().into_iter().flatten() {
            counted.insert(format!("flow table {event}"), count.as_u64().unwrap_or_default());
        }
        Ok(counted)
    }

    /// What `lb-agent counters -o json` says.
    pub(crate) fn counters_document(&self, lab: &Lab) -> Result<Value> {
        let mut argv = vec![OsString::from(&self.program), "counters".into()];
        argv.extend(["--output", "json"].map(Into::into));
        argv.extend(instance_flags(&self.instance, &self.run_dir));
        let argv: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
        let argv: Vec<_> = argv.iter().map(|word| &**word).collect();
        let text = lab.at(SELF)?.output(&argv)?;
        serde_json::from_str(&text).context("the agent's counters")
    }

    /// Where it pins its maps and links.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.instance)
    }

    fn status(&self) -> Option<Status> {
        let file = self.run_dir.join(&self.instance).join("status.json");
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill();
    }
}

/// The flags that tell this agent from others.
fn instance_flags(instance: &str, run_dir: &Path) -> [OsString; 6] {
    [
        "--bpffs".into(),
        BPFFS.into(),
        "--instance".into(),
        instance.into(),
        "--run-dir".into(),
        run_dir.into(),
    ]
}

/// The flags that a scenario asks for. Defaults are not spelled out: that the agent has them is part of the test.
fn flags(start: &Start<'_>) -> Vec<OsString> {
    let mut flags: Vec<OsString> = match &start.source {
        Source::Folder(folder) => ["--source", "dir", "--manifests"]
            .map(OsString::from)
            .into_iter()
            .chain([folder.into()])
            .collect(),
        Source::Api(kubeconfig) => ["--source", "kubernetes", "--kubeconfig"]
            .map(OsString::from)
            .into_iter()
            .chain([kubeconfig.into()])
            .collect(),
    };
    let mut add = |words: &[&str]| flags.extend(words.iter().map(OsString::from));
    for cidr in SERVICE_CIDRS {
        add(&["--service-cidr", cidr]);
    }
    let Proxy {
        pod_detection,
        masquerade_all,
        nodeport_addresses,
        localhost_nodeports,
    } = start.proxy;
    if *pod_detection == PodDetection::None {
        add(&["--pod-detection", "none"]);
    }
    if *masquerade_all {
        add(&["--masquerade-all"]);
    }
    if !nodeport_addresses.is_empty() {
        add(&["--nodeport-addresses", &nodeport_addresses.join(",")]);
    }
    if *localhost_nodeports {
        add(&["--localhost-nodeports"]);
    }
    if start.hook == Hook::Xdp {
        add(&["--hook", "xdp"]);
    }
    if let Some(switch) = start.switch {
        add(&["--health-timeout", &HEALTH_TIMEOUT.to_string()]);
        flags.extend(["--test-fail-writes".into(), switch.into()]);
    }
    flags
}

/// What is read of the status file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Status {
    source: SourceStatus,
    generation: u64,
    generation_live: u64,
    devices: BTreeMap<String, Value>,
    services: Vec<ServicePort>,
    failures: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct SourceStatus {
    synced: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct ServicePort {
    service: String,
    port_name: String,
    backends_cluster: usize,
}

impl Status {
    fn is_live(&self, number: usize, devices: &[String]) -> bool {
        let marker = format!("{MARKER_NAMESPACE}/{MARKER}");
        let mut markers = self.services.iter().filter(|port| port.service == marker);
        let arrived = markers.any(|port| {
            port.port_name == port_name(number) && port.backends_cluster == marker_endpoints(number)
        });
        self.source.synced
            && arrived
            && self.generation == self.generation_live
            && devices.iter().all(|device| self.devices.contains_key(device))
    }

    fn summary(&self) -> String {
        let Self {
            generation,
            generation_live,
            devices,
            failures,
            ..
        } = self;
        let devices: Vec<_> = devices.keys().collect();
        format!("generation {generation}, live {generation_live}, devices {devices:?}, failures {failures:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_live_when_its_marker_is_and_nothing_is_under_way() {
        let status = |port: &str, backends: usize, live: u64, devices: &[&str]| Status {
            source: SourceStatus { synced: true },
            generation: 7,
            generation_live: live,
            devices: devices.iter().map(|d| ((*d).into(), Value::Null)).collect(),
            services: vec![ServicePort {
                service: "lb-cases/marker".into(),
                port_name: port.into(),
                backends_cluster: backends,
            }],
            failures: Vec::new(),
        };
        let wanted = ["eth0".to_owned()];
        assert!(status("state-1", 2, 7, &["eth0", "lo"]).is_live(1, &wanted));
        for (what, status) in [
            ("an older Service", status("state-0", 2, 7, &["eth0"])),
            ("an older slice", status("state-1", 1, 7, &["eth0"])),
            ("under way", status("state-1", 2, 6, &["eth0"])),
            ("no program", status("state-1", 2, 7, &["lo"])),
        ] {
            assert!(!status.is_live(1, &wanted), "{what}");
        }
    }
}
