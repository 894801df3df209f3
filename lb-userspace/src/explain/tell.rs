//! From what a node was found to make of a packet to the answer that people read.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{FrontendKind, Kind, Outcome, Protocol, Set};

use super::{
    answer::{Answer, Hop, Reached, Remedies, Verdict},
    cells::Cell,
    explainer::{ExplainError, unknown},
    inquiry::{Finding, Packet},
    position::Position,
    probe::Probe,
    words::{self, Case},
};
use crate::{maps::MapError, model::ObjectKey};

/// What a node's answers are made from: objects, or the maps of a live node.
pub(super) trait Ground {
    /// What the node makes of a packet; `None`: its addresses are of different families.
    fn inquire(&self, packet: &Packet) -> Result<Option<Finding>, MapError>;
    /// The Service port that is served at an address: its Service, and its name.
    fn port_at(&self, to: SocketAddr, protocol: Protocol) -> Option<(ObjectKey, String)>;
    /// The Service that has an address with `ipMode: Proxy`.
    fn proxied_by(&self, address: IpAddr) -> Option<ObjectKey>;
    /// What somebody with this address is called.
    fn name_of(&self, address: IpAddr) -> Option<String>;
    /// The node of somebody with this address.
    fn node_of(&self, address: IpAddr) -> Option<String>;
    /// What is wrong with an object.
    fn notes(&self, object: &str) -> Vec<String>;
}

/// What an answer rests on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Basis {
    pub(super) outcome: Outcome,
    pub(super) kind: Option<FrontendKind>,
    /// The packet, for the program that decides.
    pub(super) probe: Option<Probe>,
}

/// What becomes of a cell, before anybody has thought of remedies.
pub(super) fn tell(ground: &dyn Ground, cell: &Cell) -> Result<(Answer, Basis), ExplainError> {
    let Packet {
        from,
        to,
        protocol,
        position,
    } = cell.packet;
    let Some(finding) = ground.inquire(&cell.packet)? else {
        return unknown(format!("{} and {} are of different families", from.ip(), to.ip()));
    };
    let port = ground.port_at(to, protocol);
    let proxied = ground.proxied_by(to.ip());
    let to_text = format!("{to}/{protocol}");
    let service = match port.as_ref().map(|(key, _)| key).or(proxied.as_ref()) {
        Some(key) => format!("Service {key}"),
        None => to_text.clone(),
    };
    let case = Case {
        finding: &finding,
        position,
        service: &service,
        node: &cell.node,
        client: &cell.client.name,
        to: &to_text,
        proxied: proxied.is_some(),
    };
    let kind = finding.outcome.kind();
    let backends = reached(ground, &finding, cell);
    let basis = Basis {
        outcome: finding.outcome,
        kind: finding.frontend,
        // A socket cannot be asked by a packet.
        probe: Probe::of(&cell.packet, finding.hook, finding.arrival).filter(|_| !finding.direct),
    };
    let answer = Answer {
        from: cell.client.name.clone(),
        source: from.ip(),
        to,
        protocol: protocol.to_string(),
        service: port.map(|(key, name)| match name.as_str() {
            "" => key.to_string(),
            name => format!("{key} port {name}"),
        }),
        node: cell.node.clone(),
        verdict: Verdict::from(kind),
        reason: finding.outcome.name(),
        help: finding.outcome.help().trim(),
        rule: words::rule(&case),
        client_sees: words::client_sees(kind, protocol, to.is_ipv6()),
        hops: hops(cell, &case, &backends),
        notes: ground
            .notes(&service)
            .into_iter()
            .chain(affinity(&finding))
            .chain(finding.direct.then(|| AT_SOCKET.to_owned()))
            .collect(),
        cost: cost(&backends, cell),
        backends,
        evidence: finding.evidence.clone(),
        verified: None,
        remedies: Remedies::default(),
    };
    Ok((answer, basis))
}

/// What is different where a socket is given its backend.
const AT_SOCKET: &str = "a process gets its backend at its socket already (--connect-hooks), by the same decision: that is \
     counted at connect, and a backend here sees the address that the kernel takes on the way to it";

