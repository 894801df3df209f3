//! ICMP errors about flows: both headers translated, in both directions, on every way a flow can take, and with
//! quotes that end anywhere.

use std::net::IpAddr;

use lb_common::{
    abi::{Outcome, Protocol},
    testing::packet::{self, Packet},
};

use crate::{
    exchange::{PROTOCOLS, answer, first, hop},
    row::{Row, Sent, send, send_bytes, snat},
    site::{Dev, Host, Site, Svc},
    world::{
        Program::{self, BridgePortIn, HostOut, LoopbackOut, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
        SNAT_PORTS,
    },
};

use Outcome::{ForwardedError, ForwardedFlow, ForwardedNew, PassedNotOurs, PassedOther};

const PORT: u16 = 43_000;

/// Types and codes of errors, in IPv4 and IPv6.
const KINDS: [[(u8, u8); 8]; 2] = [
    [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)],
    [(1, 0), (1, 3), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 2)],
];

/// What becomes of an error.
#[derive(Clone, Copy)]
enum Way {
    /// It goes on.
    On,
    /// It is sent out by its neighbour, as a hop later.
    Out,
    /// It is received by this device.
    To(Dev),
}

/// An error about a packet of a flow, where a program sees it.
struct Case {
    name: &'static str,
    program: Program,
    dev: Dev,
    /// The stack forwards it from this device.
    from_dev: Option<Dev>,
    /// The packet that its sender has received.
    about: Packet,
    /// The same packet as it was in front of the translation.
    original: Packet,
    /// Who reports it, and as whom.
    from: IpAddr,
    becomes: IpAddr,
    way: Way,
}

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        for (case, set_up) in cases(site, protocol) {
            rows.push(all_kinds(site, protocol, &case, set_up(Row::new(""))));
            if protocol != Protocol::Sctp && matches!(case.way, Way::On) && case.program == UplinkIn {
                let mut at_xdp = case;
                at_xdp.program = UplinkXdp;
                rows.push(all_kinds(site, protocol, &at_xdp, set_up(Row::new(""))));
            }
        }
    }
    rows.extend(left_alone(site));
    rows
}

type SetUp = Box<dyn Fn(Row) -> Row>;

fn then(steps: impl Fn() -> Vec<Sent> + 'static) -> SetUp {
    Box::new(move |row| steps().into_iter().fold(row, Row::then))
}

