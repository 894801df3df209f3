//! Storms of changes, all the way from events to (in-memory) maps: right at the end, and no needless work.

use std::{
    net::Ipv4Addr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_common::abi::Protocol;

use super::*;
use crate::{
    apply::{Reconciler, Status},
    maps::{counted::Writes, fake::Fake},
    model::{Change, Endpoint, EndpointPort, EndpointSlice, Port, Service, SourceRanges},
    plan::PlanSettings,
};

/// Everything between source and maps.
struct Line {
    events: mpsc::Sender<Event>,
    cluster: watch::Receiver<Cluster>,
    status: watch::Receiver<Status>,
    fake: Fake,
    writes: Writes,
    reconciler: JoinHandle<()>,
}

impl Line {
    fn start() -> Self {
        let (events, received) = mpsc::channel(64);
        let (changes, for_reconciler) = apply::channel();
        let (sender, cluster) = watch::channel(Cluster::default());
        let (fake, store) = Fake::new();
        let writes = Writes::default();
        let store = store.wrapped(&writes);
        let reconciler = Reconciler::new(PlanSettings::default(), store, changes.backlog());
        let status = reconciler.status();
        tokio::spawn(follow(NodeIdentity::new("n1"), received, changes, sender));
        Self {
            events,
            cluster,
            status,
            fake,
            writes,
            reconciler: std::thread::spawn(move || reconciler.run(&for_reconciler)),
        }
    }

    async fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.events
                .send(Event::Change(change))
                .await
                .expect("it is followed");
        }
    }

    /// Waits until the maps have followed to a state of the cluster in which `wanted` holds.
    async fn settle(&mut self, wanted: impl Fn(&Cluster) -> bool) {
        let limit = Duration::from_secs(30);
        let settled = tokio::time::timeout(limit, async {
            let generation = {
                let cluster = self
                    .cluster
                    .wait_for(|cluster| cluster.synced && wanted(cluster))
                    .await;
                cluster.expect("it is followed").generation
            };
            let live = self.status.wait_for(|status| status.live >= generation).await;
            live.expect("it is followed");
        });
        assert!(settled.await.is_ok(), "{:?}", *self.status.borrow());
    }

    fn written(&self) -> u64 {
        self.writes.list().iter().map(|map| map.puts + map.removals).sum()
    }

    /// The backends in the maps, in words.
    fn backends(&self) -> BTreeSet<String> {
        let world = self.fake.world();
        let backends = world.contents.v4.backends.values();
        backends.map(|backend| format!("{backend:?}")).collect()
    }

    async fn end(self) {
        drop(self.events);
        let reconciler = self.reconciler;
        let ended = tokio::task::spawn_blocking(move || reconciler.join()).await;
        assert!(
            ended.is_ok_and(|ended| ended.is_ok()),
            "the reconciler ends with its changes"
        );
        assert_eq!(self.fake.world().violations, Vec::<String>::new());
    }
}

