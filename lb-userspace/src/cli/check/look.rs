//! Looks at the machine, without touching anything.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::Result;
use lb_common::abi::DeviceKind;

use super::proxies;
use crate::{
    agent::lock::Lock,
    config::Instance,
    inspect::{Device, HostFacts},
    load::{self, Occupant, TcAttach, probe},
    node::{self, Hints, Snapshot, facts},
};

/// Ports that the agent listens on: health, metrics.
const PORTS: [u16; 2] = [10_256, 10_249];
/// How the programs on uplinks begin that are an agent's.
const OURS: &str = "uplink_";

/// What there is.
pub(super) async fn look(instance: &Instance, hints: &Hints) -> Result<HostFacts> {
    let snapshot = node::snapshot().await?;
    let missing = probe::missing(TcAttach::Auto)
        .into_iter()
        .map(|error| error.to_string());
    let (proxies, not_asked) = proxies::look(&snapshot);
    Ok(HostFacts {
        kernel: setting("kernel/osrelease").unwrap_or_default(),
        missing: missing.collect(),
        tcx: probe::has_tcx(),
        bpffs: (
            instance.bpffs.display().to_string(),
            probe::is_bpf_file_system(&instance.bpffs),
        ),
        cgroup: load::cgroup2().map(|path| path.display().to_string()),
        devices: devices(&snapshot, hints),
        forwarding: ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
            .map(|name| setting(name).map(|value| value != "0")),
        rp_filter: setting("net/ipv4/conf/all/rp_filter"),
        proxies,
        not_asked,
        taken_ports: taken_ports(),
        running: Lock::is_held(instance),
    })
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.trim().to_owned())
}

fn devices(snapshot: &Snapshot, hints: &Hints) -> Vec<Device> {
    let reduced = facts::reduce(snapshot, hints);
    let devices = reduced.devices.into_iter().map(|(index, device)| {
        let uplink = device.kind == DeviceKind::Uplink;
        let of_device = snapshot
            .addresses
            .iter()
            .filter(|address| address.device == index && address.global);
        let others = (uplink
            .then(|| load::occupants(&device.name, index))
            .into_iter()
            .flatten())
        .filter(|occupant| !occupant.name.starts_with(OURS));
        Device {
            addresses: of_device.map(|address| address.address).collect(),
            driver_xdp: if uplink { node::xdp_features(index) } else { None },
            lro: if uplink { lro(&device.name) } else { None },
            occupants: others.map(described).collect(),
            kind: device.kind,
            name: device.name,
        }
    });
    devices.collect()
}

fn described(occupant: Occupant) -> String {
    let Occupant { hook, name, id } = occupant;
    format!("another program is at {hook}: `{name}` (id {id})")
}

/// Whether large receive offload is on, as `ethtool` says.
fn lro(device: &str) -> Option<bool> {
    let text = said("ethtool", &["-k", device])?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("large-receive-offload:"))?;
    Some(line.trim().starts_with("on"))
}

/// What a program prints; `None`: it is not there, or fails.
pub(super) fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Which of our ports somebody listens on.
fn taken_ports() -> Vec<u16> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let listened: BTreeSet<u16> = tables.iter().flat_map(|table| listeners(table)).collect();
    PORTS.into_iter().filter(|port| listened.contains(port)).collect()
}

/// Ports that are listened on, by the text of `/proc/net/tcp`.
fn listeners(table: &str) -> impl Iterator<Item = u16> {
    /// `TCP_LISTEN`
    const LISTEN: &str = "0A";
    table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        let (_, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     0: 00000000:2810 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
                     1: 0100007F:2809 0100007F:9999 01 00000000:00000000 00:00000000 00000000\n";
        assert_eq!(listeners(table).collect::<Vec<_>>(), [10_256]);
    }
}
