//! Clients of a live node by their names, which its maps do not hold: the objects that were looked up for them.
//!
//! *Input*: the one object that the question names. *Output*: who it is to this node. *Not here*: the looking up
//! (`source::named`, `source::pods`).

use std::net::IpAddr;

use super::{
    cells::Party,
    explainer::{ExplainError, unknown},
    live::Live,
    position::Position,
    question::{Client, Question},
};
use crate::{
    model::{NodeObject, ObjectKey},
    source::pods::Pod,
};

/// What the object of a pod, or of another node, says of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its node; `None`: it has none yet.
    pub node: Option<String>,
    /// It is in its node's own network.
    pub host_network: bool,
}

/// What has to be looked up before `node` can answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted<'a> {
    /// A pod.
    Pod(&'a ObjectKey),
    /// Another node.
    Node(&'a str),
}

/// What has to be looked up before `node` can answer `question` from its maps; mostly nothing.
///
/// # Errors
/// If it is another node that has to be asked, whatever is found.
pub fn wanted<'a>(question: &'a Question, node: &str) -> Result<Option<Wanted<'a>>, ExplainError> {
    if let Some(via) = question.via.as_ref().filter(|via| *via != node) {
        return unknown(format!(
            "this is node {node}, and the maps here are its own: ask on node {via}, or of all nodes with --manifests"
        ));
    }
    match &question.from {
        Client::Pod(key) => Ok(Some(Wanted::Pod(key))),
        Client::Node(name) if name == node => Ok(None),
        Client::Node(name) if question.via.is_some() => Ok(Some(Wanted::Node(name))),
        Client::Node(name) => elsewhere(&question.from, name, node),
        Client::Address(_) => Ok(None),
    }
}

/// Connections are translated on the client's own node: what others would make of them is no answer, unless it is asked for.
fn elsewhere<T>(client: &Client, home: &str, node: &str) -> Result<T, ExplainError> {
    unknown(format!(
        "this is node {node}, and {} is on node {home}, which decides about its connections by maps of its own: ask on node \
         {home}, or of all nodes with --manifests. (With --via {node}: what becomes of a packet of it that arrives here \
         untranslated, as if node {home} ran no agent.)",
        called(client)
    ))
}

/// `pod shop/web-0`, as in answers.
fn called(client: &Client) -> String {
    client.to_string().replacen('/', " ", 1)
}

impl From<Pod> for Named {
    fn from(pod: Pod) -> Self {
        Self {
            addresses: pod.addresses.into_iter().collect(),
            node: pod.node,
            host_network: pod.host_network,
        }
    }
}

impl From<NodeObject> for Named {
    fn from(node: NodeObject) -> Self {
        Self {
            addresses: node.addresses,
            node: Some(node.name),
            host_network: true,
        }
    }
}

