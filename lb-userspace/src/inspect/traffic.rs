//! What each Service received, and what became of it: the counters of frontends and backends, added up by Service.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Counter, Kind, Leg, Outcome};
use serde::Serialize;

use super::{
    filter::Filter,
    names::{Names, ServiceName},
    ports::protocol,
    table::{Row, or_dash},
};
use crate::maps::traffic::Traffic;

/// Packets and their bytes, with link headers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Amount {
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What became of some packets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OutcomeRow {
    /// The name in `lb-agent counters`.
    pub outcome: &'static str,
    /// `forwarded`, `rejected` or `dropped`.
    pub kind: &'static str,
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What clients sent to something, and got from it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Exchanged {
    /// New flows: connections, and exchanges of datagrams.
    pub flows: u64,
    /// Connections that got their backend at their socket; their packets are not seen, and in none of the other numbers.
    pub connections_at_sockets: u64,
    /// Connections that were refused at their socket.
    pub refused_at_sockets: u64,
    /// Packets from clients. `outcomes` add up to this.
    pub received: Amount,
    /// What became of packets from clients.
    pub outcomes: Vec<OutcomeRow>,
    /// Packets from backends. `answer_outcomes` add up to this.
    pub answered: Amount,
    /// What became of packets from backends.
    pub answer_outcomes: Vec<OutcomeRow>,
}

/// One backend's part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackendTraffic {
    /// Where it is; null: what was refused before one was chosen.
    pub backend: Option<SocketAddr>,
    /// What it got and gave.
    #[serde(flatten)]
    pub exchanged: Exchanged,
}

/// A port of a Service in one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TrafficRow {
    /// The Service; null if names are not known, or if it is gone.
    pub service: Option<ServiceName>,
    /// Its address, if its name is not known.
    pub frontend: Option<SocketAddr>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// All of it.
    #[serde(flatten)]
    pub exchanged: Exchanged,
    /// By backend.
    pub backends: Vec<BackendTraffic>,
}

/// A line of the wide table: one backend's part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendTrafficRow {
    service: String,
    family: &'static str,
    protocol: String,
    part: BackendTraffic,
}

/// What is added up.
#[derive(Default)]
struct Sum {
    flows: u64,
    connections_at_sockets: u64,
    refused_at_sockets: u64,
    asked: BTreeMap<Outcome, Amount>,
    answered: BTreeMap<Outcome, Amount>,
}

/// The counters that `filter` wants, added up for each port of a Service and family, by name.
#[must_use]
pub fn traffic(all: &[Traffic], names: &Names, filter: &Filter) -> Vec<TrafficRow> {
    type Of = (bool, Option<ServiceName>, Option<SocketAddr>, u8, bool);
    let mut sums: BTreeMap<Of, BTreeMap<Option<SocketAddr>, Sum>> = BTreeMap::new();
    for one in all {
        let service = name_of(names, one.frontend, one.protocol);
        let mut addresses: Vec<IpAddr> = vec![one.frontend.ip()];
        addresses.extend(one.backend.map(|backend| backend.ip()));
        if !filter.admits(service.as_ref(), &addresses) {
            continue;
        }
        let unnamed = service.is_none().then_some(one.frontend);
        let of = (
            unnamed.is_some(),
            service,
            unnamed,
            one.protocol,
            one.frontend.is_ipv6(),
        );
        let parts = sums.entry(of).or_default();
        parts.entry(one.backend).or_default().add(one);
    }
    sums.into_iter()
        .map(|((_, service, frontend, number, ipv6), parts)| {
            let mut all = Sum::default();
            for part in parts.values() {
                all.join(part);
            }
            TrafficRow {
                service,
                frontend,
                family: if ipv6 { "IPv6" } else { "IPv4" },
                protocol: protocol(number),
                exchanged: all.exchanged(),
                backends: parts
                    .into_iter()
                    .map(|(backend, part)| BackendTraffic {
                        backend,
                        exchanged: part.exchanged(),
                    })
                    .collect(),
            }
        })
        .collect()
}

/// The Service of a frontend; what was counted there was served there, so a port of any other address is a NodePort.
fn name_of(names: &Names, frontend: SocketAddr, protocol: u8) -> Option<ServiceName> {
    names
        .at(Some(frontend.ip()), frontend.port(), protocol)
        .or_else(|| names.at(None, frontend.port(), protocol))
}

impl Amount {
    fn add(&mut self, counter: Counter) {
        self.packets += counter.packets;
        self.bytes += counter.bytes;
    }
}

impl Sum {
    fn add(&mut self, one: &Traffic) {
        let new = matches!(one.outcome, Outcome::ForwardedNew | Outcome::ForwardedMidstream);
        match one.leg {
            Leg::Connected if new => self.connections_at_sockets += one.counter.packets,
            Leg::Connected => self.refused_at_sockets += one.counter.packets,
            Leg::Asked => {
                self.flows += if new { one.counter.packets } else { 0 };
                self.asked.entry(one.outcome).or_default().add(one.counter);
            }
            Leg::Answered => self.answered.entry(one.outcome).or_default().add(one.counter),
        }
    }

