//! Makes events happen to agents.

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use lb_lab::{Signal, wait_for};

use super::{
    api::Server,
    events::{Event, Kind},
};
use crate::cluster::{Cluster, SETTLED, agent_path};

/// How long an agent may go on until a plan comes along that is large enough to be killed within.
const PLAN: Duration = Duration::from_secs(3);
/// How long the traffic is watched behind each event.
const BEHIND: Duration = Duration::from_millis(200);
/// How long is waited between two looks at an agent that starts.
const ASK: Duration = Duration::from_millis(150);
/// The node whose agent follows the API server, if there is one.
pub(super) const FOLLOWER: usize = 1;

/// What an agent says in its log when it is killed within a plan, see `maps/killed.rs`.
const KILLED: &str = "killed within a plan";

/// What agents are started with.
pub(super) struct Runner {
    nodes: Vec<Node>,
    builds: Builds,
    server: Option<Server>,
    manifests: String,
}

struct Node {
    text: bool,
    layout: bool,
    hook: &'static str,
    /// The file that has the agent kill itself.
    kill: PathBuf,
}

/// Agents that differ from the one under test; without one, that is started again.
struct Builds {
    text: Option<PathBuf>,
    layout: Option<PathBuf>,
}

impl Builds {
    fn from_env() -> Self {
        let of = |variable| env::var_os(variable).map(PathBuf::from);
        Self {
            text: of("LB_AGENT_TEXT"),
            layout: of("LB_AGENT_LAYOUT"),
        }
    }
}

/// What became of an event.
pub(super) struct Happened {
    /// Whether it was what it should have been.
    pub(super) done: bool,
    /// How long no agent ran there, or no server; and how long until the next one served.
    pub(super) away: Duration,
    pub(super) up: Duration,
}

impl Runner {
    /// Starts all agents anew, each with what it needs to be ended by events.
    pub(super) fn new(cluster: &mut Cluster, server: Option<Server>) -> Self {
        let nodes: Vec<_> = cluster
            .lab
            .topology()
            .nodes
            .iter()
            .map(|n| n.name.clone())
            .collect();
        let folder = cluster.lab.folder();
        let runner = Self {
            nodes: nodes
                .iter()
                .map(|name| Node {
                    text: false,
                    layout: false,
                    hook: "tc",
                    kill: folder.join(format!("{name}-kill")),
                })
                .collect(),
            builds: Builds::from_env(),
            server,
            manifests: cluster.manifests().to_string_lossy().into_owned(),
        };
        for node in 0..nodes.len() {
            cluster.end_agent(node, Signal::SIGTERM);
            runner.start(cluster, node);
        }
        runner
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether an API server is followed.
    pub(super) fn has_server(&self) -> bool {
        self.server.is_some()
    }

    /// Changes that the API server has taken in.
    pub(super) fn taken(&self) -> u64 {
        let taken = self.server.as_ref().map(|server| &server.mirror.taken);
        taken.map_or(0, |taken| taken.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Whether such events can be made here.
    pub(super) fn can(&self, kind: Kind) -> bool {
        match kind {
            Kind::Text => self.builds.text.is_some(),
            Kind::Layout => self.builds.layout.is_some(),
            Kind::ApiServer => self.server.is_some(),
            _ => true,
        }
    }

    /// Starts an agent and waits until it serves.
    fn start(&self, cluster: &mut Cluster, node: usize) {
        self.launch(cluster, node);
        self.wait(cluster, node);
    }

    fn launch(&self, cluster: &mut Cluster, node: usize) {
        let Node {
            text,
            layout,
            hook,
            kill,
        } = &self.nodes[node];
        let other = |wanted: &bool, build: &Option<PathBuf>| build.clone().filter(|_| *wanted);
        let binary = other(layout, &self.builds.layout).or_else(|| other(text, &self.builds.text));
        cluster.set_binary(binary.as_deref().unwrap_or(agent_path()));
        cluster.set_hook(hook);
        cluster.set_argument("--test-kill-within-plan", &kill.to_string_lossy());
        match &self.server {
            Some(server) if node == FOLLOWER => {
                let kubeconfig = server.kubeconfig();
                cluster.set_source(&["kubernetes", "--kubeconfig", &kubeconfig.to_string_lossy()]);
            }
            _ => cluster.set_source(&["dir", "--manifests", &self.manifests]),
        }
        cluster.start_agent(node);
    }

    fn wait(&self, cluster: &Cluster, node: usize) {
        let up = wait_for(SETTLED, "the agent serves", || {
            // To ask is to start a program: not all the time, beside an agent that needs the processor.
            thread::sleep(ASK);
            cluster.is_up(node)
        });
        if let Err(error) = up {
            panic!(
                "{error}\nstatus: {:#}\nlog: {}",
                cluster.status(node),
                cluster.log(node)
            );
        }
    }

    /// Makes an event happen.
    pub(super) fn make(&mut self, cluster: &mut Cluster, event: &Event) -> Happened {
        let node = event.node;
        let (mut done, began) = (true, Instant::now());
        let ended = match event.kind {
            Kind::ApiServer => return self.kill_server(event),
            Kind::KillWithinPlan => {
                done = self.kill_within(cluster, node, event.writes, PLAN);
                Instant::now()
            }
            Kind::Restart | Kind::KillWithinFilling => {
                cluster.end_agent(node, Signal::SIGTERM);
                began
            }
            Kind::Kill | Kind::Text | Kind::Layout | Kind::Hook => {
                cluster.end_agent(node, Signal::SIGKILL);
                began
            }
        };
        match event.kind {
            Kind::Text => self.nodes[node].text ^= true,
            Kind::Layout => self.nodes[node].layout ^= true,
            _ => {}
        }
        self.nodes[node].hook = event.hook;
        if event.kind == Kind::KillWithinFilling {
            fs::write(&self.nodes[node].kill, event.writes.to_string())
                .expect("the lab's folder can be written");
            self.launch(cluster, node);
            done = self.kill_within(cluster, node, event.writes, SETTLED);
        }
        thread::sleep(event.away);
        let away = ended.elapsed();
        self.start(cluster, node);
        let up = ended.elapsed();
        thread::sleep(BEHIND);
        Happened { done, away, up }
    }

    /// Has the agent kill itself within the next plan of more than `writes` writes, or of fewer if none comes within `limit`.
    fn kill_within(&self, cluster: &mut Cluster, node: usize, writes: u64, limit: Duration) -> bool {
        for (writes, limit) in [(writes, limit), (1, SETTLED)] {
            fs::write(&self.nodes[node].kill, writes.to_string()).expect("the lab's folder can be written");
            if self.dies(cluster, node, limit) {
                return true;
            }
        }
        let _ = fs::remove_file(&self.nodes[node].kill);
        cluster.end_agent(node, Signal::SIGKILL);
        false
    }

    /// Whether the agent dies within a plan, as its log then says.
    fn dies(&self, cluster: &mut Cluster, node: usize, limit: Duration) -> bool {
        let Some(log) = cluster.ends(node, limit) else {
            return false;
        };
        fs::remove_file(&self.nodes[node].kill).expect("it was written");
        assert!(
            log.contains(KILLED),
            "the agent of node{} died of something else: {log}",
            node + 1
        );
        true
    }

    fn kill_server(&mut self, event: &Event) -> Happened {
        let server = self.server.as_mut().expect("without one there is no such event");
        let began = Instant::now();
        server.kill();
        thread::sleep(event.away);
        let away = began.elapsed();
        server.run();
        let up = began.elapsed();
        thread::sleep(BEHIND);
        Happened { done: true, away, up }
    }
}
