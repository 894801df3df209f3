//! Compares what many connections came to with what a person expects of them.
//!
//! Pure. *Input*: an expected answer and the counted outcomes. *Output*: both in words, and whether they agree.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_lab::{Family, PodNetwork, Shares, Topology};

use super::expected::{Answer, Nobody, OWN};

/// Connections for each pod that is to answer. Enough that a fair choice practically never gives one of them
/// less than [`SMALLEST_PART`] of its share: below one in a million for up to four pods.
pub(super) const PER_POD: u32 = 30;
/// What a pod may fall short of its share to.
const SMALLEST_PART: f64 = 0.25;

/// The comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) expected: String,
    pub(super) seen: String,
    pub(super) ok: bool,
}

/// Which addresses stand for which name, in one family.
#[derive(Debug)]
pub(super) struct Addresses(BTreeMap<String, Vec<IpAddr>>);

impl Addresses {
    /// Those of all places of a topology.
    pub(super) fn of(topology: &Topology, family: Family) -> Self {
        let mut addresses = BTreeMap::new();
        for node in &topology.nodes {
            let mut own = vec![node.addr.of(family)];
            let pods = node.pod_cidr.of(family);
            match topology.network {
                PodNetwork::Routed => {}
                // What a node sends into the tunnel carries the address of its end of the tunnel.
                PodNetwork::Tunnel => own.push(pods.nth(0)),
                // The bridge is the node's device on the way to its pods.
                PodNetwork::Bridge => own.push(pods.nth(1)),
            }
            addresses.insert(node.name.clone(), own);
        }
        let pods = topology.pods().map(|(_, pod)| (&pod.name, pod.addr));
        let clients = topology.clients.iter().map(|client| (&client.name, client.addr));
        addresses.extend(
            pods.chain(clients)
                .map(|(name, addr)| (name.clone(), vec![addr.of(family)])),
        );
        Self(addresses)
    }

    fn get(&self, name: &str) -> &[IpAddr] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The name that an address stands for.
    pub(super) fn name(&self, ip: IpAddr) -> String {
        let found = self.0.iter().find(|(_, addresses)| addresses.contains(&ip));
        found.map_or_else(|| ip.to_string(), |(name, _)| name.clone())
    }
}

/// How many connections an expected answer takes to be judged.
pub(super) fn attempts(answer: &Answer) -> u32 {
    match answer {
        Answer::Nobody(_) => 6,
        Answer::Pods(pods) => PER_POD * u32::try_from(pods.len()).expect("a demo has few pods"),
    }
}

/// Judges the connections of `client`.
pub(super) fn judge(answer: &Answer, client: &str, shares: &Shares, addresses: &Addresses) -> Judgement {
    let (expected, ok) = match answer {
        Answer::Nobody(Nobody::Refused) => ("refused".to_owned(), shares.all_refused()),
        Answer::Nobody(Nobody::Silent) => ("silent".to_owned(), shares.all_silent()),
        Answer::Pods(pods) => {
            let whose = |seen: &str| {
                if seen == OWN {
                    client.to_owned()
                } else {
                    seen.to_owned()
                }
            };
            let fair = 1.0 / f64::from(u32::try_from(pods.len()).expect("a demo has few pods"));
            let words: Vec<_> = pods
                .iter()
                .map(|(pod, seen)| format!("{pod} (saw {})", whose(seen)))
                .collect();
            let agrees = |(pod, seen): (&String, &String)| {
                let sources = shares.sources.get(pod);
                shares.share(pod) >= fair * SMALLEST_PART
                    && sources.is_some_and(|seen_by_pod| {
                        let allowed = addresses.get(&whose(seen)).to_vec();
                        seen_by_pod.iter().all(|ip| allowed.contains(ip))
                    })
            };
            let nobody_else = shares.answered.len() == pods.len();
            (
                format!("in equal shares: {}", words.join(", ")),
                shares.all_answered() && nobody_else && pods.iter().all(agrees),
            )
        }
    };
    let seen = if shares.all_refused() {
        "refused".to_owned()
    } else if shares.all_silent() {
        "silent".to_owned()
    } else {
        shares.to_string()
    };
    Judgement { expected, seen, ok }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_lab::{Outcome, Topology};

    fn shares(outcomes: &[(&str, &str, u32)]) -> Shares {
        let mut shares = Shares::default();
        for (pod, source, count) in outcomes {
            for _ in 0..*count {
                shares.add(&match *pod {
                    "refused" => Outcome::Refused,
                    "silent" => Outcome::Silent,
                    name => Outcome::Answered(lb_lab::Answer {
                        name: name.into(),
                        peer: format!("{source}:40000").parse().unwrap(),
                        local: "10.180.1.2:8080".parse().unwrap(),
                        token: String::new(),
                        length: 0,
                    }),
                });
            }
        }
        shares
    }

    #[test]
    fn agreement_needs_all_pods_their_shares_and_their_sources() {
        let pods = |text| serde_norway::from_str::<Answer>(text).unwrap();
        let (client, node1) = ("203.0.113.10", "192.168.0.1");
        let two = "{ pod1-1: own, pod2-1: node1 }";
        let even = ("pod2-1", node1, 30);
        type Outcomes<'a> = &'a [(&'a str, &'a str, u32)];
        let table: &[(&str, &str, Outcomes<'_>, bool)] = &[
            ("as expected", two, &[("pod1-1", client, 30), even], true),
            (
                "uneven by chance",
                two,
                &[("pod1-1", client, 20), ("pod2-1", node1, 40)],
                true,
            ),
            (
                "hardly any",
                two,
                &[("pod1-1", client, 5), ("pod2-1", node1, 55)],
                false,
            ),
            ("one is missing", two, &[even], false),
            ("a wrong source", two, &[("pod1-1", node1, 30), even], false),
            (
                "a stranger answers",
                two,
                &[("pod1-1", client, 30), even, ("pod3-1", client, 1)],
                false,
            ),
            (
                "one was refused",
                two,
                &[("pod1-1", client, 30), even, ("refused", "", 1)],
                false,
            ),
            ("all refused", "refused", &[("refused", "", 6)], true),
            ("silent, not refused", "refused", &[("silent", "", 6)], false),
            ("all silent", "silent", &[("silent", "", 6)], true),
            (
                "one answered",
                "silent",
                &[("silent", "", 5), ("pod1-1", client, 1)],
                false,
            ),
            ("nothing was tried", "silent", &[], false),
        ];
        let addresses = Addresses::of(&Topology::cluster(3, 2), Family::V4);
        for (what, answer, outcomes, ok) in table {
            let judgement = judge(&pods(answer), "client", &shares(outcomes), &addresses);
            assert_eq!(judgement.ok, *ok, "{what}: {judgement:?}");
        }
    }

    #[test]
    fn a_node_may_show_its_address_in_the_pods_network_if_it_has_one() {
        let name = |network, address: &str| {
            let topology = Topology::cluster(3, 2).network(network);
            Addresses::of(&topology, Family::V4).name(address.parse().unwrap())
        };
        assert_eq!(name(PodNetwork::Tunnel, "10.180.3.0"), "node3");
        assert_eq!(name(PodNetwork::Bridge, "10.180.3.1"), "node3");
        assert_eq!(name(PodNetwork::Routed, "10.180.3.1"), "10.180.3.1", "nobody's");
    }
}
