//! `lb-agent run`: flags and environment to a [`Config`].

use std::{fs, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::{AnnotationArgs, InstanceArgs, SysctlArgs, server::ServerArgs};
use crate::{
    config::{Config, HealthSettings, Instance, SourceConfig, TestSettings},
    load::{ConnectHooks, SocketOptions, TcAttach, UplinkHook},
    node::{DeviceOverride, Hints, Prefix},
    source::kubernetes::KubeOptions,
};

/// Where Services come from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// The API server of a cluster.
    Kubernetes,
    /// A directory of manifests (*.yaml, *.yml, *.json), followed as it changes.
    Dir,
}

/// Flags of `lb-agent run`.
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Where Services, EndpointSlices and Nodes come from.
    #[arg(long, value_enum, default_value_t = Source::Kubernetes)]
    source: Source,
    /// The directory of manifests, for `--source dir`.
    #[arg(long, value_name = "DIR", required_if_eq("source", "dir"))]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    /// Name of this node's Node object, and of this node in EndpointSlices. With `--source dir` it
    /// may be left out: then it is the machine's host name.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,

    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    sysctls: SysctlArgs,

    /// Say what a device is, where its addresses and routes do not tell: NAME or NAME=KIND, with `*` for
    /// any characters. KIND is uplink (the default), tunnel, pod, bridge-port, bridge or ignore. May be
    /// repeated.
    #[arg(long = "device", value_name = "NAME[=KIND]")]
    devices: Vec<DeviceOverride>,
    /// Names of pods' devices on the node's side, used where the Node object has no pod ranges.
    #[arg(long, value_name = "PATTERN,...", default_value = Hints::POD_DEVICES)]
    pod_devices: String,
    /// Ranges of Service addresses: one route each instead of one per address. Without it everything
    /// works, with more routes.
    #[arg(long = "service-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    service_cidrs: Vec<Prefix>,
    /// Serve NodePorts on the node's addresses inside these ranges (on all of a family of which no range is
    /// given); `primary`: on its primary ones.
    #[arg(
        long = "nodeport-addresses",
        value_name = "CIDR,...",
        value_delimiter = ',',
        default_value = "primary"
    )]
    nodeport_addresses: Vec<String>,
    /// Ports for connections that are forwarded under this node's address; reserved in the kernel, so
    /// that no process gets one of them.
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    snat_ports: RangeInclusive<u16>,
    /// How programs are attached: tcx (Linux 6.6 and newer), clsact, or auto.
    #[arg(long, value_name = "HOW", default_value_t = TcAttach::Auto)]
    tc_attach: TcAttach,
    /// Where packets from outside are translated: tc; xdp (in the driver, or in the stack where the driver cannot);
    /// xdp-native (in the driver only); xdp-generic (in the stack only, for any device). TC is always there as well,
    /// for what XDP leaves to it. Can be changed by a restart, under traffic.
    #[arg(long, value_name = "HOOK", default_value_t = UplinkHook::Tc)]
    hook: UplinkHook,
    /// Whose TCP connections to Services get their backend at once, by a program at their sockets, so that no packet of
    /// them has to be translated: off (TC does it all), host (processes in the node's own network namespace), all (pods
    /// too). What depends on the source address (affinity, source ranges) is left to TC, and so are UDP and SCTP.
    #[arg(long, value_name = "WHOSE", default_value_t = ConnectHooks::All)]
    connect_hooks: ConnectHooks,
    /// Directory of the cgroup (version 2) whose processes these programs see; it should be that of the whole node. In
    /// a container: where the node's is mounted. Otherwise where a cgroup2 file system is mounted.
    #[arg(long, value_name = "DIR", env = "LB_CGROUP")]
    cgroup: Option<PathBuf>,
    /// Entries of each flow table; a connection takes two.
    #[arg(long, value_name = "N", default_value_t = lb_common::abi::capacity::FLOWS)]
    max_flows: u32,
    /// Count packets, bytes and connections for each Service and backend: lb-agent counters --services, and metrics. Takes some
    /// time of every packet of a Service, and memory: see docs/look.md. A restart under traffic turns it on or off.
    #[arg(long)]
    service_counters: bool,
    /// Seed of the choice of backends. The same on all nodes of a cluster, so that all choose alike.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
    /// Give all traffic to ClusterIPs this node's address.
    #[arg(long)]
    masquerade_all: bool,
    /// How long established connections to an address go on after its last Service is gone.
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    address_linger: u64,
    /// How clients are told to be pods of this node. With `none` they are clients like those outside:
    /// ClusterIP traffic keeps its source, and pods get what policy Local gives to clients outside.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = PodDetection::PodCidr)]
    pod_detection: PodDetection,
    /// Serve NodePorts on 127.0.0.1 too, under this node's address.
    #[arg(long)]
    localhost_nodeports: bool,
    /// Serve only those externalIPs of Services that are inside these ranges; the others are reported.
    /// Without it all are served: whoever may create a Service can then capture any address.
    #[arg(long = "external-ip-ranges", value_name = "CIDR,...", value_delimiter = ',')]
    external_ip_ranges: Vec<Prefix>,
    #[command(flatten)]
    annotations: AnnotationArgs,
    /// Where load balancers and probes ask for this node's health (/healthz, /livez); `none`: nowhere.
    #[arg(
        long = "healthz-address",
        value_name = "ADDRESS:PORT,...",
        value_delimiter = ',',
        default_value = "0.0.0.0:10256,[::]:10256"
    )]
    healthz_addresses: Vec<String>,
    /// Where metrics are served (/metrics, /proxyMode); `none`: nowhere.
    #[arg(
        long = "metrics-address",
        value_name = "ADDRESS:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:10249"
    )]
    metrics_addresses: Vec<String>,
    /// How long a change may wait for the maps before this node counts as not healthy.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    health_timeout: Duration,
    #[command(flatten)]
    test: TestArgs,
}

