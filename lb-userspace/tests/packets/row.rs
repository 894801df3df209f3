//! A row of the packet tables: packets that follow one another through the programs, what each must come to,
//! and the flows that must be there in the end.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Action, Counter, Event, Flow, Outcome, Phase, State, Tuple},
    net::flow_hash,
    testing::{dump, packet::Packet, pcap},
};

use crate::{
    maps::Flows,
    site::{Dev, Family, Host, Site},
    traffic,
    world::{
        NEXT, Program, REDIRECT, Run, SHOT, SNAT_PORTS, World, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX,
    },
};

/// A row.
pub(crate) struct Row {
    pub(crate) name: String,
    steps: Vec<Step>,
    flows: Option<Vec<Translation>>,
}

/// Something that happens in a row.
enum Step {
    Packet(Sent),
    /// Changes the world.
    Do(Box<dyn Fn(&mut World)>),
}

/// A packet, and what it must come to.
pub(crate) struct Sent {
    program: Program,
    dev: Dev,
    /// The packet came in by this device; `None`: this node has sent it.
    from: Option<Dev>,
    frame: Vec<u8>,
    expected: Option<Expected>,
    events: Vec<Event>,
    /// Frames that the program sees again by itself.
    again: Vec<Vec<u8>>,
}

struct Expected {
    outcome: Outcome,
    verdict: u32,
    frame: Vec<u8>,
}

/// A packet for a program, on the program's usual device; say next what it must come to.
pub(crate) fn send(program: Program, packet: &Packet) -> Sent {
    send_bytes(program, packet.build())
}

/// As [`send`], with any bytes.
pub(crate) fn send_bytes(program: Program, frame: Vec<u8>) -> Sent {
    Sent {
        program,
        dev: program.device(),
        from: None,
        frame,
        expected: None,
        events: Vec::new(),
        again: Vec::new(),
    }
}

impl Sent {
    /// On another device.
    pub(crate) fn on(self, dev: Dev) -> Self {
        Self { dev, ..self }
    }

    /// Forwarded by the stack, from this device.
    pub(crate) fn forwarded_from(self, dev: Dev) -> Self {
        let from = Some(dev);
        Self { from, ..self }
    }

    /// It is left as it is and goes on.
    pub(crate) fn passes(self, outcome: Outcome) -> Self {
        let frame = self.frame.clone();
        self.goes_on(outcome, frame)
    }

    /// It goes on, as `packet`.
    pub(crate) fn becomes(self, outcome: Outcome, packet: &Packet) -> Self {
        self.goes_on(outcome, packet.build())
    }

    /// It goes on, as `frame`.
    pub(crate) fn goes_on(self, outcome: Outcome, frame: Vec<u8>) -> Self {
        let verdict = if self.program == Program::UplinkXdp {
            XDP_PASS
        } else {
            NEXT
        };
        self.expect(outcome, verdict, frame)
    }

    /// It is redirected, as `packet`. XDP has to find the next hop itself, see [`Sent::hops_to`].
    pub(crate) fn goes_out_as(self, outcome: Outcome, packet: &Packet) -> Self {
        self.expect(outcome, REDIRECT, packet.build())
    }

    /// It is sent to the next hop on its way, as `packet`: TC leaves the link header to the kernel, XDP writes it.
    pub(crate) fn hops_to(self, outcome: Outcome, packet: &Packet, site: &Site) -> Self {
        if self.program != Program::UplinkXdp {
            return self.goes_out_as(outcome, packet);
        }
        let (dev, mac) = site.hop(packet.destination.ip());
        let (dev, mac) = dev.zip(mac).expect("XDP sends to known neighbours only");
        let verdict = if dev == self.dev { XDP_TX } else { XDP_REDIRECT };
        let frame = packet.clone().macs(dev.mac(), mac).build();
        self.expect(outcome, verdict, frame)
    }

    /// It is turned into `answer` and sent back.
    pub(crate) fn answered_by(self, outcome: Outcome, answer: &Packet) -> Self {
        let verdict = if self.program == Program::UplinkXdp {
            XDP_TX
        } else {
            REDIRECT
        };
        self.expect(outcome, verdict, answer.build())
    }

    /// It ends here, and was not changed.
    pub(crate) fn ends(self, outcome: Outcome) -> Self {
        let verdict = if self.program == Program::UplinkXdp {
            XDP_DROP
        } else {
            SHOT
        };
        let frame = self.frame.clone();
        self.expect(outcome, verdict, frame)
    }

    /// It ends here, as `packet`.
    pub(crate) fn ends_as(self, outcome: Outcome, packet: &Packet) -> Self {
        self.expect(outcome, SHOT, packet.build())
    }

