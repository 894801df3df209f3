//! All rows, with the project's targets.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::{Hook, Outcome, State},
    testing::packet::{Checksum, Packet},
};

use super::{
    Bench,
    case::{At, Bound, Case, Way, Whose},
    family::{Family, NEW_CLIENTS, Svc, TARGET},
    flows::{self, Entry},
    harness::{self, Input},
    place::{NEIGHBOUR, UPLINK_MAC},
};

/// Established flows in the tables.
pub(crate) const FLOWS: u32 = 524_288;

/// Runs of one sample of a row with one flow.
const REPEAT: u32 = 200_000;
/// The same, if each run is dear.
const REPEAT_MANY: u32 = 300_000;
/// New flows of one sample: far fewer than may be unanswered at a time.
const REPEAT_NEW: u32 = 20_000;

const PASS: &[i32] = &[2];
const SENT: &[i32] = &[3, 4];
const NEXT: &[i32] = &[-1];
const REDIRECT: &[i32] = &[7];

/// The empty programs, and restoring packets for them.
pub(crate) fn baselines(bench: &Bench) -> Vec<Case> {
    let mut cases = Vec::new();
    for at in [At::Xdp, At::Tc] {
        let verdicts = if at == At::Xdp { PASS } else { NEXT };
        for family in Family::BOTH {
            let packet = family.segment(family.client(0), family.frontend(Svc::Here));
            for way in [Way::Direct, Way::One, Way::AnyOf(FLOWS), Way::New] {
                cases.push(Case {
                    id: baseline(at, family, way),
                    family,
                    at,
                    whose: Whose::Bench,
                    program: at.empty(),
                    input: bench.arrives(&packet),
                    way,
                    repeat: REPEAT,
                    verdicts,
                    counted: None,
                    becomes: None,
                    bound: Bound::None,
                    floor: None,
                });
            }
        }
    }
    cases
}

/// Name of the row that has nothing but the way.
pub(crate) fn baseline(at: At, family: Family, way: Way) -> String {
    let way = match way {
        Way::Direct => return format!("{}{}-empty", at.name(), family.digit()),
        Way::One => "one",
        Way::AnyOf(_) => "any",
        Way::New => "new",
    };
    format!("{}{}-restore-{way}", at.name(), family.digit())
}

/// Two established flows of a family: to a backend here and to one elsewhere.
pub(crate) struct Established {
    pub(crate) here: [Entry; 2],
    pub(crate) there: [Entry; 2],
}

/// Has the programs establish them, packet by packet.
pub(crate) fn establish(bench: &mut Bench, family: Family) -> Result<Established> {
    let mut open = |svc, client: SocketAddr| -> Result<[Entry; 2]> {
        let there = svc == Svc::There;
        let first = family.segment(client, family.frontend(svc));
        let key = flows::tuple(client, family.frontend(svc));
        bench.send("uplink_xdp", &first.clone().syn())?;
        let opened = bench.agent.flows(family).get(&key)?;
        let to = opened
            .with_context(|| format!("a SYN to {} opens no flow", family.frontend(svc)))?
            .to;
        let answer = family
            .segment(
                (to.destination, to.destination_port).into(),
                (to.source, to.source_port).into(),
            )
            .syn_ack();
        bench.send(if there { "uplink_xdp" } else { "uplink_out" }, &answer)?;
        bench.send("uplink_xdp", &first)?;
        let pair = flows::pair(bench.agent.flows(family), key)?.context("a flow has only one half")?;
        ensure!(
            pair.iter()
                .all(|(_, flow)| flow.state == State::Established as u8),
            "a handshake does not establish a flow: {pair:?}"
        );
        Ok(pair)
    };
    Ok(Established {
        here: open(Svc::Here, family.client(0))?,
        there: open(Svc::There, family.client(1))?,
    })
}

