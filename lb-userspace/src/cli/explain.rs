//! `lb-agent explain`: who reaches what, and why.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use lb_common::abi::{FrontendKind, Protocol, V4, V6};

use super::{AnnotationArgs, InstanceArgs, Output};
use crate::{
    agent::report::{Report, ServiceReport},
    config::Instance,
    explain::{
        Answer, Client, Cluster, Destination, Live, LiveRoute, Probe, Question, Served, explain, explain_live,
    },
    kubernetes::Annotations,
    load::{DryRun, PinDirectory},
    maps::{Lookup as _, bpf::Pinned},
    model::{FrontendAddress, ObjectKey, Problem},
    node::{self, Prefix},
    source::{directory, pods},
};

/// Flags of `lb-agent explain`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// Who connects: pod/NAMESPACE/NAME, node/NAME (a process of the node, or a hostNetwork pod) or an address.
    #[arg(long, value_name = "CLIENT")]
    from: Client,
    /// To what: service/NAMESPACE/NAME[:PORT] (its ClusterIPs), or ADDRESS:PORT[/udp|/sctp].
    #[arg(long, value_name = "DESTINATION")]
    to: Destination,
    /// The node that the packet arrives on, for a client that is on none (or whose own node runs no agent).
    /// Without it: the node whose address is the destination, else every node.
    #[arg(long, value_name = "NODE")]
    via: Option<String>,
    /// A directory of manifests to ask about: Services, EndpointSlices and Nodes, as `kubectl get -o yaml`
    /// writes them; Pods too, for clients that are no endpoint. Without it: the maps of this node, as they are now.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// With --manifests: a range that all ClusterIPs are from, as agents are told; may be repeated.
    #[arg(long, value_name = "CIDR", requires = "manifests")]
    service_cidr: Vec<Prefix>,
    /// Have the very program that decides see such a packet, on the live maps and without writing anything, and compare.
    /// (The kernel verifies it once more: that takes a second. Needs root.)
    #[arg(long, conflicts_with = "manifests")]
    verify: bool,
    #[command(flatten)]
    annotations: AnnotationArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    instance: InstanceArgs,
}

const EXAMPLES: &str = "Examples:
  kubectl get services,endpointslices,nodes,pods -A -o yaml > dump/all.yaml
  lb-agent explain --manifests dump --from pod/shop/cart-0 --to service/shop/db:5432
  lb-agent explain --manifests dump --from 203.0.113.7 --via node3 --to 192.0.2.30:80
  lb-agent explain --from 10.244.1.5 --to 192.168.0.2:30030/udp -o json        (on a node, as root)

The answer has the verdict, with the reason's name as in `lb-agent counters`; the rule in words; every hop; the
backends with their shares and the address that each sees; the map entries that were read. If it is no, or costs
something: what would change it, each remedy tried before it is shown, with its command. Nothing is sent, and
nothing is changed.

With --manifests every node is taken to run an agent with default settings, on a routed pod network.";

/// Explains.
pub(super) async fn print(args: ExplainArgs) -> Result<()> {
    let ExplainArgs {
        from,
        to,
        via,
        manifests,
        service_cidr,
        verify,
        annotations,
        output,
        instance,
    } = args;
    let question = Question { from, to, via };
    let answers = match manifests {
        Some(folder) => from_manifests(&folder, annotations.into(), &service_cidr, &question)?,
        None => from_maps(&instance.into(), &question, verify).await?,
    };
    let text = match output {
        Output::Text => answers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
        Output::Json => format!("{:#}\n", serde_json::to_value(&answers)?),
    };
    io::stdout().write_all(text.as_bytes())?;
    let differs = |answer: &&Answer| answer.verified.as_ref().is_some_and(|verified| !verified.agrees);
    match answers.iter().find(differs) {
        Some(answer) => bail!(
            "the program has done something else to the packet to {}: this is a bug, please report what is printed",
            answer.to
        ),
        None => Ok(()),
    }
}

