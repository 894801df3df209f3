//! What is going on, Service by Service: what two readings of the counters differ by, and what is in the flow tables.

use std::{cmp::Ordering, collections::BTreeMap};

use lb_common::abi::Counter;

use super::{
    flows::FlowRow,
    services::FrontendRow,
    traffic::{Exchanged, TrafficRow},
};

/// Flows that are younger are new, in seconds. A tick of the programs is about a second: much less would be inexact.
pub(super) const NEW: u64 = 10;

/// What was read at one moment.
#[derive(Clone, Default, Debug)]
pub struct Reading {
    /// Seconds, by a clock that only goes on.
    pub at: f64,
    /// The counters of Services; `None`: nothing is counted.
    pub traffic: Option<Vec<TrafficRow>>,
}

/// What is read less often, since it may be long.
#[derive(Clone, Default, Debug)]
pub struct Tables {
    /// The frontends.
    pub frontends: Vec<FrontendRow>,
    /// The flows.
    pub flows: Vec<FlowRow>,
}

/// What is said of a Service, or of a backend.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Rates {
    /// New flows a second, and connections that got their backend at their socket; `None`: not known yet.
    pub opened: Option<f64>,
    /// What clients sent a second: packets and bytes; `None`: not counted, or not known yet.
    pub received: Option<[f64; 2]>,
    /// What backends sent a second: packets and bytes.
    pub answered: Option<[f64; 2]>,
    /// Packets a second that were refused or dropped.
    pub refused: Option<f64>,
    /// Flows that are established.
    pub established: u64,
    /// Flows that nobody has answered yet.
    pub unanswered: u64,
    /// All flows.
    pub flows: u64,
    /// New flows of the last [`NEW`] seconds.
    new: u64,
}

/// A port of a Service, both families together.
#[derive(Clone, PartialEq, Debug)]
pub struct TopRow {
    /// Its name, or its address if that is not known.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// All of it.
    pub rates: Rates,
    /// How many backends it has.
    pub endpoints: u32,
    /// By backend, those with most first.
    pub backends: Vec<(String, Rates)>,
}

/// What rows are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SortBy {
    /// New connections.
    #[default]
    Connections,
    /// Packets, both ways.
    Packets,
    /// Bytes, both ways.
    Bytes,
    /// Flows.
    Flows,
    /// Names.
    Name,
}

#[derive(Default)]
struct Gathered {
    rates: Rates,
    endpoints: u32,
    backends: BTreeMap<String, Rates>,
}

/// Services and their backends; `before` is the reading that rates are since.
#[must_use]
pub fn top(before: Option<&Reading>, now: &Reading, tables: &Tables, by: SortBy) -> Vec<TopRow> {
    let mut all: BTreeMap<(String, String), Gathered> = BTreeMap::new();
    for row in &tables.frontends {
        let of = all.entry(of_frontend(row)).or_default();
        of.endpoints = of.endpoints.max(row.backends.into());
    }
    for row in &tables.flows {
        let name = row
            .service
            .as_ref()
            .map_or(row.frontend.to_string(), ToString::to_string);
        let of = all.entry((name, row.protocol.clone())).or_default();
        of.rates.flow(row);
        of.backends.entry(row.backend.to_string()).or_default().flow(row);
    }
    for of in all.values_mut() {
        of.rates.settle(now.traffic.is_some());
        of.backends
            .values_mut()
            .for_each(|rates| rates.settle(now.traffic.is_some()));
    }
    if let Some((before, since)) =
        before.and_then(|before| Some((before.traffic.as_ref()?, now.at - before.at)))
        && since > 0.0
    {
        for row in now.traffic.iter().flatten() {
            let was = before.iter().find(|was| was.is_of(row));
            let of = all.entry((row.name(), row.protocol.clone())).or_default();
            of.rates.add(was.map(|was| &was.exchanged), &row.exchanged, since);
            for part in &row.backends {
                let Some(backend) = part.backend else { continue };
                let was = was.and_then(|was| was.backends.iter().find(|was| was.backend == part.backend));
                let rates = of.backends.entry(backend.to_string()).or_default();
                rates.add(was.map(|was| &was.exchanged), &part.exchanged, since);
            }
        }
    }
    if before.is_some_and(|before| before.traffic.is_some()) && now.traffic.is_some() {
        for of in all.values_mut() {
            of.rates.fill();
            of.backends.values_mut().for_each(Rates::fill);
        }
    }
    let mut rows: Vec<TopRow> = all
        .into_iter()
        .map(|((name, protocol), of)| {
            let mut backends: Vec<_> = of.backends.into_iter().collect();
            backends.sort_by(|a, b| by.order(&a.1, &b.1));
            TopRow {
                name,
                protocol,
                rates: of.rates,
                endpoints: of.endpoints,
                backends,
            }
        })
        .collect();
    // Those with as much stay in the order of their names.
    rows.sort_by(|a, b| by.order(&a.rates, &b.rates));
    rows
}

