//! Clients outside the cluster: every kind of address, every protocol, backends here and elsewhere.

use lb_common::{
    abi::{Action, FrontendKind, Outcome, Protocol, State},
    testing::packet::{self, Checksum, Packet},
};

use crate::{
    exchange::{PROTOCOLS, answer, data, fin, first, hop, syn},
    row::{Row, Translation, send, send_bytes, snat, translation},
    site::{Dev, Host, KINDS, Site, Svc},
    world::Program::{self, LoopbackOut, PodOut, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{DroppedExpired, DroppedNoRoute, DroppedSpoofed, ForwardedFlow, ForwardedNew, PassedNotOurs};

/// A port that is not one of those for SNAT.
const PORT: u16 = 40_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        for kind in KINDS {
            let to = site.frontend(Svc::Local, kind);
            let sent = first(protocol, site.at(Host::Client, PORT), to);
            let name = format!("{protocol} from outside to {kind:?}");
            rows.push(to_this_node(site, &name, UplinkIn, &sent));
            rows.push(to_this_node(site, &format!("{name}, at XDP"), UplinkXdp, &sent));
            let to = site.frontend(Svc::Remote, kind);
            let sent = first(protocol, site.at(Host::Client, PORT), to);
            for program in [UplinkIn, UplinkXdp] {
                let name = format!("{name}, backend elsewhere, {}", program.name());
                rows.push(to_another_node(site, &name, program, &sent));
            }
        }
    }
    rows.push(whole_connection(site));
    rows.extend(left_to_tc(site));
    rows.extend(several_uplinks(site));
    rows.extend(checksums(site));
    rows.extend(ways_that_do_not_exist(site));
    rows.extend(times_to_live(site));
    rows.extend(spoofed(site));
    rows.extend(local_policy(site));
    rows.extend(host_network(site));
    rows.extend(headers(site));
    rows
}

fn client(site: &Site, protocol: Protocol, svc: Svc) -> Packet {
    first(protocol, site.at(Host::Client, PORT), site.cluster_ip(svc))
}

/// In by the uplink or XDP, translated; the reply undone where it leaves.
fn to_this_node(site: &Site, name: &str, program: Program, sent: &Packet) -> Row {
    let there = sent.clone().to(site.backend(Svc::Local));
    Row::new(name)
        .then(send(program, sent).becomes(ForwardedNew, &there))
        .then(send(PodOut, &hop(&there)).passes(PassedNotOurs))
        .then(
            send(UplinkOut, &answer(&there))
                .forwarded_from(Dev::Pod0)
                .becomes(ForwardedFlow, &answer(sent)),
        )
        .then(send(program, &data(sent)).becomes(ForwardedFlow, &data(&there)))
        .leaves(vec![translation(sent, &there, State::Established)])
}

/// The packet after SNAT and DNAT on this node.
fn relayed(site: &Site, sent: &Packet, svc: Svc) -> Packet {
    let from = site.at(Host::Node, snat(sent));
    hop(sent).from(from).to(site.backend(svc))
}

fn relayed_flow(site: &Site, sent: &Packet, there: &Packet, state: State) -> Translation {
    let up0 = (Action::Neighbour, site.dev(Dev::Up0));
    translation(sent, there, state).sent(up0, up0)
}

/// Through this node, with its address; the reply goes the same way back.
fn to_another_node(site: &Site, name: &str, program: Program, sent: &Packet) -> Row {
    let there = relayed(site, sent, Svc::Remote);
    let (back, more) = (answer(&there).ttl(64), data(sent));
    let undone = hop(&back).from(sent.destination).to(sent.source);
    let more_there = data(&there).ttl(63);
    Row::new(name)
        .then(send(program, sent).hops_to(ForwardedNew, &there, site))
        .then(
            send(UplinkOut, &there)
                .forwarded_from(Dev::Up0)
                .passes(PassedNotOurs),
        )
        .then(send(program, &back).hops_to(ForwardedFlow, &undone, site))
        .then(send(program, &more).hops_to(ForwardedFlow, &more_there, site))
        .leaves(vec![relayed_flow(site, sent, &there, State::Established)])
}

