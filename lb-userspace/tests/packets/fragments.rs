//! Fragments follow the first one of their datagram, on every way a flow can take, whichever comes first (those are in
//! `early`); and packets with IPv6 extension headers.

mod early;

use lb_common::{
    abi::{Outcome, Protocol},
    testing::packet::{self, Packet},
};

use crate::{
    exchange::{PROTOCOLS, first, hop},
    row::{Row, anew, send, snat},
    site::{Dev, Host, Site, Svc},
    world::Program::{self, HostOut, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{
    ForwardedFlow, ForwardedFragment, ForwardedNew, PassedExtension, PassedFragment, PassedNotOurs,
};

const PORT: u16 = 44_000;
/// Identification that clients give their datagrams.
const ID: u16 = 777;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = vec![];
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for program in [UplinkIn, UplinkXdp] {
            rows.push(to_this_node(site, protocol, program));
        }
        rows.push(to_another_node(site, protocol));
        rows.push(of_a_pod(site, protocol));
        rows.push(of_this_node(site, protocol));
    }
    rows.extend(early::rows(site));
    rows.extend(identifications(site));
    rows.extend(left_alone(site));
    rows.extend(extensions(site));
    rows
}

fn big(protocol: Protocol, site: &Site, from: Host, to: std::net::SocketAddr) -> Packet {
    first(protocol, site.at(from, PORT), to)
        .payload(&[0x5a; 100])
        .id(ID)
}

/// The identification is a new one where the source address is (in IPv4).
fn renamed(site: &Site, packet: &Packet, id: u16) -> Packet {
    packet.clone().id(if site.is_v4() { id } else { packet.id })
}

fn to_this_node(site: &Site, protocol: Protocol, program: Program) -> Row {
    let sent = big(protocol, site, Host::Client, site.cluster_ip(Svc::Local));
    let there = sent.clone().to(site.backend(Svc::Local));
    let back = there.reply();
    let answered = renamed(site, &sent.reply(), 0);
    let mut row = Row::new(format!(
        "{protocol} in fragments to a backend here, {}",
        program.name()
    ));
    let pieces = sent.in_fragments(40).into_iter().zip(there.in_fragments(40));
    for (number, (piece, expected)) in pieces.enumerate() {
        let outcome = if number == 0 {
            ForwardedNew
        } else {
            ForwardedFragment
        };
        row = row.then(send(program, &piece).becomes(outcome, &expected));
    }
    let pieces = back.in_fragments(40).into_iter().zip(answered.in_fragments(40));
    for (number, (piece, expected)) in pieces.enumerate() {
        let outcome = if number == 0 {
            ForwardedFlow
        } else {
            ForwardedFragment
        };
        let step = send(UplinkOut, &piece).forwarded_from(Dev::Pod0);
        row = row.then(step.becomes(outcome, &expected));
    }
    row
}

fn to_another_node(site: &Site, protocol: Protocol) -> Row {
    let sent = big(protocol, site, Host::Client, site.cluster_ip(Svc::Remote));
    let there = hop(&sent)
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Remote));
    let back = there.reply().ttl(64).id(ID + 1);
    let undone = hop(&back).from(sent.destination).to(sent.source);
    let mut row = Row::new(format!("{protocol} in fragments to a backend elsewhere"));
    for (sent, there, id, new) in [(&sent, &there, 0, true), (&back, &undone, 1, false)] {
        let renamed = renamed(site, there, id);
        let pieces = sent.in_fragments(40).into_iter().zip(renamed.in_fragments(40));
        for (number, (piece, expected)) in pieces.enumerate() {
            let outcome = match number {
                0 if new => ForwardedNew,
                0 => ForwardedFlow,
                _ => ForwardedFragment,
            };
            row = row.then(send(UplinkIn, &piece).goes_out_as(outcome, &expected));
            if number > 0 {
                row = row.then(send(UplinkXdp, &piece).passes(Outcome::PassedToTcFragment));
            }
        }
    }
    row
}

fn of_a_pod(site: &Site, protocol: Protocol) -> Row {
    let sent = big(protocol, site, Host::PodA, site.cluster_ip(Svc::Remote));
    let there = sent.clone().to(site.backend(Svc::Remote));
    let back = there.reply().id(ID + 1);
    let undone = renamed(site, &back.clone().from(sent.destination), 0);
    let mut row = Row::new(format!("{protocol} in fragments of a pod"));
    for (number, (piece, expected)) in sent
        .in_fragments(40)
        .into_iter()
        .zip(there.in_fragments(40))
        .enumerate()
    {
        let outcome = if number == 0 {
            ForwardedNew
        } else {
            ForwardedFragment
        };
        row = row.then(send(PodIn, &piece).becomes(outcome, &expected));
    }
    for (number, (piece, expected)) in back
        .in_fragments(40)
        .into_iter()
        .zip(undone.in_fragments(40))
        .enumerate()
    {
        let (passed, outcome) = if number == 0 {
            (PassedNotOurs, ForwardedFlow)
        } else {
            (PassedNotOurs, ForwardedFragment)
        };
        row = row.then(send(UplinkIn, &piece).passes(passed));
        let step = send(PodOut, &piece).forwarded_from(Dev::Up0);
        row = row.then(step.becomes(outcome, &expected));
    }
    row
}

