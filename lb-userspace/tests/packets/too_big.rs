//! Packets that do not fit the link they would be sent by around the stack: their sender is told, or they are made
//! into fragments. (All links of the site have an MTU of 1,500.)

use lb_common::{
    abi::{Outcome, Protocol},
    testing::packet::{Packet, Transport},
};

use crate::{
    exchange::{PROTOCOLS, first, hop},
    row::{Row, send, snat},
    site::{Dev, Host, Site, Svc},
    world::Program::{HostOut, LoopbackOut, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{ForwardedNew, ForwardedSplit, PassedToTcMtu, RejectedTooBig};

const PORT: u16 = 45_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        let ways = [
            (UplinkIn, Host::Client, site.cluster_ip(Svc::Remote)),
            (UplinkIn, Host::Client, site.cluster_ip(Svc::Tunnelled)),
            (HostOut, Host::Node, site.cluster_ip(Svc::Remote)),
            (LoopbackOut, Host::Node, site.node_port(Svc::Remote)),
            (
                UplinkOut,
                Host::Node,
                site.at(Host::OtherNode, Svc::Remote.node_port()),
            ),
        ];
        for (program, from, to) in ways {
            let sent = sized(first(protocol, site.at(from, PORT), to), 1501);
            rows.push(
                Row::new(format!("{protocol} that is too big, {}, {to}", program.name()))
                    .then(send(program, &sent).goes_out_as(RejectedTooBig, &answer(&sent)))
                    .then(
                        send(program, &sized(sent.clone(), 3000))
                            .goes_out_as(RejectedTooBig, &answer(&sized(sent.clone(), 3000))),
                    ),
            );
        }
        let sent = sized(
            first(
                protocol,
                site.at(Host::Client, PORT),
                site.cluster_ip(Svc::Remote),
            ),
            1500,
        );
        let there = hop(&sent)
            .from(site.at(Host::Node, snat(&sent)))
            .to(site.backend(Svc::Remote));
        rows.push(
            Row::new(format!("{protocol} that just fits"))
                .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there)),
        );
        // The stack tells by itself.
        let here = sized(
            first(protocol, site.at(Host::Client, PORT), site.cluster_ip(Svc::Local)),
            1501,
        );
        rows.push(
            Row::new(format!("{protocol} that is too big for the stack's way")).then(
                send(UplinkIn, &here).becomes(ForwardedNew, &here.clone().to(site.backend(Svc::Local))),
            ),
        );
    }
    rows.extend(fragments(site));
    rows
}

/// The packet with a payload that gives it `length` bytes from the network header on.
fn sized(packet: Packet, length: usize) -> Packet {
    let without = packet.clone().payload(&[]).quotable().len();
    packet.payload(&vec![0xa5; length - without])
}

/// What the sender is told, from the address that it asked for.
fn answer(sent: &Packet) -> Packet {
    let (kind, code) = if sent.source.is_ipv4() { (3, 4) } else { (2, 0) };
    let mut answer = sent
        .error(sent.destination.ip(), kind, code, 96)
        .macs(sent.destination_mac, sent.source_mac);
    if let Transport::Icmp { rest, .. } = &mut answer.transport {
        *rest = 1500u32.to_be_bytes();
    }
    answer
}

fn fragments(site: &Site) -> Vec<Row> {
    let from = site.at(Host::Client, PORT);
    let big = sized(first(Protocol::Udp, from, site.cluster_ip(Svc::Remote)), 3000).id(77);
    // No link and no host makes such ones, but a link before this one may be larger.
    let small = sized(first(Protocol::Udp, from, site.cluster_ip(Svc::Remote)), 300).id(78);
    let first_piece = small.in_fragments(40).remove(0);
    let later = small.in_fragments(40).remove(1).payload(&[0x5a; 1600]);
    let there = hop(&small)
        .from(site.at(Host::Node, snat(&small)))
        .to(site.backend(Svc::Remote));
    let first_there = if site.is_v4() { there.id(0) } else { there }
        .in_fragments(40)
        .remove(0);
    let row = Row::new("a later fragment that is too big")
        .then(send(UplinkIn, &first_piece).goes_out_as(ForwardedNew, &first_there));
    if !site.is_v4() {
        // The first one of a datagram is told about.
        let first_piece = big.in_fragments(1480).remove(0);
        return vec![
            Row::new("a first fragment that is too big")
                .then(send(UplinkIn, &first_piece).goes_out_as(RejectedTooBig, &answer(&first_piece))),
            row.then(send(UplinkIn, &later).ends(RejectedTooBig)),
        ];
    }
    let mut rows = Vec::new();
    for (program, from, to) in [
        (UplinkIn, Host::Client, site.cluster_ip(Svc::Remote)),
        (HostOut, Host::Node, site.cluster_ip(Svc::Remote)),
    ] {
        let may = sized(first(Protocol::Udp, site.at(from, PORT), to), 3000)
            .id(77)
            .fragment(0, false);
        for options in [0, 40] {
            let may = may.clone().ip_options(&vec![1; options]);
            let room = (1500 - 20 - options) / 8 * 8;
            let last = may.in_fragments(room).pop().expect("there are pieces");
            rows.push(
                Row::new(format!(
                    "larger than the link, and may be fragmented, {}, {options} bytes of options",
                    program.name()
                ))
                .then(send(program, &may).ends_as(ForwardedSplit, &last)),
            );
        }
    }
    let last = later
        .clone()
        .payload(&[0x5a; 1600 - 1480])
        .fragment(40 + 1480, true);
    rows.push(row.then(send(UplinkIn, &later).ends_as(ForwardedSplit, &last)));
    rows.push(
        Row::new("larger than the link, at XDP")
            .then(send(UplinkXdp, &big).passes(PassedToTcMtu))
            .then(
                send(UplinkIn, &big)
                    .on(Dev::Up0)
                    .goes_out_as(RejectedTooBig, &answer(&big)),
            ),
    );
    rows
}
