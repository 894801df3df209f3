//! `cargo xtask demo`: a small cluster of namespaces, real agents, real traffic, and a table of who
//! reached what.

mod agent;
mod books;
mod change;
mod cluster;
mod download;
mod expected;
mod explain;
mod hooks;
mod judge;
mod remains;
mod show;
mod table;
mod tour;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use lb_cases::books::Balance;
use lb_lab::{Lab, Proto, Server};

use crate::build::{self, BuildArgs};
use crate::child::say;
use crate::report::Report;
use crate::setup;
use crate::workspace::Workspace;
use cluster::Cluster;
use expected::Expected;

/// At the start of every name that the demo gives on this machine.
const TAG: &str = "lbdemo";
/// What a pod's server prints when it is ready.
const SERVING: &str = "serving";

/// The address that nobody must answer any more when all is detached.
const A_SERVICE: &str = "cart";
/// What is shown of an agent's log when something is wrong.
const LOG_LINES: usize = 15;

/// How the demo runs.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Print one JSON document of all checks instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the cluster up and say how to look around in it.
    #[arg(long, conflicts_with = "down")]
    pub(crate) keep: bool,
    /// Remove a cluster that was left up.
    #[arg(long)]
    pub(crate) down: bool,
    /// How the nodes connect their pods.
    #[arg(long, value_enum, default_value_t = PodNetwork::Routed)]
    pub(crate) pod_network: PodNetwork,
    /// Where the agents translate what comes from outside.
    #[arg(long, value_enum, default_value_t = Hook::Tc)]
    pub(crate) hook: Hook,
    /// Be the server in the pod of this name (the demo starts itself so).
    #[arg(long, hide = true, value_name = "POD")]
    serve: Option<String>,
    /// An address of that pod.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    at: Vec<IpAddr>,
}

/// Where the agents translate what comes from outside: `lb-agent run --hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hook {
    /// TC alone.
    Tc,
    /// XDP in the driver, in the stack where that cannot.
    Xdp,
    /// XDP in the driver only.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
}

impl Hook {
    /// As the agent's flag has it.
    fn flag(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
        }
    }
}

/// How the nodes connect their pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PodNetwork {
    /// A veth per pod and routes between the nodes.
    Routed,
    /// The same, with a VXLAN tunnel between the nodes.
    Tunnel,
    /// A bridge per node.
    Bridge,
}

/// Sets the cluster up, shows it, takes it down.
pub(crate) fn command(workspace: &Workspace, args: &DemoArgs) -> Result<ExitCode> {
    let DemoArgs {
        json,
        keep,
        down,
        pod_network,
        hook,
        serve: pod,
        at,
    } = args;
    if let Some(pod) = pod {
        return serve(pod, at);
    }
    if *down {
        match Lab::destroy_leftovers(TAG) {
            0 => say("no cluster was left up"),
            n => say(format!("removed {n} cluster(s) that had been left up")),
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::runtime(workspace)?;
    let program = build::all(workspace, &BuildArgs::default())?;
    let way = Way {
        pod_network: *pod_network,
        hook: *hook,
        keep: *keep,
    };
    let mut report = Report::default();
    let mut print = |text: String| {
        if !json {
            println!("{text}");
        }
    };
    let played = run(workspace, &program, way, &mut report, &mut print)?;
    match played.tour {
        Some(tour) if *json => eprintln!("{tour}"),
        Some(tour) => println!("{tour}"),
        None => (),
    }
    Ok(report.finish(*json)?)
}

/// How a demo goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// How the nodes connect their pods.
    pub(crate) pod_network: PodNetwork,
    /// Where the agents translate what comes from outside.
    pub(crate) hook: Hook,
    /// Whether the cluster is left up.
    pub(crate) keep: bool,
}

/// What is left of a demo.
pub(crate) struct Played {
    /// What the hooks of each node received.
    pub(crate) balances: Vec<(String, Balance)>,
    /// What can be done with a cluster that was left up.
    tour: Option<String>,
}

/// One demo into a report; `print` gets what people read.
pub(crate) fn run(
    workspace: &Workspace,
    program: &Path,
    way: Way,
    report: &mut Report,
    print: &mut dyn FnMut(String),
) -> Result<Played> {
    let Way {
        pod_network,
        hook,
        keep,
    } = way;
    let folder = workspace.root().join("deploy/demo");
    let topology = cluster::topology(pod_network, hook);
    let file = folder.join("expected.yaml");
    let expected = fs::read_to_string(&file)
        .map_err(anyhow::Error::from)
        .and_then(|text| Expected::parse(&text, &topology))
        .with_context(|| format!("{} cannot be used", file.display()))?;
    lb_lab::on_signal()?;

    let start = Instant::now();
    say("setting up three nodes with two pods each, and a client outside");
    let manifests = folder.join("manifests");
    let mut cluster = Cluster::start(&topology, program, hook, &manifests, keep)?;
    let played = show::play(&mut cluster, &expected, report, print)
        .and_then(|()| hooks::check(&cluster, hook, pod_network, report, print))
        .and_then(|()| books::check(&cluster, report, print));
    if played.is_err() || report.has_misses() {
        for agent in &cluster.agents {
            let log = agent.child().tail(LOG_LINES);
            eprintln!("\nend of the log of the agent of {}:\n{log}", agent.node());
        }
    }
    let balances = played?;
    let tour = if keep {
        Some(tour::text(&cluster)?)
    } else {
        say("taking everything down");
        remains::end(cluster, expected.address(A_SERVICE).v4, report);
        None
    };
    say(format!("the demo took {:.1} s", start.elapsed().as_secs_f32()));
    Ok(Played { balances, tour })
}

/// Serves in the namespace that this process was started in, until it is ended.
fn serve(pod: &str, addresses: &[IpAddr]) -> Result<ExitCode> {
    let servers = Proto::BOTH
        .map(|proto| Server::start_here(pod, proto, addresses, cluster::POD_PORT))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    println!("{pod}: {SERVING}");
    loop {
        // Parking may end for no reason; the servers' threads do the work.
        std::thread::park();
        debug_assert!(!servers.is_empty());
    }
}
