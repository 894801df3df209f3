//! The life of flows: their ports, who gives way to whom, what is repaired, and when a connection begins anew.

use lb_common::{
    abi::{Action, Event, Flow, FrontendKind, Node, Outcome, Phase, Protocol, State, Tuple},
    net::KEPT_ADDRESS_PORTS,
    testing::packet::Packet,
};

use crate::{
    exchange::{answer, data, fin, first, hop, rst, syn},
    row::{Row, Translation, send, snat, snat_port, translation, tuple},
    site::{Dev, Host, Site, Svc},
    world::{
        Program::{PodOut, UplinkIn, UplinkOut, UplinkXdp},
        SNAT_PORTS, World,
    },
};

use Outcome::{DroppedNoPort, ForwardedFlow, ForwardedNew, PassedNotOurs};

const PORT: u16 = 44_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    vec![
        kept_port(site),
        clash_of_two_addresses(site),
        clash_of_two_clients(site),
        exhaustion(site),
        closed_port_is_free(site),
        expired_port_is_free(site),
        new_connection_on_a_closing_one(site),
        handshake_of_a_backend(site),
        lost_half(site, false),
        lost_half(site, true),
        lost_forward_half_of_a_new_packet(site),
        direct_connection(site),
        displaced(site),
        closed_by_a_reset(site),
    ]
}

fn client(site: &Site, port: u16, svc: Svc) -> Packet {
    syn(site.at(Host::Client, port), site.cluster_ip(svc))
}

/// A packet through this node with source port `port`.
fn relayed(site: &Site, sent: &Packet, port: u16) -> Packet {
    hop(sent)
        .from(site.at(Host::Node, port))
        .to(site.backend(Svc::Remote))
}

fn relayed_flow(site: &Site, sent: &Packet, there: &Packet, state: State) -> Translation {
    let up0 = (Action::Neighbour, site.dev(Dev::Up0));
    translation(sent, there, state).sent(up0, up0)
}

/// Lets a flow entry, and only this one, look as if nothing had come for `ticks`.
fn age(site: &Site, key: Tuple<std::net::IpAddr>, ticks: u32) -> impl Fn(&mut World) + 'static {
    let family = site.family;
    move |world| {
        let flow = world.maps(family).flows()[&key];
        let aged = Flow {
            seen: flow.seen.wrapping_sub(ticks),
            ..flow
        };
        world.maps(family).put_flow(&key, &aged);
    }
}

fn snat_range(ports: [u16; 2]) -> impl Fn(&mut World) + 'static {
    move |world| {
        world.set_node(|node: &mut Node| {
            node.snat_first = ports[0];
            node.snat_last = ports[1];
        });
    }
}

fn kept_port(site: &Site) -> Row {
    let [first_port, last_port] = SNAT_PORTS;
    let mut row = Row::new("a port inside the range is kept");
    let mut flows = Vec::new();
    for port in [first_port, last_port, first_port - 1, last_port + 1] {
        let sent = client(site, port, Svc::Remote);
        let inside = (first_port..=last_port).contains(&port);
        let there = relayed(site, &sent, if inside { port } else { snat(&sent) });
        row = row.then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there));
        flows.push(relayed_flow(site, &sent, &there, State::New));
    }
    row.leaves(flows)
}

/// One client port to two addresses of a Service: the backend must be able to tell the connections apart.
fn clash_of_two_addresses(site: &Site) -> Row {
    let one = client(site, PORT, Svc::Local);
    let other = syn(one.source, site.frontend(Svc::Local, FrontendKind::LoadBalancer));
    let there = one.clone().to(site.backend(Svc::Local));
    let port = snat_port(&other, KEPT_ADDRESS_PORTS, 1);
    let other_there = there.clone().from(site.at(Host::Client, port));
    Row::new("two addresses of a Service from one client port")
        .then(send(UplinkIn, &one).becomes(ForwardedNew, &there))
        .then(send(UplinkIn, &other).becomes(ForwardedNew, &other_there))
        .then(send(UplinkOut, &answer(&there)).becomes(ForwardedFlow, &answer(&one)))
        .then(send(UplinkOut, &answer(&other_there)).becomes(ForwardedFlow, &answer(&other)))
        .then(send(UplinkXdp, &data(&other)).becomes(ForwardedFlow, &data(&other_there)))
        .leaves(vec![
            translation(&one, &there, State::Answered),
            translation(&other, &other_there, State::Established),
        ])
}

/// Two clients that both come from a port of the range.
fn clash_of_two_clients(site: &Site) -> Row {
    let port = SNAT_PORTS[0] + 5;
    let one = client(site, port, Svc::Remote);
    let other = syn(site.at(Host::Stranger, port), one.destination);
    let (there, other_there) = (
        relayed(site, &one, port),
        relayed(site, &other, snat_port(&other, SNAT_PORTS, 1)),
    );
    Row::new("two clients with one port of the range")
        .then(send(UplinkIn, &one).goes_out_as(ForwardedNew, &there))
        .then(send(UplinkIn, &other).goes_out_as(ForwardedNew, &other_there))
        .leaves(vec![
            relayed_flow(site, &one, &there, State::New),
            relayed_flow(site, &other, &other_there, State::New),
        ])
}

