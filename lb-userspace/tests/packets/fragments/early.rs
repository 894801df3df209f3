//! Later fragments that come before the first one of their datagram.

use lb_common::{
    abi::{Event, FrontendKind, Outcome, Protocol, capacity},
    testing::packet::Packet,
};

use super::{ID, PORT, big, renamed};
use crate::{
    exchange::{first, hop},
    row::{Row, send, snat},
    site::{Dev, Host, Site, Svc},
    world::Program::{self, HostOut, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
};

use Outcome::{
    DroppedOther, ForwardedFlow, ForwardedFragment, ForwardedHeld, ForwardedNew, PassedFragment,
    PassedNoFrontend, PassedNotOurs, PassedToTcFragment,
};

/// Ticks after which a fragment does not wait any more.
const TOO_LATE: u32 = 5;

/// Ticks for which a first fragment is remembered, but one: the clock goes on.
const STILL_KNOWN: u32 = 29;

/// The first slot is taken again by as many fragments as there are slots, less the one that a first fragment needs.
const SLOTS: u32 = capacity::HELD;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for kind in [FrontendKind::ClusterIp, FrontendKind::LoadBalancer] {
            let sent = first(
                protocol,
                site.at(Host::Client, PORT),
                site.frontend(Svc::Local, kind),
            );
            rows.push(to_a_service(site, &sent.payload(&[0x5a; 100]).id(ID), UplinkIn));
        }
        rows.push(to_a_service(
            site,
            &big(protocol, site, Host::PodA, site.cluster_ip(Svc::Local)),
            PodIn,
        ));
        rows.push(to_this_node(site, protocol));
        rows.push(to_another_node(site, protocol));
        rows.push(answered(site, protocol));
    }
    rows.push(by_xdp(site));
    rows.push(by_xdp_to_another_node(site));
    rows.push(interleaved(site));
    rows.extend(nobodys(site));
    rows.push(too_late(site));
    rows.push(of_old(site));
    rows.extend(flood(site));
    rows.push(long(site));
    rows
}

/// Of the packet and of what it becomes: three fragments each.
fn pieces(packet: &Packet) -> [Packet; 3] {
    let pieces = packet.in_fragments(40);
    assert!(pieces.len() >= 3, "a datagram of three pieces");
    [pieces[0].clone(), pieces[1].clone(), pieces[2].clone()]
}

/// The first one has passed, and with it those that were held back; they come again.
fn and_later(row: Row, program: Program, sent: &[Packet; 3], there: &[Packet; 3]) -> Row {
    row.then(send(program, &sent[2]).becomes(ForwardedFragment, &there[2]))
        .then(send(program, &sent[1]).becomes(ForwardedFragment, &there[1]))
        // Once only.
        .then(send(program, &sent[0]).becomes(ForwardedFlow, &there[0]))
}

fn to_a_service(site: &Site, sent: &Packet, program: Program) -> Row {
    let there = pieces(&sent.clone().to(site.backend(Svc::Local)));
    let sent = pieces(sent);
    let name = format!(
        "fragments of {} in reverse, {}",
        sent[0].protocol(),
        program.name()
    );
    let row = Row::new(name)
        .then(send(program, &sent[2]).ends(ForwardedHeld))
        .then(send(program, &sent[1]).ends(ForwardedHeld))
        .then(
            send(program, &sent[0])
                .becomes(ForwardedNew, &there[0])
                .followed_by(&[&sent[2], &sent[1]]),
        );
    and_later(row, program, &sent, &there)
}

/// Its own processes may be meant.
fn to_this_node(site: &Site, protocol: Protocol) -> Row {
    let sent = big(protocol, site, Host::Client, site.node_port(Svc::Local));
    let (sent, there) = (pieces(&sent), pieces(&sent.clone().to(site.backend(Svc::Local))));
    let row = Row::new(format!("fragments of {protocol} to a node port in reverse"))
        .then(send(UplinkIn, &sent[2]).passes(PassedFragment))
        .then(send(UplinkIn, &sent[1]).passes(PassedFragment))
        .then(
            send(UplinkIn, &sent[0])
                .becomes(ForwardedNew, &there[0])
                .followed_by(&[&sent[2], &sent[1]]),
        );
    and_later(row, UplinkIn, &sent, &there)
}