    fn join(&mut self, part: &Self) {
        self.flows += part.flows;
        self.connections_at_sockets += part.connections_at_sockets;
        self.refused_at_sockets += part.refused_at_sockets;
        for (to, from) in [
            (&mut self.asked, &part.asked),
            (&mut self.answered, &part.answered),
        ] {
            for (outcome, amount) in from {
                let sum = to.entry(*outcome).or_default();
                sum.packets += amount.packets;
                sum.bytes += amount.bytes;
            }
        }
    }

    fn exchanged(&self) -> Exchanged {
        Exchanged {
            flows: self.flows,
            connections_at_sockets: self.connections_at_sockets,
            refused_at_sockets: self.refused_at_sockets,
            received: total(&self.asked),
            outcomes: outcomes(&self.asked),
            answered: total(&self.answered),
            answer_outcomes: outcomes(&self.answered),
        }
    }
}

fn total(of: &BTreeMap<Outcome, Amount>) -> Amount {
    Amount {
        packets: of.values().map(|amount| amount.packets).sum(),
        bytes: of.values().map(|amount| amount.bytes).sum(),
    }
}

fn outcomes(of: &BTreeMap<Outcome, Amount>) -> Vec<OutcomeRow> {
    of.iter()
        .map(|(outcome, amount)| OutcomeRow {
            outcome: outcome.name(),
            kind: match outcome.kind() {
                Kind::Passed => "passed",
                Kind::Forwarded => "forwarded",
                Kind::Rejected => "rejected",
                Kind::Dropped => "dropped",
            },
            packets: amount.packets,
            bytes: amount.bytes,
        })
        .collect()
}

impl Exchanged {
    /// New flows, and connections at sockets.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.flows + self.connections_at_sockets
    }

    /// What packets add up from: what was forwarded, and each other outcome by its name.
    fn parts(outcomes: &[OutcomeRow]) -> String {
        let is_forwarded = |row: &&OutcomeRow| row.kind == "forwarded";
        let forwarded: u64 = outcomes.iter().filter(is_forwarded).map(|row| row.packets).sum();
        let others = outcomes.iter().filter(|row| !is_forwarded(row));
        let parts = (forwarded > 0)
            .then(|| format!("forwarded {forwarded}"))
            .into_iter();
        let parts = parts.chain(others.map(|row| format!("{} {}", row.outcome, row.packets)));
        parts.collect::<Vec<_>>().join(" + ")
    }

    fn cells(&self) -> Vec<String> {
        let mut what = vec![Self::parts(&self.outcomes)];
        if self.answer_outcomes.iter().any(|row| row.kind != "forwarded") {
            what.push(format!("answers: {}", Self::parts(&self.answer_outcomes)));
        }
        if self.refused_at_sockets > 0 {
            what.push(format!("refused at sockets {}", self.refused_at_sockets));
        }
        what.retain(|text| !text.is_empty());
        vec![
            self.flows.to_string(),
            self.connections_at_sockets.to_string(),
            self.received.packets.to_string(),
            self.received.bytes.to_string(),
            self.answered.packets.to_string(),
            self.answered.bytes.to_string(),
            what.join("; "),
        ]
    }
}

/// Headings of what [`Exchanged::cells`] gives.
const EXCHANGED: [&str; 7] = [
    "FLOWS",
    "AT-SOCKETS",
    "RECEIVED",
    "BYTES",
    "ANSWERED",
    "BYTES",
    "RECEIVED =",
];

impl TrafficRow {
    /// Whose it is, as people call it.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.service, self.frontend) {
            (Some(service), _) => service.to_string(),
            (None, Some(frontend)) => frontend.to_string(),
            (None, None) => "?".to_owned(),
        }
    }

    /// Its lines in the wide table.
    #[must_use]
    pub fn by_backend(&self) -> Vec<BackendTrafficRow> {
        let row = |part: &BackendTraffic| BackendTrafficRow {
            service: self.name(),
            family: self.family,
            protocol: self.protocol.clone(),
            part: part.clone(),
        };
        self.backends.iter().map(row).collect()
    }
}

impl Row for TrafficRow {
    fn headings(_: bool) -> Vec<&'static str> {
        [&["SERVICE", "FAMILY", "PROTO"][..], &EXCHANGED].concat()
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let who = [self.name(), self.family.to_owned(), self.protocol.clone()];
        [who.to_vec(), self.exchanged.cells()].concat()
    }
}

impl Row for BackendTrafficRow {
    fn headings(_: bool) -> Vec<&'static str> {
        [&["SERVICE", "FAMILY", "PROTO", "BACKEND"][..], &EXCHANGED].concat()
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let who = [
            self.service.clone(),
            self.family.to_owned(),
            self.protocol.clone(),
            or_dash(self.part.backend),
        ];
        [who.to_vec(), self.part.exchanged.cells()].concat()
    }
}