fn exhaustion(site: &Site) -> Row {
    const RANGE: [u16; 2] = [50_000, 50_001];
    let sent = |port| client(site, port, Svc::Remote);
    let (one, two, three) = (sent(50_000), sent(50_001), sent(PORT));
    let away = |packet: &Packet| relayed(site, packet, packet.source.port());
    // The same ports to another backend are free.
    let elsewhere = client(site, 50_000, Svc::HostThere);
    let elsewhere_there = hop(&elsewhere)
        .from(site.at(Host::Node, 50_000))
        .to(site.backend(Svc::HostThere));
    Row::new("all ports for a backend are taken")
        .doing(snat_range(RANGE))
        .then(send(UplinkIn, &one).goes_out_as(ForwardedNew, &away(&one)))
        .then(send(UplinkIn, &two).goes_out_as(ForwardedNew, &away(&two)))
        .then(send(UplinkIn, &three).ends(DroppedNoPort))
        .then(send(UplinkXdp, &three).ends(DroppedNoPort))
        .then(send(UplinkIn, &elsewhere).goes_out_as(ForwardedNew, &elsewhere_there))
        .then(send(UplinkIn, &data(&one)).goes_out_as(ForwardedFlow, &data(&away(&one)).ttl(63)))
        .leaves(vec![
            relayed_flow(site, &one, &away(&one), State::New),
            relayed_flow(site, &two, &away(&two), State::New),
            relayed_flow(site, &elsewhere, &elsewhere_there, State::New),
        ])
}

/// The port of a connection that was reset is taken by another when its backend has had time to forget it too.
fn closed_port_is_free(site: &Site) -> Row {
    let port = SNAT_PORTS[0] + 9;
    let one = client(site, port, Svc::Remote);
    let there = relayed(site, &one, port);
    let other = syn(site.at(Host::Stranger, port), one.destination);
    let other_there = relayed(site, &other, port);
    let taken = Tuple {
        phase: Phase::Before as u8,
        ..tuple(&there).reverse()
    };
    Row::new("the port of a closed connection is free after a while")
        .then(send(UplinkIn, &one).goes_out_as(ForwardedNew, &there))
        .then(send(UplinkIn, &rst(&one)).goes_out_as(ForwardedFlow, &rst(&there).ttl(63)))
        .doing(age(site, taken, 2))
        .doing(age(site, tuple(&one), 2))
        .then(send(UplinkIn, &other).goes_out_as(ForwardedNew, &other_there))
        .leaves(vec![relayed_flow(site, &other, &other_there, State::New)])
}

fn expired_port_is_free(site: &Site) -> Row {
    let port = SNAT_PORTS[0] + 11;
    let one = client(site, port, Svc::Remote);
    let there = relayed(site, &one, port);
    let other = syn(site.at(Host::Stranger, port), one.destination);
    let other_there = relayed(site, &other, port);
    let taken = Tuple {
        phase: Phase::Before as u8,
        ..tuple(&there).reverse()
    };
    Row::new("the port of an expired flow is free")
        .then(send(UplinkIn, &one).goes_out_as(ForwardedNew, &there))
        .doing(age(site, taken, 48))
        .doing(age(site, tuple(&one), 48))
        .then(send(UplinkIn, &other).goes_out_as(ForwardedNew, &other_there))
        .leaves(vec![relayed_flow(site, &other, &other_there, State::New)])
}

/// A client may use its port again while the old connection is still being closed.
fn new_connection_on_a_closing_one(site: &Site) -> Row {
    let sent = client(site, PORT, Svc::Local);
    let there = sent.clone().to(site.backend(Svc::Local));
    let again = sent.clone().seq(77_000);
    let again_there = there.clone().seq(77_000);
    Row::new("a SYN on a closing connection begins a new one")
        .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
        .then(send(UplinkOut, &answer(&there)).becomes(ForwardedFlow, &answer(&sent)))
        .then(send(UplinkIn, &fin(&sent)).becomes(ForwardedFlow, &fin(&there)))
        .then(send(UplinkIn, &again).becomes(ForwardedNew, &again_there))
        .leaves(vec![translation(&sent, &there, State::New)])
}

/// A handshake that a backend begins on the ports of a closing flow is none of this flow's business.
fn handshake_of_a_backend(site: &Site) -> Row {
    let port = SNAT_PORTS[0] + 13;
    let sent = client(site, port, Svc::Remote);
    let there = relayed(site, &sent, port);
    let handshake = there.reply().syn().seq(1).ttl(64);
    Row::new("a SYN against a closing flow")
        .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
        .then(send(UplinkIn, &rst(&sent)).goes_out_as(ForwardedFlow, &rst(&there).ttl(63)))
        .then(send(UplinkIn, &handshake).passes(PassedNotOurs))
        .then(send(UplinkXdp, &handshake).passes(PassedNotOurs))
        .leaves(vec![relayed_flow(site, &sent, &there, State::Closed)])
}

