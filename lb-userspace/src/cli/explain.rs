//! `lb-agent explain`: who reaches what, and why.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{AnnotationArgs, InstanceArgs, Output, named, server::ServerArgs};
use crate::{
    agent::live::LiveNode,
    config::Instance,
    explain::{Answer, Client, Cluster, Destination, Probe, Question, explain, explain_live, wanted},
    kubernetes::Annotations,
    load::{DryRun, PinDirectory},
    node::Prefix,
    source::{directory, kubernetes::KubeOptions, pods},
};

/// Flags of `lb-agent explain`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
// Only manifests have annotations: maps hold what has become of them.
#[command(mut_arg("pass_through", |flag| flag.requires("manifests")))]
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
    #[arg(long, value_name = "DIR", conflicts_with = "ServerArgs")]
    manifests: Option<PathBuf>,
    /// With --manifests: a range that all ClusterIPs are from, as agents are told; may be repeated.
    #[arg(long, value_name = "CIDR", requires = "manifests")]
    service_cidr: Vec<Prefix>,
    /// Have the very program that decides see such a packet, on the live maps and without writing anything, and compare.
    /// (The kernel verifies it once more: that takes a second. Needs root.)
    #[arg(long, conflicts_with = "manifests")]
    verify: bool,
    #[command(flatten)]
    server: ServerArgs,
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
  lb-agent explain --from pod/shop/cart-0 --to service/shop/db --kubeconfig ~/.kube/config    (the same)

The answer has the verdict, with the reason's name as in `lb-agent counters`; the rule in words; every hop; the
backends with their shares and the address that each sees; the map entries that were read. If it is no, or costs
something: what would change it, each remedy tried before it is shown, with its command. Nothing is sent, and
nothing is changed.

On a node, the maps do not name pods: a Pod, or (with --via) another Node, is looked up where the agent has its objects
from. At an API server that is one request for the one object that is named, so the kubeconfig's user, whoever runs this,
needs `get` on pods (and on nodes); the agent itself does not. Without a server, give the address.

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
        server,
        annotations,
        output,
        instance,
    } = args;
    let question = Question { from, to, via };
    let answers = match manifests {
        Some(folder) => from_manifests(&folder, annotations.into(), &service_cidr, &question)?,
        None => from_maps(&instance.into(), server.into(), &question, verify).await?,
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

async fn from_maps(
    instance: &Instance,
    kube: KubeOptions,
    question: &Question,
    verify: bool,
) -> Result<Vec<Answer>> {
    let node = LiveNode::open(instance).await?;
    let named = match wanted(question, node.name())? {
        Some(who) => Some(named::look_up(who, kube, node.source()).await?),
        None => None,
    };
    let live = node.live(named)?;
    let answers = explain_live(&live, question)?.into_iter();
    answers
        .map(|(answer, probe)| match probe.filter(|_| verify) {
            Some(probe) => verified(&node.pins, answer, &probe),
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Only {
        #[command(flatten)]
        args: ExplainArgs,
    }

    fn parse(line: &str) -> Result<ExplainArgs, String> {
        let always = ["explain", "--from", "10.1.0.5", "--to", "172.30.0.10:80"];
        let words = always.into_iter().chain(line.split_whitespace());
        let parsed = Only::try_parse_from(words).map_err(|error| error.to_string());
        parsed.map(|only| only.args)
    }

    #[test]
    fn flags_that_would_be_ignored_are_refused() {
        let annotations = parse("--pass-through-annotations example.com/past").unwrap_err();
        assert!(annotations.contains("--manifests"), "{annotations}");
        let cidr = parse("--service-cidr 172.30.0.0/16").unwrap_err();
        assert!(cidr.contains("--manifests"), "{cidr}");
        for flag in [
            "--kubeconfig x",
            "--context x",
            "--api-server https://x",
            "--verify",
        ] {
            let both = parse(&format!("--manifests . {flag}")).unwrap_err();
            assert!(both.contains("cannot be used with"), "{flag}: {both}");
        }
    }

    #[test]
    fn what_goes_together_is_taken() {
        assert!(parse("--manifests . --pass-through-annotations example.com/past").is_ok());
        let args = parse("--kubeconfig x --context y --api-server https://z").unwrap();
        let options = KubeOptions {
            kubeconfig: Some("x".into()),
            context: Some("y".into()),
            servers: vec!["https://z".into()],
            ..KubeOptions::default()
        };
        assert_eq!(KubeOptions::from(args.server), options);
    }
}
