//! The matrix: every kind of client to every address of every kind of Service, by real packets, compared with a table
//! that was written by hand (`tests/matrix/expected.yaml`), and with what `lb-agent explain` decides about the cell. `cargo
//! xtask matrix` runs all of it; a sample is a part of the tests.

mod cell;
mod decision;
mod expected;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use lb_cases::books::{Balance, Line};
use lb_common::testing::chance::Chance;
use lb_lab::{Netfilter, Options, PodNetwork, Proto, Topology};
use lb_userspace::explain::Verdict;
use serde_json::json;

use self::{
    cell::{Backends, Cell, Client, Kind, Policy, Site, Target},
    decision::Decided,
    expected::{Class, Source, Who},
};
use crate::{
    cluster::{Cluster, possible},
    ledger::{self, Ledger},
    reach::Address,
    service::{Service, TARGET},
};

/// The client outside that comes in by a node without backends.
const FAR: &str = "client-far";
/// The first Service's number, and its NodePort.
const FIRST: (u16, u16) = (10, 30_080);
/// Connections for each backend that must answer.
const EACH: u32 = 20;
/// Connections that nobody may answer.
const FEW: u32 = 3;
/// How long an answer may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(4);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// Cells at a time.
const PARALLEL: usize = 6;
/// Cells of the sample that is a part of the tests.
const SAMPLE: usize = 200;

const NETWORKS: [(&str, PodNetwork, Netfilter); 3] = [
    ("routed", PodNetwork::Routed, Netfilter::Nftables),
    ("tunnel", PodNetwork::Tunnel, Netfilter::Iptables),
    ("bridge", PodNetwork::Bridge, Netfilter::Iptables),
];
/// Programs face the network by TC, by XDP, or by TC with connections translated at their sockets.
const HOOKS: [&str; 3] = ["tc", "xdp", CONNECT];
const CONNECT: &str = "connect";

/// One cell's result, as `cargo xtask matrix` reads it.
struct Judged {
    cell: Cell,
    expected: String,
    seen: String,
    ok: bool,
}

#[test]
fn every_cell_is_in_one_class() {
    let classes = expected::classes();
    let mut used = BTreeSet::new();
    let sites = sites(&NETWORKS.map(|(name, ..)| name), &HOOKS);
    let cells: Vec<_> = sites.into_iter().flat_map(Cell::all).collect();
    for cell in &cells {
        used.insert(&expected::of(&classes, cell).class);
    }
    assert!(cells.len() > 2000, "{}", cells.len());
    assert_eq!(used.len(), classes.len(), "a class has no cell: {used:?}");
    let names: BTreeSet<_> = cells.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), cells.len(), "two cells have one name");
}

#[test]
fn cells_are_as_the_table_says_as_root() {
    if !possible("cells_are_as_the_table_says_as_root") {
        return;
    }
    let asked = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let report = asked("LB_MATRIX_REPORT");
    let networks = asked("LB_MATRIX_NETWORKS").unwrap_or_else(|| "tunnel".into());
    let hooks = asked("LB_MATRIX_HOOKS").unwrap_or_else(crate::cluster::hook);
    let number = |value: String| value.parse().expect("a number");
    let sample = match asked("LB_MATRIX_SAMPLE") {
        Some(all) if all == "all" => None,
        Some(sample) => Some(number(sample)),
        None => report.is_none().then_some(SAMPLE),
    };
    let seed = asked("LB_MATRIX_SEED").map_or(1, number) as u64;
    let split = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    let (networks, hooks) = (split(&networks), split(&hooks));
    let names = |list: &[String]| list.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    let mut cells: Vec<_> = sites(&networks, &hooks).into_iter().flat_map(Cell::all).collect();
    if let Some(sample) = sample {
        cells = drawn(cells, sample, seed);
    }
    eprintln!(
        "{} cells in {} networks, by {}, seed {seed}",
        cells.len(),
        names(&networks),
        names(&hooks)
    );
    let (mut judged, mut books, mut summaries) = (Vec::new(), Vec::new(), Vec::new());
    for site in sites(&networks, &hooks) {
        let cells: Vec<_> = cells.iter().filter(|cell| cell.site == site).copied().collect();
        if !cells.is_empty() {
            let (of_site, balances) = try_all(site, &cells);
            judged.extend(of_site);
            books.extend(ledger::lines(&format!("matrix/{site}"), &balances));
            let summary =
                |(node, balance): &(String, Balance)| balance.summary(format!("books/{site}/{node}"));
            summaries.extend(balances.iter().map(summary));
        }
    }
    if let Some(report) = &report {
        let checks: Vec<_> = judged
            .iter()
            .map(|one| {
                json!({"id": one.cell.to_string(), "expected": one.expected, "seen": one.seen, "ok": one.ok})
            })
            .collect();
        let file = Path::new(report).join("cells.json");
        fs::write(file, json!(checks).to_string()).expect("the report can be written");
        ledger::write_down("LB_MATRIX_REPORT", "books", &summaries);
    }
    let failures: Vec<_> = judged
        .iter()
        .filter(|one| !one.ok)
        .map(|one| format!("{}: expected {}; {}", one.cell, one.expected, one.seen))
        .collect();
    books.push(Line {
        of: "matrix".into(),
        expected: format!("{} cells as the table says", judged.len()),
        seen: format!("{} are not", failures.len()),
        ok: failures.is_empty(),
    });
    let unbalanced = ledger::conclude("matrix", &books);
    assert!(
        failures.is_empty() && unbalanced.is_empty(),
        "{} of {} cells failed, {} hooks do not add up:\n{}",
        failures.len(),
        judged.len(),
        unbalanced.len(),
        [failures, unbalanced].concat().join("\n")
    );
}