/// Every kind of way, seen from both of its ends.
fn cases(site: &Site, protocol: Protocol) -> Vec<(Case, SetUp)> {
    let (client, vip) = (site.ip(Host::Client), site.ip(Host::Vip));
    let (pod, node, stranger) = (site.ip(Host::PodA), site.ip(Host::Node), site.ip(Host::Stranger));
    let mut cases = Vec::new();
    let mut add = |case: Case, set_up: SetUp| cases.push((case, set_up));

    // A client outside, the backend here.
    let sent = first(protocol, site.at(Host::Client, PORT), site.cluster_ip(Svc::Local));
    let there = sent.clone().to(site.backend(Svc::Local));
    let opened = |sent: &Packet, there: &Packet| {
        let (sent, there) = (sent.clone(), there.clone());
        then(move || {
            vec![
                send(UplinkIn, &sent).becomes(ForwardedNew, &there),
                send(UplinkOut, &answer(&there))
                    .forwarded_from(Dev::Pod0)
                    .becomes(ForwardedFlow, &answer(&sent)),
            ]
        })
    };
    for (name, from) in [
        ("the backend reports", pod),
        ("this node reports", node),
        ("a router reports", stranger),
    ] {
        let case = Case {
            name,
            program: UplinkOut,
            dev: Dev::Up0,
            from_dev: Some(Dev::Pod0),
            about: hop(&there),
            original: hop(&sent),
            from,
            becomes: vip,
            way: Way::On,
        };
        add(case, opened(&sent, &there));
    }
    for (name, from) in [
        ("the client reports", client),
        ("a router before it reports", stranger),
    ] {
        let case = Case {
            name,
            program: UplinkIn,
            dev: Dev::Up0,
            from_dev: None,
            about: answer(&sent),
            original: answer(&there),
            from,
            becomes: from,
            way: Way::On,
        };
        add(case, opened(&sent, &there));
    }

    // A client outside, the backend elsewhere: around the stack, with this node's address.
    let sent = first(
        protocol,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Remote),
    );
    let there = hop(&sent)
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Remote));
    let opened = |sent: &Packet, there: &Packet| {
        let (sent, there) = (sent.clone(), there.clone());
        then(move || vec![send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there)])
    };
    for (name, from) in [
        ("the remote backend reports", site.ip(Host::RemotePod)),
        ("a router behind this node reports", stranger),
    ] {
        let case = Case {
            name,
            program: UplinkIn,
            dev: Dev::Up0,
            from_dev: None,
            about: there.clone(),
            original: hop(&sent),
            from,
            becomes: vip,
            way: Way::Out,
        };
        add(case, opened(&sent, &there));
    }
    for (name, from) in [
        ("the client of a remote backend reports", client),
        ("a router before that client reports", stranger),
    ] {
        let case = Case {
            name,
            program: UplinkIn,
            dev: Dev::Up0,
            from_dev: None,
            about: answer(&sent),
            original: answer(&there).ttl(64),
            from,
            becomes: node,
            way: Way::Out,
        };
        add(case, opened(&sent, &there));
    }

    // A pod of this node is the client.
    let sent = first(protocol, site.at(Host::PodA, PORT), site.cluster_ip(Svc::Remote));
    let there = sent.clone().to(site.backend(Svc::Remote));
    let opened = |sent: &Packet, there: &Packet| {
        let (sent, there) = (sent.clone(), there.clone());
        then(move || vec![send(PodIn, &sent).becomes(ForwardedNew, &there)])
    };
    for (name, from) in [
        ("a pod's backend reports", site.ip(Host::RemotePod)),
        ("this node reports to its pod", node),
    ] {
        let case = Case {
            name,
            program: PodOut,
            dev: Dev::Pod0,
            from_dev: Some(Dev::Up0),
            about: hop(&there),
            original: hop(&sent),
            from,
            becomes: vip,
            way: Way::On,
        };
        add(case, opened(&sent, &there));
    }
    let case = Case {
        name: "a pod reports",
        program: PodIn,
        dev: Dev::Pod0,
        from_dev: None,
        about: answer(&sent),
        original: answer(&there),
        from: pod,
        becomes: pod,
        way: Way::On,
    };
    add(case, opened(&sent, &there));

    cases.extend(node_cases(site, protocol));
    cases
}

/// A process of this node is the client: by lb0, by lo, and out of the uplink to another node's port.
fn node_cases(site: &Site, protocol: Protocol) -> Vec<(Case, SetUp)> {
    let node = site.ip(Host::Node);
    // A port of the range is kept.
    let from = site.at(Host::Node, SNAT_PORTS[0] + 7);
    let mut cases = Vec::new();
    for (name, program, dev, to, svc, out) in [
        (
            "lb0",
            HostOut,
            Dev::Lb0,
            site.cluster_ip(Svc::Local),
            Svc::Local,
            Dev::Pod0,
        ),
        (
            "lo",
            LoopbackOut,
            Dev::Lo,
            site.node_port(Svc::Remote),
            Svc::Remote,
            Dev::Up0,
        ),
        (
            "the uplink",
            UplinkOut,
            Dev::Up0,
            site.at(Host::OtherNode, Svc::Local.node_port()),
            Svc::Local,
            Dev::Pod0,
        ),
    ] {
        let sent = first(protocol, from, to);
        let there = sent.clone().to(site.backend(svc));
        let back = if out == Dev::Up0 { UplinkIn } else { PodIn };
        let reported = Case {
            name: match name {
                "lb0" => "to a process, by lb0",
                "lo" => "to a process, by lo",
                _ => "to a process, by the uplink",
            },
            program: back,
            dev: out,
            from_dev: None,
            about: there.clone(),
            original: sent.clone(),
            from: site.backend(svc).ip(),
            becomes: to.ip(),
            way: Way::To(dev),
        };
        let reports = Case {
            name: match name {
                "lb0" => "a process reports, by lb0",
                "lo" => "a process reports, by lo",
                _ => "a process reports, by the uplink",
            },
            program,
            dev,
            from_dev: None,
            about: answer(&sent),
            original: answer(&there),
            from: node,
            becomes: node,
            way: Way::Out,
        };
        for case in [reported, reports] {
            let (sent, there) = (sent.clone(), there.clone());
            let set_up = then(move || vec![send(program, &sent).goes_out_as(ForwardedNew, &there)]);
            cases.push((case, set_up));
        }
    }
    cases
}

