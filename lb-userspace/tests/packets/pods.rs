//! Pods of this node as clients: through the stack, there and back, and to themselves.

use lb_common::{
    abi::{Outcome, Protocol, State},
    net::KEPT_ADDRESS_PORTS,
    testing::packet::{self, Packet},
};

use crate::{
    exchange::{PROTOCOLS, answer, data, fin, first, hop, syn},
    row::{Row, Translation, send, send_bytes, snat, snat_port, translation},
    site::{Dev, Host, KINDS, Site, Svc},
    world::{
        Program::{BridgePortIn, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
        SNAT_PORTS,
    },
};

use Outcome::{DroppedSpoofed, ForwardedFlow, ForwardedNew, PassedNoFrontend, PassedNotOurs, PassedOther};

const PORT: u16 = 41_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        for kind in KINDS {
            rows.push(to_a_neighbour(
                site,
                &first(
                    protocol,
                    site.at(Host::PodA, PORT),
                    site.frontend(Svc::Neighbour, kind),
                ),
            ));
            rows.push(to_another_node(
                site,
                &first(
                    protocol,
                    site.at(Host::PodA, PORT),
                    site.frontend(Svc::Remote, kind),
                ),
            ));
        }
        rows.push(to_itself(site, protocol, PORT));
        // With equal ports, the stack could not tell the two directions apart.
        rows.push(to_itself(site, protocol, Svc::Local.target()));
    }
    rows.extend(two_ways_to_itself(site));
    rows.extend([Svc::Remote, Svc::Neighbour].map(|svc| directly(site, svc)));
    rows.extend(policies(site));
    rows.extend(bridge(site));
    rows.extend(left_alone(site));
    rows
}

/// A pod of this node answers: the reply passes its own device and is undone at the client's.
fn to_a_neighbour(site: &Site, sent: &Packet) -> Row {
    let there = sent.clone().to(site.backend(Svc::Neighbour));
    let back = answer(&there);
    let protocol = Protocol::from_number(sent.protocol()).expect("a Service's protocol");
    Row::new(format!(
        "a pod to its neighbour, {protocol}, {}",
        sent.destination
    ))
    .then(send(PodIn, sent).becomes(ForwardedNew, &there))
    .then(
        send(PodOut, &hop(&there))
            .on(Dev::Pod1)
            .forwarded_from(Dev::Pod0)
            .passes(PassedNotOurs),
    )
    .then(send(PodIn, &back).on(Dev::Pod1).passes(PassedNotOurs))
    .then(
        send(PodOut, &back)
            .forwarded_from(Dev::Pod1)
            .becomes(ForwardedFlow, &answer(sent)),
    )
    .leaves(vec![translation(sent, &there, State::Answered)])
}

/// The stack routes both ways; no SNAT.
fn to_another_node(site: &Site, sent: &Packet) -> Row {
    let there = sent.clone().to(site.backend(Svc::Remote));
    let back = answer(&there);
    let protocol = Protocol::from_number(sent.protocol()).expect("a Service's protocol");
    Row::new(format!(
        "a pod to a pod elsewhere, {protocol}, {}",
        sent.destination
    ))
    .then(send(PodIn, sent).becomes(ForwardedNew, &there))
    .then(
        send(UplinkOut, &hop(&there))
            .forwarded_from(Dev::Pod0)
            .passes(PassedNotOurs),
    )
    .then(send(UplinkXdp, &back).passes(PassedNotOurs))
    .then(send(UplinkIn, &back).passes(PassedNotOurs))
    .then(
        send(PodOut, &hop(&back))
            .forwarded_from(Dev::Up0)
            .becomes(ForwardedFlow, &hop(&answer(sent))),
    )
    .leaves(vec![translation(sent, &there, State::Answered)])
}

/// A connection without a Service, from the port of a flow that is ending, to the flow's backend: neither is taken for the
/// other. (Before the backend's kernel answers the handshake, it may want to hear that the old connection is gone.)
fn directly(site: &Site, svc: Svc) -> Row {
    let sent = syn(site.at(Host::PodA, PORT), site.cluster_ip(svc));
    let there = sent.clone().to(site.backend(svc));
    let back = answer(&there);
    let comes_from = match svc {
        Svc::Neighbour => Dev::Pod1,
        _ => Dev::Up0,
    };
    let reply = |packet: &Packet| send(PodOut, packet).forwarded_from(comes_from);
    Row::new(format!(
        "a pod without a Service from the port of an ending flow, {svc:?}"
    ))
    .then(send(PodIn, &sent).becomes(ForwardedNew, &there))
    .then(reply(&hop(&back)).becomes(ForwardedFlow, &hop(&answer(&sent))))
    .then(send(PodIn, &fin(&sent)).becomes(ForwardedFlow, &fin(&there)))
    .then(reply(&hop(&data(&there.reply()))).becomes(ForwardedFlow, &hop(&data(&sent.reply()))))
    .then(send(PodIn, &there).passes(PassedNotOurs))
    .then(reply(&hop(&data(&there.reply()))).passes(PassedNotOurs))
    .then(reply(&hop(&back)).passes(PassedNotOurs))
    .leaves_nothing()
}

