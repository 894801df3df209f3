//! Session affinity: who keeps a backend, for how long, and when not.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{FrontendKind, Kind, Protocol},
    testing::packet::Packet,
};

use crate::{
    exchange::{PROTOCOLS, data, first, syn},
    maps::AFFINITY_TIMEOUT,
    row::tuple,
    site::{Family, Host, KINDS, Site, Svc},
    world::{
        Program::{self, HostOut, PodIn, UplinkIn, UplinkXdp},
        World, in_world,
    },
};

/// The backend that a first packet is sent to.
fn backend(world: &mut World, site: &Site, program: Program, sent: &Packet) -> SocketAddr {
    let run = world.run(program, site.dev(program.device()), 0, &sent.build());
    let outcome = run.counted[0].1;
    // XDP leaves the sending to TC where it cannot send.
    assert!(
        matches!(outcome.kind(), Kind::Forwarded | Kind::Passed),
        "{sent:?}: {outcome:?}"
    );
    let to = world.maps(site.family).flows()[&tuple(sent)].to;
    (to.destination, to.destination_port).into()
}

/// The `n`-th of many clients outside.
fn client(site: &Site, n: u16) -> IpAddr {
    match site.ip(Host::Client) {
        IpAddr::V4(ip) => (u32::from(ip) + 256 * u32::from(n)).to_be_bytes().into(),
        IpAddr::V6(ip) => (u128::from(ip) + u128::from(n)).to_be_bytes().into(),
    }
}

fn backends(site: &Site, svc: Svc) -> Vec<SocketAddr> {
    let of = |(host, _)| site.at(host, svc.target());
    svc.backends().into_iter().map(of).collect()
}

#[test]
fn a_client_keeps_its_backend_whatever_port_address_and_program_it_uses_needs_root() {
    in_world("affinity", 4096, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            for (programs, ip) in [
                (&[UplinkIn, UplinkXdp][..], site.ip(Host::Client)),
                (&[PodIn], site.ip(Host::PodA)),
                (&[HostOut], site.ip(Host::Node)),
            ] {
                let mut seen = BTreeSet::new();
                for port in 2000..2024 {
                    for (program, kind) in programs.iter().flat_map(|p| KINDS.map(|kind| (*p, kind))) {
                        let protocol = PROTOCOLS[usize::from(port) % 3];
                        let sent = first(protocol, (ip, port).into(), site.frontend(Svc::Affine, kind));
                        seen.insert(backend(&mut world, &site, program, &sent));
                        // So that the same tuple is new to the next program.
                        let records = world.maps(family).affinity();
                        world.maps(family).forget_flows();
                        for ((_, client), to) in records {
                            world.maps(family).put_affinity(Svc::Affine, client, to.into());
                        }
                    }
                }
                assert_eq!(seen.len(), 1, "{family:?} {ip} has seen {seen:?}");
                world.maps(family).forget_flows();
            }
        }
    });
}

#[test]
fn clients_are_spread_and_a_client_that_was_away_for_too_long_is_balanced_anew_needs_root() {
    in_world("affinity over", 4096, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            let all = backends(&site, Svc::Affine);
            for (age, kept) in [(AFFINITY_TIMEOUT - 10, true), (AFFINITY_TIMEOUT + 1, false)] {
                let mut before = BTreeSet::new();
                let mut moved = 0;
                for n in 0..40 {
                    let from = (client(&site, n), 3000).into();
                    let sent = syn(from, site.cluster_ip(Svc::Affine));
                    let first = backend(&mut world, &site, UplinkIn, &sent);
                    before.insert(first);
                    // Somebody else than it would be given now.
                    let other = all.iter().find(|to| **to != first).expect("there are three");
                    world
                        .maps(family)
                        .put_affinity(Svc::Affine, client(&site, n), *other);
                    let again = syn((client(&site, n), 3001).into(), site.cluster_ip(Svc::Affine));
                    assert_eq!(backend(&mut world, &site, UplinkIn, &again), *other);
                    world.maps(family).age_affinity(age);
                    let late = syn((client(&site, n), 3002).into(), site.cluster_ip(Svc::Affine));
                    moved += u32::from(backend(&mut world, &site, UplinkIn, &late) != *other);
                    world.maps(family).forget_flows();
                }
                assert_eq!(before, all.iter().copied().collect(), "all backends have clients");
                assert_eq!(
                    moved == 0,
                    kept,
                    "{family:?}, {age} ticks later: {moved} have moved"
                );
            }
        }
    });
}

#[test]
fn a_record_counts_only_while_its_backend_may_be_used_needs_root() {
    in_world("affinity scope", 4096, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            let ip = site.ip(Host::Client);
            let remote = site.at(Host::RemotePod, Svc::AffineLocal.target());
            let by_port = |port| syn((ip, port).into(), site.node_port(Svc::AffineLocal));
            let by_cluster_ip = |port| syn((ip, port).into(), site.cluster_ip(Svc::AffineLocal));
            for wrong in [
                remote,
                site.at(Host::Stranger, Svc::AffineLocal.target()),
                site.at(Host::PodA, 1),
                site.at(Host::PodB, u16::MAX),
            ] {
                world.maps(family).put_affinity(Svc::AffineLocal, ip, wrong);
                let to = backend(&mut world, &site, UplinkIn, &by_port(4000));
                let here = [Host::PodA, Host::PodB].map(|host| site.at(host, Svc::AffineLocal.target()));
                assert!(here.contains(&to), "{to} is not of this node");
                // What was chosen instead is what counts from now on, for all addresses.
                assert_eq!(backend(&mut world, &site, UplinkIn, &by_cluster_ip(4001)), to);
                world.maps(family).forget_flows();
            }
            for right in backends(&site, Svc::AffineLocal) {
                world.maps(family).put_affinity(Svc::AffineLocal, ip, right);
                assert_eq!(backend(&mut world, &site, UplinkIn, &by_cluster_ip(4002)), right);
                world.maps(family).forget_flows();
            }
        }
    });
}

#[test]
fn only_a_new_flow_keeps_a_record_alive_needs_root() {
    in_world("affinity refresh", 4096, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            let to = site.frontend(Svc::Affine, FrontendKind::LoadBalancer);
            let sent = |port| first(Protocol::Tcp, site.at(Host::Client, port), to);
            backend(&mut world, &site, UplinkIn, &sent(5000));
            let seen = |world: &mut World| world.maps(family).affinity_seen();
            let fresh = seen(&mut world)[0];
            world.maps(family).age_affinity(100);
            let device = site.dev(UplinkIn.device());
            world.run(UplinkIn, device, 0, &data(&sent(5000)).build());
            assert!(seen(&mut world)[0] < fresh - 90, "a packet of an old flow");
            backend(&mut world, &site, UplinkIn, &sent(5001));
            assert!(seen(&mut world)[0] >= fresh, "a new flow");
            world.maps(family).forget_flows();
        }
    });
}
