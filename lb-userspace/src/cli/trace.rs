//! `lb-agent trace`: every step that packets take through the programs of this node, as they take it.

mod watched;

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use clap::Args;
use lb_common::abi::{End, Record};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::yield_now,
    time::{Instant, sleep, timeout_at},
};

use super::{InstanceArgs, Output, named, server::ServerArgs};
use crate::{
    agent::live::LiveNode,
    config::Instance,
    explain::Client,
    load::Tracer,
    maps::Lookup as _,
    node,
    trace::{Names, Packet, Packets, Place, Side, ends, source_afterwards},
};

/// Flags of `lb-agent trace`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
#[group(id = "what", required = true, multiple = true, args = ["from", "to"])]
pub(super) struct TraceArgs {
    /// Only packets of connections that this client begins, and their answers: pod/NAMESPACE/NAME, node/NAME or an address.
    #[arg(long, value_name = "CLIENT")]
    from: Option<Client>,
    /// Only packets of connections to this destination, and their answers: service/NAMESPACE/NAME[:PORT] (all its addresses),
    /// ADDRESS:PORT[/udp|/sctp], or ADDRESS. If a Service is there, packets to and from its backends as well.
    #[arg(long, value_name = "DESTINATION")]
    to: Option<Place>,
    /// End after so many packets (each is one at every hook that it passes).
    #[arg(long, value_name = "PACKETS")]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// How to print it. JSON: one object for each packet and hook, in a line.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    instance: InstanceArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent trace --to service/shop/cart                     whoever connects to it, by whichever address
  lb-agent trace --from 10.244.1.5 --to 192.0.2.30:80       one client, one address
  lb-agent trace --to 10.244.2.7 --count 20 -o json         the first 20 packets to and from a pod

For each packet: where it is seen; the map entries that the program reads, or has just read when it opened a flow; the
translation, and how the checksum follows; the next hop; the outcome, by its name in `lb-agent counters`; and what the kernel is
told to do. Packets that these programs do not see (of a pod that shares no network with this node, say) are not shown.

While it runs, packets of this node pass second instances of the programs, which do the same and write it down: some
microseconds for each packet that is watched, a few hundred nanoseconds for others. Within seconds after it has ended, however
that was, packets pass the first ones again. At a socket it is not known yet who will connect: connections to DESTINATION are
shown whoever --from is. One trace at a time on a node. Needs root.";

/// So many records are kept until they are printed (128 MiB); more wait in the ring, and are lost when that is full.
const WAITING: usize = 1 << 20;
/// How often it is looked for records.
const INTERVAL: Duration = Duration::from_millis(20);
/// For so many ticks, of about a second, programs write records without being told again.
const LEASE: u32 = 3;

/// Prints what packets do until it is told to end.
pub(super) async fn print(args: TraceArgs) -> Result<()> {
    let instance = Instance::from(args.instance.clone());
    let deadline = args
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let end = async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok::<_, io::Error>(())
    };
    tokio::pin!(end);
    let mut shown = 0;
    loop {
        let mut session = Session::begin(&args, &instance).await?;
        let done = async {
            let work = session.run(&args, &mut shown);
            match deadline {
                Some(deadline) => timeout_at(deadline, work).await.unwrap_or(Ok(Ended::Done)),
                None => work.await,
            }
        };
        let ended = tokio::select! {
            ended = done => ended?,
            told = &mut end => {
                told.context("signals cannot be waited for")?;
                Ended::Done
            }
        };
        session.rest(&args, &mut shown)?;
        if let Ended::Done = ended {
            return Ok(());
        }
        eprintln!("note: the agent was started anew, with maps of its own: watching those");
    }
}

/// Why a session has ended.
enum Ended {
    /// It has shown enough.
    Done,
    /// The agent has put other maps in place.
    LeftBehind,
}

/// The programs of one agent, watched.
struct Session {
    tracer: Tracer,
    ends: BTreeSet<End>,
    packets: Packets,
    waiting: VecDeque<Record>,
    tick_shift: u32,
}