/// Flags for tests of the agent; not shown.
#[derive(Args, Debug)]
struct TestArgs {
    /// While this file is there, every map write fails.
    #[arg(long = "test-fail-writes", value_name = "FILE", hide = true)]
    fail_writes: Option<PathBuf>,
    /// While this file is there, with a number in it, the agent kills itself after so many map writes of a plan, and before the
    /// next.
    #[arg(long = "test-kill-within-plan", value_name = "FILE", hide = true)]
    kill_within_plan: Option<PathBuf>,
}

/// How clients are told to be pods of this node.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum PodDetection {
    /// By the pod ranges of the Node object, and routes to pods' devices.
    PodCidr,
    /// Not at all.
    None,
}

impl RunArgs {
    pub(super) fn config(self) -> Result<Config> {
        let Self {
            source,
            manifests,
            server,
            node_name,
            instance,
            sysctls,
            devices,
            pod_devices,
            service_cidrs,
            nodeport_addresses,
            snat_ports,
            tc_attach,
            hook,
            connect_hooks,
            cgroup,
            max_flows,
            service_counters,
            seed,
            masquerade_all,
            address_linger,
            pod_detection,
            localhost_nodeports,
            external_ip_ranges,
            annotations,
            healthz_addresses,
            metrics_addresses,
            health_timeout,
            test: TestArgs {
                fail_writes,
                kill_within_plan,
            },
        } = self;
        let nodeport_addresses = nodeport_ranges(&nodeport_addresses)?;
        let instance: Instance = instance.into();
        let node_name = match node_name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None if source == Source::Dir => host_name()?,
            None => bail!(
                "no node name: give --node-name NAME or set NODE_NAME (in a DaemonSet from `spec.nodeName`, \
                 by a fieldRef)"
            ),
        };
        Ok(Config {
            node_name,
            source: match (source, manifests) {
                (Source::Dir, Some(folder)) => SourceConfig::Directory(readable(folder)?),
                (Source::Dir, None) => bail!("--source dir needs --manifests DIR"),
                (Source::Kubernetes, _) => SourceConfig::Kubernetes(KubeOptions {
                    memory: Some(instance.memory_file()),
                    ..server.into()
                }),
            },
            annotations: annotations.into(),
            instance,
            sysctls: sysctls.into(),
            devices,
            pod_devices: Hints::patterns(&pod_devices),
            service_cidrs,
            nodeport_addresses,
            snat_ports,
            max_flows,
            service_counters,
            seed,
            masquerade_all,
            linger: Duration::from_secs(address_linger),
            tc_attach,
            hook,
            sockets: SocketOptions {
                cgroup,
                connect: connect_hooks,
            },
            pod_detection: pod_detection == PodDetection::PodCidr,
            localhost_nodeports,
            external_ip_ranges,
            health: HealthSettings {
                addresses: listeners("--healthz-address", &healthz_addresses)?,
                timeout: health_timeout,
            },
            metrics_addresses: listeners("--metrics-address", &metrics_addresses)?,
            test: TestSettings {
                fail_writes,
                kill_within_plan,
            },
        })
    }
}

/// A folder that goes away later is waited for; one that is not there at the start is a slip of the pen.
fn readable(folder: PathBuf) -> Result<PathBuf> {
    match fs::read_dir(&folder) {
        Ok(_) => Ok(folder),
        Err(error) => bail!(
            "cannot read the manifests in {}: {error}; give --manifests a directory that exists",
            folder.display()
        ),
    }
}

fn host_name() -> Result<String> {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").context("no host name: give --node-name NAME")?;
    Ok(name.trim().to_owned())
}

/// The ranges of `--nodeport-addresses`; none: the primary addresses.
fn nodeport_ranges(words: &[String]) -> Result<Vec<Prefix>> {
    if words.iter().map(|word| word.trim()).eq(["primary"]) {
        return Ok(Vec::new());
    }
    words
        .iter()
        .map(|word| {
            let word = word.trim();
            word.parse().with_context(|| {
                format!("--nodeport-addresses: {word:?} is no range; give CIDRs such as 192.168.0.0/24, or only `primary`")
            })
        })
        .collect()
}

