//! A running lab: builds a topology, gives access to its places, and removes everything when dropped.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    addr::{Cidr, Proto},
    cleanup, configure, links,
    netns::ip_batch,
    pins,
    place::Place,
    process::Child,
    server::Server,
    topology::{NodeSpec, Topology},
    wiring::{self, Wiring},
};

/// A small cluster that exists. Dropping it removes its namespaces, processes, pins, cgroups and files.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

/// What is torn down once, by whoever comes first: the owner or a signal.
#[derive(Debug)]
pub(crate) struct Inner {
    prefix: String,
    topology: Topology,
    places: BTreeMap<String, Place>,
    servers: Mutex<Vec<(String, Server)>>,
    children: Mutex<Vec<Weak<Child>>>,
    child_number: AtomicU32,
    keep: AtomicBool,
    gone: AtomicBool,
}

/// Removes what a half-built lab leaves.
struct Unbuilt<'a>(Option<&'a str>);

impl Drop for Unbuilt<'_> {
    fn drop(&mut self) {
        if let Some(prefix) = self.0 {
            cleanup::remove(prefix, true);
        }
    }
}

impl Lab {
    /// Builds the topology. Needs root. Takes some hundred milliseconds.
    pub fn build(topology: &Topology) -> Result<Self> {
        topology.check()?;
        let lab = Self::make(topology, |prefix| configure::build(topology, prefix))?;
        if let Some(first) = topology.nodes.first() {
            for client in &topology.clients {
                lab.steer(&client.name, &first.name)?;
            }
        }
        Ok(lab)
    }

    /// Builds what is wired by hand. It has places, but neither nodes nor clients: [`Lab::node`], [`Lab::steer`]
    /// and [`Lab::serve`] are of no use in it.
    pub fn wire(wiring: &Wiring) -> Result<Self> {
        wiring.check()?;
        let topology = Topology {
            tag: wiring.tag.clone(),
            ..Topology::new()
        };
        Self::make(&topology, |prefix| wiring::build(wiring, prefix))
    }

