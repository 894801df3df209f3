//! Whose source changes: with `masquerade_all` everybody's to a ClusterIP, also where the stack routes the packet; and
//! without pod detection nobody's, there.

use lb_common::{
    abi::{Action, FrontendKind, Node, Outcome, Protocol, State},
    testing::packet::Packet,
};

use crate::{
    exchange::{PROTOCOLS, answer, data, first, hop},
    row::{Row, Translation, anew, send, snat, translation},
    site::{Dev, Host, KINDS, Site, Svc},
    world::{
        Program::{self, LoopbackOut, PodIn, PodOut, UplinkIn, UplinkOut, UplinkXdp},
        World,
    },
};

use Outcome::{ForwardedFlow, ForwardedNew, PassedNotOurs};

const PORT: u16 = 45_000;

pub(crate) fn rows(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in PROTOCOLS {
        let pod = |svc| first(protocol, site.at(Host::PodA, PORT), site.cluster_ip(svc));
        let outside = |svc| first(protocol, site.at(Host::Client, PORT), site.cluster_ip(svc));
        let pods = (PodIn, Dev::Pod0, PodOut);
        rows.push(masqueraded(
            site,
            pods,
            &pod(Svc::Neighbour),
            Svc::Neighbour,
            Dev::Pod1,
        ));
        rows.push(masqueraded(site, pods, &pod(Svc::Remote), Svc::Remote, Dev::Up0));
        rows.push(masqueraded(
            site,
            pods,
            &pod(Svc::Tunnelled),
            Svc::Tunnelled,
            Dev::Tun0,
        ));
        for program in [UplinkIn, UplinkXdp] {
            let uplink = (program, Dev::Up0, UplinkOut);
            rows.push(masqueraded(
                site,
                uplink,
                &outside(Svc::Local),
                Svc::Local,
                Dev::Pod0,
            ));
        }
    }
    rows.extend(kept(site));
    rows.extend(pods_unknown(site));
    rows
}

fn with(flags: u32) -> impl Fn(&mut World) {
    move |world| world.set_node(|node| node.flags = flags)
}

/// There: translated to the backend, routed, and masqueraded where it leaves by `out`. Back: the same way.
fn masqueraded(
    site: &Site,
    (program, device, client_out): (Program, Dev, Program),
    sent: &Packet,
    svc: Svc,
    out: Dev,
) -> Row {
    let protocol = Protocol::from_number(sent.protocol()).expect("a Service's protocol");
    let routed = sent.clone().to(site.backend(svc));
    let node = if out == Dev::Tun0 {
        Host::TunnelEnd
    } else {
        Host::Node
    };
    let received = routed.clone().from(site.at(node, snat(sent)));
    let (leave, come_back) = match out {
        Dev::Up0 | Dev::Tun0 => (UplinkOut, UplinkIn),
        _ => (PodOut, PodIn),
    };
    let flows: Vec<Translation> = vec![
        translation(sent, &routed, State::Established),
        translation(&routed, &received, State::Established)
            .made_after()
            .undone_before(),
    ];
    Row::new(format!(
        "masquerade all: {} {protocol} to {svc:?}, {}",
        program.name(),
        sent.destination
    ))
    .doing(with(Node::MASQUERADE_ALL))
    .then(send(program, sent).becomes(ForwardedNew, &routed))
    .then(
        send(leave, &hop(&routed))
            .on(out)
            .forwarded_from(device)
            .becomes(ForwardedFlow, &hop(&received)),
    )
    .then(
        send(come_back, &answer(&received))
            .on(out)
            .becomes(ForwardedFlow, &answer(&routed)),
    )
    .then(
        send(client_out, &hop(&answer(&routed)))
            .on(device)
            .forwarded_from(out)
            .becomes(ForwardedFlow, &hop(&answer(sent))),
    )
    .then(send(program, &data(sent)).becomes(ForwardedFlow, &data(&routed)))
    .then(
        send(leave, &hop(&data(&routed)))
            .on(out)
            .forwarded_from(device)
            .becomes(ForwardedFlow, &hop(&data(&received))),
    )
    .leaves(flows)
}