/// The addresses of a flag; `none`: none.
fn listeners(flag: &str, words: &[String]) -> Result<Vec<SocketAddr>> {
    if words.iter().map(|word| word.trim()).eq(["none"]) {
        return Ok(Vec::new());
    }
    let address = |word: &String| {
        word.trim().parse().with_context(|| {
            format!(
                "{flag}: {word:?}: write ADDRESS:PORT, such as 127.0.0.1:10249 or [::]:10256, or only `none`"
            )
        })
    };
    words.iter().map(address).collect()
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a number of seconds above 0, such as 60 or 0.5".into())
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if first > 0 && first <= last => Ok(first..=last),
        _ => Err("write FIRST-LAST, such as 61000-65535".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::kubernetes::Annotations;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(line: &str) -> Result<Config> {
        let words = ["lb-agent"].into_iter().chain(line.split_whitespace());
        Only::try_parse_from(words)?.args.config()
    }

    #[test]
    fn flags_become_domain_types() {
        let config = parse(
            "--source dir --manifests . --node-name n1 --service-cidr 10.96.0.0/12,fd00:96::/112 \
             --snat-ports 62000-62999 --device eth1 --device wg*=tunnel --tc-attach clsact --hook xdp-generic --seed 7",
        )
        .unwrap();
        assert_eq!(config.node_name, "n1");
        assert_eq!((config.service_cidrs.len(), config.devices.len()), (2, 2));
        assert_eq!((config.snat_ports, config.seed), (62_000..=62_999, 7));
        assert_eq!(
            (config.tc_attach, config.hook),
            (TcAttach::Clsact, UplinkHook::XdpGeneric)
        );
        assert_eq!(
            parse("--node-name n1").unwrap().hook,
            UplinkHook::Tc,
            "the default"
        );
        assert!(matches!(config.source, SourceConfig::Directory(_)));
    }

    #[test]
    fn the_contract_of_kube_proxy_is_the_default() {
        let config = parse("--source dir --manifests . --node-name n1").unwrap();
        assert!(config.pod_detection && !config.masquerade_all && !config.localhost_nodeports);
        assert!(!config.service_counters);
        assert!(config.nodeport_addresses.is_empty() && config.external_ip_ranges.is_empty());
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(
            config.health.addresses,
            addresses(&["0.0.0.0:10256", "[::]:10256"])
        );
        assert_eq!(config.health.timeout, Duration::from_secs(60));
        assert_eq!(config.metrics_addresses, addresses(&["127.0.0.1:10249"]));
        assert_eq!(config.test, TestSettings::default());
        assert_eq!(config.annotations, Annotations::default());
    }

    #[test]
    fn every_option_of_the_contract_can_be_set() {
        let config = parse(
            "--source dir --manifests . --node-name n1 --pod-detection none --masquerade-all \
             --nodeport-addresses 192.168.1.0/24,2001:db8::/64 --localhost-nodeports \
             --external-ip-ranges 198.51.100.0/24 --healthz-address [::]:10256 --metrics-address none \
             --health-timeout 0.5 --service-counters --test-fail-writes /tmp/fail --test-kill-within-plan /tmp/kill --pass-through-annotations example.com/past,other",
        )
        .unwrap();
        assert!(!config.pod_detection && config.masquerade_all && config.localhost_nodeports);
        assert!(config.service_counters);
        assert_eq!(config.nodeport_addresses.len(), 2);
        assert_eq!(config.external_ip_ranges, ["198.51.100.0/24".parse().unwrap()]);
        assert_eq!(config.health.addresses, ["[::]:10256".parse().unwrap()]);
        assert_eq!(config.health.timeout, Duration::from_millis(500));
        assert_eq!(config.metrics_addresses, []);
        assert_eq!(config.test.fail_writes, Some("/tmp/fail".into()));
        assert_eq!(config.test.kill_within_plan, Some("/tmp/kill".into()));
        assert_eq!(config.annotations.pass_through, ["example.com/past", "other"]);
        let nothing = parse("--node-name n1 --pass-through-annotations none").unwrap();
        assert_eq!(nothing.annotations.pass_through, <[String; 0]>::default());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (line, word) in [
            ("--source dir --node-name n1", "--manifests"),
            ("--source dir --manifests no/such --node-name n1", "no/such"),
            ("--node-name n1 --snat-ports 9-8", "FIRST-LAST"),
            ("--node-name n1 --snat-ports 0-8", "FIRST-LAST"),
            ("--node-name n1 --service-cidr 10.0.0.0/33", "10.0.0.0/33"),
            ("--node-name n1 --tc-attach xdp", "clsact"),
            ("--node-name n1 --hook native", "xdp-native"),
            ("--node-name=", "NODE_NAME"),
            ("--node-name n1 --nodeport-addresses eth0", "eth0"),
            (
                "--node-name n1 --nodeport-addresses primary,10.0.0.0/8",
                "only `primary`",
            ),
            ("--node-name n1 --metrics-address 10249", "ADDRESS:PORT"),
            ("--node-name n1 --health-timeout 0", "above 0"),
            ("--node-name n1 --pod-detection bridge", "pod-cidr"),
            ("--node-name n1 --pass-through-annotations a/", "only `none`"),
            ("--node-name n1 --pass-through-annotations=", "only `none`"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
