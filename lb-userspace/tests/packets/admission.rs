//! Who may use an address, and what becomes of a packet to an address that has no such port.

use lb_common::{
    abi::{FrontendKind, Outcome, Protocol},
    testing::packet::{self, Packet},
};

use crate::{
    exchange::{data, first, hop, rst, syn},
    row::{Row, Sent, send, snat},
    site::{Dev, Host, KINDS, Site, Svc},
    world::Program::{self, BridgePortIn, HostOut, LoopbackOut, PodIn, UplinkIn, UplinkXdp},
};

use Outcome::{
    DroppedNoService, DroppedSourceRange, DroppedUnknownFlow, ForwardedNew, PassedNoFrontend,
    RejectedNoEndpoints, RejectedNoFrontend,
};

const PORT: u16 = 44_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = source_ranges(site);
    rows.extend(ranges_of_nodes(site));
    rows.extend(ranges_come_first(site));
    rows.extend(cluster_ips(site));
    rows.extend(nobodys_addresses(site));
    // kube-proxy serves none on ::1 either.
    if site.is_v4() {
        rows.extend(localhost(site));
    }
    rows
}

/// Who sends by which program, and whether the ranges let it in.
const CLIENTS: [(Program, Host, bool); 6] = [
    (UplinkIn, Host::Client, true),
    (UplinkXdp, Host::Client, true),
    (UplinkIn, Host::Stranger, false),
    (UplinkXdp, Host::Stranger, false),
    (PodIn, Host::PodA, false),
    (BridgePortIn, Host::PodB, true),
];

/// They are for LoadBalancer addresses and nothing else, but there for everybody.
fn source_ranges(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for (program, host, is_inside) in CLIENTS {
            for kind in KINDS {
                let sent = first(protocol, site.at(host, PORT), site.frontend(Svc::Ranged, kind));
                let row = Row::new(format!("{}, {host:?} to {kind:?}, {protocol}", program.name()));
                let accepted = is_inside || kind != FrontendKind::LoadBalancer;
                rows.push(match accepted {
                    // A pod's way back to itself has rows of its own.
                    true if host == Host::PodA => row.then(
                        send(program, &sent)
                            .becomes(ForwardedNew, &sent.clone().to(site.backend(Svc::Ranged))),
                    ),
                    true => {
                        let there = sent.clone().to(site.backend(Svc::Ranged));
                        row.then(send(program, &sent).becomes(ForwardedNew, &there))
                    }
                    false => row
                        .then(send(program, &sent).ends(DroppedSourceRange))
                        .leaves_nothing(),
                });
            }
        }
    }
    rows
}

/// Processes of this node are judged by their source too. Where the LoadBalancer address is the node's own as well,
/// they have it as their source; it counts as the node's.
fn ranges_of_nodes(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (svc, source, accepted) in [
        (Svc::Ranged, Host::Node, false),
        (Svc::Ranged, Host::Balancer, false),
        (Svc::RangedWithNode, Host::Node, false),
        (Svc::RangedWithNode, Host::Balancer, true),
        (Svc::RangedWithNode, Host::External, false),
    ] {
        for program in [HostOut, LoopbackOut] {
            let to = site.frontend(svc, FrontendKind::LoadBalancer);
            let sent = syn(site.at(source, PORT), to);
            let row = Row::new(format!("{svc:?} from {source:?}, {}", program.name()));
            rows.push(if accepted {
                // With an address to which the answer comes back to this node.
                let there = sent
                    .clone()
                    .from(site.at(Host::Node, snat(&sent)))
                    .to(site.backend(svc));
                row.then(send(program, &sent).goes_out_as(ForwardedNew, &there))
            } else {
                row.then(send(program, &sent).ends(DroppedSourceRange))
                    .leaves_nothing()
            });
        }
    }
    rows
}

/// Whoever is not let in does not even learn that nobody serves.
fn ranges_come_first(site: &Site) -> Vec<Row> {
    let to = site.frontend(Svc::RangedEmpty, FrontendKind::LoadBalancer);
    let stranger = syn(site.at(Host::Stranger, PORT), to);
    let client = syn(site.at(Host::Client, PORT), to);
    vec![
        Row::new("no endpoints, and not let in")
            .then(send(UplinkIn, &stranger).ends(DroppedSourceRange))
            .then(send(UplinkXdp, &stranger).ends(DroppedSourceRange))
            .then(send(UplinkIn, &data(&stranger)).ends(DroppedSourceRange))
            .then(refused(UplinkIn, &client, RejectedNoEndpoints))
            .leaves_nothing(),
    ]
}

