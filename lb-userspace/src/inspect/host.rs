//! Judges whether a machine can be served: what was seen of it to findings, each with what to do.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi::DeviceKind;
use serde::Serialize;

use super::Proxy;

/// What was seen of a machine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HostFacts {
    /// The kernel's release.
    pub kernel: String,
    /// What the kernel or the process lacks, each with its remedy.
    pub missing: Vec<String>,
    /// The kernel has tcx links.
    pub tcx: bool,
    /// The BPF file system's directory, and whether it is mounted.
    pub bpffs: (String, bool),
    /// Where cgroups of version 2 are mounted.
    pub cgroup: Option<String>,
    /// Devices that the agent would put programs on.
    pub devices: Vec<Device>,
    /// The stack forwards: IPv4 and IPv6. `None`: the kernel does not have the family.
    pub forwarding: [Option<bool>; 2],
    /// `rp_filter` of all devices together.
    pub rp_filter: Option<String>,
    /// What else translates Services here, each with its trace in words.
    pub proxies: Vec<(Proxy, String)>,
    /// What could not be looked for, since a program is not there.
    pub not_asked: Vec<String>,
    /// Ports of ours that a process listens on already.
    pub taken_ports: Vec<u16>,
    /// An agent of this instance is running: what is in its way may be itself.
    pub running: bool,
}

/// A device that the agent would put programs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it leads to.
    pub kind: DeviceKind,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its driver runs XDP programs; `None`: the kernel does not tell.
    pub driver_xdp: Option<bool>,
    /// It joins packets as they come in (LRO); `None`: nobody tells.
    pub lro: Option<bool>,
    /// Programs of others on it, in words.
    pub occupants: Vec<String>,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The agent serves, but not all of it, or somebody is in its way.
    Warn,
    /// The agent cannot serve, or should not yet.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; null: nothing.
    pub remedy: Option<String>,
}

/// All findings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Found {
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
    /// How many are warnings.
    pub warnings: usize,
    /// How many stand in the way.
    pub failures: usize,
}

/// What the facts come to.
#[must_use]
pub fn findings(facts: &HostFacts) -> Found {
    let mut all = kernel(facts);
    all.extend(mounts(facts));
    all.extend(devices(facts));
    all.extend(stack(facts));
    all.extend(conflicts(facts));
    let count = |level| all.iter().filter(|finding| finding.level == level).count();
    Found {
        warnings: count(Level::Warn),
        failures: count(Level::Fail),
        findings: all,
    }
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        check,
        level: Level::Ok,
        found: found.into(),
        remedy: None,
    }
}

fn bad(check: &'static str, level: Level, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        check,
        level,
        found: found.into(),
        remedy: Some(remedy.into()),
    }
}

fn kernel(facts: &HostFacts) -> Vec<Finding> {
    let release = &facts.kernel;
    let mut found = vec![if facts.tcx {
        ok("kernel", format!("Linux {release}, with tcx links"))
    } else {
        bad(
            "kernel",
            Level::Warn,
            format!("Linux {release}, without tcx links: filters (clsact) are used"),
            "Linux 6.6 or newer changes programs without a gap",
        )
    }];
    for missing in &facts.missing {
        // The sentence has the remedy behind its colon.
        let (what, remedy) = missing.split_once(": ").unwrap_or((missing, "see README.md"));
        found.push(bad("features", Level::Fail, what, remedy));
    }
    if facts.missing.is_empty() {
        found.push(ok(
            "features",
            "capabilities, BTF, program and map types are there",
        ));
    }
    found
}

fn mounts(facts: &HostFacts) -> Vec<Finding> {
    let (bpffs, mounted) = &facts.bpffs;
    let bpffs = if *mounted {
        ok("bpffs", format!("mounted at {bpffs}"))
    } else {
        bad(
            "bpffs",
            Level::Warn,
            format!("no BPF file system at {bpffs}: the agent mounts one"),
            format!("in a container, mount the node's there: `mount -t bpf bpf {bpffs}` on the node"),
        )
    };
    let cgroup = match &facts.cgroup {
        Some(path) => ok("cgroup2", format!("mounted at {path}")),
        None => bad(
            "cgroup2",
            Level::Warn,
            "no file system of type cgroup2: connections are translated by TC, not at their sockets",
            "mount one, or name the node's with --cgroup",
        ),
    };
    vec![bpffs, cgroup]
}