    /// This is counted beside it.
    pub(crate) fn with(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// Behind it the program sees these again, which came before.
    pub(crate) fn followed_by(mut self, packets: &[&Packet]) -> Self {
        self.again = packets.iter().map(|packet| packet.build()).collect();
        self
    }

    fn expect(self, outcome: Outcome, verdict: u32, frame: Vec<u8>) -> Self {
        let expected = Some(Expected {
            outcome,
            verdict,
            frame,
        });
        Self { expected, ..self }
    }
}

impl Row {
    /// A row without steps.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            steps: Vec::new(),
            flows: None,
        }
    }

    /// One more packet.
    pub(crate) fn then(mut self, sent: Sent) -> Self {
        self.steps.push(Step::Packet(sent));
        self
    }

    /// Changes the world between packets.
    pub(crate) fn doing(mut self, step: impl Fn(&mut World) + 'static) -> Self {
        self.steps.push(Step::Do(Box::new(step)));
        self
    }

    /// What its packets are.
    fn frames(&self) -> impl Iterator<Item = Vec<u8>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Packet(sent) => Some(sent.frame.clone()),
            Step::Do(_) => None,
        })
    }

    /// In the end there are these flows and no others.
    pub(crate) fn leaves(mut self, flows: Vec<Translation>) -> Self {
        self.flows = Some(flows);
        self
    }

    /// In the end there is no flow.
    pub(crate) fn leaves_nothing(self) -> Self {
        self.leaves(Vec::new())
    }
}

/// A translation that a row leaves behind: both entries of it.
#[derive(Clone, Debug)]
pub(crate) struct Translation {
    from: Tuple<IpAddr>,
    to: Tuple<IpAddr>,
    state: State,
    actions: [Action; 2],
    devices: [u32; 2],
}

/// The tuple of a packet.
pub(crate) fn tuple(packet: &Packet) -> Tuple<IpAddr> {
    Tuple {
        source: packet.source.ip(),
        destination: packet.destination.ip(),
        source_port: packet.source.port(),
        destination_port: packet.destination.port(),
        protocol: packet.protocol(),
        phase: Phase::Before as u8,
        reserved: 0,
    }
}

/// A translation of `from`, in front of the routing decision, to `to`, whose answers are undone behind it.
pub(crate) fn translation(from: &Packet, to: &Packet, state: State) -> Translation {
    Translation {
        from: tuple(from),
        to: Tuple {
            phase: Phase::After as u8,
            ..tuple(to)
        },
        state,
        actions: [Action::Stack; 2],
        devices: [0; 2],
    }
}

impl Translation {
    /// Answers are undone in front of the routing decision.
    pub(crate) fn undone_before(mut self) -> Self {
        self.to.phase = Phase::Before as u8;
        self
    }

    /// Packets are translated behind the routing decision.
    pub(crate) fn made_after(mut self) -> Self {
        self.from.phase = Phase::After as u8;
        self
    }

    /// Where packets go, and their answers; undone in front of the routing decision.
    pub(crate) fn sent(self, way: (Action, u32), back: (Action, u32)) -> Self {
        Self {
            actions: [way.0, back.0],
            devices: [way.1, back.1],
            ..self.undone_before()
        }
    }

    /// The forward entry and the reverse entry.
    pub(crate) fn entries(&self) -> [(Tuple<IpAddr>, Flow<IpAddr>); 2] {
        let [way, back] = self.actions.map(|action| action as u8);
        let [device, twin_device] = self.devices;
        let forward = Flow {
            to: self.to,
            seen: 0,
            created: 0,
            device,
            twin_device,
            state: self.state as u8,
            action: way | back << 4,
            flags: 0,
        };
        let reverse = Flow {
            to: self.from.reverse(),
            device: twin_device,
            twin_device: device,
            action: back | way << 4,
            flags: Flow::<IpAddr>::REVERSE,
            ..forward
        };
        [(self.from, forward), (self.to.reverse(), reverse)]
    }
}

/// The source port for SNAT that is tried as number `attempt` for a flow whose first packet is `packet`: its own
/// if that is one of `ports`, else by its hash.
pub(crate) fn snat_port(packet: &Packet, ports: [u16; 2], attempt: u32) -> u16 {
    let own = packet.source.port();
    if attempt == 0 && (ports[0]..=ports[1]).contains(&own) {
        return own;
    }
    let span = u32::from(ports[1] - ports[0]) + 1;
    // The last steps of Murmur3.
    let mut place = hash(packet).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    place = (place ^ place >> 16).wrapping_mul(0x85eb_ca6b);
    place = (place ^ place >> 13).wrapping_mul(0xc2b2_ae35);
    place ^= place >> 16;
    ports[0] + ((u64::from(place) * u64::from(span)) >> 32) as u16
}

/// [`snat_port`] of the usual range, first attempt.
pub(crate) fn snat(packet: &Packet) -> u16 {
    snat_port(packet, SNAT_PORTS, 0)
}

/// A packet of a process of this node, translated: its address is kept, its port is one for SNAT.
pub(crate) fn anew(site: &Site, sent: &Packet) -> Packet {
    sent.clone().from(site.at(Host::Node, snat(sent)))
}