/// The RST that answers a first segment.
fn refused(program: Program, sent: &Packet, outcome: Outcome) -> Sent {
    let answer = packet::tcp(sent.destination, sent.source)
        .macs(sent.destination_mac, sent.source_mac)
        .flags(packet::flag::RST | packet::flag::ACK)
        .ack(1001)
        .window(0);
    send(program, sent).answered_by(outcome, &answer)
}

/// A ClusterIP is nobody else's: what it does not serve is refused. Other addresses may be somebody's.
fn cluster_ips(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (program, host) in [
        (UplinkIn, Host::Client),
        (UplinkXdp, Host::Client),
        (PodIn, Host::PodA),
        (BridgePortIn, Host::PodA),
        (HostOut, Host::Node),
    ] {
        let sent = syn(site.at(host, PORT), site.at(Host::Vip, 9));
        rows.push(
            Row::new(format!("a ClusterIP without this port, {}", program.name()))
                .then(refused(program, &sent, RejectedNoFrontend))
                .then(send(program, &rst(&sent)).ends(DroppedUnknownFlow))
                .leaves_nothing(),
        );
    }
    for host in [Host::Balancer, Host::External, Host::Node, Host::OtherNode] {
        let sent = syn(site.at(Host::Client, PORT), site.at(host, 9));
        rows.push(
            Row::new(format!("{host:?} without this port"))
                .then(send(UplinkIn, &sent).passes(PassedNoFrontend))
                .then(send(UplinkXdp, &sent).passes(PassedNoFrontend))
                .then(send(UplinkIn, &data(&sent)).passes(PassedNoFrontend))
                .then(send(UplinkIn, &rst(&sent)).passes(PassedNoFrontend))
                .leaves_nothing(),
        );
    }
    rows
}

/// Inside the range of the Services' addresses, but no Service has it: silence.
fn nobodys_addresses(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (program, host) in [
        (UplinkIn, Host::Client),
        (UplinkXdp, Host::Client),
        (PodIn, Host::PodA),
    ] {
        let former = syn(site.at(host, PORT), site.at(Host::FormerVip, 80));
        rows.push(
            Row::new(format!(
                "the ClusterIP of a Service that is gone, {}",
                program.name()
            ))
            .then(send(program, &former).ends(DroppedNoService))
            .then(send(program, &rst(&former)).ends(DroppedNoService))
            .leaves_nothing(),
        );
    }
    let from = site.at(Host::Node, PORT);
    for host in [Host::FormerVip, Host::UnusedVip] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let sent = first(protocol, from, site.at(host, 80));
            rows.push(
                Row::new(format!("{host:?} by lb0, {protocol}"))
                    .then(send(HostOut, &sent).ends(DroppedNoService))
                    .then(
                        send(HostOut, &hop(&sent))
                            .forwarded_from(Dev::Pod0)
                            .ends(DroppedNoService),
                    )
                    .leaves_nothing(),
            );
        }
    }
    rows
}

/// Node ports on a loopback address: for the node's own processes only, and their source does not get out.
fn localhost(site: &Site) -> Vec<Row> {
    let to = site.at(Host::Localhost, Svc::Neighbour.node_port());
    let sent = syn(site.at(Host::Localhost, PORT), to);
    let there = sent
        .clone()
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Neighbour));
    let back = crate::exchange::answer(&there);
    let received = crate::exchange::answer(&sent);
    let received = received.clone().macs(received.source_mac, Dev::Lo.mac());
    let smuggled = syn(site.at(Host::Client, PORT), to);
    let of_pod = syn(site.at(Host::PodA, PORT), to);
    vec![
        Row::new("a node port on localhost")
            .then(send(LoopbackOut, &sent).goes_out_as(ForwardedNew, &there))
            .then(
                send(PodIn, &back)
                    .on(Dev::Pod1)
                    .goes_out_as(Outcome::ForwardedFlow, &received),
            ),
        Row::new("localhost from elsewhere")
            .then(send(UplinkIn, &smuggled).passes(PassedNoFrontend))
            .then(send(UplinkXdp, &smuggled).passes(PassedNoFrontend))
            .then(send(PodIn, &of_pod).passes(PassedNoFrontend))
            .leaves_nothing(),
    ]
}
