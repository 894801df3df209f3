//! What the agent is told by flags and environment, validated.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{
    kubernetes::Annotations,
    load::{SocketOptions, TcAttach, UplinkHook},
    node::{DeviceOverride, Pattern, Prefix, Sysctls},
    source::kubernetes::KubeOptions,
};

/// Everything that `lb-agent run` depends on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Where objects come from.
    pub source: SourceConfig,
    /// Which annotations of Services are read.
    pub annotations: Annotations,
    /// Where this instance keeps what outlives a process.
    pub instance: Instance,
    /// Where kernel settings are written.
    pub sysctls: Sysctls,
    /// What devices are, whatever their routes say.
    pub devices: Vec<DeviceOverride>,
    /// Names of pods' host-side devices.
    pub pod_devices: Vec<Pattern>,
    /// Ranges of Service addresses.
    pub service_cidrs: Vec<Prefix>,
    /// NodePorts are served on node addresses inside these; empty: on the primary ones.
    pub nodeport_addresses: Vec<Prefix>,
    /// Ports that SNAT takes for itself.
    pub snat_ports: RangeInclusive<u16>,
    /// Entries of each flow table.
    pub max_flows: u32,
    /// Count packets and connections for each Service.
    pub service_counters: bool,
    /// Seed of flow hash and lookup tables.
    pub seed: u32,
    /// Masquerade all ClusterIP traffic.
    pub masquerade_all: bool,
    /// How long an address without frontends is still recognised.
    pub linger: Duration,
    /// How programs are attached.
    pub tc_attach: TcAttach,
    /// Where packets from outside are translated.
    pub hook: UplinkHook,
    /// What is at sockets.
    pub sockets: SocketOptions,
    /// Sources can be told to be this node's pods, by the node's pod ranges.
    pub pod_detection: bool,
    /// Serve NodePorts on 127.0.0.1 too.
    pub localhost_nodeports: bool,
    /// Services' externalIPs are served if they are inside these; empty: all are.
    pub external_ip_ranges: Vec<Prefix>,
    /// Where the node says whether it can take traffic, and for how long it may be behind.
    pub health: HealthSettings,
    /// Where metrics are.
    pub metrics_addresses: Vec<SocketAddr>,
    /// Faults to inject.
    pub test: TestSettings,
}

/// What others are told of the node's health.
#[derive(Clone, Debug)]
pub struct HealthSettings {
    /// Where `/healthz` and `/livez` are.
    pub addresses: Vec<SocketAddr>,
    /// How long a change may wait for the maps before the node counts as not healthy.
    pub timeout: Duration,
}

/// Faults that tests inject into a real agent. Nothing here is meant for use.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TestSettings {
    /// While this file is there, every map write fails.
    pub fail_writes: Option<PathBuf>,
    /// While this file is there, the agent kills itself after as many map writes of a plan as it says.
    pub kill_within_plan: Option<PathBuf>,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// An API server.
    Kubernetes(KubeOptions),
    /// A directory of manifests.
    Directory(PathBuf),
}

/// The places of one instance: several can run on one machine, each in a network namespace of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// A BPF file system.
    pub bpffs: PathBuf,
    /// Directory for run-time files of all instances.
    pub run_dir: PathBuf,
}

impl Instance {
    /// This instance's directory for run-time files.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.run_dir.join(&self.name)
    }

    /// Where the running agent writes its status.
    #[must_use]
    pub fn status_file(&self) -> PathBuf {
        self.directory().join("status.json")
    }

    /// Where it keeps the endpoints of the API servers' Service.
    #[must_use]
    pub fn memory_file(&self) -> PathBuf {
        self.directory().join("api-servers.json")
    }
}