/// The rows of a family.
pub(crate) fn rows(bench: &Bench, family: Family, flows: &Established) -> Vec<Case> {
    let digit = family.digit();
    let six = family == Family::V6;
    let client = family.client(0);
    let here = family.segment(client, family.frontend(Svc::Here));
    let backend = family.backend(Svc::Here);
    let [(_, out), (back, _)] = &flows.there;
    let there = family.segment(family.client(1), family.frontend(Svc::There));
    let reply = family.segment(
        (back.source, back.source_port).into(),
        (back.destination, back.destination_port).into(),
    );
    let first = family
        .segment(family.client(NEW_CLIENTS - 1), family.frontend(Svc::Many))
        .syn();
    let unknown = (family.pod(1, 2), TARGET).into();

    let base = |id: &str, at: At, program: &str, input: Input| Case {
        id: format!("{}{digit}-{id}", at.name()),
        family,
        at,
        whose: Whose::Agent,
        program: program.to_owned(),
        input,
        way: Way::One,
        repeat: REPEAT,
        verdicts: if at == At::Xdp { PASS } else { NEXT },
        counted: None,
        becomes: None,
        bound: Bound::None,
        floor: None,
    };
    let xdp = |id: &str, packet: &Packet| base(id, At::Xdp, "uplink_xdp", bench.arrives(packet));
    let floor = |at: &str, name: &str| Some(format!("{at}{digit}-floor-{name}"));
    let moved = |packet: &Packet| {
        // One hop further.
        Some(packet.clone().ttl(63).macs(UPLINK_MAC, NEIGHBOUR).build())
    };
    let not_ours = Case {
        way: Way::Direct,
        counted: Some((Hook::UplinkXdp, Outcome::PassedNotOurs)),
        ..xdp("not-ours", &family.segment(client, family.stranger()))
    };
    let reply_not_ours = Case {
        way: Way::Direct,
        counted: Some((Hook::UplinkOut, Outcome::PassedNotOurs)),
        ..base(
            "reply-not-ours",
            At::Tc,
            "uplink_out",
            bench.leaves(&family.segment(unknown, family.stranger())),
        )
    };
    // What the look whether somebody watches adds: to the packets for which it is most. (Neither of them comes to the flow table,
    // which only one of the two instances has flows in.)
    let tc_not_ours = Case {
        way: Way::Direct,
        counted: Some((Hook::UplinkIn, Outcome::PassedNotOurs)),
        ..base(
            "not-ours",
            At::Tc,
            "uplink_in",
            bench.arrives(&family.segment(client, family.stranger())),
        )
    };
    let watchable = |case: &Case| {
        let without = format!("{}-without-trace", case.id);
        let with = Case {
            id: format!("{}-trace-off", case.id),
            bound: Bound::Nanoseconds(2.0),
            floor: Some(without.clone()),
            ..case.clone()
        };
        let without = Case {
            id: without,
            whose: Whose::Unwatched,
            ..case.clone()
        };
        [without, with]
    };
    let mut rows = vec![
        Case {
            bound: Bound::Ratio(2.5),
            floor: floor("xdp", "address"),
            ..not_ours.clone()
        },
        Case {
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedFlow)),
            becomes: Some(here.clone().to(backend).build()),
            bound: Bound::Ratio(if six { 5.8 } else { 4.5 }),
            floor: floor("xdp", "flow"),
            ..xdp("established-here", &here)
        },
        Case {
            way: Way::AnyOf(FLOWS),
            repeat: REPEAT_MANY,
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedFlow)),
            bound: Bound::Ratio(if six { 25.0 } else { 21.0 }),
            floor: floor("xdp", "flow-any"),
            ..xdp("established-here-524288-flows", &here)
        },
        Case {
            verdicts: SENT,
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedFlow)),
            becomes: moved(
                &there
                    .clone()
                    .from((out.to.source, out.to.source_port))
                    .to((out.to.destination, out.to.destination_port)),
            ),
            bound: Bound::Ratio(9.5),
            floor: floor("xdp", "fib"),
            ..xdp("established-elsewhere", &there)
        },
        Case {
            verdicts: SENT,
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedFlow)),
            becomes: moved(
                &reply
                    .clone()
                    .from(family.frontend(Svc::There))
                    .to(family.client(1)),
            ),
            bound: Bound::Ratio(9.5),
            floor: floor("xdp", "fib"),
            ..xdp("reply-from-elsewhere", &reply)
        },
        Case {
            whose: Whose::Dry,
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedNew)),
            bound: Bound::Ratio(5.5),
            floor: floor("xdp", "first-0"),
            ..xdp("first-without-inserts", &first)
        },
        Case {
            way: Way::New,
            repeat: REPEAT_NEW,
            counted: Some((Hook::UplinkXdp, Outcome::ForwardedNew)),
            bound: Bound::AboveFloor(6.0),
            floor: floor("xdp", "first-2"),
            ..xdp("first-with-inserts", &first)
        },
        Case {
            counted: Some((Hook::UplinkIn, Outcome::ForwardedFlow)),
            becomes: Some(here.clone().to(backend).build()),
            bound: Bound::Ratio(5.8),
            floor: floor("tc", "flow"),
            ..base("established-in", At::Tc, "uplink_in", bench.arrives(&here))
        },
        Case {
            counted: Some((Hook::UplinkIn, Outcome::ForwardedFlow)),
            bound: Bound::Ratio(5.8),
            floor: floor("tc", "flow"),
            ..base(
                "established-in-partial-checksum",
                At::Tc,
                "uplink_in",
                bench.arrives(&here.clone().checksum(Checksum::Partial)),
            )
        },
        Case {
            counted: Some((Hook::UplinkOut, Outcome::ForwardedFlow)),
            becomes: Some(
                here.clone()
                    .to(backend)
                    .reply()
                    .from(family.frontend(Svc::Here))
                    .build(),
            ),
            bound: Bound::Ratio(5.8),
            floor: floor("tc", "flow"),
            ..base(
                "established-out",
                At::Tc,
                "uplink_out",
                bench.leaves(&here.clone().to(backend).reply()),
            )
        },
        Case {
            verdicts: REDIRECT,
            counted: Some((Hook::UplinkIn, Outcome::ForwardedFlow)),
            floor: floor("tc", "flow"),
            ..base(
                "established-elsewhere",
                At::Tc,
                "uplink_in",
                bench.arrives(&there),
            )
        },
        Case {
            bound: Bound::Ratio(2.8),
            floor: floor("tc", "reply"),
            ..reply_not_ours
        },
    ];
    rows.extend([&not_ours, &tc_not_ours].into_iter().flat_map(watchable));
    rows
}