/// The labs of these networks and hooks.
fn sites<N: AsRef<str>, H: AsRef<str>>(networks: &[N], hooks: &[H]) -> Vec<Site> {
    let mut sites = Vec::new();
    for name in networks {
        let known = NETWORKS.iter().find(|(known, ..)| *known == name.as_ref());
        let (_, network, _) = known.unwrap_or_else(|| panic!("no such network: {}", name.as_ref()));
        for hook in hooks {
            let known = HOOKS.iter().find(|known| **known == hook.as_ref());
            let hook = known.unwrap_or_else(|| panic!("no such hook: {}", hook.as_ref()));
            sites.push(Site {
                network: *network,
                hook,
            });
        }
    }
    sites
}

/// So many of the cells, drawn by `seed`.
fn drawn(mut cells: Vec<Cell>, sample: usize, seed: u64) -> Vec<Cell> {
    Chance::new(seed, 0).shuffle(&mut cells);
    cells.truncate(sample);
    cells
}

/// Tries cells of one lab; gives the books of its nodes, too.
fn try_all(site: Site, cells: &[Cell]) -> (Vec<Judged>, Vec<(String, Balance)>) {
    let (.., netfilter) = NETWORKS
        .iter()
        .find(|(_, network, _)| *network == site.network)
        .expect("a site has one of them");
    let topology = Topology::cluster(3, 2)
        .client(FAR)
        .network(site.network)
        .netfilter(*netfilter);
    let (cluster, ledger) = Ledger::of(|| match site.hook {
        CONNECT => Cluster::by("tc", topology, &["--connect-hooks", "all"]),
        hook => Cluster::by(hook, topology, &[]),
    });
    let lab = &cluster.lab;
    lab.steer(FAR, "node3").expect("clients can be steered");
    for node in ["node1", "node2"] {
        for proto in Proto::BOTH {
            lab.serve(node, proto, TARGET).expect("nodes serve");
        }
    }
    for (place, kind) in Kind::all().into_iter().enumerate() {
        let policy = |policy| match policy {
            Policy::Cluster => "Cluster",
            Policy::Local => "Local",
        };
        let (number, port) = numbers(place);
        let service = Service::new(lab, &format!("kind{place}"), number)
            .load_balancer(lab, number, port)
            .set("externalTrafficPolicy", policy(kind.external))
            .set("internalTrafficPolicy", policy(kind.internal))
            .with(lab, &kind.names());
        cluster.apply(&service);
    }
    let addresses: BTreeMap<&str, BTreeSet<IpAddr>> = lab
        .places()
        .map(|place| {
            (
                place.name(),
                addresses(&place.output(&["ip", "-o", "addr"]).expect("ip runs")),
            )
        })
        .collect();
    let classes = expected::classes();
    let judged = Mutex::new(Vec::new());
    // To its own node a client's connections are translated by TC, elsewhere they may be direct ones. One client to one
    // backend from one port by both at a time is what nobody can tell apart, and labs have few ports.
    let decided = decision::all(&cluster, cells, |cell| socket(&cluster, cell));
    let (own, others): (Vec<_>, Vec<_>) =
        (cells.iter().zip(decided)).partition(|(cell, _)| cell.target == Target::NodePortOwn);
    for cells in [own, others] {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((cell, decided)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                let one = judge(
                    &cluster,
                    &addresses,
                    (**cell, decided),
                    expected::of(&classes, cell),
                );
                judged.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
        };
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(work);
            }
        });
    }
    let judged = judged.into_inner().unwrap_or_else(PoisonError::into_inner);
    if judged.iter().any(|one| !one.ok) {
        eprintln!("{}", cluster.diagnosis());
    }
    (judged, ledger.balances(&cluster))
}

