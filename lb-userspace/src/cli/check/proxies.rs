//! Looks for traces of other proxies, without touching anything.

use std::fs;

use super::look::said;
use crate::{inspect::Proxy, load, node::Snapshot};

/// Traces of other proxies, and the programs that are not there to look for them.
pub(super) fn look(snapshot: &Snapshot) -> (Vec<(Proxy, String)>, Vec<String>) {
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    // The old tables are looked at only if there are any: to ask for them makes the kernel load them.
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .map(|path| fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "nat")));
    let mut programs = vec![("iptables-nft-save", true), ("ip6tables-nft-save", true)];
    programs.push(("iptables-legacy-save", legacy[0]));
    programs.push(("ip6tables-legacy-save", legacy[1]));
    for (program, _) in programs.into_iter().filter(|(_, look)| *look) {
        match said(program, &["-t", "nat"]) {
            Some(rules) => found.extend(chains(program, &rules).map(|trace| (Proxy::Iptables, trace))),
            None => absent.push(program.to_owned()),
        }
    }
    match said("nft", &["list", "tables"]) {
        Some(tables) => {
            let ours = |line: &&str| line.split_whitespace().next_back() == Some("kube-proxy");
            let tables = tables.lines().filter(ours);
            found.extend(tables.map(|line| (Proxy::Nftables, format!("nftables: {line}"))));
        }
        None => absent.push("nft".to_owned()),
    }
    let servers = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    let is_server = |line: &&str| {
        ["TCP", "UDP", "SCTP"]
            .iter()
            .any(|protocol| line.starts_with(protocol))
    };
    match servers.lines().filter(is_server).count() {
        0 => {}
        count => found.push((Proxy::Ipvs, format!("ipvs: {count} virtual servers"))),
    }
    // Devices that hold Services' addresses: kube-proxy's and kube-router's.
    let devices = ["kube-ipvs0", "kube-dummy-if"];
    for link in snapshot
        .links
        .iter()
        .filter(|link| devices.contains(&&*link.name))
    {
        found.push((Proxy::Ipvs, format!("ipvs: the device {}", link.name)));
    }
    for name in load::program_names() {
        if let Some(proxy) = Proxy::of_program(&name) {
            let trace = (proxy, format!("{proxy:?}: the program {name} in the kernel"));
            if !found.contains(&trace) {
                found.push(trace);
            }
        }
    }
    (found, absent)
}

/// kube-proxy's chains among rules as `iptables-save` prints them.
fn chains(program: &str, rules: &str) -> Option<String> {
    let of_kube_proxy = |line: &&str| {
        ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-NODEPORTS"]
            .iter()
            .any(|name| line.strip_prefix(':').is_some_and(|line| line.starts_with(name)))
    };
    match rules.lines().filter(of_kube_proxy).count() {
        0 => None,
        count => Some(format!(
            "{count} chains of kube-proxy's (KUBE-SERVICES ...), as {program} says"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_told_from_those_of_others() {
        let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-X - [0:0]\n\
                     -A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(
            chains("iptables-nft-save", rules).as_deref(),
            Some("2 chains of kube-proxy's (KUBE-SERVICES ...), as iptables-nft-save says")
        );
        assert_eq!(chains("iptables-nft-save", "*nat\n:CNI-X - [0:0]\n"), None);
    }

    #[test]
    fn programs_tell_who_has_loaded_them() {
        for (name, proxy) in [
            ("cil_sock4_conne", Some(Proxy::Cilium)),
            ("calico_connect_", Some(Proxy::Calico)),
            // Cilium as a network of pods only.
            ("cil_from_contai", None),
            ("connect4", None),
        ] {
            assert_eq!(Proxy::of_program(name), proxy, "{name}");
        }
    }
}
