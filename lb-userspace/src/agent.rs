//! The agent: starts everything in order, and ends when it is told to.
//!
//! *Invariants*: the maps are complete before a program sees them; whatever was served by a process before
//! is served without a gap, and goes on when this one ends.

mod cluster;
mod devices;
mod events;
mod health;
pub mod heap;
pub mod live;
pub mod lock;
mod metrics;
pub mod report;
pub mod stale;
mod taken;
pub mod told;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time,
};
use tracing::{info, warn};

use self::{
    cluster::Cluster,
    devices::{Devices, Equipment, Followed},
    health::{Checks, Health},
    lock::Lock,
    metrics::Gauges,
    report::Sources,
    stale::Stale,
};
use crate::{
    apply::{self, Change, Reconciler},
    config::{Config, HealthSettings, SourceConfig},
    gc,
    load::{self, ConnectHooks, PinDirectory, probe},
    maps::{self, counted::Writes},
    model::NodeIdentity,
    node::{
        self, Hints, Prefix,
        host::{self, Host},
    },
    plan::{Capacities, PlanSettings},
    source,
};

/// Events under way from the source.
const EVENTS: usize = 1024;

/// How often the log says what the start is waiting for.
const REMINDER: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT. Programs and maps stay where they are: traffic goes on.
pub async fn run(config: Config) -> Result<()> {
    let Config {
        node_name,
        source,
        annotations,
        instance,
        sysctls,
        devices,
        pod_devices,
        service_cidrs,
        nodeport_addresses,
        snat_ports,
        max_flows,
        service_counters,
        seed,
        masquerade_all,
        linger,
        tc_attach,
        hook,
        sockets,
        pod_detection,
        localhost_nodeports,
        external_ip_ranges,
        health: HealthSettings { addresses, timeout },
        metrics_addresses,
        test,
    } = config;
    let mut stop = Stop::new()?;
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    load::embedded()?;
    probe::check(&instance.bpffs, tc_attach)?;
    let _lock = Lock::take(&instance)?;
    let mut tasks = JoinSet::new();
    let (changes, for_reconciler) = apply::channel();
    let (cluster_sender, cluster) = watch::channel(Cluster::default());
    let (events_sender, events) = mpsc::channel(EVENTS);
    let in_cluster = matches!(source, SourceConfig::Kubernetes(_));
    let health = Health::new(changes.backlog(), timeout, cluster.clone(), in_cluster);
    let (gauges_sender, gauges) = watch::channel(None);
    let (checks_sender, checks) = watch::channel(Checks::default());
    let (warnings_sender, warnings) = watch::channel(Vec::new());
    let source_name = match source {
        SourceConfig::Kubernetes(options) => {
            let connection = options.connect().await?;
            let client = connection.client();
            source::kubernetes::spawn(connection, annotations, events_sender);
            tasks.spawn(source::events::follow(client, node_name.clone(), warnings));
            report::KUBERNETES.to_owned()
        }
        SourceConfig::Directory(folder) => {
            // Whoever reads the status may be somewhere else.
            let absolute = std::path::absolute(&folder).unwrap_or_else(|_| folder.clone());
            let name = absolute.display().to_string();
            source::directory::spawn(folder, annotations, events_sender);
            name
        }
    };
    info!(node = node_name, instance = instance.name, "starting");
    // Probes are answered from the start: not before something is live can they be told that it is.
    let servers = vec![
        (addresses, "healthz", health.respond()),
        (metrics_addresses, "metrics", metrics::respond(&health, gauges)),
    ];
    tasks.spawn(health::listen(servers, checks_sender.clone()));
    let identity = NodeIdentity {
        name: node_name.clone(),
        external_ip_ranges: pairs(&external_ip_ranges),
    };
    tasks.spawn(cluster::follow(identity, events, changes.clone(), cluster_sender));
    if !stop.unless(known(cluster.clone(), !pins.is_used())).await? {
        return Ok(());
    }

    let localhost_nodeports = localhost_nodeports && serves_localhost(&nodeport_addresses);
    let service_ranges = pairs(&service_cidrs);
    let host = Host::ensure(host::Options {
        service_cidrs,
        snat_ports: snat_ports.clone(),
        sysctls,
    })
    .await?;
    let hints = Hints {
        pod_devices,
        devices,
        nodeport_addresses,
        ..Hints::default()
    };
    let (hints_sender, hints_receiver) = watch::channel(hints_from(&cluster.borrow(), &hints));
    tasks.spawn(follow_hints(cluster.clone(), hints, hints_sender));
    let facts = node::watch(hints_receiver).await?;

    let planned = Capacities::holding(cluster.borrow().served.values().flatten());
    let capacities = load::Capacities::from_iter(planned.by_map()).with_flows(max_flows);
    let capacities = if service_counters {
        capacities
    } else {
        capacities.without_traffic()
    };
    let settings = PlanSettings {
        seed,
        snat_ports,
        masquerade_all,
        pod_detection,
        localhost_nodeports,
        service_cidrs: service_ranges,
        linger,
        netns: netns_cookie(),
        connect_pods: sockets.connect == ConnectHooks::All,
        hertz: node::hertz().context("cannot learn how fast the kernel's clock ticks")?,
        capacities: Capacities {
            embryos: capacities.embryos(),
            ..planned
        },
    };
    let mut loaded = load::load(load::Options {
        pins: pins.clone(),
        capacities,
        tc_attach,
        hook,
        sockets,
        service_counters,
    })?;
    info!(adopted = ?loaded.adopted(), "programs and maps are loaded");
    let store = maps::bpf::open(|name| loaded.take_map(name))?;
    let store = match test.fail_writes {
        Some(file) => maps::faulty::while_exists(file, store),
        None => store,
    };
    let (store, plan_begins) = match test.kill_within_plan {
        Some(file) => {
            let (store, begins) = maps::killed::within_plan(file, store);
            (store, Some(Box::new(begins) as apply::PlanBegins))
        }
        None => (store, None),
    };
    let writes = Writes::default();
    let store = store.wrapped(&writes);
    let sweeper = loaded.sweeper()?;
    let inherited = loaded.inherits_flows();
    let mut reconciler = Reconciler::new(settings, store, changes.backlog()).telling(plan_begins);
    let status = reconciler.status();

    // The maps are filled before the first program sees them.
    changes.send(Change::Facts(Arc::new(facts.borrow().clone())));
    let reconciler = tokio::task::spawn_blocking(move || {
        reconciler.fill(for_reconciler.try_iter());
        (reconciler, for_reconciler)
    });
    let (reconciler, for_reconciler) = reconciler.await.context("the first filling of the maps")?;
    heap::give_back();
    let (ended, reconciler_ended) = oneshot::channel::<()>();
    thread::Builder::new().name("reconciler".into()).spawn(move || {
        // Dropped at the end of the thread, also by a panic.
        let _ended = ended;
        reconciler.run(&for_reconciler);
    })?;

    let equipment = Equipment {
        attachments: loaded.into_attachments()?,
        host,
    };
    let backlog = changes.backlog();
    let checked = health::Followed {
        facts: facts.clone(),
        status: status.clone(),
        cluster: cluster.clone(),
    };
    tasks.spawn(health::follow(health.clone(), checked, checks_sender.clone()));
    tasks.spawn(taken::follow(cluster.clone(), facts.clone(), checks_sender));
    let followed = Followed {
        facts,
        status: status.clone(),
        cluster: cluster.clone(),
    };
    let (devices_sender, devices) = watch::channel(Devices::default());
    tasks.spawn(devices::follow(
        equipment,
        followed,
        changes,
        health.clone(),
        devices_sender,
    ));
    let (stale_sender, stale) = watch::channel(Stale::default());
    tasks.spawn(stale::follow(
        cluster.clone(),
        status.clone(),
        pins.clone(),
        inherited,
        stale_sender,
    ));
    tasks.spawn(events::follow(status.clone(), checks.clone(), warnings_sender));
    let swept = gc::run(move |frame| sweeper.run(frame), gc::INTERVAL);
    gauges_sender.send_replace(Some(Gauges {
        pins,
        backlog,
        writes,
        cluster: cluster.clone(),
        status: status.clone(),
        devices: devices.clone(),
        checks: checks.clone(),
        stale,
        swept: swept.clone(),
        answers: health.answers(),
        max_flows,
    }));
    let sources = Sources {
        instance,
        node: node_name,
        source: source_name,
        cluster,
        status,
        devices,
        swept,
        checks,
        max_flows,
    };
    tasks.spawn(report::write(sources));

    tokio::select! {
        () = stop.signalled() => {
            info!("told to end; programs stay attached, and traffic goes on");
            Ok(())
        }
        _ = reconciler_ended => Err(anyhow!("the reconciler has ended by itself: this is a bug")),
        Some(ended) = tasks.join_next() => {
            Err(anyhow!("a task of the agent has ended by itself: this is a bug").context(format!("{ended:?}")))
        }
    }
}