/// What `sessionAffinity: ClientIP` makes of the choice.
fn affinity(finding: &Finding) -> Option<String> {
    let set = finding.set.filter(|set| set.has(Set::AFFINITY))?;
    finding.scope?;
    Some(match finding.had {
        Some(backend) => format!(
            "sessionAffinity: ClientIP: this client was sent to {backend} last, and goes there again until it has been idle for \
             {} ticks of about a second; the shares below are those of other clients",
            set.affinity_timeout
        ),
        None => {
            "sessionAffinity: ClientIP: the backend of the first connection serves all that follow".to_owned()
        }
    })
}

fn reached(ground: &dyn Ground, finding: &Finding, cell: &Cell) -> Vec<Reached> {
    let of = finding.choices.iter().map(|choice| choice.rows).sum();
    let choices = finding.choices.iter();
    let choices = choices.filter(|choice| choice.outcome.kind() == Kind::Forwarded);
    let reached = choices.map(|choice| {
        let address = choice.backend.ip();
        Reached {
            backend: choice.backend,
            name: ground.name_of(address),
            node: if choice.here {
                Some(cell.node.clone())
            } else {
                ground.node_of(address)
            },
            rows: choice.rows,
            of,
            source: choice.source,
            keeps_source: choice.source == cell.packet.from.ip(),
        }
    });
    reached.collect()
}

fn hops(cell: &Cell, case: &Case<'_>, backends: &[Reached]) -> Vec<Hop> {
    let Packet {
        from, to, position, ..
    } = cell.packet;
    let hook = case.finding.hook;
    let seen = match (position, &cell.client.home) {
        (Position::Outside, Some((home, _))) => format!(
            "{} ({}) is on node {home}, but its packet arrives here untranslated: it is treated like one from outside",
            cell.client.name,
            from.ip()
        ),
        (Position::Outside, None) => format!("the packet of {} arrives from outside", from.ip()),
        (Position::Node, _) => format!("a process of the node sends from {}", from.ip()),
        (Position::Pod, _) => format!("{} sends from {}", cell.client.name, from.ip()),
    };
    let on_node = |says: String| Hop {
        node: Some(cell.node.clone()),
        hook: Some(hook.name()),
        says,
    };
    let mut hops = vec![on_node(format!("{seen}; seen at {}", words::place(hook)))];
    match case.finding.outcome.kind() {
        Kind::Forwarded => {
            let count = backends.len();
            let them = if count == 1 {
                "1 backend".to_owned()
            } else {
                format!("one of {count} backends")
            };
            hops.push(on_node(format!("{to} is translated to {them}")));
            let mut nodes: BTreeMap<Option<&str>, usize> = BTreeMap::new();
            for backend in backends {
                *nodes.entry(backend.node.as_deref()).or_default() += 1;
            }
            for (node, count) in nodes {
                let plural = if count == 1 { "" } else { "s" };
                let says = if node == Some(&cell.node) {
                    format!("{count} backend{plural} here: delivered by the node's own stack")
                } else {
                    let elsewhere = if node.is_some() { "" } else { " elsewhere" };
                    format!(
                        "{count} backend{plural}{elsewhere}: delivered as it comes, nothing is translated there"
                    )
                };
                hops.push(Hop {
                    node: node.map(str::to_owned),
                    hook: None,
                    says,
                });
            }
            hops.push(Hop {
                node: Some(cell.node.clone()),
                hook: None,
                says: format!("the reply is translated back: the client sees it come from {to}"),
            });
        }
        Kind::Rejected => hops.push(on_node("refused: the client is told at once".to_owned())),
        Kind::Dropped => hops.push(on_node("dropped: nobody is told".to_owned())),
        Kind::Passed => hops.push(on_node("left alone: it goes where the routes lead".to_owned())),
    }
    hops
}

fn cost(backends: &[Reached], cell: &Cell) -> Option<String> {
    let Packet { from, position, .. } = cell.packet;
    // A pod that is its own backend must not see its own address as its peer: that is no loss.
    let to_itself = |reached: &Reached| position != Position::Outside && reached.backend.ip() == from.ip();
    let is_lost = |reached: &&Reached| !reached.keeps_source && !to_itself(reached);
    let lost: Vec<_> = backends.iter().filter(is_lost).collect();
    let first = lost.first()?;
    Some(format!(
        "{} of {} backends see {} of node {}, not the client's address",
        lost.len(),
        backends.len(),
        first.source,
        cell.node
    ))
}