/// The two translations of a flow that comes back to its client: what the stack sees, and what the pod sees.
struct Turn {
    sent: Packet,
    routed: Packet,
    received: Packet,
}

impl Turn {
    fn new(site: &Site, sent: Packet, stack_port: u16) -> Self {
        let routed = sent
            .clone()
            .from(site.at(Host::PodA, stack_port))
            .to(site.backend(Svc::Local));
        let received = routed
            .clone()
            .from(site.at(Host::Node, snat_after(&sent, &routed)));
        Self {
            sent,
            routed,
            received,
        }
    }

    fn flows(&self, state: State) -> Vec<Translation> {
        let second = translation(&self.routed, &self.received, state);
        vec![
            translation(&self.sent, &self.routed, state),
            second.made_after().undone_before(),
        ]
    }
}

/// The port of the second translation: by the hash of the packet that the client sent.
fn snat_after(sent: &Packet, routed: &Packet) -> u16 {
    let own = routed.source.port();
    if (SNAT_PORTS[0]..=SNAT_PORTS[1]).contains(&own) {
        own
    } else {
        snat(sent)
    }
}

fn to_itself(site: &Site, protocol: Protocol, port: u16) -> Row {
    let sent = first(protocol, site.at(Host::PodA, port), site.cluster_ip(Svc::Local));
    let stack_port = if port == Svc::Local.target() {
        snat_port(&sent, KEPT_ADDRESS_PORTS, 1)
    } else {
        port
    };
    let turn = Turn::new(site, sent, stack_port);
    let Turn {
        sent,
        routed,
        received,
    } = &turn;
    let row = Row::new(format!("a pod to itself, {protocol} from port {port}"))
        .then(send(PodIn, sent).becomes(ForwardedNew, routed))
        .then(send(PodOut, routed).becomes(ForwardedFlow, received))
        .then(send(PodIn, &answer(received)).becomes(ForwardedFlow, &answer(routed)))
        .then(send(PodOut, &answer(routed)).becomes(ForwardedFlow, &answer(sent)))
        .then(send(PodIn, &data(sent)).becomes(ForwardedFlow, &data(routed)))
        .then(send(PodOut, &data(routed)).becomes(ForwardedFlow, &data(received)));
    row.leaves(turn.flows(State::Established))
}

/// The same client port to two addresses of a Service that both lead back to the client: two flows, none of
/// which reaches the pod as if from itself.
fn two_ways_to_itself(site: &Site) -> Vec<Row> {
    let from = site.at(Host::PodA, PORT);
    let one = Turn::new(site, syn(from, site.cluster_ip(Svc::Local)), PORT);
    let other = syn(from, site.node_port(Svc::Local));
    // The first port for SNAT belongs to nobody, but the stack's tuple needs another source port.
    let stack_port = snat_port(&other, KEPT_ADDRESS_PORTS, 1);
    let two = Turn::new(site, other, stack_port);
    let mut row = Row::new("a pod to itself by two addresses");
    for turn in [&one, &two] {
        row = row
            .then(send(PodIn, &turn.sent).becomes(ForwardedNew, &turn.routed))
            .then(send(PodOut, &turn.routed).becomes(ForwardedFlow, &turn.received))
            .then(send(PodIn, &answer(&turn.received)).becomes(ForwardedFlow, &answer(&turn.routed)))
            .then(send(PodOut, &answer(&turn.routed)).becomes(ForwardedFlow, &answer(&turn.sent)));
    }
    let flows = [one.flows(State::Answered), two.flows(State::Answered)];
    vec![row.leaves(flows.concat())]
}