/// Either half of a flow is made anew from the other.
fn lost_half(site: &Site, forward_is_lost: bool) -> Row {
    let port = SNAT_PORTS[0] + 17;
    let sent = client(site, port, Svc::Remote);
    let there = relayed(site, &sent, port);
    let key = tuple(&sent);
    let twin = tuple(&there).reverse();
    let (lost, kept) = if forward_is_lost { (key, twin) } else { (twin, key) };
    let family = site.family;
    let back = answer(&there).ttl(64);
    let undone = hop(&back).from(sent.destination).to(sent.source);
    let row = Row::new(if forward_is_lost {
        "a reply makes a lost forward half anew"
    } else {
        "a packet makes a lost reverse half anew"
    })
    .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
    .doing(move |world| world.maps(family).remove_flow(&lost))
    // The other half is looked at every 16 ticks.
    .doing(age(site, kept, 16));
    if forward_is_lost {
        row.then(
            send(UplinkIn, &back)
                .goes_out_as(ForwardedFlow, &undone)
                .with(Event::FlowRepaired),
        )
        .leaves(vec![relayed_flow(site, &sent, &there, State::Answered)])
    } else {
        row.then(
            send(UplinkIn, &sent)
                .goes_out_as(ForwardedFlow, &there)
                .with(Event::FlowRepaired),
        )
        .leaves(vec![relayed_flow(site, &sent, &there, State::New)])
    }
}

/// The client's packet comes first: the translation is what the other half says.
fn lost_forward_half_of_a_new_packet(site: &Site) -> Row {
    let sent = client(site, PORT, Svc::Remote);
    let there = relayed(site, &sent, snat(&sent));
    let (key, family) = (tuple(&sent), site.family);
    Row::new("a SYN sent again after its forward half was lost")
        .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
        .doing(move |world| world.maps(family).remove_flow(&key))
        .then(send(UplinkIn, &sent).goes_out_as(ForwardedNew, &there))
        .leaves(vec![relayed_flow(site, &sent, &there, State::New)])
}

/// A client that talks to the pod itself, from another port, is left alone.
fn direct_connection(site: &Site) -> Row {
    let sent = client(site, PORT, Svc::Local);
    let there = sent.clone().to(site.backend(Svc::Local));
    let direct = syn(site.at(Host::Client, PORT + 1), site.backend(Svc::Local));
    Row::new("a direct connection to a backend")
        .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
        .then(send(UplinkIn, &direct).passes(PassedNotOurs))
        .then(send(PodOut, &direct).passes(PassedNotOurs))
        .then(send(UplinkOut, &answer(&direct)).passes(PassedNotOurs))
        .leaves(vec![translation(&sent, &there, State::New)])
}

/// With one slot for unanswered flows, each new flow displaces the one before, but none that is established.
fn displaced(site: &Site) -> Row {
    let there = |packet: &Packet| packet.clone().to(site.backend(Svc::Local));
    let (stays, goes, last) = (
        client(site, PORT, Svc::Local),
        client(site, PORT + 1, Svc::Local),
        client(site, PORT + 2, Svc::Local),
    );
    let datagram = first(
        Protocol::Udp,
        site.at(Host::Client, PORT),
        site.cluster_ip(Svc::Local),
    );
    let displacing = |sent: &Packet| {
        let sent = send(UplinkIn, sent).becomes(ForwardedNew, &there(sent));
        sent.with(Event::FlowDisplaced)
    };
    Row::new("new flows displace unanswered ones, never established ones")
        .doing(|world| world.set_node(|node| node.embryo_mask = 0))
        .then(send(UplinkIn, &stays).becomes(ForwardedNew, &there(&stays)))
        .then(send(UplinkOut, &answer(&there(&stays))).becomes(ForwardedFlow, &answer(&stays)))
        .then(send(UplinkIn, &data(&stays)).becomes(ForwardedFlow, &data(&there(&stays))))
        .then(send(UplinkIn, &goes).becomes(ForwardedNew, &there(&goes)))
        .then(displacing(&datagram))
        .then(displacing(&last))
        .then(displacing(&goes))
        .leaves(vec![
            translation(&stays, &there(&stays), State::Established),
            translation(&goes, &there(&goes), State::New),
        ])
}

/// A RST ends a flow from either side; what follows is still translated.
fn closed_by_a_reset(site: &Site) -> Row {
    let sent = client(site, PORT, Svc::Local);
    let there = sent.clone().to(site.backend(Svc::Local));
    let reset = rst(&sent).reply();
    let at_pod = rst(&there).reply();
    Row::new("a RST of the backend closes")
        .then(send(UplinkIn, &sent).becomes(ForwardedNew, &there))
        .then(send(UplinkOut, &at_pod).becomes(ForwardedFlow, &reset))
        .then(send(UplinkIn, &data(&sent)).becomes(ForwardedFlow, &data(&there)))
        .leaves(vec![translation(&sent, &there, State::Closed)])
}
