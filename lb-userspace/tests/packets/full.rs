//! A flow table that is full: what is known goes on, what is new is dropped and leaves nothing behind.

use lb_common::abi::{Event, Kind, Outcome};

use crate::{
    exchange::{answer, data, syn},
    row::show,
    site::{Family, Host, Site, Svc},
    world::{Program, World, in_world},
};

const CAPACITY: u32 = 16;

#[test]
fn full_flow_table_keeps_what_is_known_and_drops_what_is_new_needs_root() {
    in_world("full flow table", CAPACITY, |mut world| {
        for family in Family::BOTH {
            for program in [Program::UplinkIn, Program::UplinkXdp] {
                world.maps(family).forget_flows();
                let site = world.site(family);
                fill(&mut world, &site, program);
            }
        }
    });
}

fn fill(world: &mut World, site: &Site, program: Program) {
    let device = site.dev(program.device());
    let client = |port: u16| syn(site.at(Host::Client, port), site.cluster_ip(Svc::Local));
    let mut known = Vec::new();
    // The kernel keeps a few elements in reserve for each CPU: more than the capacity may fit.
    for port in 1000..1000 + 4 * CAPACITY as u16 {
        let sent = client(port);
        let run = world.run(program, device, 0, &sent.build());
        match run.counted[0].1 {
            Outcome::ForwardedNew => {
                // Established flows do not give way to new ones.
                let there = sent.clone().to(site.backend(Svc::Local));
                for (program, packet) in [(Program::UplinkOut, answer(&there)), (program, data(&sent))] {
                    let run = world.run(program, device, 1, &packet.build());
                    assert_eq!(run.counted[0].1.kind(), Kind::Forwarded);
                }
                known.push(sent);
            }
            outcome => {
                let got = (outcome, &run.events[..]);
                let full = (Outcome::DroppedFlowsFull, &[Event::CreateFull][..]);
                assert_eq!(got, full, "port {port}");
            }
        }
    }
    let flows = world.maps(site.family).flows();
    assert!((7..=CAPACITY as usize).contains(&known.len()), "{}", known.len());
    assert_eq!(
        flows.len(),
        2 * known.len(),
        "no half is left behind:{}",
        show(&flows)
    );
    for sent in known {
        let run = world.run(program, device, 0, &data(&sent).build());
        assert_eq!(run.counted[0].1, Outcome::ForwardedFlow);
    }
}
