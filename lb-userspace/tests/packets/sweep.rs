//! The program that forgets idle flows.

use std::net::IpAddr;

use lb_common::{
    abi::{Flow, Outcome, Tuple},
    net::ETHERNET,
};

use crate::{
    exchange::{answer, syn},
    row::{show, tuple},
    site::{Family, Host, Svc},
    world::{NEXT, Program, World, in_world},
};

/// TCP flows that nobody has answered live for 30 ticks, answered ones for 60; and 16 more, since the halves of a flow
/// tell each other only so often.
const IDLE: u32 = 48;

#[test]
fn sweep_forgets_idle_flows_and_says_how_many_needs_root() {
    in_world("sweep", 1024, |mut world| {
        assert_eq!(swept(&mut world), [0, 0, 0, 0], "without flows");
        let mut idle = Vec::new();
        for (family, flows) in [(Family::V4, 5), (Family::V6, 3)] {
            for number in 0..flows {
                idle.extend(open(&mut world, family, number));
            }
        }
        assert_eq!(swept(&mut world), [10, 0, 6, 0], "with young flows");
        // One flow of each family stays: it is idle, but was answered.
        for family in Family::BOTH {
            let site = world.site(family);
            let there = syn(site.at(Host::Client, 1000), site.backend(Svc::Local));
            let up0 = site.dev(Program::UplinkOut.device());
            let run = world.run(Program::UplinkOut, up0, 1, &answer(&there).build());
            assert_eq!(run.counted[0].1, Outcome::ForwardedFlow);
        }
        for (family, key) in &idle {
            let flow = world.maps(*family).flows()[key];
            let aged = Flow {
                seen: flow.seen.wrapping_sub(IDLE),
                ..flow
            };
            world.maps(*family).put_flow(key, &aged);
        }
        assert_eq!(swept(&mut world), [10, 8, 6, 4], "with idle flows");
        assert_eq!(swept(&mut world), [2, 0, 2, 0], "after them");
        for family in Family::BOTH {
            let site = world.site(family);
            let kept = tuple(&syn(site.at(Host::Client, 1000), site.cluster_ip(Svc::Local)));
            let flows = world.maps(family).flows();
            assert!(flows.contains_key(&kept), "{}", show(&flows));
        }
    });
}

/// Opens a flow; gives the keys of its halves.
fn open(world: &mut World, family: Family, number: u16) -> [(Family, Tuple<IpAddr>); 2] {
    let site = world.site(family);
    let sent = syn(site.at(Host::Client, 1000 + number), site.cluster_ip(Svc::Local));
    let up0 = site.dev(Program::UplinkIn.device());
    let run = world.run(Program::UplinkIn, up0, 0, &sent.build());
    assert_eq!(run.counted[0].1, Outcome::ForwardedNew);
    let key = tuple(&sent);
    let twin = world.maps(family).flows()[&key].to.reverse();
    [(family, key), (family, twin)]
}

/// Entries and removed entries of `flows4`, then of `flows6`.
fn swept(world: &mut World) -> [u32; 4] {
    let run = world.run(Program::Sweep, 1, 0, &[0; 64]);
    assert_eq!(run.verdict, NEXT);
    assert_eq!(run.counted, [], "sweeping is no packet");
    let words = run.frame[ETHERNET..ETHERNET + 16].chunks(4);
    let words: Vec<u32> = words
        .map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
        .collect();
    words.try_into().expect("four words")
}