/// The floors of a family.
pub(crate) fn floors(bench: &Bench, family: Family) -> Vec<Case> {
    let digit = family.digit();
    let client = family.client(0);
    let here = family.segment(client, family.frontend(Svc::Here));
    let there = family.segment(family.client(1), family.frontend(Svc::There));
    let first = family
        .segment(family.client(NEW_CLIENTS - 1), family.frontend(Svc::Many))
        .syn();
    let stranger = family.segment(client, family.stranger());
    let floor = |at: At, id: &str, program: &str, packet: &Packet, way, repeat| Case {
        id: format!("{}{digit}-floor-{id}", at.name()),
        family,
        at,
        whose: Whose::Bench,
        program: format!("{program}_{}{digit}", at.name()),
        input: bench.arrives(packet),
        way,
        repeat,
        verdicts: if at == At::Xdp { PASS } else { NEXT },
        counted: None,
        becomes: None,
        bound: Bound::None,
        floor: None,
    };
    vec![
        floor(At::Xdp, "parse", "parse", &stranger, Way::Direct, REPEAT),
        floor(At::Xdp, "address", "address", &stranger, Way::Direct, REPEAT),
        floor(At::Xdp, "flow", "flow", &here, Way::One, REPEAT),
        floor(At::Xdp, "flow-any", "flow", &here, Way::AnyOf(FLOWS), REPEAT_MANY),
        floor(At::Xdp, "fib", "fib", &there, Way::One, REPEAT),
        floor(At::Xdp, "first-0", "first0", &first, Way::One, REPEAT),
        floor(At::Xdp, "first-1", "first1", &first, Way::New, REPEAT_NEW),
        floor(At::Xdp, "first-2", "first2", &first, Way::New, REPEAT_NEW),
        floor(At::Tc, "parse", "parse", &stranger, Way::Direct, REPEAT),
        floor(At::Tc, "reply", "reply", &stranger, Way::Direct, REPEAT),
        floor(At::Tc, "flow", "flow", &here, Way::One, REPEAT),
    ]
}

impl Bench {
    /// A packet that comes in by the uplink.
    pub(crate) fn arrives(&self, packet: &Packet) -> Input {
        Input {
            frame: packet.build(),
            device: self.place.uplink,
            from: self.place.uplink,
        }
    }

    /// A packet that a pod has sent and that leaves by the uplink.
    pub(crate) fn leaves(&self, packet: &Packet) -> Input {
        Input {
            frame: packet.build(),
            device: self.place.uplink,
            from: self.place.pod,
        }
    }

    /// Runs one of the agent's programs on one packet.
    fn send(&self, program: &str, packet: &Packet) -> Result<()> {
        let input = if program == "uplink_out" {
            self.leaves(packet)
        } else {
            self.arrives(packet)
        };
        harness::once(self.agent.program(program)?, &input).map(drop)
    }
}
