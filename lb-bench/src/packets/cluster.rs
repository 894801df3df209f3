//! The cluster that the maps are filled with: many Services, and the few that are measured.

use std::net::IpAddr;

use lb_common::abi::{FrontendKind, Protocol};
use lb_userspace::model::{BackendEndpoint, FrontendAddress, ServicePort, ServicePortId};

use super::family::{Family, PORT, Svc, TARGET};

/// Services, in both families each.
pub(crate) const SERVICES: u32 = 10_000;
/// Endpoints of a Service.
const ENDPOINTS: u32 = 10;
/// The first node port.
const NODE_PORTS: u32 = 30_000;
/// Services with a node port: as many as the range holds.
const WITH_NODE_PORT: u32 = 2768;

/// All of them.
pub(crate) fn services() -> Vec<ServicePort> {
    let all = |family| (0..SERVICES).map(move |number| service(family, number));
    Family::BOTH.into_iter().flat_map(all).collect()
}

fn service(family: Family, number: u32) -> ServicePort {
    let id = ServicePortId {
        namespace: "bench".into(),
        name: format!("service-{number}"),
        port_name: String::new(),
        protocol: Protocol::Tcp,
        ipv6: family == Family::V6,
    };
    let frontend = |address, port, kind| FrontendAddress { address, port, kind };
    let mut frontends = vec![
        frontend(Some(family.cluster_ip(number)), PORT, FrontendKind::ClusterIp),
        frontend(Some(family.balancer(number)), PORT, FrontendKind::LoadBalancer),
    ];
    if number < WITH_NODE_PORT {
        let port = (NODE_PORTS + number) as u16;
        frontends.push(frontend(None, port, FrontendKind::NodePort));
    }
    frontends.sort_unstable();
    let backends: Vec<_> = backends(family, number).map(backend).collect();
    ServicePort {
        id,
        frontends,
        internal_local: false,
        external_local: false,
        endpoints_exist: true,
        affinity: None,
        source_ranges: None,
        serving: backends
            .iter()
            .map(|backend| (backend.address, backend.port))
            .collect(),
        backends: backends.into(),
    }
}

/// Addresses of a Service's backends, and whether they are on this node.
fn backends(family: Family, number: u32) -> impl Iterator<Item = (IpAddr, bool)> {
    let measured = [Svc::Here, Svc::There, Svc::Many]
        .into_iter()
        .find(|svc| *svc as u32 == number);
    let (nodes, pods) = match measured {
        Some(Svc::Here) => (1..2, 2..3),
        Some(Svc::There) => (2..3, 2..3),
        Some(Svc::Many) => (1..2, 2..2 + ENDPOINTS),
        None => {
            let node = 3 + number % 200;
            let first = 2 + number / 200;
            (node..node + ENDPOINTS, first..first + 1)
        }
    };
    nodes.flat_map(move |node| pods.clone().map(move |pod| (family.pod(node, pod), node == 1)))
}

fn backend((address, here): (IpAddr, bool)) -> BackendEndpoint {
    BackendEndpoint {
        address,
        port: TARGET,
        on_this_node: here,
        in_local: here,
        in_cluster: true,
    }
}
