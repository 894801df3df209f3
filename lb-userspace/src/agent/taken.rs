//! Names NodePorts that a process of this node has bound too: packets for them go to the Service, and the process
//! waits in vain. (No socket is held for a NodePort: that would keep its port from being free when it is deleted.)

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time};
use tracing::warn;

use super::{cluster::Cluster, health::Checks};
use crate::{
    model::{NodeFacts, Problem},
    node::sockets::{self, Waiting},
};

/// Time between two looks at the node's sockets.
const INTERVAL: Duration = Duration::from_secs(5);

/// Looks again and again, for as long as there is a cluster.
pub(super) async fn follow(
    mut cluster: watch::Receiver<Cluster>,
    facts: watch::Receiver<NodeFacts>,
    checks: watch::Sender<Checks>,
) {
    loop {
        let Ok(sockets) = spawn_blocking(sockets::waiting).await else {
            return;
        };
        let taken = taken(&cluster.borrow_and_update(), &facts.borrow().node_ports, &sockets);
        checks.send_if_modified(|checks| {
            let modified = checks.taken != taken;
            for problem in taken.iter().filter(|problem| !checks.taken.contains(problem)) {
                warn!(object = problem.object, "{}", problem.message);
            }
            checks.taken = taken;
            modified
        });
        tokio::select! {
            () = time::sleep(INTERVAL) => {}
            () = checks.closed() => return,
        }
        if cluster.has_changed().is_err() {
            return;
        }
    }
}

fn taken(cluster: &Cluster, addresses: &[IpAddr], sockets: &[Waiting]) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    for port in cluster.served.values().flatten() {
        for frontend in port
            .frontends
            .iter()
            .filter(|frontend| frontend.address.is_none())
        {
            let collides = |socket: &&Waiting| {
                let everywhere = socket.address.is_unspecified();
                socket.port == frontend.port
                    && socket.protocol == port.id.protocol
                    && (everywhere || addresses.contains(&socket.address))
            };
            if sockets.iter().any(|socket| collides(&socket)) {
                problems.insert(Problem {
                    object: format!("Service {}/{}", port.id.namespace, port.id.name),
                    message: format!(
                        "a process of this node has bound its node port {}/{}, and gets nothing by the node's \
                         addresses while the Service has it; change one of the two",
                        frontend.port, port.id.protocol
                    ),
                });
            }
        }
    }
    problems.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{FrontendKind, Protocol};

    use super::*;
    use crate::model::{FrontendAddress, ObjectKey, ServicePort, ServicePortId};

    #[test]
    fn a_node_port_is_taken_by_a_socket_of_its_number_and_protocol_on_an_address_that_serves_it() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let frontend = |address, port, kind| FrontendAddress { address, port, kind };
        let port = ServicePort {
            id: ServicePortId {
                namespace: "shop".into(),
                name: "web".into(),
                port_name: String::new(),
                protocol: Protocol::Tcp,
                ipv6: false,
            },
            frontends: vec![
                frontend(Some(ip("172.30.0.1")), 80, FrontendKind::ClusterIp),
                frontend(None, 30_080, FrontendKind::NodePort),
            ],
            internal_local: false,
            external_local: false,
            endpoints_exist: true,
            affinity: None,
            source_ranges: None,
            backends: [].into(),
            serving: [].into(),
        };
        let mut cluster = Cluster::default();
        cluster.served.insert(ObjectKey::new("shop", "web"), vec![port]);
        for (what, protocol, address, port, expected) in [
            ("all of IPv4", Protocol::Tcp, "0.0.0.0", 30_080, 1),
            ("all of both", Protocol::Tcp, "::", 30_080, 1),
            (
                "an address that serves it",
                Protocol::Tcp,
                "192.168.0.2",
                30_080,
                1,
            ),
            ("an address that does not", Protocol::Tcp, "127.0.0.1", 30_080, 0),
            ("another protocol", Protocol::Udp, "0.0.0.0", 30_080, 0),
            ("another port", Protocol::Tcp, "0.0.0.0", 30_081, 0),
            (
                "the Service's own port is not the node's",
                Protocol::Tcp,
                "0.0.0.0",
                80,
                0,
            ),
        ] {
            let socket = Waiting {
                protocol,
                address: ip(address),
                port,
            };
            let problems = taken(&cluster, &[ip("192.168.0.2")], &[socket, socket]);
            assert_eq!(problems.len(), expected, "{what}: {problems:?}");
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.object == "Service shop/web")
            );
        }
    }
}
