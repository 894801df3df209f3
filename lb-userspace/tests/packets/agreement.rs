//! Kernel and host agree: random packets come to the same outcome, bytes and flows in the loaded programs and in
//! the simulation over the same maps; at XDP as at TC where the packet goes up the stack.

use std::net::SocketAddr;

use lb_common::{
    abi::{Flow, Outcome, Protocol, Set, Tuple},
    testing::{
        dump,
        packet::{Packet, flag},
        rewrite::Way,
    },
};

use crate::{
    exchange::{PROTOCOLS, first},
    maps::{Flows, rows},
    row::{hash, show, tuple},
    site::{Family, Host, KINDS, Site, Svc},
    world::{Program, World, in_world},
};

const PACKETS: u32 = 1500;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[test]
fn kernel_and_host_agree_on_random_packets_needs_root() {
    in_world("agreement", 4096, |mut world| {
        eprintln!("seed {SEED:#x}, {PACKETS} packets each");
        for family in Family::BOTH {
            for (program, way) in [(Program::UplinkIn, Way::Tc), (Program::UplinkXdp, Way::Xdp)] {
                agree(&mut world, family, program, way);
            }
        }
    });
}

/// Numbers that look random: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

fn agree(world: &mut World, family: Family, program: Program, way: Way) {
    let site = world.site(family);
    let common = world.common();
    world.maps(family).forget_flows();
    world.restart_ids();
    world.forget_held();
    let simulation = world.maps(family).simulation(&site, common);
    let device = site.dev(program.device());
    let mut random = Random(SEED);
    for number in 0..PACKETS {
        let frame = frame(&mut random, &site, &simulation.flows());
        let expected = simulation.arrive(&site, device, &frame, way);
        let got = world.run(program, device, 0, &frame);
        let outcome = got.counted.first().map(|(_, outcome, _)| *outcome);
        let same_frame = expected.frame.as_ref().is_none_or(|frame| *frame == got.frame);
        assert!(
            outcome == Some(expected.outcome) && same_frame && got.counted.len() == 1,
            "packet {number}, {}: host {:?}, kernel {outcome:?}\n{}\nkernel (left) and host:\n{}\nhost has{}",
            program.name(),
            expected.outcome,
            dump::hex(&frame),
            dump::side_by_side(&got.frame, expected.frame.as_deref().unwrap_or_default()),
            show(&simulation.flows())
        );
    }
    let (host, kernel) = (timeless(simulation.flows()), timeless(world.maps(family).flows()));
    assert!(
        host == kernel,
        "host has{}kernel has{}",
        show(&host),
        show(&kernel)
    );
}

fn timeless(flows: Flows) -> Flows {
    let without = |(key, flow): (Tuple<_>, Flow<_>)| {
        let flow = Flow {
            seen: 0,
            created: 0,
            ..flow
        };
        (key, flow)
    };
    flows.into_iter().map(without).collect()
}

/// From few clients to all Services, or an answer to a flow; sometimes with a byte that is wrong.
fn frame(random: &mut Random, site: &Site, flows: &Flows) -> Vec<u8> {
    let packet = if random.below(3) == 0 && !flows.is_empty() {
        let index = random.below(flows.len());
        let key = flows.keys().nth(index).expect("the index is below the length");
        let protocol = Protocol::from_number(key.protocol).expect("flows have one of the three");
        let from = SocketAddr::from((key.source, key.source_port));
        first(protocol, from, (key.destination, key.destination_port).into())
    } else {
        request(random, site)
    };
    let flags = [
        flag::SYN,
        flag::ACK,
        flag::SYN | flag::ACK,
        flag::FIN | flag::ACK,
        flag::RST,
    ];
    let mut packet: Packet = packet.ttl(random.of(&[1, 2, 64, 255]));
    if random.below(2) == 0 {
        packet = packet.flags(random.of(&flags));
    }
    let payload: Vec<u8> = (0..random.below(40)).map(|byte| byte as u8).collect();
    packet = packet.payload(&payload);
    packet = unusual(random, site, packet, flows);
    let mut frame = packet.build();
    if random.below(10) == 0 {
        let at = random.below(frame.len());
        frame[at] ^= 1 << random.below(8);
    }
    frame
}

