//! Processes of this node as clients: by `lb0`, by `lo`, and out of the uplink to other nodes' ports.

use lb_common::{
    abi::{Action, Outcome, Protocol, State},
    testing::packet::{self, Packet},
};

use crate::{
    exchange::{PROTOCOLS, answer, data, first, hop, syn},
    row::{Row, anew, send, send_bytes, snat, translation},
    site::{Dev, Host, KINDS, Site, Svc},
    world::Program::{self, HostOut, LoopbackOut, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{DroppedNoRoute, DroppedOther, ForwardedFlow, ForwardedNew, PassedNoFrontend, PassedNotOurs};

const PORT: u16 = 42_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        for kind in KINDS {
            let sent = |svc| first(protocol, site.at(Host::Node, PORT), site.frontend(svc, kind));
            rows.push(around(
                site,
                HostOut,
                Dev::Lb0,
                &sent(Svc::Local),
                Svc::Local,
                Dev::Pod0,
            ));
            rows.push(around(
                site,
                HostOut,
                Dev::Lb0,
                &sent(Svc::Remote),
                Svc::Remote,
                Dev::Up0,
            ));
            rows.push(around(
                site,
                HostOut,
                Dev::Lb0,
                &sent(Svc::HostThere),
                Svc::HostThere,
                Dev::Up0,
            ));
            rows.push(around(
                site,
                HostOut,
                Dev::Lb0,
                &sent(Svc::Tunnelled),
                Svc::Tunnelled,
                Dev::Tun0,
            ));
        }
        rows.push(to_a_process_of_this_node(site, protocol));
        let own_port = |svc| first(protocol, site.at(Host::Node, PORT), site.node_port(svc));
        rows.push(around(
            site,
            LoopbackOut,
            Dev::Lo,
            &own_port(Svc::Neighbour),
            Svc::Neighbour,
            Dev::Pod1,
        ));
        rows.push(around(
            site,
            LoopbackOut,
            Dev::Lo,
            &own_port(Svc::Remote),
            Svc::Remote,
            Dev::Up0,
        ));
        rows.push(around(
            site,
            LoopbackOut,
            Dev::Lo,
            &own_port(Svc::Tunnelled),
            Svc::Tunnelled,
            Dev::Tun0,
        ));
        rows.push(looped(site, protocol));
        let others = |svc: Svc| {
            let to = site.at(Host::OtherNode, svc.node_port());
            first(protocol, site.at(Host::Node, PORT), to)
        };
        rows.push(around(
            site,
            UplinkOut,
            Dev::Up0,
            &others(Svc::Local),
            Svc::Local,
            Dev::Pod0,
        ));
        rows.push(around(
            site,
            UplinkOut,
            Dev::Up0,
            &others(Svc::Remote),
            Svc::Remote,
            Dev::Up0,
        ));
        rows.push(around(
            site,
            UplinkOut,
            Dev::Up0,
            &others(Svc::Tunnelled),
            Svc::Tunnelled,
            Dev::Tun0,
        ));
    }
    rows.extend(no_way_on(site));
    rows.extend(left_alone(site));
    rows
}

/// Out of a device by its neighbour; the answer is received as if by `client`, the device the packet left by.
fn around(site: &Site, program: Program, client: Dev, sent: &Packet, svc: Svc, out: Dev) -> Row {
    let protocol = Protocol::from_number(sent.protocol()).expect("a Service's protocol");
    let mut there = anew(site, sent).to(site.backend(svc));
    if out == Dev::Tun0 {
        there = there.from(site.at(Host::TunnelEnd, snat(sent)));
    }
    let back = answer(&there);
    let received = answer(sent);
    let to_client = received.clone().macs(received.source_mac, client.mac());
    let mut row = Row::new(format!(
        "{} of a node's process, {protocol}, {}, by {}",
        program.name(),
        sent.destination,
        out.name()
    ))
    .then(send(program, sent).goes_out_as(ForwardedNew, &there))
    .then(send(program, &data(sent)).goes_out_as(ForwardedFlow, &data(&there)));
    row = match out {
        Dev::Pod0 | Dev::Pod1 => row
            .then(send(PodOut, &there).on(out).passes(PassedNotOurs))
            .then(send(PodIn, &back).on(out).goes_out_as(ForwardedFlow, &to_client)),
        // Up the stack of the device it is on anyway.
        Dev::Up0 if client == Dev::Up0 => row
            .then(send(UplinkXdp, &back).becomes(ForwardedFlow, &received))
            .then(send(UplinkIn, &back).becomes(ForwardedFlow, &received)),
        _ => row
            .then(send(UplinkXdp, &back).on(out).passes(Outcome::PassedToTcHost))
            .then(
                send(UplinkIn, &back)
                    .on(out)
                    .goes_out_as(ForwardedFlow, &to_client),
            ),
    };
    row.leaves(vec![translation(sent, &there, State::Answered).sent(
        (Action::Neighbour, site.dev(out)),
        (Action::Receive, site.dev(client)),
    )])
}

