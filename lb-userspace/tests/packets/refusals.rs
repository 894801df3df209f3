//! Refusals: the exact answer, in every program that can give one.

use lb_common::{
    abi::{Outcome, Protocol},
    testing::packet::{self, Checksum, Packet, flag},
};

use crate::{
    exchange::{data, fin, first, hop, rst, syn},
    row::{Row, Sent, send, snat},
    site::{Host, Site, Svc},
    world::Program::{self, BridgePortIn, HostOut, LoopbackOut, PodIn, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{
    DroppedInconsistent, DroppedUnknownFlow, ForwardedMidstream, RejectedNoEndpoints, RejectedNoFrontend,
    RejectedUnknownFlow,
};

const PORT: u16 = 43_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (program, to) in [
        (UplinkIn, site.cluster_ip(Svc::Empty)),
        (UplinkIn, site.node_port(Svc::Empty)),
        (UplinkIn, site.node_port(Svc::ExternalLocalEmpty)),
        (UplinkXdp, site.cluster_ip(Svc::Empty)),
        (UplinkXdp, site.node_port(Svc::Empty)),
        (PodIn, site.cluster_ip(Svc::Empty)),
        (BridgePortIn, site.cluster_ip(Svc::Empty)),
        (HostOut, site.cluster_ip(Svc::Empty)),
        (LoopbackOut, site.node_port(Svc::Empty)),
        (UplinkOut, site.at(Host::OtherNode, Svc::Empty.node_port())),
    ] {
        let from = site.at(client(program), PORT);
        let name = |what: &str| format!("no endpoints: {} to {to}, {what}", program.name());
        let refused = |row: Row, sent: &Packet, answer: Packet| {
            row.then(refuse(send(program, sent), RejectedNoEndpoints, &answer))
                .leaves_nothing()
        };
        let sent = syn(from, to);
        for (what, segment, answer) in segments(&sent) {
            rows.push(refused(Row::new(name(what)), &segment, answer));
        }
        for protocol in [Protocol::Udp, Protocol::Sctp] {
            let sent = first(protocol, from, to);
            rows.push(refused(Row::new(name("")), &sent, unreachable(site, &sent)));
            let long = sent.payload(&[7; 900]);
            rows.push(refused(Row::new(name("long")), &long, unreachable(site, &long)));
        }
        rows.push(
            Row::new(name("a RST is never answered"))
                .then(send(program, &rst(&sent)).ends(DroppedUnknownFlow))
                .then(send(program, &rst(&sent).flags(flag::RST | flag::ACK)).ends(DroppedUnknownFlow))
                .leaves_nothing(),
        );
    }
    rows.extend(no_frontend(site));
    rows.extend(unknown_flow(site));
    rows.extend(contradictions(site));
    rows
}

const fn client(program: Program) -> Host {
    match program {
        UplinkIn | UplinkXdp => Host::Client,
        PodIn | BridgePortIn => Host::PodA,
        _ => Host::Node,
    }
}

fn refuse(sent: Sent, outcome: Outcome, answer: &Packet) -> Sent {
    sent.answered_by(outcome, &answer.clone().window(0))
}

/// Segments of a connection, and the RST that answers each (RFC 9293, section 3.10.7.1).
fn segments(sent: &Packet) -> Vec<(&'static str, Packet, Packet)> {
    let reset = |segment: &Packet| {
        packet::tcp(segment.destination, segment.source).macs(segment.destination_mac, segment.source_mac)
    };
    // Nothing to acknowledge: it begins where the peer expects it.
    let plain = |segment: &Packet| reset(segment).flags(flag::RST).seq(5001);
    let acknowledging = |segment: &Packet, ack| reset(segment).flags(flag::RST).ack(ack);
    let partial = sent.clone().checksum(Checksum::Partial);
    let (ack, last, with_data) = (data(sent), fin(sent), sent.clone().payload(b"fast open"));
    let without_ack = data(sent).flags(flag::FIN);
    vec![
        ("SYN", sent.clone(), acknowledging(sent, 1001)),
        (
            "SYN without a sum",
            partial.clone(),
            acknowledging(&partial, 1001),
        ),
        (
            "SYN with data",
            with_data.clone(),
            acknowledging(&with_data, 1010),
        ),
        ("data", ack.clone(), plain(&ack)),
        ("FIN", last.clone(), plain(&last)),
        (
            "FIN without ACK",
            without_ack.clone(),
            acknowledging(&without_ack, 1012),
        ),
        ("padded SYN", sent.clone().padding(5), acknowledging(sent, 1001)),
    ]
    .into_iter()
    .map(|(name, segment, answer)| {
        let checksum = segment.checksum;
        (name, segment, answer.checksum(checksum))
    })
    .collect()
}

/// ICMP or ICMPv6 "port unreachable" from the address that was asked.
fn unreachable(site: &Site, sent: &Packet) -> Packet {
    let ((kind, code), quoted) = if site.is_v4() { ((3, 3), 28) } else { ((1, 4), 48) };
    packet::icmp(sent.destination.ip(), sent.source.ip(), kind, code)
        .macs(sent.destination_mac, sent.source_mac)
        .payload(&sent.build()[14..14 + quoted])
}

/// This node itself asks a Service for a port that it does not have; who forwards for others stays silent.
fn no_frontend(site: &Site) -> Vec<Row> {
    let from = site.at(Host::Node, PORT);
    let mut rows = Vec::new();
    for to in [site.at(Host::Vip, 9), site.cluster_ip(Svc::NoService)] {
        let sent = syn(from, to);
        for (what, segment, answer) in segments(&sent) {
            rows.push(
                Row::new(format!("no frontend: {to}, {what}"))
                    .then(refuse(send(HostOut, &segment), RejectedNoFrontend, &answer))
                    .leaves_nothing(),
            );
        }
        let asked = first(Protocol::Udp, from, to);
        rows.push(Row::new(format!("no frontend: {to}, UDP")).then(refuse(
            send(HostOut, &asked),
            RejectedNoFrontend,
            &unreachable(site, &asked),
        )));
        rows.push(
            Row::new(format!("no frontend: {to}, a RST is never answered"))
                .then(send(HostOut, &rst(&sent)).ends(DroppedUnknownFlow)),
        );
    }
    rows
}

/// In the middle of a connection that is not known: whoever can be sure of the choice that was made goes on.
fn unknown_flow(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    let out = site.at(Host::Client, PORT);
    let remote = syn(out, site.cluster_ip(Svc::Remote));
    let there = |packet: &Packet| {
        let from = site.at(Host::Node, snat(packet));
        hop(packet).from(from).to(site.backend(Svc::Remote))
    };
    for (what, segment) in [
        ("ACK", data(&remote)),
        ("FIN", fin(&remote)),
        ("SYN and ACK", remote.clone().syn_ack()),
    ] {
        for program in [UplinkIn, UplinkXdp] {
            let name = format!(
                "midstream, {what} from outside under policy Cluster, {}",
                program.name()
            );
            rows.push(Row::new(name).then(send(program, &segment).hops_to(
                ForwardedMidstream,
                &there(&segment),
                site,
            )));
        }
    }
    let local = data(&syn(out, site.cluster_ip(Svc::Local)));
    let local_there = local.clone().to(site.backend(Svc::Local));
    for program in [UplinkIn, UplinkXdp] {
        rows.push(
            Row::new(format!("midstream to a backend of this node, {}", program.name()))
                .then(send(program, &local).becomes(ForwardedMidstream, &local_there)),
        );
    }
    let pod = |svc| syn(site.at(Host::PodA, PORT), site.cluster_ip(svc));
    let host = |svc| syn(site.at(Host::Node, PORT), site.cluster_ip(svc));
    for (why, program, sent) in [
        ("the client is a pod", PodIn, pod(Svc::Remote)),
        ("the client is a pod to itself", PodIn, pod(Svc::Local)),
        ("the client is the node", HostOut, host(Svc::Remote)),
        (
            "affinity has chosen",
            UplinkIn,
            syn(out, site.cluster_ip(Svc::Affine)),
        ),
        (
            "affinity has chosen, XDP",
            UplinkXdp,
            syn(out, site.cluster_ip(Svc::Affine)),
        ),
        (
            "each node chooses among its own",
            UplinkIn,
            syn(out, site.node_port(Svc::ExternalLocalHere)),
        ),
    ] {
        let segment = data(&sent);
        let answer = packet::tcp(segment.destination, segment.source)
            .macs(segment.destination_mac, segment.source_mac)
            .flags(flag::RST)
            .seq(5001);
        rows.push(
            Row::new(format!("midstream refused: {why}"))
                .then(refuse(send(program, &segment), RejectedUnknownFlow, &answer))
                .leaves_nothing(),
        );
        rows.push(
            Row::new(format!("a RST without a connection: {why}"))
                .then(send(program, &rst(&sent)).ends(DroppedUnknownFlow))
                .leaves_nothing(),
        );
    }
    rows
}

/// Maps that contradict each other: a set whose table or whose backends are not there.
fn contradictions(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for svc in [Svc::NoRow, Svc::NoBackend] {
        for program in [UplinkIn, UplinkXdp, PodIn, BridgePortIn, HostOut] {
            let sent = syn(site.at(client(program), PORT), site.cluster_ip(svc));
            rows.push(
                Row::new(format!("{svc:?}, {}", program.name()))
                    .then(send(program, &sent).ends(DroppedInconsistent))
                    .leaves_nothing(),
            );
        }
    }
    rows
}