/// Other addresses than ClusterIPs do not care, nor does a process of the node, which has the node's address anyway.
fn kept(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| *kind != FrontendKind::ClusterIp) {
        for (program, client, svc) in [
            (PodIn, Host::PodA, Svc::Neighbour),
            (PodIn, Host::PodA, Svc::ExternalLocalElsewhere),
            (UplinkIn, Host::Client, Svc::ExternalLocalHere),
            (UplinkXdp, Host::Client, Svc::ExternalLocalHere),
        ] {
            let sent = first(Protocol::Tcp, site.at(client, PORT), site.frontend(svc, kind));
            let there = sent.clone().to(site.backend(svc));
            rows.push(
                Row::new(format!("masquerade all: {} to {svc:?}, {kind:?}", program.name()))
                    .doing(with(Node::MASQUERADE_ALL))
                    .then(send(program, &sent).becomes(ForwardedNew, &there))
                    .leaves(vec![translation(&sent, &there, State::New)]),
            );
        }
    }
    let socket = first(
        Protocol::Tcp,
        site.at(Host::PodA, PORT),
        site.cluster_ip(Svc::HostHere),
    );
    // From this node to itself: that is received on `lo` only.
    let there = anew(site, &socket).to(site.backend(Svc::HostHere));
    let received = there.clone().macs(there.source_mac, Dev::Lo.mac());
    rows.push(
        Row::new("masquerade all: a socket of this node")
            .doing(with(Node::MASQUERADE_ALL))
            .then(send(PodIn, &socket).goes_out_as(ForwardedNew, &received))
            .then(send(LoopbackOut, &answer(&there)).goes_out_as(ForwardedFlow, &answer(&socket)))
            .leaves(vec![translation(&socket, &there, State::Answered).sent(
                (Action::Receive, site.dev(Dev::Lo)),
                (Action::Neighbour, site.dev(Dev::Pod0)),
            )]),
    );
    rows
}

/// A client outside could be a pod for all we know: its source reaches the backends of a ClusterIP, wherever they
/// are. (Whether their answers come back this way is up to the network.)
fn pods_unknown(site: &Site) -> Vec<Row> {
    let mut rows = Vec::new();
    for program in [UplinkIn, UplinkXdp] {
        let sent = first(
            Protocol::Tcp,
            site.at(Host::Client, PORT),
            site.cluster_ip(Svc::Remote),
        );
        let there = sent.clone().to(site.backend(Svc::Remote));
        rows.push(
            Row::new(format!("pods unknown: {} to a ClusterIP", program.name()))
                .doing(with(Node::PODS_UNKNOWN))
                .then(send(program, &sent).becomes(ForwardedNew, &there))
                .then(
                    send(UplinkOut, &hop(&there))
                        .forwarded_from(Dev::Up0)
                        .passes(PassedNotOurs),
                )
                .then(send(program, &answer(&there)).passes(PassedNotOurs))
                .then(
                    send(UplinkOut, &hop(&answer(&there)))
                        .forwarded_from(Dev::Up0)
                        .becomes(ForwardedFlow, &hop(&answer(&sent))),
                )
                .leaves(vec![translation(&sent, &there, State::Answered)]),
        );
    }
    let by_port = first(
        Protocol::Tcp,
        site.at(Host::Client, PORT),
        site.node_port(Svc::Remote),
    );
    let relayed = hop(&by_port)
        .from(site.at(Host::Node, snat(&by_port)))
        .to(site.backend(Svc::Remote));
    rows.push(
        Row::new("pods unknown: by node port")
            .doing(with(Node::PODS_UNKNOWN))
            .then(send(UplinkIn, &by_port).goes_out_as(ForwardedNew, &relayed)),
    );
    rows
}
