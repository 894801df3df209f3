//! Packets that are cut short or contradict themselves: every program gives each one outcome and leaves it whole.

use lb_common::{
    abi::{Kind, Outcome, Protocol},
    testing::{dump, packet},
};

use crate::{
    exchange::{PROTOCOLS, first},
    site::{Family, Host, Site, Svc},
    world::{Program, Run, SHOT, World, XDP_DROP, in_world},
};

const PROGRAMS: [Program; 8] = [
    Program::UplinkXdp,
    Program::UplinkIn,
    Program::UplinkOut,
    Program::PodIn,
    Program::BridgePortIn,
    Program::PodOut,
    Program::HostOut,
    Program::LoopbackOut,
];

#[test]
fn packets_cut_at_every_length_are_counted_once_and_not_changed_needs_root() {
    in_world("cut packets", 1024, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            for protocol in PROTOCOLS {
                for to in [site.cluster_ip(Svc::Local), site.cluster_ip(Svc::Empty)] {
                    let whole = first(protocol, site.at(Host::Client, 40_000), to).build();
                    cut(&mut world, &site, protocol, &whole);
                }
            }
            contradict(&mut world, &site);
        }
    });
}

/// Length of link and network header.
fn network(site: &Site) -> usize {
    if site.is_v4() { 34 } else { 54 }
}

fn cut(world: &mut World, site: &Site, protocol: Protocol, whole: &[u8]) {
    // Ports and, of TCP, flags.
    let needed = network(site) + if protocol == Protocol::Tcp { 18 } else { 8 };
    for program in PROGRAMS {
        // The kernel itself makes no packet with less than a network header for TC.
        let shortest = if program == Program::UplinkXdp {
            14
        } else {
            network(site)
        };
        for length in shortest..whole.len() {
            let frame = &whole[..length];
            let run = run(world, site, program, frame);
            if length < needed {
                unchanged(program, frame, &run, Outcome::PassedMalformed);
            }
        }
    }
}

/// Runs a program and sees that exactly one packet is counted, with all its bytes.
fn run(world: &mut World, site: &Site, program: Program, frame: &[u8]) -> Run {
    let run = world.run(program, site.dev(program.device()), 0, frame);
    let [(hook, _, counter)] = run.counted[..] else {
        panic!(
            "{}: counted {:?}\n{}",
            program.name(),
            run.counted,
            dump::hex(frame)
        );
    };
    assert_eq!(
        (hook, counter.packets, counter.bytes),
        (program.hook(), 1, frame.len() as u64)
    );
    run
}

fn unchanged(program: Program, frame: &[u8], run: &Run, outcome: Outcome) {
    let outcome = if program == Program::HostOut {
        Outcome::DroppedOther
    } else {
        outcome
    };
    let got = (run.counted[0].1, run.frame == frame);
    assert_eq!(got, (outcome, true), "{}:\n{}", program.name(), dump::hex(frame));
    let end = if program == Program::UplinkXdp {
        XDP_DROP
    } else {
        SHOT
    };
    assert_eq!(run.verdict == end, outcome.kind() == Kind::Dropped);
}

fn contradict(world: &mut World, site: &Site) {
    let good = packet::tcp(site.at(Host::Client, 40_000), site.cluster_ip(Svc::Local))
        .syn()
        .build();
    let mut bad = Vec::new();
    for version in [0, 5, 7, 15] {
        let mut frame = good.clone();
        frame[14] = version << 4 | frame[14] & 0xf;
        bad.push((frame, Outcome::PassedMalformed));
    }
    // The other family's number.
    let mut frame = good.clone();
    frame[14] ^= 0x20;
    bad.push((frame, Outcome::PassedMalformed));
    if site.is_v4() {
        for words in 0..5 {
            let mut frame = good.clone();
            frame[14] = 0x40 | words;
            bad.push((frame, Outcome::PassedMalformed));
        }
        // The header would reach behind the packet's end.
        let mut frame = good.clone();
        frame[14] = 0x4f;
        bad.push((frame, Outcome::PassedMalformed));
    }
    for protocol in (0..=255).filter(|number| ![6, 17, 132].contains(number)) {
        let frame = packet::other(site.ip(Host::Client), site.ip(Host::Vip), protocol);
        let outcome = match protocol {
            // Zeros: extension headers one behind the other, up to the packet's end.
            0 | 43 | 44 | 60 if !site.is_v4() => Outcome::PassedMalformed,
            50 | 51 | 135 | 139 | 140 | 253 | 254 if !site.is_v4() => Outcome::PassedExtension,
            _ => Outcome::PassedOther,
        };
        bad.push((frame.payload(&[0; 40]).build(), outcome));
    }
    for (kind, outcome) in [
        (0x0806u16, Outcome::PassedOther),
        (0x8100, Outcome::PassedVlan),
        (0x88a8, Outcome::PassedVlan),
        (0x88cc, Outcome::PassedOther),
        (0, Outcome::PassedOther),
        (0xffff, Outcome::PassedOther),
    ] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        bad.push((frame, outcome));
    }
    for (frame, outcome) in bad {
        for program in PROGRAMS {
            let run = run(world, site, program, &frame);
            unchanged(program, &frame, &run, outcome);
        }
    }
}