/// Every kind of error, with quotes of every length from none on.
fn all_kinds(site: &Site, protocol: Protocol, case: &Case, mut row: Row) -> Row {
    row.name = format!("ICMP error: {}, {protocol}, {}", case.name, case.program.name());
    let header = if site.is_v4() { 20 } else { 40 };
    let whole = case.about.quotable().len();
    for (kind, code) in KINDS[usize::from(!site.is_v4())] {
        row = row.then(step(case, kind, code, whole));
    }
    let (kind, code) = KINDS[usize::from(!site.is_v4())][2];
    // A checksum of which a part is quoted cannot be brought up to date.
    let half = match protocol {
        Protocol::Tcp => 17..18,
        Protocol::Udp => 7..8,
        Protocol::Sctp => 9..12,
    };
    for length in (header + 4..whole).filter(|length| !half.contains(&(length - header))) {
        row = row.then(step(case, kind, code, length));
    }
    row
}

fn step(case: &Case, kind: u8, code: u8, length: usize) -> Sent {
    // From this node itself, a packet of another time to live.
    let error = case.about.error(case.from, kind, code, length);
    let mut expected = case.original.error(case.becomes, kind, code, length);
    let sent = send(case.program, &error).on(case.dev);
    let sent = match case.from_dev {
        Some(dev) => sent.forwarded_from(dev),
        None => sent,
    };
    match case.way {
        Way::On => sent.becomes(ForwardedError, &expected),
        Way::Out => {
            let here = matches!(case.program, HostOut | LoopbackOut | UplinkOut);
            expected = if here { expected } else { hop(&expected) };
            sent.goes_out_as(ForwardedError, &expected)
        }
        // Up the stack of the device it is on anyway.
        Way::To(dev) if dev == case.dev => sent.becomes(ForwardedError, &expected),
        Way::To(dev) => {
            let expected = expected.clone().macs(expected.source_mac, dev.mac());
            sent.goes_out_as(ForwardedError, &expected)
        }
    }
}