/// What XDP cannot send goes through TC, which finds the flow that XDP has opened; and the other way round.
fn left_to_tc(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        for (svc, reason) in [
            (Svc::Tunnelled, Outcome::PassedToTcTunnel),
            (Svc::ByUp2, Outcome::PassedToTcDevice),
            (Svc::Quiet, Outcome::PassedToTcNeighbour),
        ] {
            let sent = client(site, protocol, svc);
            let (from, dev) = match svc {
                Svc::Tunnelled => (Host::TunnelEnd, Dev::Tun0),
                Svc::ByUp2 => (Host::NodeAtUp2, Dev::Up2),
                _ => (Host::Node, Dev::Up0),
            };
            let there = hop(&sent).from(site.at(from, snat(&sent))).to(site.backend(svc));
            let back = answer(&there).ttl(64);
            let undone = hop(&back).from(sent.destination).to(sent.source);
            let up0 = (Action::Neighbour, site.dev(Dev::Up0));
            rows.push(
                Row::new(format!("{protocol}, {svc:?}: XDP leaves it to TC"))
                    .then(send(UplinkXdp, &sent).passes(reason))
                    .then(send(UplinkIn, &sent).goes_out_as(ForwardedFlow, &there))
                    .then(send(UplinkIn, &back).on(dev).goes_out_as(ForwardedFlow, &undone))
                    .leaves(vec![
                        translation(&sent, &there, State::Answered)
                            .sent((Action::Neighbour, site.dev(dev)), up0),
                    ]),
            );
        }
    }
    rows.push(too_large(site));
    rows.push(no_way_any_more(site));
    rows
}

/// What fits the route is sent, what does not is for TC to answer or to cut.
fn too_large(site: &Site) -> Row {
    let sent = client(site, Protocol::Udp, Svc::Narrow);
    let there = relayed(site, &sent, Svc::Narrow);
    let headers = if site.is_v4() { 28 } else { 48 };
    let of = |packet: &Packet, length: usize| packet.clone().payload(&vec![7; length - headers]);
    Row::new("XDP sends what fits the route")
        .then(send(UplinkXdp, &of(&sent, 1280)).hops_to(ForwardedNew, &of(&there, 1280), site))
        .then(send(UplinkXdp, &of(&sent, 1281)).passes(Outcome::PassedToTcMtu))
        .then(send(UplinkXdp, &of(&sent, 1280)).hops_to(ForwardedFlow, &of(&there, 1280), site))
}

/// The route of a flow is gone.
fn no_way_any_more(site: &Site) -> Row {
    let sent = client(site, Protocol::Tcp, Svc::Lost);
    let there = relayed(site, &sent, Svc::Lost);
    let entries = relayed_flow(site, &sent, &there, State::Established).entries();
    let family = site.family;
    Row::new("the route of a flow is gone")
        .doing(move |world| {
            for (key, flow) in &entries {
                world.maps(family).put_flow(key, flow);
            }
        })
        .then(send(UplinkXdp, &data(&sent)).passes(Outcome::PassedToTcRoute))
}

/// By another uplink than the client's: with that one's address, and the answer may come in on either.
fn several_uplinks(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for program in [UplinkIn, UplinkXdp] {
        for protocol in PROTOCOLS {
            let sent = client(site, protocol, Svc::ByUp1);
            let there = hop(&sent)
                .from(site.at(Host::NodeAtUp1, snat(&sent)))
                .to(site.backend(Svc::ByUp1));
            let back = answer(&there).ttl(64);
            let undone = hop(&back).from(sent.destination).to(sent.source);
            let mut row = Row::new(format!("{protocol} by another uplink, {}", program.name()))
                .then(send(program, &sent).hops_to(ForwardedNew, &there, site));
            for dev in [Dev::Up1, Dev::Up0, Dev::Up2] {
                row = row.then(send(program, &back).on(dev).hops_to(ForwardedFlow, &undone, site));
            }
            let (way, way_back) = (
                (Action::Neighbour, site.dev(Dev::Up1)),
                (Action::Neighbour, site.dev(Dev::Up0)),
            );
            rows.push(row.leaves(vec![
                translation(&sent, &there, State::Answered).sent(way, way_back),
            ]));
        }
    }
    rows
}

/// From the handshake to the last FIN.
fn whole_connection(site: &Site) -> Row {
    let sent = client(site, Protocol::Tcp, Svc::Local);
    let there = sent.clone().to(site.backend(Svc::Local));
    let back = |packet: &Packet| packet.reply();
    let reply = |row: Row, at_pod: Packet| {
        let outside = at_pod.clone().from(sent.destination);
        row.then(
            send(UplinkOut, &at_pod)
                .forwarded_from(Dev::Pod0)
                .becomes(ForwardedFlow, &outside),
        )
    };
    let ask = |row: Row, packet: &dyn Fn(&Packet) -> Packet| {
        row.then(send(UplinkIn, &packet(&sent)).becomes(ForwardedFlow, &packet(&there)))
    };
    let row = Row::new("a connection from SYN to the last FIN")
        .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
        // A SYN that is sent again.
        .then(send(UplinkIn, &sent).becomes(ForwardedFlow, &there));
    let row = reply(row, answer(&there));
    let row = ask(row, &data);
    let row = reply(row, back(&data(&there)));
    let row = ask(row, &fin);
    let row = reply(row, back(&data(&there)));
    let row = reply(row, back(&fin(&there)));
    ask(row, &|packet| data(packet).payload(&[])).leaves(vec![translation(&sent, &there, State::Closed)])
}

