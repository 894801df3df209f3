//! What a plan depends on besides the cluster and the node: settings of the agent.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use lb_common::abi::Node;

use super::capacities::Capacities;

/// Settings of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanSettings {
    /// Seed of tables and flow hash: the same on all nodes of a cluster.
    pub seed: u32,
    /// Ports reserved for SNAT.
    pub snat_ports: RangeInclusive<u16>,
    /// Masquerade all ClusterIP traffic.
    pub masquerade_all: bool,
    /// Sources can be told to be this node's pods. If not, pods are clients like those outside, and nobody's
    /// ClusterIP traffic is masqueraded for being none of a pod.
    pub pod_detection: bool,
    /// Serve NodePorts on 127.0.0.1 too, masqueraded.
    pub localhost_nodeports: bool,
    /// Ranges that Services' ClusterIPs are from: address and length in bits.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// How long an address is still recognised after its last frontend has gone, for the sake of
    /// established flows.
    pub linger: Duration,
    /// The kernel's number (cookie) of this node's network namespace; 0: not known.
    pub netns: u64,
    /// Connections of pods are translated at their sockets, where programs are there.
    pub connect_pods: bool,
    /// Timer interrupts of the kernel a second.
    pub hertz: u32,
    /// How much the maps hold.
    pub capacities: Capacities,
}

impl PlanSettings {
    /// Length of a tick of the data path's clock.
    #[must_use]
    pub fn tick(&self) -> Duration {
        let hertz = self.hertz.max(1);
        Duration::from_secs(1 << Node::tick_shift(hertz)) / hertz
    }
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            snat_ports: 61_000..=65_535,
            masquerade_all: false,
            pod_detection: true,
            localhost_nodeports: false,
            service_cidrs: Vec::new(),
            // As long as an idle TCP flow is remembered.
            linger: Duration::from_secs(2 * 3600),
            netns: 0,
            connect_pods: true,
            hertz: 250,
            capacities: Capacities::default(),
        }
    }
}