/// Requests, and answers to the node's own address.
fn to_another_node(site: &Site, protocol: Protocol) -> Row {
    let sent = big(protocol, site, Host::Client, site.cluster_ip(Svc::Remote));
    let there = hop(&sent)
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Remote));
    let back = there.reply().ttl(64).id(ID + 1);
    let undone = hop(&back).from(sent.destination).to(sent.source);
    let mut row = Row::new(format!(
        "fragments of {protocol} to and from elsewhere in reverse"
    ));
    for (sent, there, id, new) in [(&sent, &there, 0, true), (&back, &undone, 1, false)] {
        let (sent, there) = (pieces(sent), pieces(&renamed(site, there, id)));
        let outcome = if new { ForwardedNew } else { ForwardedFlow };
        for piece in [&sent[1], &sent[2]] {
            row = row.then(if new {
                send(UplinkIn, piece).ends(ForwardedHeld)
            } else {
                send(UplinkIn, piece).passes(PassedFragment)
            });
        }
        row = row
            .then(
                send(UplinkIn, &sent[0])
                    .goes_out_as(outcome, &there[0])
                    .followed_by(&[&sent[1], &sent[2]]),
            )
            .then(send(UplinkIn, &sent[1]).goes_out_as(ForwardedFragment, &there[1]))
            .then(send(UplinkIn, &sent[2]).goes_out_as(ForwardedFragment, &there[2]));
    }
    row
}

/// Answers that are undone behind the routing decision.
fn answered(site: &Site, protocol: Protocol) -> Row {
    let sent = first(protocol, site.at(Host::PodA, PORT), site.cluster_ip(Svc::Remote));
    let there = sent.clone().to(site.backend(Svc::Remote));
    let back = there.reply().payload(&[0x5a; 100]).id(ID);
    let undone = renamed(site, &back.clone().from(sent.destination), 0);
    let (back, undone) = (pieces(&back), pieces(&undone));
    let step = |piece: &Packet| send(PodOut, piece).forwarded_from(Dev::Up0);
    Row::new(format!("fragments of answers by {protocol} in reverse"))
        .then(send(PodIn, &sent).becomes(ForwardedNew, &there))
        .then(step(&back[2]).passes(PassedFragment))
        .then(step(&back[1]).passes(PassedFragment))
        .then(
            step(&back[0])
                .becomes(ForwardedFlow, &undone[0])
                .followed_by(&[&back[2], &back[1]]),
        )
        .then(step(&back[2]).becomes(ForwardedFragment, &undone[2]))
        .then(step(&back[1]).becomes(ForwardedFragment, &undone[1]))
}

/// XDP leaves a datagram to TC of which a fragment waits there.
fn by_xdp(site: &Site) -> Row {
    let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Local));
    let (sent, there) = (pieces(&sent), pieces(&sent.clone().to(site.backend(Svc::Local))));
    Row::new("fragments in reverse, at XDP")
        .then(send(UplinkXdp, &sent[1]).passes(PassedToTcFragment))
        .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
        .then(send(UplinkXdp, &sent[0]).passes(PassedToTcFragment))
        .then(
            send(UplinkIn, &sent[0])
                .becomes(ForwardedFlow, &there[0])
                .followed_by(&[&sent[1]]),
        )
        .then(send(UplinkIn, &sent[1]).becomes(ForwardedFragment, &there[1]))
        .then(send(UplinkXdp, &sent[2]).becomes(ForwardedFragment, &there[2]))
        .then(send(UplinkXdp, &sent[0]).becomes(ForwardedFlow, &there[0]))
}