fn devices(facts: &HostFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let uplinks = facts
        .devices
        .iter()
        .filter(|device| device.kind == DeviceKind::Uplink);
    for device in uplinks.clone() {
        let addresses = device.addresses.iter().map(ToString::to_string);
        let addresses = addresses.collect::<Vec<_>>().join(", ");
        found.push(ok("uplink", format!("{}: {addresses}", device.name)));
    }
    if found.is_empty() {
        found.push(bad(
            "uplink",
            Level::Fail,
            "no device has a default route or an address of this node: nobody outside would be served",
            "name it: --device NAME (here and for lb-agent run)",
        ));
    }
    let others = facts.devices.iter().filter(|device| {
        matches!(
            device.kind,
            DeviceKind::Pod | DeviceKind::BridgePort | DeviceKind::Tunnel
        )
    });
    let names: Vec<_> = others
        .map(|device| format!("{} ({:?})", device.name, device.kind))
        .collect();
    found.push(match names.len() {
        0 => ok("pods", "no pod's device yet: they are found as they come"),
        1..=8 => ok("pods", names.join(", ")),
        many => ok("pods", format!("{many} devices of pods and tunnels")),
    });
    for device in uplinks {
        let name = &device.name;
        found.push(match device.driver_xdp {
            Some(true) => ok("xdp", format!("{name}: the driver runs XDP programs")),
            Some(false) => bad(
                "xdp",
                Level::Warn,
                format!("{name}: the driver runs no XDP programs"),
                "leave --hook at tc; --hook xdp works in the stack here, and is slower",
            ),
            None => ok(
                "xdp",
                format!("{name}: this kernel does not tell (Linux 6.3 and newer do); --hook xdp tries"),
            ),
        });
        if device.lro == Some(true) {
            found.push(bad(
                "offloads",
                Level::Warn,
                format!("{name}: large receive offload is on: packets that were joined cannot be forwarded, and some drivers refuse XDP"),
                format!("ethtool -K {name} lro off"),
            ));
        }
        for occupant in &device.occupants {
            found.push(bad(
                "programs",
                Level::Warn,
                format!("{name}: {occupant}"),
                format!("two load balancers see the same packets: if it is one, remove it (bpftool net show dev {name}); XDP takes \
                         only one program"),
            ));
        }
    }
    found
}

fn stack(facts: &HostFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let settings = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    for ((family, setting), on) in ["IPv4", "IPv6"].into_iter().zip(settings).zip(facts.forwarding) {
        found.push(match on {
            Some(true) => ok("forwarding", format!("{family}: on")),
            Some(false) => bad(
                "forwarding",
                Level::Warn,
                format!("{family}: off: clients outside do not reach this node's pods"),
                format!("sysctl -w {setting}=1 (pod networks do so)"),
            ),
            None => ok("forwarding", format!("{family}: the kernel does not have it")),
        });
    }
    if let Some(mode) = &facts.rp_filter {
        found.push(ok("rp_filter", format!("{mode}: any value works")));
    }
    found
}

fn conflicts(facts: &HostFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    for (proxy, trace) in &facts.proxies {
        // What it means is said once, however many traces there are.
        let means = match told.insert(*proxy) {
            true => format!("{trace}: {}", proxy.means()),
            false => trace.clone(),
        };
        found.push(bad("proxy", Level::Fail, means, proxy.remedy()));
    }
    if facts.proxies.is_empty() {
        found.push(ok(
            "proxy",
            "no rules of kube-proxy (iptables, nftables, ipvs) and no programs of Cilium or Calico in its place were found",
        ));
    }
    for program in &facts.not_asked {
        found.push(bad(
            "proxy",
            Level::Warn,
            format!("{program} is not there, so nobody could be asked for such rules"),
            format!("install {program}, or look for KUBE-SERVICES yourself"),
        ));
    }
    for port in facts.taken_ports.iter().filter(|_| !facts.running) {
        found.push(bad(
            "ports",
            Level::Warn,
            format!("a process listens on port {port}, which the agent wants (so does kube-proxy)"),
            "stop that process, or choose others: --healthz-address, --metrics-address",
        ));
    }
    if facts.running {
        found.push(ok(
            "agent",
            "an agent of this instance is running; its own programs and ports are left out above",
        ));
    }
    found
}