/// What is no error about a flow, or does not say so clearly.
fn left_alone(site: &Site) -> Vec<Row> {
    let sent = first(
        Protocol::Udp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Local),
    );
    let there = sent.clone().to(site.backend(Svc::Local));
    let family = usize::from(!site.is_v4());
    let (kind, code) = KINDS[family][2];
    let pod = site.ip(Host::PodA);
    let header = if site.is_v4() { 20 } else { 40 };
    let error = |about: &Packet| about.error(pod, kind, code, 200);
    let open = || Row::new("").then(send(UplinkIn, &sent).becomes(ForwardedNew, &there));
    let mut rows = Vec::new();
    let mut add = |name: &str, packet: &Packet, outcome: Outcome| {
        let mut row = open().then(send(UplinkOut, packet).forwarded_from(Dev::Pod0).passes(outcome));
        row.name = format!("ICMP left alone: {name}");
        rows.push(row);
    };
    let mut stray = there.clone();
    stray.source.set_port(PORT + 1);
    add("no flow of ours", &error(&stray), PassedNotOurs);
    let mut elsewhere = error(&there);
    elsewhere.destination.set_ip(site.ip(Host::Stranger));
    add(
        "to somebody who has not sent what it quotes",
        &elsewhere,
        PassedOther,
    );
    add(
        "a quote without ports",
        &there.error(pod, kind, code, header + 3),
        PassedOther,
    );
    add(
        "a quote of half a header",
        &there.error(pod, kind, code, header - 1),
        PassedOther,
    );
    add("no quote", &there.error(pod, kind, code, 0), PassedOther);
    add(
        "a quoted fragment without ports",
        &error(&there.clone().fragment(8, false)),
        PassedOther,
    );
    let ping = packet::icmp(pod, site.ip(Host::Client), 8, 0).payload(&there.quotable());
    add(
        "a quote about ICMP",
        &error(&packet::icmp(site.ip(Host::Client), pod, 8, 0)),
        PassedOther,
    );
    let others: &[u8] = if site.is_v4() {
        &[0, 4, 5, 8, 13, 17]
    } else {
        &[0, 128, 129, 133, 135, 136, 137]
    };
    for &other in others {
        add(
            &format!("type {other}"),
            &there.error(pod, other, 0, 200),
            PassedOther,
        );
    }
    if site.is_v4() {
        add("in fragments", &error(&there).fragment(0, true), PassedOther);
        add(
            "options in the quote, which ends in them",
            &{ there.clone().ip_options(&[1; 40]).error(pod, kind, code, 50) },
            PassedOther,
        );
    }
    add(
        "a ping that carries a packet of a flow",
        &if site.is_v4() {
            ping
        } else {
            packet::icmp(pod, site.ip(Host::Client), 128, 0).payload(&there.quotable())
        },
        PassedOther,
    );

    // On its way between two pods of one bridge it must reach the stack, as its flow does.
    let sent = first(
        Protocol::Udp,
        site.at(Host::PodA, PORT),
        site.cluster_ip(Svc::Neighbour),
    );
    let there = sent.clone().to(site.backend(Svc::Neighbour));
    let error = there.error(site.ip(Host::PodB), kind, code, 200);
    let routed = error.clone().macs(error.source_mac, Dev::Port0.bridge_mac());
    rows.push(
        Row::new("ICMP error between pods of one bridge")
            .then(send(BridgePortIn, &sent).becomes(ForwardedNew, &there))
            .then(send(BridgePortIn, &error).becomes(PassedNotOurs, &routed))
            .then(
                send(PodOut, &error)
                    .forwarded_from(Dev::Pod1)
                    .becomes(ForwardedError, &sent.error(site.ip(Host::Vip), kind, code, 200)),
            ),
    );
    // With options and extension headers around and inside.
    let sent = first(
        Protocol::Tcp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Local),
    );
    let there = sent.clone().to(site.backend(Svc::Local));
    let longer = |packet: &Packet| {
        if site.is_v4() {
            packet.clone().ip_options(&[1; 12])
        } else {
            packet
                .clone()
                .extension(0, &[1, 4, 0, 0, 0, 0])
                .extension(60, &[1, 12])
        }
    };
    rows.push(
        Row::new("ICMP error with options, about a packet with options")
            .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
            .then(
                send(UplinkOut, &longer(&longer(&there).error(pod, kind, code, 200)))
                    .forwarded_from(Dev::Pod0)
                    .becomes(
                        ForwardedError,
                        &longer(&longer(&sent).error(site.ip(Host::Vip), kind, code, 200)),
                    ),
            ),
    );
    // The time to live of an error on its way around the stack.
    let sent = first(
        Protocol::Udp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Remote),
    );
    let there = hop(&sent)
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Remote));
    let error = there.error(site.ip(Host::RemotePod), kind, code, 200);
    let undone = hop(&sent).error(site.ip(Host::Vip), kind, code, 200);
    rows.push(
        Row::new("ICMP error around the stack, at XDP and at its last hop")
            .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
            .then(send(UplinkXdp, &error).passes(Outcome::PassedToTcError))
            .then(
                send(UplinkIn, &error.clone().ttl(1))
                    .ends_as(Outcome::DroppedExpired, &undone.clone().ttl(1)),
            )
            .then(send(UplinkIn, &error).goes_out_as(ForwardedError, &undone.ttl(63))),
    );
    // In a datagram that ends inside of the ports.
    let cut = error.build();
    rows.push(
        Row::new("ICMP error cut short")
            .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
            .then(
                send_bytes(
                    UplinkIn,
                    cut[..cut.len().min(14 + header + 8 + header + 3)].to_vec(),
                )
                .passes(PassedOther),
            ),
    );
    rows
}