/// Sometimes not plain: with headers before the ports, in fragments (of few datagrams), or quoted by an ICMP error.
fn unusual(random: &mut Random, site: &Site, packet: Packet, flows: &Flows) -> Packet {
    match random.below(6) {
        0 if site.is_v4() => packet.ip_options(&[1; 8]),
        0 => {
            let number = random.of(&[0, 43, 60, 44, 51]);
            packet.extension(number, &[0; 6]).extension(60, &[0; 14])
        }
        1 => {
            let pieces = packet
                .id(random.below(3) as u16)
                .payload(&[7; 40])
                .in_fragments(24);
            pieces[random.below(pieces.len())].clone()
        }
        2 => {
            // About a packet of a flow, as it is somewhere on its way, from its receiver or from elsewhere.
            let about = match flows.values().nth(random.below(flows.len().max(1))) {
                Some(flow) => {
                    let to = flow.to;
                    let protocol = Protocol::from_number(to.protocol).expect("flows have one of the three");
                    first(
                        protocol,
                        (to.source, to.source_port).into(),
                        (to.destination, to.destination_port).into(),
                    )
                }
                None => packet.reply(),
            };
            let from = random.of(&[about.destination.ip(), site.ip(Host::Stranger)]);
            let kinds: &[u8] = if site.is_v4() {
                &[3, 11, 12, 8, 5]
            } else {
                &[1, 2, 3, 4, 128]
            };
            about.error(from, random.of(kinds), 0, 20 + random.below(80))
        }
        _ => packet,
    }
}

fn request(random: &mut Random, site: &Site) -> Packet {
    let host = random.of(&[
        Host::Client,
        Host::Client,
        Host::Stranger,
        Host::OtherNode,
        Host::PodA,
    ]);
    let from = site.at(host, random.of(&[1000, 1001, 1002, 60_000, 60_001]));
    // What a client with affinity gets first depends on the time.
    let untimely = |svc: &&Svc| svc.flags() & Set::AFFINITY == 0;
    let services: Vec<Svc> = Svc::ALL.iter().filter(untimely).copied().collect();
    let svc = random.of(&services);
    let to = match random.below(8) {
        0 => site.at(
            random.of(&[
                Host::Vip,
                Host::FormerVip,
                Host::Balancer,
                Host::Node,
                Host::Stranger,
                Host::TunnelEnd,
            ]),
            9,
        ),
        1 => site.at(Host::OtherNode, svc.node_port()),
        _ => site.frontend(svc, random.of(&KINDS)),
    };
    first(random.of(&PROTOCOLS), from, to)
}

/// A table with many rows: the backend is the one that the row of the flow's hash names.
#[test]
fn backends_are_chosen_by_the_rows_of_the_table_needs_root() {
    in_world("rows", 4096, |mut world| {
        for family in Family::BOTH {
            let site = world.site(family);
            let [cluster, local] = rows(Svc::Many);
            assert!(!local.is_empty());
            let mut chosen = [0; 5];
            for port in 1000..1400 {
                let sent = first(
                    Protocol::Udp,
                    site.at(Host::Client, port),
                    site.cluster_ip(Svc::Many),
                );
                // The hash is scaled to the number of rows.
                let row = (u64::from(hash(&sent)) * cluster.len() as u64) >> 32;
                let position = usize::from(cluster[row as usize]);
                chosen[position] += 1;
                let device = site.dev(Program::UplinkIn.device());
                let run = world.run(Program::UplinkIn, device, 0, &sent.build());
                assert_eq!(run.counted[0].1, Outcome::ForwardedNew);
                let flow = world.maps(family).flows()[&tuple(&sent)];
                let expected = site.ip(Svc::Many.backends()[position].0);
                assert_eq!(flow.to.destination, expected, "port {port}, row {row}");
            }
            assert!(chosen.iter().all(|flows| *flows > 20), "{chosen:?}");
            world.maps(family).forget_flows();
        }
    });
}