/// This node's network namespace, as programs know it; 0: none, and they leave sockets alone.
fn netns_cookie() -> u64 {
    node::netns_cookie().unwrap_or_else(|error| {
        warn!(%error, "the kernel does not number network namespaces (Linux 5.14 does): sockets are left to TC");
        0
    })
}

/// Waits until the source has told everything once; or, if `remembered` will do, what it remembers. It will where
/// nothing is served: programs of a process before serve the last state, and more of it.
async fn known(mut cluster: watch::Receiver<Cluster>, remembered: bool) -> Result<()> {
    loop {
        let enough = |cluster: &Cluster| cluster.synced || (remembered && cluster.remembered);
        let told = time::timeout(REMINDER, cluster.wait_for(enough))
            .await
            .map(|told| told.map(drop));
        if let Ok(told) = told {
            return told.context("the source has ended before it told everything");
        }
        let source = cluster.borrow().source.clone();
        let failures: Vec<_> = source
            .failures
            .iter()
            .map(|f| format!("{}: {}", f.what, f.message))
            .collect();
        warn!(
            ?failures,
            "still waiting for the first complete lists; nothing is changed until then"
        );
    }
}

/// Whether NodePorts may be served on 127.0.0.1, as far as their ranges go.
fn serves_localhost(nodeport_addresses: &[Prefix]) -> bool {
    let mut of_ipv4 = nodeport_addresses
        .iter()
        .filter(|range| range.address().is_ipv4())
        .peekable();
    of_ipv4.peek().is_none() || of_ipv4.any(|range| range.contains(Ipv4Addr::LOCALHOST.into()))
}

