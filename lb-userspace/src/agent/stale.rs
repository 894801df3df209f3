//! UDP flows follow their Service: one whose backend no longer serves is forgotten, so that the next datagram
//! gets another backend. (An established TCP connection stays where it is; a chatty UDP client would stay with
//! a dead backend for ever.) kubernetes e2e: "should be able to preserve UDP traffic when server pod cycles".

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::abi::Protocol;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::cluster::Cluster;
use crate::{
    apply::{Histogram, ROUNDS, Status},
    load::PinDirectory,
    maps::flows::{self, Forward, Removed},
    model::ServicePort,
};

/// Time between two walks of the flow tables: what happens in between is one walk.
const PAUSE: Duration = Duration::from_millis(200);

/// What walks have done since the start: IPv4 and IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stale {
    /// How long they took.
    pub(super) walks: [Histogram; 2],
    /// Flows that they have removed.
    pub(super) removed: [u64; 2],
}

impl Default for Stale {
    fn default() -> Self {
        Self {
            walks: [(); 2].map(|()| Histogram::new(ROUNDS)),
            removed: [0; 2],
        }
    }
}

impl Stale {
    /// Takes in one walk; gives how many flows it has removed.
    fn add(&mut self, walk: [Removed; 2]) -> usize {
        for (family, removed) in walk.iter().enumerate() {
            self.walks[family].observe(removed.took);
            self.removed[family] += removed.flows as u64;
        }
        walk.iter().map(|removed| removed.flows).sum()
    }
}

/// Who may have UDP flows, by where their clients send to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Serving {
    by_address: BTreeMap<(IpAddr, u16), BTreeSet<(IpAddr, u16)>>,
    /// By family (IPv6?) and port: one may be served while the other is not.
    by_node_port: BTreeMap<(bool, u16), BTreeSet<(IpAddr, u16)>>,
}

impl Serving {
    /// Who serves these Service ports.
    pub fn of<'a>(ports: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut all = Self::default();
        for port in ports.into_iter().filter(|port| port.id.protocol == Protocol::Udp) {
            for frontend in &port.frontends {
                let serving = match frontend.address {
                    Some(address) => all.by_address.entry((address, frontend.port)).or_default(),
                    None => all.by_node_port.entry((port.id.ipv6, frontend.port)).or_default(),
                };
                serving.extend(port.serving.iter().copied());
            }
        }
        all
    }

    /// Whether a flow leads to somebody who no longer serves it. Where nobody serves at all there is nobody
    /// better either, and the flow stays.
    #[must_use]
    pub fn has_lost(&self, flow: &Forward) -> bool {
        if flow.protocol != Protocol::Udp as u8 {
            return false;
        }
        let serving = self.by_address.get(&flow.frontend).or_else(|| {
            self.by_node_port
                .get(&(flow.frontend.0.is_ipv6(), flow.frontend.1))
        });
        match serving {
            Some(serving) => !serving.is_empty() && !serving.contains(&flow.backend),
            None => true, // the Service itself is gone
        }
    }

    /// Whether everything that `before` allowed is still allowed, and no flow has been left over for want of anybody
    /// better, who is there now.
    fn covers(&self, before: &Self) -> bool {
        let within = |now: Option<&BTreeSet<_>>, then: &BTreeSet<_>| {
            now.is_some_and(|now| then.is_subset(now) && (!then.is_empty() || now.is_empty()))
        };
        before
            .by_address
            .iter()
            .all(|(key, then)| within(self.by_address.get(key), then))
            && before
                .by_node_port
                .iter()
                .all(|(key, then)| within(self.by_node_port.get(key), then))
    }
}

