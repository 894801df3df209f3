//! What a TCP connection costs: to a backend itself, through a Service by the programs at sockets, and through a Service
//! by TC; and what an exchange costs on a connection that is there.
//!
//! Three labs side by side, since an agent either chooses backends at sockets or does not: one without agents, one with
//! all programs, one with TC alone. Client and server are one thread on one processor, which does all the kernel's work
//! for both: see `pair`.

mod judge;
mod pair;
mod site;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, thread};

use anyhow::{Result, ensure};
use lb_lab::Family;

use self::{
    pair::{Order, Sample, Worker},
    site::{Agents, Site},
};
use crate::document::Document;

/// How often in a round all kinds have a turn.
const TURNS: usize = 10;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    /// Connect, accept, close.
    Connection,
    /// A request and its response on a connection that is there.
    Exchange,
}

impl What {
    const ALL: [Self; 2] = [Self::Connection, Self::Exchange];
}

/// Where the backend is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Backend {
    /// Another pod of the client's node.
    Here,
    /// A pod of the other node.
    Elsewhere,
}

impl Backend {
    const ALL: [Self; 2] = [Self::Here, Self::Elsewhere];
}

/// How the client gets to the backend: the lab, and whether by a Service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    /// To the backend's own address, no agent on any node.
    Bare,
    /// To the backend's own address, past the programs at sockets and TC's.
    Direct,
    /// To the ClusterIP, which the program at the socket replaces.
    Hook,
    /// To the backend's own address, past TC's programs.
    DirectOff,
    /// To the ClusterIP, which TC translates.
    Tc,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Bare, Self::Direct, Self::Hook, Self::DirectOff, Self::Tc];

    fn agents(self) -> Agents {
        match self {
            Self::Bare => Agents::None,
            Self::Direct | Self::Hook => Agents::Hooks,
            Self::DirectOff | Self::Tc => Agents::Tc,
        }
    }

    fn by_service(self) -> bool {
        matches!(self, Self::Hook | Self::Tc)
    }
}

/// A line of the table, without its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Row {
    what: What,
    family: Family,
    backend: Backend,
}

/// What was seen of each kind of a row.
type Samples = BTreeMap<(Row, Kind), Vec<Sample>>;

/// Measures all rows; `agent` is the agent's program.
pub(crate) fn measure(agent: &Path, rounds: usize) -> Result<Document> {
    lb_lab::Lab::destroy_leftovers(site::TAG);
    lb_lab::on_signal()?;
    let mut sites = Vec::new();
    for agents in Agents::ALL {
        say(format!("a lab {agents}"));
        sites.push(Site::start(agents, agent)?);
    }
    let mut samples = Samples::new();
    thread::scope(|scope| -> Result<()> {
        let workers = sites
            .iter()
            .map(|site| Ok((site.agents(), Worker::start(scope, site)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        for what in What::ALL {
            for family in Family::BOTH {
                for backend in Backend::ALL {
                    let row = Row {
                        what,
                        family,
                        backend,
                    };
                    say(row);
                    self::row(row, rounds, &sites, &workers, &mut samples)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(judge::document(&samples))
}

/// All rounds of a row, the kinds in turn; fails if the programs did not do what the kinds say.
fn row(
    row: Row,
    rounds: usize,
    sites: &[Site],
    workers: &BTreeMap<Agents, Worker>,
    samples: &mut Samples,
) -> Result<()> {
    let before = sites.iter().map(Site::counted).collect::<Result<Vec<_>>>()?;
    let mut connections: BTreeMap<Agents, u64> = BTreeMap::new();
    for turn in 0..rounds.max(1) * TURNS {
        let mut kinds = Kind::ALL;
        // Nobody always comes behind the same other one.
        if turn % 2 == 1 {
            kinds.reverse();
        }
        for kind in kinds {
            let order = Order {
                what: row.what,
                family: row.family,
                backend: row.backend,
                by_service: kind.by_service(),
            };
            let done = workers[&kind.agents()].ask(order)?;
            if kind.by_service() {
                *connections.entry(kind.agents()).or_default() += done.connections;
            }
            samples.entry((row, kind)).or_default().extend(done.samples);
        }
    }
    for (site, before) in sites.iter().zip(before) {
        let mut moved = site.counted()?;
        for (hook, count) in before {
            *moved.entry(hook).or_default() -= count;
        }
        moved.retain(|_, count| *count > 0);
        let opened = connections.get(&site.agents()).copied().unwrap_or_default();
        let expected = site.agents().hook().map(|hook| (hook.to_owned(), opened));
        let expected: BTreeMap<_, _> = expected.into_iter().collect();
        ensure!(
            moved == expected,
            "{row}, in the lab {}: the programs counted as new {moved:?}, expected {expected:?}",
            site.agents()
        );
    }
    Ok(())
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            What::Connection => "connect",
            What::Exchange => "established",
        };
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let backend = match self.backend {
            Backend::Here => "here",
            Backend::Elsewhere => "elsewhere",
        };
        write!(f, "{what}{family}-{backend}")
    }
}

/// An address and port of a family out of two addresses.
fn socket(addresses: lb_lab::Dual, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(addresses.of(family), port)
}

fn say(line: impl std::fmt::Display) {
    eprintln!("lb-bench: {line}");
}