/// Address and length of each.
fn pairs(prefixes: &[Prefix]) -> Vec<(IpAddr, u8)> {
    prefixes
        .iter()
        .map(|prefix| (prefix.address(), prefix.length()))
        .collect()
}

/// What the flags say, and what the Node objects say.
fn hints_from(cluster: &Cluster, flags: &Hints) -> Hints {
    let prefixes = |all: &[(IpAddr, u8)]| -> Vec<Prefix> {
        all.iter()
            .filter_map(|(address, length)| Prefix::new(*address, *length))
            .collect()
    };
    let node = cluster.node.as_ref();
    Hints {
        node_addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
        pod_cidrs: node.map(|node| prefixes(&node.pod_prefixes)).unwrap_or_default(),
        other_pod_cidrs: prefixes(&cluster.other_pod_prefixes),
        ..flags.clone()
    }
}

async fn follow_hints(mut cluster: watch::Receiver<Cluster>, flags: Hints, hints: watch::Sender<Hints>) {
    while cluster.changed().await.is_ok() {
        let new = hints_from(&cluster.borrow_and_update(), &flags);
        hints.send_if_modified(|hints| {
            let modified = *hints != new;
            *hints = new;
            modified
        });
    }
}

/// The signals that end the agent.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn signalled(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for `work`; `false` if the agent is told to end first.
    async fn unless(&mut self, work: impl Future<Output = Result<()>>) -> Result<bool> {
        tokio::select! {
            () = self.signalled() => Ok(false),
            done = work => done.map(|()| true),
        }
    }
}