impl Live<'_> {
    /// Who the object is that was looked up for the client, and as what this node sees it; `None`: it has no address of
    /// the family.
    pub(super) fn named_client(
        &self,
        question: &Question,
        ipv6: bool,
    ) -> Result<Option<(Party, Position)>, ExplainError> {
        let client = &question.from;
        let name = called(client);
        let Some(named) = &self.named else {
            return unknown(format!(
                "the maps do not name {name}, and it was not looked up: give its address"
            ));
        };
        let Some(home) = &named.node else {
            return unknown(format!(
                "{name} is on no node (spec.nodeName): it was not scheduled yet; ask again when it runs, or give an address"
            ));
        };
        let here = *home == self.node;
        if !here && question.via.is_none() {
            return elsewhere(client, home, &self.node);
        }
        if named.addresses.is_empty() {
            return unknown(format!(
                "{name} has no address in its status yet: ask again when it runs, or give the address"
            ));
        }
        // An endpoint's targetRef does not say whose network its pod has; its address does.
        let mut shares = named.host_network;
        for address in &named.addresses {
            shares |= here && self.is_own(*address)?;
        }
        let own = if here && shares {
            self.own_address(ipv6)
        } else {
            None
        };
        let mut addresses = named.addresses.iter().copied();
        let Some(address) = own.or_else(|| addresses.find(|address| address.is_ipv6() == ipv6)) else {
            return Ok(None);
        };
        let at_home = if shares { Position::Node } else { Position::Pod };
        let party = Party {
            name,
            addresses: vec![address],
            home: Some((home.clone(), at_home)),
        };
        Ok(Some((party, if here { at_home } else { Position::Outside })))
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Device, DeviceKind};

    use super::*;
    use crate::maps::{Dump, InMemory};

    fn question(from: &str, via: Option<&str>) -> Question {
        Question {
            from: from.parse().unwrap(),
            to: "172.30.0.10:80".parse().unwrap(),
            via: via.map(str::to_owned),
        }
    }

    #[test]
    fn only_the_object_that_is_named_is_looked_up() {
        let key = ObjectKey::new("shop", "web-0");
        for (from, via, expected) in [
            ("pod/shop/web-0", None, Some(Wanted::Pod(&key))),
            ("pod/shop/web-0", Some("node1"), Some(Wanted::Pod(&key))),
            ("node/node1", None, None),
            ("node/node2", Some("node1"), Some(Wanted::Node("node2"))),
            ("10.1.0.5", None, None),
        ] {
            let question = question(from, via);
            assert_eq!(wanted(&question, "node1").unwrap(), expected, "{from} by {via:?}");
        }
    }

    #[test]
    fn whom_another_node_decides_about_is_asked_of_there() {
        for (from, via, words) in [
            ("node/node2", None, "ask on node node2|--manifests|--via node1"),
            ("pod/shop/web-0", Some("node3"), "ask on node node3|--manifests"),
            ("10.1.0.5", Some("node3"), "ask on node node3"),
        ] {
            let error = wanted(&question(from, via), "node1").unwrap_err().to_string();
            let lower = error.to_lowercase();
            assert!(
                words.split('|').all(|word| lower.contains(word)),
                "{from}: {error}"
            );
        }
    }

    /// What node1 makes of the client `from`, whose object says this.
    fn seen(
        from: &str,
        via: Option<&str>,
        addresses: &[&str],
        node: Option<&str>,
        host_network: bool,
    ) -> Result<Option<(Party, Position)>, String> {
        let dump = Dump::default();
        let uplink = Device {
            kind: DeviceKind::Uplink as _,
            snat4: std::net::Ipv4Addr::new(192, 168, 0, 1).into(),
            ..Device::default()
        };
        let live = Live {
            node: "node1".into(),
            v4: &InMemory {
                dump: &dump,
                family: &dump.v4,
            },
            v6: &InMemory {
                dump: &dump,
                family: &dump.v6,
            },
            devices: [(2, uplink)].into(),
            routes: Vec::new(),
            sources: Vec::new(),
            at_sockets: [false; 2],
            services: &[],
            problems: &[],
            named: Some(Named {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                node: node.map(str::to_owned),
                host_network,
            }),
            tick: 0,
        };
        let found = live.named_client(&question(from, via), false);
        found.map_err(|error| error.to_string())
    }

    #[test]
    fn a_client_is_where_its_object_says_and_has_the_address_that_it_says() {
        let both = ["10.1.0.5", "fd00:1::5"];
        let at = |from, via, node, host| {
            let (party, position) = seen(from, via, &both, Some(node), host).unwrap().unwrap();
            (party.name, party.addresses[0].to_string(), party.home, position)
        };
        let expected = |name: &str, address: &str, home: &str, at_home, position| {
            (
                name.to_owned(),
                address.to_owned(),
                Some((home.to_owned(), at_home)),
                position,
            )
        };
        let (pod, ip) = ("pod shop/web-0", "10.1.0.5");
        assert_eq!(
            at("pod/shop/web-0", None, "node1", false),
            expected(pod, ip, "node1", Position::Pod, Position::Pod)
        );
        // A process of the node, which has the node's address.
        assert_eq!(
            at("pod/shop/web-0", None, "node1", true),
            expected(pod, "192.168.0.1", "node1", Position::Node, Position::Node)
        );
        assert_eq!(
            at("pod/shop/web-0", Some("node1"), "node2", false),
            expected(pod, ip, "node2", Position::Pod, Position::Outside)
        );
        assert_eq!(
            at("node/node2", Some("node1"), "node2", true),
            expected("node node2", ip, "node2", Position::Node, Position::Outside)
        );
        let other = seen("pod/shop/web-0", None, &both[1..], Some("node1"), false);
        assert!(other.unwrap().is_none(), "it has no address of the family");
    }

    #[test]
    fn an_object_that_does_not_say_enough_is_named_with_what_to_do() {
        for (addresses, node, words) in [
            (&[][..], Some("node1"), "pod shop/web-0|no address|again"),
            (&[], None, "pod shop/web-0|not scheduled"),
            (
                &["10.1.0.5"],
                Some("node2"),
                "pod shop/web-0 is on node node2|ask on node node2|--via node1",
            ),
        ] {
            let error = seen("pod/shop/web-0", None, addresses, node, false).unwrap_err();
            assert!(words.split('|').all(|word| error.contains(word)), "{error}");
        }
    }
}