/// A packet's flow hash.
pub(crate) fn hash(packet: &Packet) -> u32 {
    use lb_common::abi::{Addr4, Addr6, V4, V6};
    let general = tuple(packet);
    macro_rules! hash {
        ($family:ty, $addr:ty, $source:expr, $destination:expr) => {
            flow_hash::<$family>(
                &Tuple {
                    source: <$addr>::from($source),
                    destination: <$addr>::from($destination),
                    source_port: general.source_port,
                    destination_port: general.destination_port,
                    protocol: general.protocol,
                    phase: 0,
                    reserved: 0,
                },
                crate::world::SEED,
            )
        };
    }
    match (packet.source, packet.destination) {
        (SocketAddr::V4(s), SocketAddr::V4(d)) => hash!(V4, Addr4, *s.ip(), *d.ip()),
        (SocketAddr::V6(s), SocketAddr::V6(d)) => hash!(V6, Addr6, *s.ip(), *d.ip()),
        _ => unreachable!("a packet has one family"),
    }
}

/// Runs a row in a world without flows; what is wrong, if something is. `seen` learns the outcomes.
pub(crate) fn check(
    world: &mut World,
    family: Family,
    row: &Row,
    seen: &mut impl FnMut(Program, Outcome),
) -> Result<(), String> {
    world.set_node(|_| {});
    world.maps(family).forget_flows();
    world.restart_ids();
    world.forget_held();
    let site = world.site(family);
    for (number, step) in row.steps.iter().enumerate() {
        match step {
            Step::Do(change) => change(world),
            Step::Packet(sent) => {
                let known: Vec<Vec<u8>> = row.frames().collect();
                let result = check_packet(world, &site, sent, &row.name)
                    .and_then(|()| check_again(world, &site, sent, &known));
                result.map_err(|error| {
                    let flows = show(&world.maps(family).flows());
                    format!("{:?}, {}, step {}: {error}{flows}", family, row.name, number + 1)
                })?;
                if let Some(expected) = &sent.expected {
                    seen(sent.program, expected.outcome);
                }
            }
        }
    }
    let Some(flows) = &row.flows else { return Ok(()) };
    let expected: Flows = flows.iter().flat_map(Translation::entries).collect();
    let timeless = |(key, flow): (_, Flow<IpAddr>)| {
        let flow = Flow {
            seen: 0,
            created: 0,
            ..flow
        };
        (key, flow)
    };
    let got: Flows = world.maps(family).flows().into_iter().map(timeless).collect();
    if got == expected {
        return Ok(());
    }
    let (got, expected) = (show(&got), show(&expected));
    Err(format!(
        "{family:?}, {}: in the end{got}expected{expected}",
        row.name
    ))
}

fn check_packet(world: &mut World, site: &Site, sent: &Sent, name: &str) -> Result<(), String> {
    let expected = sent
        .expected
        .as_ref()
        .expect("every packet of a row has an expectation");
    let from = sent.from.map_or(0, |dev| site.dev(dev));
    let got = world.run(sent.program, site.dev(sent.dev), from, &sent.frame);
    let counter = Counter {
        packets: 1,
        bytes: sent.frame.len() as u64,
    };
    let wanted = Run {
        verdict: expected.verdict,
        frame: expected.frame.clone(),
        counted: vec![(sent.program.hook(), expected.outcome, counter)],
        events: sent.events.clone(),
        traffic: got.traffic.clone(),
    };
    if got == wanted {
        let traffic = if world.is_counting() {
            traffic::check(site, expected.outcome, &sent.frame, &expected.frame, &got.traffic)
        } else {
            traffic::nothing(&got.traffic)
        };
        return traffic.map_err(|error| format!("{} on {}: {error}", sent.program.name(), sent.dev.name()));
    }
    let mut error = format!(
        "{} on {}: verdict {}, expected {}; counted {:?} {:?}, expected {:?} {:?}\n",
        sent.program.name(),
        sent.dev.name(),
        got.verdict,
        wanted.verdict,
        got.counted,
        got.events,
        wanted.counted,
        wanted.events
    );
    if got.frame != wanted.frame {
        let saved = pcap::save(name, &[&sent.frame, &got.frame, &wanted.frame]);
        let saved = saved.map_or_else(|e| e.to_string(), |path| path.display().to_string());
        let frames = dump::side_by_side(&got.frame, &wanted.frame);
        error += &format!("in, out (left) and expected (right) are in {saved}\n{frames}");
    }
    Err(error)
}

/// Whether the program is given what came before the packet, and only that.
fn check_again(world: &World, site: &Site, sent: &Sent, known: &[Vec<u8>]) -> Result<(), String> {
    let again = world.tap.heard(site.dev(sent.dev), known, sent.again.len());
    if again == sent.again {
        return Ok(());
    }
    let list = |frames: &[Vec<u8>]| frames.iter().map(|frame| dump::hex(frame)).collect::<String>();
    Err(format!(
        "{} on {}: seen again\n{}expected\n{}",
        sent.program.name(),
        sent.dev.name(),
        list(&again),
        list(&sent.again)
    ))
}

/// A flow table as text.
pub(crate) fn show(flows: &Flows) -> String {
    let mut text = format!(" {} flow entries:\n", flows.len());
    for (key, flow) in flows {
        text += &format!("  {key:?}\n    {flow:?}\n");
    }
    text
}