fn from_manifests(
    folder: &Path,
    annotations: Annotations,
    cidrs: &[Prefix],
    question: &Question,
) -> Result<Vec<Answer>> {
    let unreadable = || {
        format!(
            "the directory {} cannot be read; name one with manifests",
            folder.display()
        )
    };
    let changes = directory::read_once(folder, annotations).with_context(unreadable)?;
    let mut cluster = Cluster::new(changes, pods::read(folder).with_context(unreadable)?);
    cluster.service_cidrs = cidrs.iter().map(|cidr| (cidr.address(), cidr.length())).collect();
    for problem in &cluster.problems {
        eprintln!("note: {}: {}", problem.object, problem.message);
    }
    Ok(explain(&cluster, question)?)
}

async fn from_maps(instance: &Instance, question: &Question, verify: bool) -> Result<Vec<Answer>> {
    let file = instance.status_file();
    let report = fs::read(&file).with_context(|| {
        format!(
            "no agent of instance `{}` has run here: cannot read {}; ask on a node, or with --manifests",
            instance.name,
            file.display()
        )
    })?;
    let report: Report = serde_json::from_slice(&report)
        .with_context(|| format!("{} was written by an agent of another version", file.display()))?;
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    let v4 = Pinned::<V4>::open(|name| pins.map(name))?;
    let v6 = Pinned::<V6>::open(|name| pins.map(name))?;
    let snapshot = node::snapshot().await?;
    let (shift, lb0) = v4.node()?.map_or((0, 0), |node| (node.tick_shift, node.lb0));
    // Those to lb0 that are only for the node's own processes are in a table of the agent's.
    let routes = (snapshot.routes.iter()).filter(|route| route.main || (lb0 != 0 && route.device == lb0));
    let live = Live {
        node: report.node,
        devices: v4.devices()?.into_iter().collect(),
        v4: &v4,
        v6: &v6,
        routes: routes
            .map(|route| LiveRoute {
                prefix: (route.destination.address(), route.destination.length()),
                device: route.device,
                metric: route.metric,
            })
            .collect(),
        services: report.services.iter().filter_map(served).collect(),
        problems: (report.problems.into_iter())
            .map(|problem| Problem {
                object: problem.object,
                message: problem.message,
            })
            .collect(),
        tick: node::jiffies().map_or(0, |jiffies| (jiffies >> shift) as u32),
    };
    let answers = explain_live(&live, question)?.into_iter();
    answers
        .map(|(answer, probe)| match probe.filter(|_| verify) {
            Some(probe) => verified(&pins, answer, &probe),
            None => Ok(answer),
        })
        .collect()
}

/// Has the program see the packet.
fn verified(pins: &PinDirectory, answer: Answer, probe: &Probe) -> Result<Answer> {
    let dry = DryRun::load(pins, probe.program)
        .with_context(|| format!("{} cannot be loaded a second time", probe.program))?;
    let (verdict, frame) = dry
        .run(&probe.frame, probe.device, probe.came_in)
        .with_context(|| format!("{} cannot be run on interface {}", probe.program, probe.device))?;
    let verified = Some(probe.judge(&answer, verdict, &frame));
    Ok(Answer { verified, ..answer })
}

/// A line of the status; `None`: it is of a later version.
pub(super) fn served(report: &ServiceReport) -> Option<Served> {
    let (namespace, name) = report.service.split_once('/')?;
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    Some(Served {
        key: ObjectKey::new(namespace, name),
        port_name: report.port_name.clone(),
        protocol: protocols
            .into_iter()
            .find(|protocol| protocol.to_string() == report.protocol)?,
        frontends: report
            .frontends
            .iter()
            .filter_map(|text| frontend(text))
            .collect(),
    })
}

fn frontend(text: &str) -> Option<FrontendAddress> {
    let (kind, place) = text.split_once(' ')?;
    let kinds = [
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
    ];
    let kind = kinds.into_iter().find(|known| format!("{known:?}") == kind)?;
    let (address, port): (Option<IpAddr>, u16) = match place.strip_prefix("*:") {
        Some(port) => (None, port.parse().ok()?),
        None => {
            let place: SocketAddr = place.parse().ok()?;
            (Some(place.ip()), place.port())
        }
    };
    Some(FrontendAddress { address, port, kind })
}
