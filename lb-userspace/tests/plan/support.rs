//! A planner with maps in memory, and a node to plan for.

use std::{collections::BTreeMap, time::Duration};

use lb_common::abi::{DeviceKind, FrontendKind, Protocol};
use lb_userspace::{
    apply::write,
    maps::{
        Dump, MapStore,
        fake::{Fake, World},
    },
    model::{
        BackendEndpoint, DesiredState, DeviceFacts, FrontendAddress, NodeFacts, ServicePort, ServicePortId,
    },
    plan::{PlanSettings, Planner},
};

/// How long addresses linger in these tests.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// A planner, the maps it writes, and a clock that moves by hand.
pub(crate) struct Bench {
    pub(crate) planner: Planner,
    pub(crate) fake: Fake,
    pub(crate) now: Duration,
    store: MapStore,
}

impl Bench {
    pub(crate) fn new(settings: PlanSettings) -> Self {
        let (fake, store) = Fake::new();
        Self {
            planner: Planner::new(settings),
            fake,
            now: Duration::ZERO,
            store,
        }
    }

    /// One round; how many writes failed.
    pub(crate) fn round(&mut self) -> usize {
        self.planner
            .execute(self.now, |op| write(&mut self.store, op))
            .len()
    }

    /// Rounds until nothing is left, however many writes fail. (What belongs together has to be written in one round: if
    /// every third write fails, sixteen of them succeed together once in 660 rounds.)
    pub(crate) fn settle(&mut self) {
        for _ in 0..20_000 {
            self.round();
            if self.planner.is_settled() {
                return;
            }
        }
        panic!(
            "nothing gets settled; the log ends with {:#?}",
            self.log_from(self.log_length().saturating_sub(20))
        );
    }

    pub(crate) fn desired(&mut self, state: &DesiredState) {
        self.planner.desired(state, self.now);
    }

    pub(crate) fn facts(&mut self, facts: &NodeFacts) {
        self.planner.node_facts(facts, self.now);
    }

    /// What is in the maps, as text without places.
    pub(crate) fn text(&self) -> String {
        self.fake.world().contents.to_string()
    }

    pub(crate) fn contents(&self) -> Dump {
        self.fake.world().contents.clone()
    }

    pub(crate) fn log_length(&self) -> usize {
        self.fake.world().log.len()
    }

    /// What was written since the log had this length.
    pub(crate) fn log_from(&self, start: usize) -> Vec<String> {
        self.fake.world().log[start..].to_vec()
    }

    /// Fails if something was done that a program could have noticed.
    pub(crate) fn assert_no_violations(&self) {
        let World { violations, log, .. } = &*self.fake.world();
        assert!(violations.is_empty(), "{violations:#?}\nlog:\n{}", log.join("\n"));
    }
}

/// Settings with a short linger.
pub(crate) fn settings() -> PlanSettings {
    PlanSettings {
        seed: 1,
        linger: LINGER,
        ..PlanSettings::default()
    }
}

/// Node n1 of a cluster: one uplink, pods in 10.1.1.0/24 and fd00:1:1::/64.
pub(crate) fn node() -> NodeFacts {
    let device = |name: &str, kind| DeviceFacts {
        name: name.into(),
        kind,
        mac: [2, 0, 0, 0, 0, 1],
        bridge_mac: [0; 6],
        mtu: 1500,
        snat4: None,
        snat6: None,
        takes_xdp: false,
    };
    let mut devices = BTreeMap::from([
        (1, device("lo", DeviceKind::Loopback)),
        (2, device("eth0", DeviceKind::Uplink)),
        (3, device("lb0", DeviceKind::Host)),
        (4, device("veth1", DeviceKind::Pod)),
    ]);
    let uplink = devices.get_mut(&2).expect("it was just put there");
    uplink.snat4 = Some([192, 0, 2, 1].into());
    uplink.snat6 = Some("2001:db8::1".parse().expect("an address"));
    let own = vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("an address")];
    NodeFacts {
        devices,
        node_ports: own.clone(),
        own,
        pods: vec![
            ([10, 1, 1, 0].into(), 24),
            ("fd00:1:1::".parse().expect("an address"), 64),
        ],
        translated: Vec::new(),
        masqueraded: Vec::new(),
    }
}

/// A Service port with a ClusterIP, and one backend per octet: below 100 on this node.
pub(crate) fn service(name: &str, address: u8, backends: &[u8]) -> ServicePort {
    ServicePort {
        id: ServicePortId {
            namespace: "shop".into(),
            name: name.into(),
            port_name: String::new(),
            protocol: Protocol::Tcp,
            ipv6: false,
        },
        frontends: vec![cluster_ip(address)],
        internal_local: false,
        external_local: false,
        endpoints_exist: !backends.is_empty(),
        affinity: None,
        source_ranges: None,
        backends: backends
            .iter()
            .map(|octet| BackendEndpoint {
                address: [10, 1, if *octet < 100 { 1 } else { 2 }, *octet].into(),
                port: 8080,
                on_this_node: *octet < 100,
                in_local: *octet < 100,
                in_cluster: true,
            })
            .collect(),
        serving: [].into(),
    }
}

pub(crate) fn cluster_ip(octet: u8) -> FrontendAddress {
    FrontendAddress {
        address: Some([10, 96, 0, octet].into()),
        port: 80,
        kind: FrontendKind::ClusterIp,
    }
}

/// Only these Services.
pub(crate) fn state(services: impl IntoIterator<Item = ServicePort>) -> DesiredState {
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by(|a, b| a.id.cmp(&b.id));
    DesiredState {
        services,
        ..DesiredState::default()
    }
}