/// Clients on the node are not subject to `externalTrafficPolicy: Local`, but to the internal one.
fn policies(site: &Site) -> Vec<Row> {
    let from = site.at(Host::PodA, PORT);
    let remote = |svc: Svc| site.at(Host::RemotePod, svc.target());
    let mut rows = Vec::new();
    for kind in KINDS {
        for svc in [Svc::ExternalLocalElsewhere, Svc::ExternalLocalHere] {
            let sent = syn(from, site.frontend(svc, kind));
            let there = sent.clone().to(remote(svc));
            rows.push(
                Row::new(format!("a pod under {svc:?}, {kind:?}"))
                    .then(send(PodIn, &sent).becomes(ForwardedNew, &there)),
            );
        }
    }
    let here = syn(from, site.cluster_ip(Svc::InternalLocalHere));
    let here_there = here.clone().to(site.backend(Svc::InternalLocalHere));
    let elsewhere = syn(from, site.cluster_ip(Svc::InternalLocalElsewhere));
    let by_port = syn(from, site.node_port(Svc::InternalLocalHere));
    let by_port_there = by_port.clone().to(remote(Svc::InternalLocalHere));
    rows.extend([
        Row::new("internal policy Local, backend here")
            .then(send(PodIn, &here).becomes(ForwardedNew, &here_there)),
        Row::new("internal policy Local, backends elsewhere")
            .then(send(PodIn, &elsewhere).ends(Outcome::DroppedNoLocalEndpoints))
            .leaves_nothing(),
        Row::new("internal policy Local, by node port")
            .then(send(PodIn, &by_port).becomes(ForwardedNew, &by_port_there)),
    ]);
    rows
}

/// Replies that a bridge would switch past the stack are sent to the bridge itself.
fn bridge(site: &Site) -> Vec<Row> {
    let sent = syn(site.at(Host::PodA, PORT), site.cluster_ip(Svc::Neighbour));
    let there = sent.clone().to(site.backend(Svc::Neighbour));
    let back = answer(&there);
    let raised = back.clone().macs(back.source_mac, Dev::Port0.bridge_mac());
    let own = answer(&syn(site.at(Host::PodA, PORT), site.at(Host::PodB, 7)));
    vec![
        Row::new("a reply between two ports of a bridge")
            .then(send(BridgePortIn, &sent).becomes(ForwardedNew, &there))
            .then(send(BridgePortIn, &back).becomes(PassedNotOurs, &raised))
            .then(send(BridgePortIn, &own).passes(PassedNotOurs))
            .then(send(PodOut, &back).becomes(ForwardedFlow, &answer(&sent)))
            .leaves(vec![translation(&sent, &there, State::Answered)]),
    ]
}

fn left_alone(site: &Site) -> Vec<Row> {
    let pod = site.at(Host::PodA, PORT);
    let mut rows = Vec::new();
    for program in [PodIn, BridgePortIn] {
        let at = program.name();
        let external = syn(pod, site.at(Host::External, 9));
        let ssh = syn(pod, site.at(Host::Node, 22));
        let other = syn(pod, site.at(Host::Stranger, 443));
        let as_node = syn(site.at(Host::Node, PORT), site.cluster_ip(Svc::Remote));
        let ping = packet::icmp(pod.ip(), site.ip(Host::Vip), 8, 0);
        let arp = [vec![0xff; 12], vec![8, 6], vec![0; 28]].concat();
        let others_port = syn(pod, site.at(Host::OtherNode, Svc::Neighbour.node_port()));
        let others_port_there = others_port.clone().to(site.backend(Svc::Neighbour));
        let unknown = syn(site.at(Host::Stranger, PORT), site.cluster_ip(Svc::Neighbour));
        let unknown_there = unknown.clone().to(site.backend(Svc::Neighbour));
        rows.extend([
            Row::new(format!("an address that has no such port, {at}"))
                .then(send(program, &external).passes(PassedNoFrontend))
                .then(send(program, &ssh).passes(PassedNoFrontend))
                .then(send(program, &other).passes(PassedNotOurs))
                .then(send(program, &ping).passes(PassedOther))
                .then(send_bytes(program, arp).passes(PassedOther))
                .leaves_nothing(),
            Row::new(format!("a Service that is not there yet, {at}"))
                .then(send(program, &syn(pod, site.cluster_ip(Svc::NoService))).passes(PassedNoFrontend)),
            Row::new(format!("a pod that claims to be its node, {at}"))
                .then(send(program, &as_node).ends(DroppedSpoofed))
                .leaves_nothing(),
            Row::new(format!("a pod of a range that nobody knows, {at}"))
                .then(send(program, &unknown).becomes(ForwardedNew, &unknown_there)),
            Row::new(format!("another node's port is served here, {at}"))
                .then(send(program, &others_port).becomes(ForwardedNew, &others_port_there))
                .leaves(vec![translation(&others_port, &others_port_there, State::New)]),
        ]);
    }
    let outside = syn(
        site.at(Host::Client, PORT),
        site.at(Host::OtherNode, Svc::Neighbour.node_port()),
    );
    rows.push(
        Row::new("another node's port is not served for clients outside")
            .then(send(UplinkIn, &outside).passes(PassedNoFrontend))
            .then(send(UplinkXdp, &outside).passes(PassedNoFrontend)),
    );
    rows
}
