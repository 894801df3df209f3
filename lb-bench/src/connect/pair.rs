//! Client and server in one thread on one processor.
//!
//! A packet that is sent to a veth device is received by a softirq of the same processor, which the sender runs before
//! its system call returns. So both stacks, all devices between them and all programs are part of the thread's own time,
//! nobody waits for anybody, and nothing is woken up.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread::{self, Scope},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_lab::{Family, Netns};
use socket2::{Domain, Socket, Type};

use super::{
    Backend, What,
    site::{Site, Targets},
};
use crate::{namespace::sysctl, processor};

/// Samples of a turn.
const BATCHES: usize = 5;
/// Connections of a sample: some milliseconds, which most often pass without anybody else on the processor.
const CONNECTIONS: u32 = 100;
/// Exchanges of a sample.
const EXCHANGES: u32 = 200;
/// Of either, before a turn: caches are warm again.
const WARM_UP: u32 = 10;
/// Bytes.
const REQUEST: usize = 100;
/// Bytes: with the request's, no more than one segment each way.
const RESPONSE: usize = 1000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) what: What,
    pub(super) family: Family,
    pub(super) backend: Backend,
    pub(super) by_service: bool,
}

/// Nanoseconds for one connection or exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// On the clock.
    pub(super) wall: f64,
    /// What the kernel says that the thread had of its processor.
    pub(super) cpu: f64,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) samples: Vec<Sample>,
    /// Connections that were opened, warm-up included.
    pub(super) connections: u64,
}

/// A thread in the client's pod.
pub(super) struct Worker {
    orders: mpsc::Sender<Order>,
    results: mpsc::Receiver<Result<Done>>,
}

impl Worker {
    /// Starts it; it ends with the value.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, site: &'scope Site) -> Result<Self> {
        let (orders, asked) = mpsc::channel();
        let (answer, results) = mpsc::channel();
        let targets = site.targets()?;
        let netns = site.client()?.netns();
        scope.spawn(move || {
            let failed = answer.clone();
            if let Err(error) = work(netns, targets, asked, answer) {
                let _ = failed.send(Err(error));
            }
        });
        Ok(Self { orders, results })
    }

    /// One turn.
    pub(super) fn ask(&self, order: Order) -> Result<Done> {
        // If it has ended, it has said why.
        let _ = self.orders.send(order);
        self.results.recv().context("the thread in the pod has ended")?
    }
}

/// In the pod's network namespace and its node's cgroup, until nobody asks any more.
fn work(
    netns: &Netns,
    targets: Targets,
    asked: mpsc::Receiver<Order>,
    answer: mpsc::Sender<Result<Done>>,
) -> Result<()> {
    netns.run(move || {
        processor::stay_on_one()?;
        sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        for order in asked {
            let target = targets.of(order.family, order.backend);
            let to = if order.by_service {
                target.service
            } else {
                target.backend
            };
            let done = match order.what {
                What::Connection => connections(to, &target.listener),
                What::Exchange => exchanges(to, &target.listener),
            };
            // Whoever asked may have failed since.
            let _ = answer.send(done.with_context(|| format!("{order:?} to {to}")));
        }
        Ok(())
    })
}

/// Opens and closes connections, one after the other.
fn connections(to: SocketAddr, listener: &TcpListener) -> Result<Done> {
    reaches(to, listener)?;
    for _ in 0..WARM_UP {
        open(to, listener)?;
    }
    let mut done = Done {
        connections: u64::from(1 + WARM_UP),
        ..Done::default()
    };
    for _ in 0..BATCHES {
        done.samples
            .push(sample(CONNECTIONS, || open(to, listener).map(drop))?);
        done.connections += u64::from(CONNECTIONS);
    }
    Ok(done)
}

/// Opens one connection, on which requests and responses go back and forth.
fn exchanges(to: SocketAddr, listener: &TcpListener) -> Result<Done> {
    reaches(to, listener)?;
    let (client, mut server) = open(to, listener)?;
    let mut client = TcpStream::from(client);
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
    }
    let mut exchange = || -> Result<()> {
        let (mut request, mut response) = ([0; REQUEST], [0; RESPONSE]);
        client.write_all(&request)?;
        server.read_exact(&mut request)?;
        server.write_all(&response)?;
        client.read_exact(&mut response)?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        exchange()?;
    }
    let samples = (0..BATCHES).map(|_| sample(EXCHANGES, &mut exchange));
    Ok(Done {
        samples: samples.collect::<Result<_>>()?,
        connections: 2,
    })
}

/// A first connection, which may fail in finite time.
fn reaches(to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let client = Socket::from(TcpStream::connect_timeout(&to, LIMIT)?);
    client.set_linger(Some(Duration::ZERO))?;
    accept(listener).map(drop)
}

/// A connection that is reset when the client's end is dropped, which it is first: neither end waits for stray packets
/// then (`TIME_WAIT`), and no port is taken for longer than the connection.
fn open(to: SocketAddr, listener: &TcpListener) -> Result<(Socket, TcpStream)> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    client.set_linger(Some(Duration::ZERO))?;
    client.connect(&to.into())?;
    Ok((client, accept(listener)?))
}

/// The other end, which is there already, unless somebody else's work has come in between.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let mut since = None;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if since.get_or_insert_with(Instant::now).elapsed() > LIMIT {
                    bail!("the backend does not see the connection");
                }
                thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn sample(count: u32, mut one: impl FnMut() -> Result<()>) -> Result<Sample> {
    let (start, before) = (Instant::now(), processor::time()?);
    for _ in 0..count {
        one()?;
    }
    let (cpu, wall) = (processor::time()? - before, start.elapsed());
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(count);
    Ok(Sample {
        wall: each(wall),
        cpu: each(cpu),
    })
}