/// UDP without a checksum stays so; a sum of zero is written as all ones; padding is no data.
fn checksums(site: &Site) -> Vec<Row> {
    let none = client(site, Protocol::Udp, Svc::Local).checksum(Checksum::Absent);
    let none_there = none.clone().to(site.backend(Svc::Local));
    let away = client(site, Protocol::Udp, Svc::Remote).checksum(Checksum::Absent);
    let mut rows = vec![
        Row::new("UDP without a checksum")
            .then(send(UplinkIn, &none).becomes(ForwardedNew, &none_there))
            .then(send(UplinkXdp, &none).becomes(ForwardedFlow, &none_there))
            .then(send(UplinkOut, &none_there.reply()).becomes(ForwardedFlow, &none.reply())),
        Row::new("UDP without a checksum, backend elsewhere")
            .then(send(UplinkIn, &away).goes_out_as(ForwardedNew, &relayed(site, &away, Svc::Remote)))
            .then(send(UplinkXdp, &away).hops_to(ForwardedFlow, &relayed(site, &away, Svc::Remote), site)),
    ];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let field = 14 + if site.is_v4() { 20 } else { 40 } + if protocol == Protocol::Udp { 6 } else { 16 };
        let there = |sent: &Packet| sent.clone().to(site.backend(Svc::Local));
        // The payload that fills the sum up to zero is the checksum without it.
        let sent = client(site, protocol, Svc::Local).payload(&[0, 0]);
        let frame = there(&sent).build();
        let sent = sent.payload(&frame[field..field + 2]);
        for program in [UplinkIn, UplinkXdp] {
            rows.push(
                Row::new(format!(
                    "{protocol} whose checksum becomes zero, {}",
                    program.name()
                ))
                .then(send(program, &sent).becomes(ForwardedNew, &there(&sent))),
            );
        }
        // To another port: what a sender leaves to its device has no ports in it, this has.
        let sum = |sent: &Packet| {
            let frame = sent.build();
            u16::from_be_bytes([frame[field], frame[field + 1]])
        };
        let sent = client(site, protocol, Svc::Local).payload(&[0, 0]);
        let left = sum(&sent.clone().checksum(Checksum::Partial));
        let (word, carry) = (!left).overflowing_add(sum(&sent));
        let sent = sent.payload(&(word + u16::from(carry)).to_be_bytes());
        assert_eq!(sum(&sent), left, "the sum of the pseudo header, by chance");
        rows.push(
            Row::new(format!(
                "{protocol} whose checksum looks as if it were left to the device"
            ))
            .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there(&sent))),
        );
    }
    for protocol in PROTOCOLS {
        let sent = client(site, protocol, Svc::Local).padding(7);
        let there = sent.clone().to(site.backend(Svc::Local));
        rows.push(
            Row::new(format!("{protocol} in a padded frame"))
                .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
                .then(send(UplinkXdp, &sent).becomes(ForwardedFlow, &there)),
        );
        for length in [1, 2, 3, 100, 1000, 1400] {
            let sent = client(site, protocol, Svc::Local).payload(&vec![0xa5; length]);
            let there = sent.clone().to(site.backend(Svc::Local));
            rows.push(
                Row::new(format!("{protocol} with {length} bytes"))
                    .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
                    .then(send(UplinkXdp, &sent).becomes(ForwardedFlow, &there)),
            );
        }
    }
    rows
}

fn ways_that_do_not_exist(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, svc) in [
        ("no route to the backend", Svc::Lost),
        ("no address for SNAT", Svc::Bare),
        ("a route by an unknown device", Svc::Alien),
    ] {
        for program in [UplinkIn, UplinkXdp] {
            let sent = client(site, Protocol::Tcp, svc);
            let row = Row::new(format!("{what}, {}", program.name()));
            rows.push(
                row.then(send(program, &sent).ends(DroppedNoRoute))
                    .leaves_nothing(),
            );
        }
    }
    rows
}