/// The identification that XDP has given the datagram is the one that TC gives it.
fn by_xdp_to_another_node(site: &Site) -> Row {
    let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Remote));
    let there = hop(&sent)
        .from(site.at(Host::Node, snat(&sent)))
        .to(site.backend(Svc::Remote));
    let (sent, there) = (pieces(&sent), pieces(&renamed(site, &there, 0)));
    Row::new("fragments to another node in reverse, at XDP")
        .then(send(UplinkXdp, &sent[1]).passes(PassedToTcFragment))
        .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
        .then(send(UplinkXdp, &sent[0]).passes(PassedToTcFragment))
        .then(
            send(UplinkIn, &sent[0])
                .goes_out_as(ForwardedFlow, &there[0])
                .followed_by(&[&sent[1]]),
        )
        .then(send(UplinkIn, &sent[1]).goes_out_as(ForwardedFragment, &there[1]))
        .then(send(UplinkXdp, &sent[0]).hops_to(ForwardedFlow, &there[0], site))
}

fn interleaved(site: &Site) -> Row {
    let [one, other] = [Host::Client, Host::Stranger].map(|host| {
        let sent = big(Protocol::Udp, site, host, site.cluster_ip(Svc::Local));
        let there = sent.clone().to(site.backend(Svc::Local));
        (pieces(&sent), pieces(&there))
    });
    let mut row = Row::new("fragments of two datagrams in reverse, in turn");
    for piece in [2, 1] {
        for (sent, _) in [&one, &other] {
            row = row.then(send(UplinkIn, &sent[piece]).ends(ForwardedHeld));
        }
    }
    for (sent, there) in [&one, &other] {
        row = row.then(
            send(UplinkIn, &sent[0])
                .becomes(ForwardedNew, &there[0])
                .followed_by(&[&sent[2], &sent[1]]),
        );
    }
    let row = and_later(row, UplinkIn, &one.0, &one.1);
    and_later(row, UplinkIn, &other.0, &other.1)
}

/// Of datagrams that belong to no flow.
fn nobodys(site: &Site) -> Vec<Row> {
    let of = |host, to| pieces(&big(Protocol::Udp, site, host, to));
    let mut rows = Vec::new();
    let sent = of(Host::Client, site.at(Host::Node, 9));
    rows.push(
        Row::new("fragments in reverse, to a process of this node")
            .then(send(UplinkIn, &sent[1]).passes(PassedFragment))
            .then(send(UplinkIn, &sent[0]).passes(PassedNoFrontend))
            .then(send(UplinkIn, &sent[2]).passes(PassedFragment))
            .leaves_nothing(),
    );
    let sent = of(Host::Client, site.at(Host::Balancer, 9));
    rows.push(
        Row::new("fragments in reverse, to a port that no Service has")
            .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
            .then(
                send(UplinkIn, &sent[0])
                    .passes(PassedNoFrontend)
                    .followed_by(&[&sent[1]]),
            )
            .then(send(UplinkIn, &sent[1]).passes(PassedFragment))
            .leaves_nothing(),
    );
    let sent = of(Host::Client, site.at(Host::Stranger, 9));
    rows.push(
        Row::new("fragments in reverse that only pass by")
            .then(
                send(UplinkOut, &sent[1])
                    .forwarded_from(Dev::Up1)
                    .passes(PassedFragment),
            )
            .then(
                send(UplinkOut, &sent[0])
                    .forwarded_from(Dev::Up1)
                    .passes(PassedNotOurs),
            )
            .leaves_nothing(),
    );
    let sent = of(Host::Node, site.cluster_ip(Svc::Local));
    rows.push(
        Row::new("fragments in reverse of a process of this node")
            .then(send(HostOut, &sent[1]).ends(DroppedOther))
            .leaves_nothing(),
    );
    rows
}

