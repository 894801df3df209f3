//! Connections of this node's own on a port that is a frontend too: an address of the node may be some Service's, and
//! a port that a Service is given may be in use.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use lb_common::abi::{Outcome, Protocol};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt::ReuseAddr,
};

use crate::{
    exchange::{answer, data, first, rst, syn},
    site::{Family, Host, Svc},
    world::{
        Program::{UplinkIn, UplinkXdp},
        in_world,
    },
};

/// A TCP connection that this node has begun, from exactly this address.
fn begin(from: SocketAddr, to: SocketAddr) -> OwnedFd {
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
    setsockopt(&socket, ReuseAddr, &true).expect("an option of any socket");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).expect("the address is the node's");
    // It begins, and nobody ever answers.
    let _ = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    socket
}

#[test]
fn answers_to_this_nodes_own_connections_reach_it_needs_root() {
    in_world("own connections", 1024, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            let mine = site.node_port(Svc::Remote);
            let peer = site.at(Host::Client, 443);
            let device = site.dev(UplinkIn.device());
            let mut outcome = |program, frame: &[u8]| {
                let run = world.run(program, device, 0, frame);
                world.maps(family).forget_flows();
                run.counted[0].1
            };
            let tcp = answer(&syn(mine, peer));
            let udp = first(Protocol::Udp, peer, mine);
            for program in [UplinkIn, UplinkXdp] {
                assert_ne!(outcome(program, &tcp.build()), Outcome::PassedOwnConnection);
                assert_ne!(outcome(program, &udp.build()), Outcome::PassedOwnConnection);
            }

            // Sockets that wait for anybody do not count.
            let listener = TcpListener::bind(mine).expect("the port is free");
            let waiting = UdpSocket::bind(mine).expect("the port is free");
            for program in [UplinkIn, UplinkXdp] {
                assert_ne!(outcome(program, &tcp.build()), Outcome::PassedOwnConnection);
                assert_ne!(outcome(program, &udp.build()), Outcome::PassedOwnConnection);
            }
            drop(listener);

            waiting.connect(peer).expect("there is a route");
            let _begun = begin(mine, peer);
            for program in [UplinkIn, UplinkXdp] {
                for segment in [&tcp, &data(&tcp), &rst(&tcp)] {
                    assert_eq!(outcome(program, &segment.build()), Outcome::PassedOwnConnection);
                }
                assert_eq!(outcome(program, &udp.build()), Outcome::PassedOwnConnection);
                // Others come to the Service as ever.
                let stranger = first(Protocol::Udp, site.at(Host::Stranger, 443), mine);
                assert_ne!(outcome(program, &stranger.build()), Outcome::PassedOwnConnection);
                let new = syn(site.at(Host::Client, 444), mine);
                assert_ne!(outcome(program, &new.build()), Outcome::PassedOwnConnection);
            }
        }
    });
}