/// Number and NodePort of a Service, by its kind's place.
fn numbers(place: usize) -> (u16, u16) {
    let place = u16::try_from(place).expect("there are few kinds");
    (FIRST.0 + place, FIRST.1 + place)
}

/// The addresses in what `ip -o addr` says.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok())
        .collect()
}

/// Where a cell's client connects to.
fn socket(cluster: &Cluster, cell: &Cell) -> SocketAddr {
    let place = Kind::all().iter().position(|kind| *kind == cell.kind);
    let (number, port) = numbers(place.expect("it is one of them"));
    let address = match cell.target {
        Target::ClusterIp => Address::ClusterIp,
        Target::NodePortOwn => Address::NodePort(cell.node()),
        Target::NodePortWith => Address::NodePort("node2"),
        Target::NodePortWithout => Address::NodePort("node3"),
        Target::LoadBalancer => Address::LoadBalancer,
        Target::ExternalIp => Address::External,
    };
    address.socket(cluster, cell.family, number, port)
}

/// Three say what comes of a cell: the table, the decision, and packets. No two may differ.
fn judge(
    cluster: &Cluster,
    addresses: &BTreeMap<&str, BTreeSet<IpAddr>>,
    (cell, decided): (Cell, &Result<Decided, String>),
    class: &Class,
) -> Judged {
    let names: &[&str] = match class.who {
        Who::All => &cell.kind.names(),
        Who::Near => &cell.kind.names()[..1],
        Who::Nobody => &[],
    };
    let (options, n) = if names.is_empty() {
        (Options::within(SILENCE), FEW)
    } else {
        (Options::within(ANSWER), EACH * names.len() as u32)
    };
    let place = cluster.lab.at(cell.place()).expect("the place is there");
    let to = socket(cluster, &cell);
    let shares = place
        .probe_with(cell.proto, to, n, &options)
        .expect("the probe runs");
    let names: BTreeSet<_> = names.iter().copied().collect();
    let may_see =
        |backend: &str, source: &IpAddr| may_see(addresses, &cell, class.source, backend).contains(source);
    let answered = if names.is_empty() {
        shares.all_silent()
    } else {
        shares.all_answered() && shares.names() == names
    };
    let sources = (shares.sources.iter())
        .all(|(backend, sources)| sources.iter().all(|source| may_see(backend, source)));
    let (allowed, done, decision) = match decided {
        Err(error) => (false, false, error.clone()),
        Ok(decided) => {
            let verdict = if names.is_empty() {
                Verdict::Dropped
            } else {
                Verdict::Forwarded
            };
            let who: BTreeSet<_> = decided.backends.keys().map(String::as_str).collect();
            let sources = (decided.backends.iter()).all(|(backend, source)| may_see(backend, source));
            let allowed = decided.verdict == verdict && who == names && sources;
            (allowed, decided.agrees(&shares), decided.to_string())
        }
    };
    let table = match class.who {
        Who::Nobody => format!("silence ({})", class.class),
        _ => format!(
            "{n} of {}, source {:?} ({})",
            names.iter().copied().collect::<Vec<_>>().join(" and "),
            class.source,
            class.class
        ),
    };
    let mut seen = format!("{to}: {shares}");
    for (holds, but) in [
        (sources, "not these sources"),
        (allowed, "the decision is not what the table says"),
        (done, "not what was decided"),
    ] {
        if !holds {
            seen = format!("{seen}; {but}");
        }
    }
    Judged {
        cell,
        expected: format!("{table}; decided: {decision}"),
        seen,
        ok: answered && sources && allowed && done,
    }
}

/// The source addresses that a backend may see.
fn may_see<'a>(
    addresses: &'a BTreeMap<&str, BTreeSet<IpAddr>>,
    cell: &Cell,
    source: Source,
    backend: &str,
) -> BTreeSet<&'a IpAddr> {
    let own = &addresses[cell.place()];
    let node = &addresses[cell.node()];
    let elsewhere = backend != cell.kind.names()[0] || cell.node() != "node1";
    let to_itself = backend == cell.place();
    // What pods send to nodes is masqueraded by the cluster's own rules.
    let by_rule =
        matches!(cell.client, Client::Pod | Client::Backend) && cell.kind.backends == Backends::Hosts;
    match source {
        Source::Split if elsewhere => node.iter().collect(),
        Source::Own if to_itself || by_rule => own.union(node).collect(),
        _ => own.iter().collect(),
    }
}