fn of_this_node(site: &Site, protocol: Protocol) -> Row {
    let sent = big(protocol, site, Host::Node, site.cluster_ip(Svc::Local));
    let there = anew(site, &sent).to(site.backend(Svc::Local));
    let back = there.reply().id(ID + 1);
    let undone = renamed(site, &back.clone().from(sent.destination).to(sent.source), 0);
    let mut row = Row::new(format!("{protocol} in fragments of a process of this node"));
    for (number, (piece, expected)) in sent
        .in_fragments(40)
        .into_iter()
        .zip(there.in_fragments(40))
        .enumerate()
    {
        let outcome = if number == 0 {
            ForwardedNew
        } else {
            ForwardedFragment
        };
        row = row.then(send(HostOut, &piece).goes_out_as(outcome, &expected));
    }
    for (number, (piece, expected)) in back
        .in_fragments(40)
        .into_iter()
        .zip(undone.in_fragments(40))
        .enumerate()
    {
        let outcome = if number == 0 {
            ForwardedFlow
        } else {
            ForwardedFragment
        };
        let expected = expected.clone().macs(expected.source_mac, Dev::Lb0.mac());
        row = row.then(send(PodIn, &piece).goes_out_as(outcome, &expected));
    }
    row
}

/// Two clients use one identification at a time; behind the translation they have one address.
fn identifications(site: &Site) -> Vec<Row> {
    let to = site.cluster_ip(Svc::Remote);
    let sent: Vec<Packet> = [Host::Client, Host::Stranger]
        .map(|host| big(Protocol::Udp, site, host, to))
        .to_vec();
    let mut row = Row::new("two clients use one identification at a time");
    for piece in 0..3 {
        for (number, sent) in sent.iter().enumerate() {
            let there = hop(sent)
                .from(site.at(Host::Node, snat(sent)))
                .to(site.backend(Svc::Remote));
            let expected = renamed(site, &there, number as u16)
                .in_fragments(40)
                .remove(piece);
            let outcome = if piece == 0 {
                ForwardedNew
            } else {
                ForwardedFragment
            };
            row = row.then(send(UplinkIn, &sent.in_fragments(40)[piece]).goes_out_as(outcome, &expected));
        }
    }
    vec![row]
}

fn left_alone(site: &Site) -> Vec<Row> {
    let foreign = packet::udp(site.at(Host::Client, PORT), site.at(Host::Stranger, 53)).payload(&[1; 100]);
    let sctp = first(
        Protocol::Sctp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Local),
    )
    .payload(&[1; 100]);
    let mut rows = Vec::new();
    for program in [UplinkIn, UplinkXdp, UplinkOut, PodIn] {
        let mut row = Row::new(format!("fragments of nobody's flow, {}", program.name()));
        for (number, piece) in foreign.in_fragments(40).iter().enumerate() {
            // Behind the routing decision any address may be a flow's.
            let outcome = if number > 0 && matches!(program, UplinkOut) {
                PassedFragment
            } else {
                PassedNotOurs
            };
            row = row.then(send(program, piece).passes(outcome));
        }
        rows.push(row.leaves_nothing());
        let mut row = Row::new(format!("SCTP in fragments, {}", program.name()));
        for piece in sctp.in_fragments(40) {
            row = row.then(send(program, &piece).passes(PassedFragment));
        }
        rows.push(row.leaves_nothing());
    }
    // A first fragment that ends inside the transport header has no ports (RFC 1858).
    let tcp = first(
        Protocol::Tcp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Local),
    )
    .payload(&[1; 100]);
    let tiny = tcp.in_fragments(8).remove(0);
    rows.push(Row::new("a tiny first fragment").then(send(UplinkIn, &tiny).passes(Outcome::PassedMalformed)));
    rows
}

/// IPv6 extension headers, up to six.
fn extensions(site: &Site) -> Vec<Row> {
    if site.is_v4() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for program in [UplinkIn, UplinkXdp] {
        for protocol in PROTOCOLS {
            for number in [0, 43, 60] {
                for count in 1..=7 {
                    let longer = |packet: &Packet| {
                        (0..count).fold(packet.clone(), |packet, _| packet.extension(number, &[0; 6]))
                    };
                    let sent = first(protocol, site.at(Host::Client, PORT), site.cluster_ip(Svc::Local));
                    let there = sent.clone().to(site.backend(Svc::Local));
                    let row = Row::new(format!(
                        "{protocol} behind {count} headers {number}, {}",
                        program.name()
                    ));
                    let step = send(program, &longer(&sent));
                    rows.push(row.then(if count > 6 {
                        step.passes(PassedExtension)
                    } else {
                        step.becomes(ForwardedNew, &longer(&there))
                    }));
                }
            }
        }
        let sent = first(
            Protocol::Udp,
            site.at(Host::Client, PORT),
            site.cluster_ip(Svc::Local),
        );
        let mut add = |name: &str, packet: Packet| {
            let row = Row::new(format!("{name}, {}", program.name()));
            rows.push(row.then(send(program, &packet).passes(PassedExtension)));
        };
        for number in [50, 51, 135, 139, 140] {
            add(
                &format!("behind header {number}"),
                sent.clone().extension(number, &[0; 22]),
            );
            let second = sent.clone().extension(60, &[0; 6]).extension(number, &[0; 22]);
            add(&format!("behind options and header {number}"), second);
        }
        add(
            "a route that is not at its end",
            sent.clone().extension(43, &[0, 1, 0, 0, 0, 0]),
        );
        add(
            "options longer than is looked at",
            sent.clone().extension(60, &[0; 254]).extension(60, &[0; 6]),
        );
    }
    let away = first(
        Protocol::Udp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Remote),
    )
    .extension(60, &[0; 30]);
    let there = hop(&away)
        .from(site.at(Host::Node, snat(&away)))
        .to(site.backend(Svc::Remote));
    rows.push(
        Row::new("options on the way to another node, there and back")
            .then(send(UplinkIn, &away).goes_out_as(ForwardedNew, &there))
            .then(send(UplinkIn, &there.reply().ttl(64)).goes_out_as(ForwardedFlow, &hop(&away).reply())),
    );
    rows
}