/// Follows the cluster until it ends. `inherited`: there are flows of a process before this one, which may lead to
/// endpoints that went while no agent ran.
pub(super) async fn follow(
    mut cluster: watch::Receiver<Cluster>,
    mut status: watch::Receiver<Status>,
    pins: PinDirectory,
    inherited: bool,
    stale: watch::Sender<Stale>,
) {
    let mut known = Serving::default();
    let mut first = inherited;
    loop {
        let (serving, generation) = {
            let cluster = cluster.borrow_and_update();
            (Serving::of(cluster.served.values().flatten()), cluster.generation)
        };
        if first || !serving.covers(&known) {
            // Only when new flows no longer get there: the other way round, one could come back.
            if status.wait_for(|status| status.live >= generation).await.is_err() {
                return;
            }
            let (pins, serving) = (pins.clone(), serving.clone());
            let removed =
                spawn_blocking(move || flows::remove(|name| pins.map(name), |flow| serving.has_lost(flow)));
            match removed.await {
                Err(_) => {}
                Ok(Ok(walk)) => {
                    let mut removed = 0;
                    stale.send_modify(|stale| removed = stale.add(walk));
                    if removed > 0 {
                        info!(
                            removed,
                            "UDP flows to endpoints that no longer serve are forgotten"
                        );
                    }
                }
                Ok(Err(error)) => {
                    warn!(%error, "UDP flows to endpoints that no longer serve cannot be removed");
                }
            }
            sleep(PAUSE).await;
        }
        first = false;
        known = serving;
        if cluster.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> (IpAddr, u16) {
        let socket: std::net::SocketAddr = text.parse().expect("an address and a port");
        (socket.ip(), socket.port())
    }

    fn serving() -> Serving {
        let pods = BTreeSet::from([at("10.0.0.2:53"), at("10.0.0.3:53")]);
        Serving {
            by_address: BTreeMap::from([
                (at("172.30.0.10:53"), pods.clone()),
                (at("172.30.0.20:53"), BTreeSet::new()),
            ]),
            by_node_port: BTreeMap::from([((false, 30_053), pods), ((true, 30_054), BTreeSet::new())]),
        }
    }

    #[test]
    fn a_flow_is_lost_if_its_backend_no_longer_serves_and_another_does() {
        let flow = |protocol: Protocol, frontend: &str, backend: &str| Forward {
            protocol: protocol as u8,
            frontend: at(frontend),
            backend: at(backend),
        };
        for (lost, why, flow) in [
            (
                false,
                "its backend serves",
                flow(Protocol::Udp, "172.30.0.10:53", "10.0.0.2:53"),
            ),
            (
                true,
                "its backend is gone",
                flow(Protocol::Udp, "172.30.0.10:53", "10.0.0.9:53"),
            ),
            (
                true,
                "its backend's port is gone",
                flow(Protocol::Udp, "172.30.0.10:53", "10.0.0.2:54"),
            ),
            (
                false,
                "TCP stays",
                flow(Protocol::Tcp, "172.30.0.10:53", "10.0.0.9:53"),
            ),
            (
                false,
                "nobody serves",
                flow(Protocol::Udp, "172.30.0.20:53", "10.0.0.9:53"),
            ),
            (
                true,
                "the Service is gone",
                flow(Protocol::Udp, "172.30.0.99:53", "10.0.0.2:53"),
            ),
            (
                false,
                "any node's port",
                flow(Protocol::Udp, "192.168.0.1:30053", "10.0.0.2:53"),
            ),
            (
                true,
                "any node's port, backend gone",
                flow(Protocol::Udp, "192.168.0.7:30053", "10.0.0.9:53"),
            ),
            (
                true,
                "the port is the other family's",
                flow(Protocol::Udp, "192.168.0.7:30054", "10.0.0.9:53"),
            ),
        ] {
            assert_eq!(serving().has_lost(&flow), lost, "{why}: {flow:?}");
        }
    }

    #[test]
    fn only_what_is_taken_away_needs_a_walk() {
        let full = serving();
        let mut fewer = serving();
        fewer.by_node_port.clear();
        assert!(full.covers(&fewer) && full.covers(&full));
        assert!(!fewer.covers(&full));
    }

    #[test]
    fn what_was_left_for_want_of_anybody_better_needs_a_walk_once_there_is_somebody() {
        let before = serving();
        let mut after = serving();
        let none = after.by_address.get_mut(&at("172.30.0.20:53"));
        none.expect("it is one of them").insert(at("10.0.0.4:53"));
        assert!(!after.covers(&before));
        assert!(!before.covers(&after));
    }
}