fn too_late(site: &Site) -> Row {
    let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Local));
    let (sent, there) = (pieces(&sent), pieces(&sent.clone().to(site.backend(Svc::Local))));
    Row::new("a first fragment that comes too late")
        .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
        .doing(|world| world.age_held(TOO_LATE))
        .then(send(UplinkIn, &sent[2]).ends(ForwardedHeld))
        .then(
            send(UplinkIn, &sent[0])
                .becomes(ForwardedNew, &there[0])
                .with(Event::FragmentLost)
                .followed_by(&[&sent[2]]),
        )
        .then(send(UplinkIn, &sent[2]).becomes(ForwardedFragment, &there[2]))
}

/// A datagram has the identification of an old one, which was another flow's.
fn of_old(site: &Site) -> Row {
    let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Local));
    let old = first(Protocol::Udp, site.at(Host::Client, PORT + 1), sent.destination)
        .payload(&[0x5a; 100])
        .id(ID);
    let to = site.backend(Svc::Local);
    let (old_there, there) = (pieces(&old.clone().to(to)), pieces(&sent.clone().to(to)));
    let (old, sent) = (pieces(&old), pieces(&sent));
    let family = site.family;
    Row::new("fragments in reverse, with the identification of an old datagram")
        .then(send(UplinkIn, &old[0]).becomes(ForwardedNew, &old_there[0]))
        .doing(move |world| world.maps(family).age_fragments(STILL_KNOWN))
        .then(send(UplinkIn, &old[1]).becomes(ForwardedFragment, &old_there[1]))
        .doing(move |world| world.maps(family).age_fragments(2))
        .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
        .then(
            send(UplinkIn, &sent[0])
                .becomes(ForwardedNew, &there[0])
                .followed_by(&[&sent[1]]),
        )
        .then(send(UplinkIn, &sent[1]).becomes(ForwardedFragment, &there[1]))
}

/// Others take the places of those that wait for longest, and nothing else suffers.
fn flood(site: &Site) -> Vec<Row> {
    let row = |others: u32, lost: bool| {
        let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Local));
        let (sent, there) = (pieces(&sent), pieces(&sent.clone().to(site.backend(Svc::Local))));
        let device = site.dev(UplinkIn.device());
        let flood: Vec<Vec<u8>> = (0..others)
            .map(|id| {
                let other = big(Protocol::Udp, site, Host::Stranger, site.cluster_ip(Svc::Local));
                pieces(&other.id(id as u16))[1].build()
            })
            .collect();
        let row = Row::new(format!("{others} fragments of others between two of a datagram"))
            .then(send(UplinkIn, &sent[1]).ends(ForwardedHeld))
            .doing(move |world| {
                for frame in &flood {
                    let run = world.run(UplinkIn, device, 0, frame);
                    assert_eq!(run.counted[0].1, ForwardedHeld);
                }
            });
        let step = send(UplinkIn, &sent[0]).becomes(ForwardedNew, &there[0]);
        if lost {
            // Nothing waits for it: it takes no place itself.
            row.then(step)
        } else {
            row.then(step.followed_by(&[&sent[1]]))
                .then(send(UplinkIn, &sent[1]).becomes(ForwardedFragment, &there[1]))
        }
    };
    vec![row(SLOTS - 2, false), row(SLOTS, true), row(10 * SLOTS, true)]
}

/// As long as a run of a program can have it.
fn long(site: &Site) -> Row {
    let sent = big(Protocol::Udp, site, Host::Client, site.cluster_ip(Svc::Local));
    let long = pieces(&sent)[1].clone().payload(&[0x5a; 3_000]);
    let there = sent.clone().to(site.backend(Svc::Local));
    Row::new("a long fragment before the first")
        .then(send(UplinkIn, &long).ends(ForwardedHeld))
        .then(
            send(UplinkIn, &pieces(&sent)[0])
                .becomes(ForwardedNew, &pieces(&there)[0])
                .followed_by(&[&long]),
        )
}
