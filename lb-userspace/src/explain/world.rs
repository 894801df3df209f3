//! One node's maps, as its agent would fill them from these objects: the same model, the same planner, the same writes.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::{Protocol, V4, V6};

use super::{
    cluster::Cluster,
    facts::{self, WAYS},
    inquiry::{Finding, Node, Packet, inquire},
};
use crate::{
    apply::write,
    maps::{Dump, InMemory, MapError, fake::Fake},
    model::{DesiredState, Index, NodeFacts, NodeIdentity, NodeObject, ServicePort, is_inside},
    plan::{PlanSettings, Planner},
};

/// Rounds of writes after which nothing will get settled any more: two are enough where no write fails.
const ROUNDS: usize = 16;

/// One node, ready to be asked.
#[derive(Debug)]
pub(super) struct World {
    pub(super) facts: NodeFacts,
    pub(super) desired: DesiredState,
    contents: Dump,
    service_cidrs: Vec<(IpAddr, u8)>,
}

impl World {
    /// The node `node` in `cluster`.
    pub(super) fn new(cluster: &Cluster, node: &NodeObject) -> Self {
        let mut index = Index::new(NodeIdentity::new(&node.name));
        cluster.changes().for_each(|change| index.apply(change));
        let mut desired = index.desired();
        let facts = facts::of(cluster, node);
        let mut planner = Planner::new(PlanSettings {
            service_cidrs: cluster.service_cidrs.clone(),
            ..PlanSettings::default()
        });
        planner.node_facts(&facts, Duration::ZERO);
        planner.desired(&desired, Duration::ZERO);
        let (maps, mut store) = Fake::plain();
        for _ in 0..ROUNDS {
            planner.execute(Duration::ZERO, |op| write(&mut store, op));
            if planner.is_settled() {
                break;
            }
        }
        let contents = std::mem::take(&mut maps.world().contents);
        // Those that do not fit.
        desired.problems.extend(planner.problems());
        Self {
            facts,
            desired,
            contents,
            service_cidrs: cluster.service_cidrs.clone(),
        }
    }

    /// What the node makes of a packet.
    pub(super) fn inquire(&self, packet: &Packet) -> Result<Option<Finding>, MapError> {
        let dump = &self.contents;
        let route = |address: IpAddr| Some(facts::route(&self.facts, address, self.is_service(address)));
        // A match on the family, not on the address: the rest is one code.
        if packet.to.is_ipv4() {
            let family = &dump.v4;
            inquire::<V4>(node(&InMemory { dump, family }, &route), packet)
        } else {
            let family = &dump.v6;
            inquire::<V6>(node(&InMemory { dump, family }, &route), packet)
        }
    }

    /// Whether the agent would route an address into `lb0`.
    fn is_service(&self, address: IpAddr) -> bool {
        let mut frontends = self.desired.services.iter().flat_map(|port| &port.frontends);
        self.service_cidrs.iter().any(|cidr| is_inside(address, *cidr))
            || frontends.any(|frontend| frontend.address == Some(address))
    }

    /// The Service port that an address is a frontend of.
    pub(super) fn port_at(&self, to: SocketAddr, protocol: Protocol) -> Option<&ServicePort> {
        let is_node = self.facts.own.contains(&to.ip()) || self.desired.other_nodes.contains(&to.ip());
        let of_family = |port: &&ServicePort| port.id.ipv6 == to.is_ipv6() && port.id.protocol == protocol;
        let find = |address: Option<IpAddr>| {
            let mut ports = self.desired.services.iter().filter(of_family);
            ports.find(|port| {
                let mut frontends = port.frontends.iter();
                frontends.any(|frontend| frontend.address == address && frontend.port == to.port())
            })
        };
        find(Some(to.ip())).or_else(|| find(None).filter(|_| is_node))
    }
}

fn node<'a, F: lb_common::net::Net>(
    maps: &'a InMemory<'a, F>,
    route: super::recorder::Route<'a>,
) -> Node<'a, F> {
    Node {
        maps,
        route,
        ways: WAYS,
        tick: 0,
    }
}