    fn make(
        topology: &Topology,
        build: impl FnOnce(&str) -> Result<BTreeMap<String, Place>>,
    ) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it is made of network namespaces");
        }
        let building = cleanup::building();
        let prefix = cleanup::new_prefix(&topology.tag)?;
        let mut unbuilt = Unbuilt(Some(&prefix));
        let folder = cleanup::folder(&prefix);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let places = build(&prefix).context("cannot build the lab")?;
        unbuilt.0 = None;
        let inner = Arc::new(Inner {
            prefix: prefix.clone(),
            topology: topology.clone(),
            places,
            servers: Mutex::default(),
            children: Mutex::default(),
            child_number: AtomicU32::new(0),
            keep: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        cleanup::register(&inner);
        drop(building);
        Ok(Self { inner })
    }

    /// Removes labs with this tag whose process has ended (crashed, or kept on purpose); returns how many.
    pub fn destroy_leftovers(tag: &str) -> usize {
        cleanup::destroy_leftovers(tag)
    }

    /// What it was built from.
    pub fn topology(&self) -> &Topology {
        &self.inner.topology
    }

    /// What all its names on this machine start with.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// Its folder for logs and captures, removed at the end (kept if a test panics).
    pub fn folder(&self) -> PathBuf {
        cleanup::folder(&self.inner.prefix)
    }

    /// The node, pod or client of this name, or [`crate::FABRIC`].
    pub fn at(&self, name: &str) -> Result<&Place> {
        let known = || self.inner.places.keys().cloned().collect::<Vec<_>>().join(", ");
        self.inner
            .places
            .get(name)
            .with_context(|| format!("no {name:?} in this lab: there are {}", known()))
    }

    /// All places.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.inner.places.values()
    }

    /// The node of this name, as it was specified.
    pub fn node(&self, name: &str) -> Result<&NodeSpec> {
        let node = self.inner.topology.nodes.iter().find(|node| node.name == name);
        node.with_context(|| format!("{name:?} is not a node"))
    }

    /// Sends what `client` sends to `prefix` to the node `via`; replaces an earlier route.
    pub fn route(&self, client: &str, prefix: Cidr, via: &str) -> Result<()> {
        let gateway = self.node(via)?.addr.of(prefix.family());
        self.change_route(client, &format!("route replace {prefix} via {gateway} dev br0"))
    }

    /// Takes a route of [`Lab::route`] back.
    pub fn unroute(&self, client: &str, prefix: Cidr) -> Result<()> {
        self.change_route(client, &format!("route del {prefix}"))
    }

    /// Sends all that `client` sends to Services (ClusterIPs, load-balancer addresses, external IPs) to the
    /// node `via`. A new lab does so with its first node.
    pub fn steer(&self, client: &str, via: &str) -> Result<()> {
        let plan = &self.inner.topology.plan;
        let ranges = [plan.services, plan.vips, plan.external];
        ranges
            .iter()
            .flat_map(|range| range.both())
            .try_for_each(|range| self.route(client, range, via))
    }

    fn change_route(&self, client: &str, command: &str) -> Result<()> {
        let known = self.inner.topology.clients.iter().find(|c| c.name == client);
        let table = links::CLIENT_TABLE
            + u16::from(
                known
                    .with_context(|| format!("{client:?} is not a client"))?
                    .index,
            );
        let fabric = self.at(crate::FABRIC)?;
        ip_batch(
            &["-n", fabric.netns().name()],
            &format!("{command} table {table}\n"),
        )
    }

    /// Serves on all addresses of a place until the lab ends or [`Lab::stop_serving`].
    pub fn serve(&self, name: &str, proto: Proto, port: u16) -> Result<()> {
        let server = self.at(name)?.serve(proto, port)?;
        self.inner.servers().push((name.into(), server));
        Ok(())
    }

    /// Serves TCP and UDP on `port` in every pod.
    pub fn serve_in_pods(&self, port: u16) -> Result<()> {
        for (_, pod) in self.inner.topology.pods() {
            for proto in Proto::BOTH {
                self.serve(&pod.name, proto, port)?;
            }
        }
        Ok(())
    }

    /// Stops all that [`Lab::serve`] started at a place; its connections are closed.
    pub fn stop_serving(&self, name: &str) {
        self.inner.servers().retain(|(place, _)| place != name);
    }

    /// Starts a process in the network namespace of a place. It ends when the value is dropped, or with the lab.
    pub fn spawn(&self, name: &str, argv: &[impl AsRef<OsStr>], env: &[(&str, &str)]) -> Result<Arc<Child>> {
        let place = self.at(name)?;
        let program = argv.first().map(|p| {
            Path::new(p.as_ref())
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
        });
        let number = self.inner.child_number.fetch_add(1, Ordering::Relaxed);
        let log = self
            .folder()
            .join(format!("{name}-{}-{number}.log", program.unwrap_or_default()));
        let outlive = self.inner.keep.load(Ordering::Relaxed);
        let child = Arc::new(Child::start(place.netns(), argv, env, &log, outlive)?);
        if outlive {
            self.note_survivor(&child)?;
        }
        self.inner.children().push(Arc::downgrade(&child));
        Ok(child)
    }

    /// What is needed to end the process after this one has ended.
    fn note_survivor(&self, child: &Arc<Child>) -> Result<()> {
        let path = self.folder().join(cleanup::PIDS);
        let start = cleanup::start_time(child.pid()).unwrap_or_default();
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{} {start}", child.pid()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A folder on bpffs for the pins of a node, created and removed by the lab. Mounts bpffs if need be.
    pub fn pin_dir(&self, node: &str) -> Result<PathBuf> {
        pins::folder(&format!("{}{node}", self.inner.prefix))
    }

    /// The cgroup (version 2) of what acts for a node and its pods.
    pub fn cgroup(&self, node: &str) -> Result<PathBuf> {
        let root = cleanup::cgroup_root().context("cgroup v2 is not mounted: see /proc/self/mountinfo")?;
        let path = root.join(format!("{}{node}", self.inner.prefix));
        ensure!(path.is_dir(), "{node} has no cgroup");
        Ok(path)
    }

    /// Whether the kernel can show switched frames to the packet filter; without, the topology's
    /// `bridge_nf_call` has no effect.
    pub fn has_bridge_netfilter(&self) -> bool {
        configure::has_bridge_netfilter()
    }

    /// From now on the lab stays when this value is dropped, and processes started from now on live on.
    /// [`Lab::destroy_leftovers`] removes them later. Servers on threads end with this process.
    pub fn keep(&self) {
        self.inner.keep.store(true, Ordering::Relaxed);
    }

    /// How to enter a place from a shell, for people.
    pub fn how_to_enter(&self, name: &str) -> Result<String> {
        Ok(format!(
            "nsenter --net={}",
            self.at(name)?.netns().path().display()
        ))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.inner.tear_down();
    }
}

impl Inner {
    fn servers(&self) -> MutexGuard<'_, Vec<(String, Server)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn children(&self) -> MutexGuard<'_, Vec<Weak<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends and removes everything, once.
    pub(crate) fn tear_down(&self) {
        if self.keep.load(Ordering::Relaxed) || self.gone.swap(true, Ordering::Relaxed) {
            return;
        }
        self.children()
            .drain(..)
            .filter_map(|child| child.upgrade())
            .for_each(|child| child.kill());
        self.servers().clear();
        let panicking = std::thread::panicking();
        cleanup::remove(&self.prefix, !panicking);
        if panicking {
            eprintln!(
                "logs of the lab are kept in {}",
                cleanup::folder(&self.prefix).display()
            );
        }
    }
}