impl Session {
    async fn begin(args: &TraceArgs, instance: &Instance) -> Result<Self> {
        let node = LiveNode::open(instance).await?;
        let (v4, v6) = node.maps();
        let tick_shift = v4.node()?.map_or(0, |node| node.tick_shift);
        let mut ends_of_both = BTreeSet::new();
        if let Some(client) = &args.from {
            let watched = watched::from(client, &node, args.server.clone().into()).await?;
            ends_of_both.extend(ends(&watched, Side::From, v4, v6)?);
        }
        if let Some(place) = &args.to {
            ends_of_both.extend(ends(&watched::to(place, &node)?, Side::To, v4, v6)?);
        }
        let mut tracer = Tracer::load(&node.pins, tick(tick_shift))?;
        for (program, why) in tracer.missing() {
            eprintln!("note: {program} cannot be watched on this kernel: {why}");
        }
        let put: Vec<_> = ends_of_both.iter().copied().collect();
        tracer
            .watch(&put)
            .context("too much at a time: name a port of the Service, or one of its addresses")?;
        tracer.until(tick(tick_shift).wrapping_add(LEASE))?;
        let names = Names {
            devices: (node.network().links.iter())
                .map(|link| (link.index, link.name.clone()))
                .collect(),
            started: started(),
        };
        eprintln!("note: watching packets at {} ends; ^C ends it", put.len());
        Ok(Self {
            tracer,
            ends: ends_of_both,
            packets: Packets::new(names),
            waiting: VecDeque::new(),
            tick_shift,
        })
    }

    /// Prints until there is enough, or nothing more comes.
    async fn run(&mut self, args: &TraceArgs, shown: &mut u64) -> Result<Ended> {
        let mut told = Instant::now();
        loop {
            self.fetch();
            if told.elapsed() >= Duration::from_secs(1) {
                if self.tracer.is_left_behind() {
                    return Ok(Ended::LeftBehind);
                }
                self.tracer.until(tick(self.tick_shift).wrapping_add(LEASE))?;
                told = Instant::now();
            }
            let Some(record) = self.waiting.pop_front() else {
                sleep(INTERVAL).await;
                continue;
            };
            if let Some(packet) = self.packets.take(&record) {
                show(&packet, args.output)?;
                *shown += 1;
                // Others may want to end this, however many packets there are.
                yield_now().await;
            }
            if args.count.is_some_and(|count| *shown >= count) {
                return Ok(Ended::Done);
            }
        }
    }

    /// Makes room in the ring: it is small, and to print takes longer than to write it full again.
    fn fetch(&mut self) {
        while self.waiting.len() < WAITING
            && let Some(record) = self.tracer.record()
        {
            self.follow(&record);
            self.waiting.push_back(record);
        }
    }

    /// A client that gets another source address is watched under that one too, or its answers would be missed.
    fn follow(&mut self, record: &Record) {
        let Some(end) = source_afterwards(record) else {
            return;
        };
        let is_filtered = self.ends.iter().any(|end| end.side == End::FROM);
        if is_filtered && self.ends.insert(end) {
            // Without it the rest is seen all the same.
            let _ = self.tracer.also(end);
        }
    }

    /// What is not complete, if there is room for it.
    fn rest(&mut self, args: &TraceArgs, shown: &mut u64) -> Result<()> {
        for packet in self.packets.rest() {
            if args.count.is_none_or(|count| *shown < count) {
                show(&packet, args.output)?;
                *shown += 1;
            }
        }
        Ok(())
    }
}

fn tick(shift: u32) -> u32 {
    node::jiffies().map_or(0, |jiffies| (jiffies >> shift) as u32)
}

/// When the node has started, by the clock that records have.
fn started() -> Option<SystemTime> {
    let since = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    SystemTime::now().checked_sub(since)
}

fn show(packet: &Packet, output: Output) -> Result<()> {
    let text = match output {
        Output::Text => format!("{packet}\n"),
        Output::Json => format!("{}\n", serde_json::to_string(packet)?),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush().context("cannot print")
}