fn times_to_live(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for ttl in [0, 1] {
        let here = client(site, Protocol::Tcp, Svc::Local).ttl(ttl);
        let there = here.clone().to(site.backend(Svc::Local));
        let away = client(site, Protocol::Tcp, Svc::Remote).ttl(ttl);
        rows.push(
            Row::new(format!("TTL {ttl}: the stack's business"))
                .then(send(UplinkIn, &here).becomes(ForwardedNew, &there)),
        );
        rows.push(
            Row::new(format!("TTL {ttl}: ends on the way to another node"))
                .then(send(UplinkIn, &away).ends(DroppedExpired))
                .then(send(UplinkXdp, &away).ends(DroppedExpired)),
        );
    }
    // The sum of the IPv4 header must not be wrong for any of them.
    for ttl in [2, 3, 0x80, 0xff] {
        let away = client(site, Protocol::Udp, Svc::Remote).ttl(ttl);
        rows.push(
            Row::new(format!("TTL {ttl}"))
                .then(send(UplinkIn, &away).goes_out_as(ForwardedNew, &relayed(site, &away, Svc::Remote)))
                .then(send(UplinkXdp, &away).hops_to(
                    ForwardedFlow,
                    &relayed(site, &away, Svc::Remote),
                    site,
                )),
        );
    }
    rows
}

fn spoofed(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for host in [Host::PodA, Host::Node, Host::TunnelEnd] {
        for program in [UplinkIn, UplinkXdp] {
            let name = format!("from outside as {host:?}, {}", program.name());
            let at = |to| syn(site.at(host, PORT), to);
            let other = at(site.at(Host::Stranger, 80));
            rows.push(
                Row::new(name)
                    .then(send(program, &at(site.cluster_ip(Svc::Local))).ends(DroppedSpoofed))
                    .then(send(program, &at(site.node_port(Svc::Remote))).ends(DroppedSpoofed))
                    // Not ours: nor is its source.
                    .then(send(program, &other).passes(PassedNotOurs))
                    .leaves_nothing(),
            );
        }
    }
    rows
}

/// `externalTrafficPolicy: Local` and `internalTrafficPolicy: Local`, as clients outside see them.
fn local_policy(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in KINDS {
        let from = site.at(Host::Client, PORT);
        let here = syn(from, site.frontend(Svc::ExternalLocalHere, kind));
        let elsewhere = syn(from, site.frontend(Svc::ExternalLocalElsewhere, kind));
        let row = Row::new(format!(
            "external policy Local, {kind:?}, backends here and elsewhere"
        ));
        let silent = Row::new(format!(
            "external policy Local, {kind:?}, backends elsewhere only"
        ));
        if kind == FrontendKind::ClusterIp {
            // The policy does not concern it.
            let to = |svc: Svc| site.at(Host::RemotePod, svc.target());
            let there = |sent: &Packet, svc| relayed(site, sent, svc).to(to(svc));
            let second = there(&here, Svc::ExternalLocalHere);
            let only = there(&elsewhere, Svc::ExternalLocalElsewhere);
            rows.push(row.then(send(UplinkXdp, &here).hops_to(ForwardedNew, &second, site)));
            rows.push(silent.then(send(UplinkIn, &elsewhere).goes_out_as(ForwardedNew, &only)));
        } else {
            let there = here.clone().to(site.backend(Svc::ExternalLocalHere));
            rows.push(row.then(send(UplinkIn, &here).becomes(ForwardedNew, &there)));
            rows.push(
                silent
                    .then(send(UplinkIn, &elsewhere).ends(Outcome::DroppedNoLocalEndpoints))
                    .then(send(UplinkXdp, &elsewhere).ends(Outcome::DroppedNoLocalEndpoints))
                    .leaves_nothing(),
            );
        }
        let internal = syn(from, site.frontend(Svc::InternalLocalElsewhere, kind));
        let row = Row::new(format!(
            "internal policy Local, {kind:?}, backends elsewhere only"
        ));
        rows.push(if kind == FrontendKind::ClusterIp {
            row.then(send(UplinkIn, &internal).ends(Outcome::DroppedNoLocalEndpoints))
        } else {
            let there = relayed(site, &internal, Svc::InternalLocalElsewhere);
            row.then(send(UplinkIn, &internal).goes_out_as(ForwardedNew, &there))
        });
    }
    rows
}