impl Found {
    /// For people: one line each, what to do below it, the sum at the end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding {
            check,
            level,
            found,
            remedy,
        } in &self.findings
        {
            let level = match level {
                Level::Ok => "OK",
                Level::Warn => "WARN",
                Level::Fail => "FAIL",
            };
            text += &format!("{level:<4}  {check:<10}  {found}\n");
            if let Some(remedy) = remedy {
                text += &format!("{:<4}  {:<10}  -> {remedy}\n", "", "");
            }
        }
        let good = self.findings.len() - self.warnings - self.failures;
        text + &format!(
            "{good} ok, {} warnings, {} failures\n",
            self.warnings, self.failures
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> HostFacts {
        HostFacts {
            kernel: "6.18.0".into(),
            tcx: true,
            bpffs: ("/sys/fs/bpf".into(), true),
            cgroup: Some("/sys/fs/cgroup".into()),
            devices: vec![Device {
                name: "eth0".into(),
                kind: DeviceKind::Uplink,
                addresses: vec![[192, 0, 2, 1].into()],
                driver_xdp: Some(true),
                lro: Some(false),
                occupants: Vec::new(),
            }],
            forwarding: [Some(true), Some(true)],
            rp_filter: Some("1".into()),
            ..HostFacts::default()
        }
    }

    #[test]
    fn a_good_host_has_nothing_to_do() {
        let found = findings(&good());
        assert_eq!((found.warnings, found.failures), (0, 0), "{}", found.text());
        assert!(
            found.findings.iter().all(|finding| finding.remedy.is_none()),
            "{}",
            found.text()
        );
    }

    #[test]
    fn each_fault_is_found_with_what_to_do() {
        type Fault = fn(&mut HostFacts);
        let faults: [(Fault, &str, Level, &str); 12] = [
            (|f| f.tcx = false, "kernel", Level::Warn, "6.6"),
            (
                |f| f.missing.push("CAP_BPF is missing: run the agent as root".into()),
                "features",
                Level::Fail,
                "as root",
            ),
            (|f| f.bpffs.1 = false, "bpffs", Level::Warn, "mount -t bpf"),
            (|f| f.cgroup = None, "cgroup2", Level::Warn, "--cgroup"),
            (|f| f.devices.clear(), "uplink", Level::Fail, "--device"),
            (
                |f| f.devices[0].driver_xdp = Some(false),
                "xdp",
                Level::Warn,
                "--hook",
            ),
            (
                |f| f.devices[0].lro = Some(true),
                "offloads",
                Level::Warn,
                "ethtool -K eth0 lro off",
            ),
            (
                |f| {
                    f.devices[0]
                        .occupants
                        .push("tcx ingress `cil_from_netdev` (id 7)".into());
                },
                "programs",
                Level::Warn,
                "bpftool",
            ),
            (
                |f| f.forwarding[1] = Some(false),
                "forwarding",
                Level::Warn,
                "net.ipv6.conf.all.forwarding=1",
            ),
            (
                |f| f.proxies.push((Proxy::Iptables, "iptables: 12 chains".into())),
                "proxy",
                Level::Fail,
                "kube-proxy --cleanup",
            ),
            (
                |f| f.not_asked.push("nft".into()),
                "proxy",
                Level::Warn,
                "install nft",
            ),
            (
                |f| f.taken_ports.push(10_256),
                "ports",
                Level::Warn,
                "--healthz-address",
            ),
        ];
        for (fault, check, level, words) in faults {
            let mut facts = good();
            fault(&mut facts);
            let found = findings(&facts);
            let named: Vec<_> = found
                .findings
                .iter()
                .filter(|finding| finding.level != Level::Ok)
                .collect();
            assert_eq!(named.len(), 1, "{check}: {}", found.text());
            assert_eq!((named[0].check, named[0].level), (check, level));
            assert!(
                named[0]
                    .remedy
                    .as_ref()
                    .is_some_and(|remedy| remedy.contains(words)),
                "{named:?}"
            );
        }
    }
}