/// By `lb0` to a socket of this node: received on `lo`, and its answers, which leave by `lo`, on `lb0`.
fn to_a_process_of_this_node(site: &Site, protocol: Protocol) -> Row {
    let sent = first(
        protocol,
        site.at(Host::Node, PORT),
        site.cluster_ip(Svc::HostHere),
    );
    let there = sent.clone().to(site.backend(Svc::HostHere));
    let received = there.clone().macs(there.source_mac, Dev::Lo.mac());
    let back = answer(&there);
    let undone = answer(&sent).macs(back.source_mac, Dev::Lb0.mac());
    Row::new(format!("a process of this node to another by lb0, {protocol}"))
        .then(send(HostOut, &sent).goes_out_as(ForwardedNew, &received))
        .then(send(LoopbackOut, &back).goes_out_as(ForwardedFlow, &undone))
        .leaves(vec![translation(&sent, &there, State::Answered).sent(
            (Action::Receive, site.dev(Dev::Lo)),
            (Action::Receive, site.dev(Dev::Lb0)),
        )])
}

/// A node port of this node whose backend is a process of this node: both directions stay on `lo`.
fn looped(site: &Site, protocol: Protocol) -> Row {
    let sent = first(protocol, site.at(Host::Node, PORT), site.node_port(Svc::HostHere));
    let there = sent.clone().to(site.backend(Svc::HostHere));
    Row::new(format!(
        "a process of this node to another by node port, {protocol}"
    ))
    .then(send(LoopbackOut, &sent).becomes(ForwardedNew, &there))
    .then(send(LoopbackOut, &answer(&there)).becomes(ForwardedFlow, &answer(&sent)))
    .leaves(vec![translation(&sent, &there, State::Answered).undone_before()])
}

fn no_way_on(site: &Site) -> Vec<Row> {
    let from = site.at(Host::Node, PORT);
    let mut rows = Vec::new();
    for svc in [Svc::Lost, Svc::Alien] {
        let row = Row::new(format!("a node's process, {svc:?}"));
        let sent = syn(from, site.cluster_ip(svc));
        rows.push(
            row.then(send(HostOut, &sent).ends(DroppedNoRoute))
                .leaves_nothing(),
        );
    }
    // What this node sends has its own address already: no other is needed.
    let bare = syn(from, site.cluster_ip(Svc::Bare));
    let bare_there = anew(site, &bare).to(site.backend(Svc::Bare));
    rows.push(
        Row::new("no address for SNAT, and none needed")
            .then(send(HostOut, &bare).goes_out_as(ForwardedNew, &bare_there)),
    );
    let old = syn(from, site.cluster_ip(Svc::Remote)).ttl(1);
    let old_there = anew(site, &old).to(site.backend(Svc::Remote));
    rows.push(
        Row::new("this node is no hop of its own packets")
            .then(send(HostOut, &old).goes_out_as(ForwardedNew, &old_there)),
    );
    for svc in [Svc::ExternalLocalElsewhere, Svc::ExternalLocalHere] {
        for kind in KINDS {
            let sent = syn(from, site.frontend(svc, kind));
            let there = anew(site, &sent).to(site.at(Host::RemotePod, svc.target()));
            rows.push(
                Row::new(format!("a node's process under {svc:?}, {kind:?}"))
                    .then(send(HostOut, &sent).goes_out_as(ForwardedNew, &there)),
            );
        }
    }
    rows
}

/// Nothing that goes into `lb0` may come out at its other end; elsewhere what is not ours goes on.
fn left_alone(site: &Site) -> Vec<Row> {
    let from = site.at(Host::Node, PORT);
    let ping = packet::icmp(from.ip(), site.ip(Host::Vip), 8, 0);
    let arp = [vec![0xff; 12], vec![8, 6], vec![0; 28]].concat();
    let fragment = packet::udp(from, site.cluster_ip(Svc::Local))
        .payload(&[0; 16])
        .fragment(1480, false);
    let mut cut = syn(from, site.cluster_ip(Svc::Local)).build();
    cut.truncate(if site.is_v4() { 40 } else { 60 });
    let ssh = syn(from, site.at(Host::Node, 22));
    let others_ssh = syn(from, site.at(Host::OtherNode, 22));
    let others_port = syn(from, site.at(Host::OtherNode, Svc::Remote.node_port()));
    let loopback = if site.is_v4() { "127.0.0.1:80" } else { "[::1]:80" };
    vec![
        Row::new("what no Service answers ends at lb0")
            .then(send(HostOut, &ping).ends(DroppedOther))
            .then(send_bytes(HostOut, arp.clone()).ends(DroppedOther))
            .then(send_bytes(HostOut, cut).ends(DroppedOther))
            .then(send(HostOut, &fragment).ends(DroppedOther))
            .leaves_nothing(),
        Row::new("what is not ours goes on by lo")
            .then(send(LoopbackOut, &ssh).passes(PassedNoFrontend))
            .then(send(LoopbackOut, &packet::tcp(loopback, loopback).syn()).passes(PassedNoFrontend))
            .then(send_bytes(LoopbackOut, arp.clone()).passes(Outcome::PassedOther))
            .leaves_nothing(),
        Row::new("what is not ours goes on by the uplink")
            .then(send(UplinkOut, &others_ssh).passes(PassedNoFrontend))
            .then(send(UplinkOut, &ssh).passes(PassedNotOurs))
            .then(send_bytes(UplinkOut, arp).passes(Outcome::PassedOther))
            .then(send(UplinkOut, &ping).passes(Outcome::PassedOther))
            .leaves_nothing(),
        Row::new("another node's port is not served for what the stack forwards")
            .then(
                send(UplinkOut, &hop(&others_port))
                    .forwarded_from(Dev::Pod0)
                    .passes(PassedNotOurs),
            )
            .leaves_nothing(),
    ]
}
