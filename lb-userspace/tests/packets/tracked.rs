//! Connections that another proxy has opened: while the node leaves them to connection tracking, their packets pass, and new
//! ones are ours.

use lb_common::abi::{FrontendKind, Node, Outcome, Protocol, State};

use crate::{
    exchange::{data, fin, first, rst},
    row::{Row, send, translation},
    site::{Host, Site, Svc},
    world::Program::{PodIn, UplinkIn, UplinkXdp},
};

use Outcome::{ForwardedNew, PassedTracked};

const PORT: u16 = 45_500;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (program, client, svc, kind) in [
        (PodIn, Host::PodA, Svc::Neighbour, FrontendKind::ClusterIp),
        (
            UplinkIn,
            Host::Client,
            Svc::ExternalLocalHere,
            FrontendKind::NodePort,
        ),
        (
            UplinkIn,
            Host::Client,
            Svc::ExternalLocalHere,
            FrontendKind::LoadBalancer,
        ),
        (
            UplinkXdp,
            Host::Client,
            Svc::ExternalLocalHere,
            FrontendKind::LoadBalancer,
        ),
    ] {
        let sent = first(Protocol::Tcp, site.at(client, PORT), site.frontend(svc, kind));
        let there = sent.clone().to(site.backend(svc));
        rows.push(
            Row::new(format!("tracked: {} to {svc:?}, {kind:?}", program.name()))
                .doing(|world| world.set_node(|node| node.flags = Node::LEAVES_TRACKED))
                .then(send(program, &data(&sent)).passes(PassedTracked))
                .then(send(program, &fin(&sent)).passes(PassedTracked))
                .then(send(program, &rst(&sent)).passes(PassedTracked))
                .then(send(program, &sent).becomes(ForwardedNew, &there))
                .leaves(vec![translation(&sent, &there, State::New)]),
        );
    }
    // Nobody is there to answer any more; the connection may go on all the same.
    let cluster_ip = first(
        Protocol::Tcp,
        site.at(Host::PodA, PORT),
        site.cluster_ip(Svc::Empty),
    );
    rows.push(
        Row::new("tracked: to a Service without endpoints")
            .doing(|world| world.set_node(|node| node.flags = Node::LEAVES_TRACKED))
            .then(send(PodIn, &data(&cluster_ip)).passes(PassedTracked))
            .leaves_nothing(),
    );
    rows
}
