//! The command line.

mod affinity;
mod backends;
mod check;
mod counters;
mod detach;
mod dump;
mod explain;
mod flows;
mod named;
mod run;
mod server;
mod services;
mod status;
mod top;
mod trace;
mod view;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{config::Instance, kubernetes::Annotations, node::Sysctls};

/// Load-balances Kubernetes Services on this node, in the kernel's eBPF programs.
///
/// One agent runs on each node, instead of kube-proxy. It reads Services, EndpointSlices and Nodes from an
/// API server or from a directory of manifests, and keeps programs and maps in the kernel up to date. They
/// go on working while no agent runs.
#[derive(Parser, Debug)]
#[command(name = "lb-agent", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  lb-agent check                                           before anything else: can this machine be served?
  lb-agent run --node-name $(hostname)                     a node of a cluster, by ~/.kube/config
  lb-agent run --source dir --manifests ./services         one machine without a cluster
  lb-agent status                                          what is served, and on which devices
  lb-agent services                                        each frontend: policy, backends, and why it is not served
  lb-agent backends --service web                          who gets what part of the new connections
  lb-agent flows --by client                               who fills the flow table
  lb-agent counters                                        what became of packets, and why
  lb-agent counters --services                             what each Service received (agent with --service-counters)
  lb-agent top                                             which Services are busy, now
  lb-agent explain --from node/n1 --to service/ns/web      who answers, or why nobody does, and what would help
  lb-agent trace --to service/ns/web                       what each packet to it meets, step by step
  lb-agent detach                                          take everything out of the kernel again";

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve until told to end (SIGTERM); programs stay attached then.
    Run(Box<run::RunArgs>),
    /// Say what the running agent serves, on which devices, and which generation is live.
    Status(status::StatusArgs),
    /// List frontends: their policies, backends and tables, and why one is not served. Works without an agent too.
    Services(services::ServicesArgs),
    /// List backends: where they are, and which share of new flows each gets. Works without an agent too.
    Backends(backends::BackendsArgs),
    /// List flows: who talks to whom, in which state, for how long. Works without an agent too.
    Flows(flows::FlowsArgs),
    /// List clients that stay with a backend (`sessionAffinity: ClientIP`). Works without an agent too.
    Affinity(affinity::AffinityArgs),
    /// Say whether an agent can serve this machine, before there is one: kernel, mounts, devices, and whatever else
    /// translates Services. Changes nothing.
    Check(check::CheckArgs),
    /// Say what became of packets, hook by hook or Service by Service. Works without an agent too.
    Counters(counters::CountersArgs),
    /// Show what is going on, Service by Service, on a terminal: new connections, packets and bytes a second, flows. Works without an
    /// agent too.
    Top(top::TopArgs),
    /// Print what the maps in the kernel mean, also while no agent runs. (`bpftool map dump` shows the maps
    /// themselves.)
    Dump(dump::DumpArgs),
    /// Say what becomes of a connection, and why: from this client to this address, by which node, to which backends.
    Explain(Box<explain::ExplainArgs>),
    /// Show every step that packets take through the programs of this node, as they take it.
    Trace(trace::TraceArgs),
    /// Take programs, maps, lb0 and its routes out of the kernel. The agent must not be running.
    Detach(detach::DetachArgs),
}

/// Which instance is meant. Several can run on one machine, each in a network namespace of its own.
#[derive(Args, Clone, Debug)]
struct InstanceArgs {
    /// Name of this instance: of its directories for pins and run-time files.
    #[arg(long, value_name = "NAME", default_value = "lb")]
    instance: String,
    /// A BPF file system; mounted if it is missing.
    #[arg(long, value_name = "DIR", env = "LB_BPFFS", default_value = "/sys/fs/bpf")]
    bpffs: std::path::PathBuf,
    /// Directory for run-time files; the status is written to DIR/INSTANCE/status.json.
    #[arg(long, value_name = "DIR", default_value = "/run/lb")]
    run_dir: std::path::PathBuf,
}

/// Where kernel settings are written.
#[derive(Args, Clone, Debug)]
struct SysctlArgs {
    /// The directory of the kernel's network settings. In a container, where /proc/sys is read-only: where the node's
    /// /proc/sys/net is mounted.
    #[arg(long, value_name = "DIR", env = "LB_SYSCTLS", default_value = Sysctls::DEFAULT)]
    sysctls: std::path::PathBuf,
}

impl From<SysctlArgs> for Sysctls {
    fn from(SysctlArgs { sysctls }: SysctlArgs) -> Self {
        Self::at(&sysctls)
    }
}

/// Which annotations of Services are read.
#[derive(Args, Clone, Debug)]
struct AnnotationArgs {
    /// Annotations of Services by which packets to a load balancer's addresses are left to it, for every client, as
    /// with `ipMode: Proxy`: value true, or onlyLocal (only with externalTrafficPolicy Local). Of several on one
    /// Service the first in this list counts; `none`: nothing is read.
    #[arg(
        long = "pass-through-annotations",
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = Annotations::PASS_THROUGH,
        value_parser = annotation
    )]
    pass_through: Vec<String>,
}

impl From<AnnotationArgs> for Annotations {
    fn from(AnnotationArgs { pass_through }: AnnotationArgs) -> Self {
        let none = pass_through == ["none"];
        Self {
            pass_through: if none { Vec::new() } else { pass_through },
        }
    }
}

/// The name of an annotation, as the API server would take it but for its length.
fn annotation(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (prefix, name) = text.rsplit_once('/').unwrap_or(("x", text));
    let plain = |part: &str| {
        let ends = part.starts_with(char::is_alphanumeric) && part.ends_with(char::is_alphanumeric);
        ends && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if plain(prefix) && plain(name) {
        Ok(text.to_owned())
    } else {
        Err("write names of annotations, such as example.com/pass-through, or only `none`".into())
    }
}

/// How something is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl From<InstanceArgs> for Instance {
    fn from(args: InstanceArgs) -> Self {
        let InstanceArgs {
            instance,
            bpffs,
            run_dir,
        } = args;
        Self {
            name: instance,
            bpffs,
            run_dir,
        }
    }
}

impl Cli {
    /// Carries out the command.
    pub async fn execute(self) -> Result<()> {
        match self.command {
            Command::Run(args) => crate::agent::run(args.config()?).await,
            Command::Status(args) => status::print(&args),
            Command::Services(args) => services::print(&args).await,
            Command::Backends(args) => backends::print(&args).await,
            Command::Flows(args) => flows::print(&args).await,
            Command::Affinity(args) => affinity::print(&args).await,
            Command::Check(args) => check::print(args).await,
            Command::Counters(args) => counters::print(&args).await,
            Command::Top(args) => top::show(&args).await,
            Command::Dump(args) => dump::print(args),
            Command::Explain(args) => explain::print(*args).await,
            Command::Trace(args) => trace::print(args).await,
            Command::Detach(args) => detach::detach(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
