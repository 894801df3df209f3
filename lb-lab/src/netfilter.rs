//! The packet filter rules that clusters have on their nodes, as text for `iptables-restore` and `nft`.

use std::fmt::Write as _;

use anyhow::Result;

use crate::{
    addr::{Cidr, Family},
    netns::Netns,
    topology::{Netfilter, NodeSpec, PodNetwork, Topology},
};

/// Puts the rules of `topology.netfilter` in place on one node.
pub(crate) fn apply(topology: &Topology, node: &NodeSpec, netns: &Netns) -> Result<()> {
    match topology.netfilter {
        Netfilter::None => {}
        Netfilter::Iptables => {
            for family in Family::BOTH {
                let restore = restore_program(family);
                netns.feed(&[&restore, "-w"], &iptables_rules(topology, node, family))?;
            }
        }
        Netfilter::Nftables => {
            netns.feed(&["nft", "-f", "-"], &nftables_rules(topology, node))?;
        }
    }
    Ok(())
}

/// x_tables proper where installed: `iptables` itself may be nf_tables in disguise, which is the other variant.
fn restore_program(family: Family) -> String {
    let name = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let legacy = format!("{name}-legacy-restore");
    let found = ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .any(|dir| std::path::Path::new(dir).join(&legacy).exists());
    if found { legacy } else { format!("{name}-restore") }
}

/// Where pods' traffic keeps its source. Through a tunnel only the pods are: a node that got another node's pod's
/// packet directly would answer into the tunnel, and its reverse path filter would not even accept it.
fn unmasqueraded(topology: &Topology, family: Family) -> Vec<Cidr> {
    let mut ranges = vec![topology.plan.cluster.of(family)];
    if topology.network != PodNetwork::Tunnel {
        ranges.extend(topology.underlays().map(|underlay| underlay.range.of(family)));
    }
    ranges
}

fn iptables_rules(topology: &Topology, node: &NodeSpec, family: Family) -> String {
    let (cluster, pods) = (topology.plan.cluster.of(family), node.pod_cidr.of(family));
    // IPv4 has a sysctl for the reverse path filter.
    let rpfilter = match family {
        Family::V4 => "",
        Family::V6 => "*raw\n-A PREROUTING ! -s fe80::/10 -m rpfilter --invert -j DROP\nCOMMIT\n",
    };
    let mut keep = String::new();
    for range in unmasqueraded(topology, family) {
        let _ = writeln!(keep, "-A POSTROUTING -s {pods} -d {range} -j RETURN");
    }
    format!(
        "{rpfilter}*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s {cluster} -j ACCEPT
-A FORWARD -d {cluster} -j ACCEPT
COMMIT
*nat
{keep}-A POSTROUTING -s {pods} -j MASQUERADE
COMMIT
"
    )
}

fn nftables_rules(topology: &Topology, node: &NodeSpec) -> String {
    let (mut accept, mut masquerade) = (String::new(), String::new());
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let (cluster, pods) = (topology.plan.cluster.of(family), node.pod_cidr.of(family));
        let keep = unmasqueraded(topology, family)
            .iter()
            .map(Cidr::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(
            accept,
            "    {ip} saddr {cluster} accept\n    {ip} daddr {cluster} accept"
        );
        let _ = writeln!(
            masquerade,
            "    {ip} saddr {pods} {ip} daddr != {{ {keep} }} masquerade"
        );
    }
    format!(
        "table inet cluster {{
  chain prerouting {{
    type filter hook prerouting priority raw;
    meta nfproto ipv6 ip6 saddr != fe80::/10 fib saddr . iif oif 0 drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
{accept}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
{masquerade}  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_ranges_of_their_own_family() {
        let topology = Topology::cluster(2, 1);
        for (family, own, other) in [
            (Family::V4, "10.180.1.0/24", "fd00:"),
            (Family::V6, "fd00:10:180:1::/64", "10.180"),
        ] {
            let rules = iptables_rules(&topology, &topology.nodes[0], family);
            assert!(rules.contains(own) && !rules.contains(other), "{rules}");
        }
        let rules = nftables_rules(&topology, &topology.nodes[0]);
        assert!(rules.contains("ip saddr 10.180.1.0/24") && rules.contains("ip6 saddr fd00:10:180:1::/64"));
    }
}