fn service(name: &str, octet: u8) -> Change {
    Change::ServiceApplied(Service {
        key: ObjectKey::new("shop", name),
        created: None,
        cluster_ips: vec![Ipv4Addr::new(172, 30, 0, octet).into()],
        passed_by: None,
        external_ips: vec![],
        ingress: vec![],
        ports: vec![Port {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        internal_local: false,
        external_local: false,
        affinity: None,
        source_ranges: SourceRanges::default(),
        health_check_port: None,
    })
}

/// Endpoints `first` to `last` of a Service, all ready.
fn slice(name: &str, service: &str, numbers: std::ops::Range<u32>) -> Change {
    let endpoint = |number: u32| Endpoint {
        address: Ipv4Addr::from_bits(0x0a01_0000 + number).into(),
        node: Some("n1".into()),
        ready: true,
        serving: true,
        terminating: false,
        for_zones: [].into(),
        for_nodes: [].into(),
    };
    Change::SliceApplied(EndpointSlice {
        key: ObjectKey::new("shop", name),
        service: service.into(),
        ipv6: false,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: numbers.map(endpoint).collect(),
        triggered: None,
    })
}

fn backends(cluster: &Cluster, service: &str) -> usize {
    let ports = cluster.served.get(&ObjectKey::new("shop", service));
    ports.into_iter().flatten().map(|port| port.backends.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_of_one_object_end_in_the_last_and_cost_few_writes() {
    let mut line = Line::start();
    line.tell([
        service("web", 1),
        slice("web-1", "web", 1..2),
        service("other", 2),
    ])
    .await;
    line.events.send(Event::Synced).await.expect("it is followed");
    line.settle(|cluster| backends(cluster, "web") == 1).await;
    let (before, one_change) = {
        let before = line.written();
        line.tell([slice("web-1", "web", 1..3)]).await;
        line.settle(|cluster| backends(cluster, "web") == 2).await;
        (line.written(), line.written() - before)
    };
    let began = Instant::now();
    // From one to two endpoints and back, a thousand times, and then to three.
    let flapping = (0..1000).map(|round| slice("web-1", "web", 1..2 + round % 2));
    line.tell(flapping).await;
    line.tell([slice("web-1", "web", 1..4)]).await;
    line.settle(|cluster| backends(cluster, "web") == 3).await;
    // A round every 25 ms at most, each with the writes of one change at most.
    let rounds = began.elapsed().as_millis() as u64 / 25 + 2;
    let written = line.written() - before;
    let limit = rounds * (one_change + 4);
    assert!(
        written <= limit,
        "{written} writes for {rounds} rounds of {one_change}"
    );
    line.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_endpoints_come_before_or_after_their_service_and_one_more_costs_little() {
    let mut states = Vec::new();
    for service_first in [true, false] {
        let mut line = Line::start();
        let slices = (0..20).map(|n| slice(&format!("web-{n}"), "web", 100 * n + 1..100 * n + 101));
        if service_first {
            line.tell([service("web", 1)]).await;
            line.tell(slices).await;
        } else {
            line.tell(slices).await;
            line.events.send(Event::Synced).await.expect("it is followed");
            line.settle(|_| true).await;
            assert_eq!(
                line.status.borrow().counts.backends,
                0,
                "whose they are is not known"
            );
            line.tell([service("web", 1)]).await;
        }
        line.events.send(Event::Synced).await.expect("it is followed");
        line.settle(|cluster| backends(cluster, "web") == 2000).await;
        assert_eq!(line.status.borrow().counts.backends, 2000);

        // A slice takes over another's endpoints: both hold them for a while. Nothing is to be written.
        let before = line.written();
        line.tell([
            slice("web-new", "web", 1..101),
            Change::SliceDeleted(ObjectKey::new("shop", "web-0")),
        ])
        .await;
        line.settle(|cluster| cluster.generation > 0 && backends(cluster, "web") == 2000)
            .await;
        // The move may still be under way: the next change settles behind it.
        line.tell([service("marker", 2)]).await;
        line.settle(|cluster| cluster.served.contains_key(&ObjectKey::new("shop", "marker")))
            .await;
        let moved = line.written() - before;
        assert!(moved < 20, "{moved} writes though no endpoint came or went");
        states.push(line.backends());
        line.end().await;
    }
    assert_eq!(states[0].len(), 2000);
    assert!(states[0] == states[1], "the order of arrival shows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_in_any_order_before_the_first_complete_lists_write_nothing() {
    let mut line = Line::start();
    line.tell([
        slice("web-1", "web", 1..3),
        Change::ServiceDeleted(ObjectKey::new("shop", "web")),
        service("web", 1),
        Change::SliceDeleted(ObjectKey::new("shop", "web-1")),
        slice("web-1", "other", 1..3),
        slice("web-2", "web", 5..6),
    ])
    .await;
    // All of them are taken in: the channel is emptied before the status is told.
    line.events
        .send(Event::Status(SourceStatus {
            errors: 1,
            ..SourceStatus::default()
        }))
        .await
        .expect("it is followed");
    line.cluster
        .wait_for(|cluster| cluster.source.errors == 1)
        .await
        .expect("it is followed");
    assert_eq!((line.written(), line.status.borrow().received), (0, 0));
    line.events.send(Event::Synced).await.expect("it is followed");
    line.settle(|cluster| backends(cluster, "web") == 1).await;
    line.end().await;
}