fn of_frontend(row: &FrontendRow) -> (String, String) {
    let name = match (&row.service, row.address) {
        (Some(service), _) => service.to_string(),
        (None, Some(address)) => std::net::SocketAddr::new(address, row.port).to_string(),
        (None, None) => format!("*:{}", row.port),
    };
    (name, row.protocol.clone())
}

impl TrafficRow {
    /// Whether both are of the same Service port and family.
    fn is_of(&self, other: &Self) -> bool {
        let of = |row: &Self| {
            (
                row.service.clone(),
                row.frontend,
                row.family,
                row.protocol.clone(),
            )
        };
        of(self) == of(other)
    }
}

impl Rates {
    fn flow(&mut self, row: &FlowRow) {
        self.flows += 1;
        self.established += u64::from(row.state == "established");
        self.unanswered += u64::from(row.state == "new");
        self.new += u64::from(row.age_seconds < NEW);
    }

    /// Where nothing is counted, the flow tables know at least how many flows are new.
    fn settle(&mut self, is_counted: bool) {
        if !is_counted {
            self.opened = Some(self.new as f64 / NEW as f64);
        }
    }

    /// Adds what was counted between two readings. (A counter that has made way meanwhile begins at none.)
    fn add(&mut self, was: Option<&Exchanged>, is: &Exchanged, seconds: f64) {
        let none = Exchanged::default();
        let was = was.unwrap_or(&none);
        let rate = |was: u64, is: u64| is.saturating_sub(was) as f64 / seconds;
        let refused = |of: &Exchanged| {
            let rows = of.outcomes.iter().chain(&of.answer_outcomes);
            let packets = rows.filter(|row| row.kind != "forwarded").map(|row| row.packets);
            packets.sum::<u64>() + of.refused_at_sockets
        };
        let counter = |packets, bytes| Counter { packets, bytes };
        let both = |was: Counter, is: Counter| [rate(was.packets, is.packets), rate(was.bytes, is.bytes)];
        let received = both(
            counter(was.received.packets, was.received.bytes),
            counter(is.received.packets, is.received.bytes),
        );
        let answered = both(
            counter(was.answered.packets, was.answered.bytes),
            counter(is.answered.packets, is.answered.bytes),
        );
        add(&mut self.opened, rate(was.opened(), is.opened()));
        add(&mut self.refused, rate(refused(was), refused(is)));
        for (sum, by) in [(&mut self.received, received), (&mut self.answered, answered)] {
            let [packets, bytes] = sum.unwrap_or_default();
            *sum = Some([packets + by[0], bytes + by[1]]);
        }
    }

    /// What was not counted, where all is counted, did not happen.
    fn fill(&mut self) {
        self.opened.get_or_insert_default();
        self.refused.get_or_insert_default();
        self.received.get_or_insert_default();
        self.answered.get_or_insert_default();
    }

    /// Packets, or bytes, both ways.
    fn both_ways(&self, unit: usize) -> f64 {
        let of = |pair: Option<[f64; 2]>| pair.map_or(0.0, |pair| pair[unit]);
        of(self.received) + of(self.answered)
    }
}

fn add(sum: &mut Option<f64>, by: f64) {
    *sum = Some(sum.unwrap_or_default() + by);
}

impl SortBy {
    /// All of them, with the key that chooses each and its name.
    pub const ALL: [(Self, char, &'static str); 5] = [
        (Self::Connections, 'c', "connections"),
        (Self::Packets, 'p', "packets"),
        (Self::Bytes, 'b', "bytes"),
        (Self::Flows, 'f', "flows"),
        (Self::Name, 'n', "name"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let all = Self::ALL.into_iter().find(|(by, ..)| *by == self);
        all.map_or("", |(_, _, name)| name)
    }

    fn order(self, a: &Rates, b: &Rates) -> Ordering {
        let of = |rates: &Rates| match self {
            Self::Connections => rates.opened.unwrap_or_default(),
            Self::Packets => rates.both_ways(0),
            Self::Bytes => rates.both_ways(1),
            Self::Flows => rates.flows as f64,
            Self::Name => 0.0,
        };
        of(b).total_cmp(&of(a))
    }
}