/// Backends with a node's own address.
fn host_network(site: &Site) -> Vec<Row> {
    let here = client(site, Protocol::Tcp, Svc::HostHere);
    let here_there = here.clone().to(site.backend(Svc::HostHere));
    let away = client(site, Protocol::Tcp, Svc::HostThere);
    let away_there = relayed(site, &away, Svc::HostThere);
    let tunnelled = client(site, Protocol::Tcp, Svc::Tunnelled);
    let tunnel = hop(&tunnelled)
        .from(site.at(Host::TunnelEnd, snat(&tunnelled)))
        .to(site.backend(Svc::Tunnelled));
    let back = answer(&tunnel).ttl(64);
    let undone = hop(&back).from(tunnelled.destination).to(tunnelled.source);
    let (up0, tun0) = (
        (Action::Neighbour, site.dev(Dev::Up0)),
        (Action::Neighbour, site.dev(Dev::Tun0)),
    );
    vec![
        Row::new("a process of this node is the backend")
            .then(send(UplinkIn, &here).becomes(ForwardedNew, &here_there))
            .then(send(UplinkOut, &answer(&here_there)).becomes(ForwardedFlow, &answer(&here)))
            .leaves(vec![translation(&here, &here_there, State::Answered)]),
        Row::new("a process of another node is the backend")
            .then(send(UplinkIn, &away).goes_out_as(ForwardedNew, &away_there))
            .leaves(vec![relayed_flow(site, &away, &away_there, State::New)]),
        Row::new("the backend is behind a tunnel")
            .then(send(UplinkIn, &tunnelled).goes_out_as(ForwardedNew, &tunnel))
            .then(
                send(UplinkIn, &back)
                    .on(Dev::Tun0)
                    .goes_out_as(ForwardedFlow, &undone),
            )
            .leaves(vec![
                translation(&tunnelled, &tunnel, State::Answered).sent(tun0, up0),
            ]),
        Row::new("an answer of this node that is nobody's reply")
            .then(send(LoopbackOut, &answer(&here_there)).passes(PassedNotOurs))
            .then(send(UplinkOut, &answer(&here_there)).passes(PassedNotOurs)),
    ]
}

/// Options, fragments, VLANs, extension headers.
fn headers(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    let sent = client(site, Protocol::Udp, Svc::Local).payload(&[0; 16]);
    let there = |sent: &Packet| sent.clone().to(site.backend(Svc::Local));
    for program in [UplinkIn, UplinkXdp] {
        let at = program.name();
        if site.is_v4() {
            for options in [4, 8, 40] {
                for protocol in PROTOCOLS {
                    let sent = client(site, protocol, Svc::Local).ip_options(&vec![1; options]);
                    rows.push(
                        Row::new(format!("{protocol} behind {options} bytes of options, {at}"))
                            .then(send(program, &sent).becomes(ForwardedNew, &there(&sent))),
                    );
                }
            }
        } else {
            let extended = sent.clone().extension(0, &[1, 4, 0, 0, 0, 0]);
            rows.push(
                Row::new(format!("behind an extension header, {at}"))
                    .then(send(program, &extended).becomes(ForwardedNew, &there(&extended))),
            );
        }
        let mut cut = sent.build();
        cut.truncate(cut.len() - 18);
        rows.push(
            Row::new(format!("half a transport header, {at}"))
                .then(send_bytes(program, cut).passes(Outcome::PassedMalformed)),
        );
        let later = sent.clone().fragment(1480, false);
        let step = send(program, &later);
        rows.push(
            Row::new(format!("a later fragment, {at}")).then(if program == UplinkXdp {
                step.passes(Outcome::PassedToTcFragment)
            } else {
                step.ends(Outcome::ForwardedHeld)
            }),
        );
        let tagged = sent.clone().vlan(7);
        rows.push(
            Row::new(format!("in a VLAN, {at}")).then(send(program, &tagged).passes(Outcome::PassedVlan)),
        );
        let ping = packet::icmp(site.ip(Host::Client), site.ip(Host::Vip), 8, 0);
        rows.push(
            Row::new(format!("a ping to a virtual address, {at}"))
                .then(send(program, &ping).passes(Outcome::PassedOther)),
        );
    }
    if site.is_v4() {
        let options = client(site, Protocol::Udp, Svc::Remote).ip_options(&[1; 12]);
        rows.push(
            Row::new("options on the way to another node")
                .then(
                    send(UplinkIn, &options).goes_out_as(ForwardedNew, &relayed(site, &options, Svc::Remote)),
                )
                .then(send(UplinkXdp, &options).hops_to(
                    ForwardedFlow,
                    &relayed(site, &options, Svc::Remote),
                    site,
                )),
        );
    }
    rows
}
