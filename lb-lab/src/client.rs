//! One connection attempt and what came of it; many of them at a time.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::{
    addr::Proto,
    netns::Netns,
    shares::Shares,
    wire::{Answer, Request},
};

/// Attempts of one probe that are under way at a time: a probe that nobody answers lasts n / 32 timeouts.
const PARALLEL: u32 = 32;

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Somebody answered.
    Answered(Answer),
    /// Refused at once: TCP reset, or ICMP port unreachable.
    Refused,
    /// Established, then reset or closed before the answer was complete.
    Reset,
    /// Nothing was heard in time.
    Silent,
    /// Another error that the network reported, such as "no route to host" (a UDP socket is not told: silence).
    Unreachable(String),
    /// An answer that makes no sense.
    Garbled(String),
}

impl Outcome {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether somebody of this name answered.
    pub fn is_from(&self, name: &str) -> bool {
        self.answer().is_some_and(|a| a.name == name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(a) => write!(f, "answered by {} at {}, which saw {}", a.name, a.local, a.peer),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Reset => f.write_str("reset"),
            Outcome::Silent => f.write_str("silent"),
            Outcome::Unreachable(why) => write!(f, "unreachable: {why}"),
            Outcome::Garbled(what) => write!(f, "garbled: {what}"),
        }
    }
}

/// How an attempt is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time for the whole attempt.
    pub timeout: Duration,
    /// Local address and port (port 0: the kernel chooses).
    pub source: Option<SocketAddr>,
    /// UDP: bytes of the request, at least (more than an MTU makes fragments).
    pub request_len: usize,
    /// UDP: bytes of the reply, at least.
    pub reply_len: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // Room for a handshake's first two repetitions: all of the network is one machine, and a busy one.
            timeout: Duration::from_secs(4),
            source: None,
            request_len: 0,
            reply_len: 0,
        }
    }
}

impl Options {
    /// The defaults with another time limit.
    pub fn within(timeout: Duration) -> Self {
        Self {
            timeout,
            ..Self::default()
        }
    }

    /// The defaults from this local address and port.
    pub fn from(source: SocketAddr) -> Self {
        Self {
            source: Some(source),
            ..Self::default()
        }
    }
}

/// One attempt from inside `netns`. An error means that the attempt could not even be made.
pub(crate) fn connect(netns: &Netns, proto: Proto, dst: SocketAddr, options: &Options) -> Result<Outcome> {
    netns.run(|| attempt(proto, dst, options))
}

/// One attempt for each of these options, several at a time; the outcomes are in the same order.
pub(crate) fn connect_each(
    netns: &Netns,
    proto: Proto,
    dst: SocketAddr,
    attempts: &[Options],
) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, Outcome)>> {
            netns.enter()?;
            let mut own = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(options) = attempts.get(number) else {
                    return Ok(own);
                };
                own.push((number, attempt(proto, dst, options)?));
            }
        };
        let workers = attempts.len().min(PARALLEL as usize);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let outcomes = workers
            .into_iter()
            .map(|w| w.join().expect("an attempt does not panic"));
        outcomes.collect::<Result<Vec<_>>>().map(|all| all.concat())
    })?;
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// `n` attempts with source ports of their own, several at a time.
pub(crate) fn probe(
    netns: &Netns,
    proto: Proto,
    dst: SocketAddr,
    n: u32,
    options: &Options,
) -> Result<Shares> {
    let (next, shares) = (AtomicU32::new(0), Mutex::new(Shares::default()));
    thread::scope(|scope| {
        let work = || -> Result<()> {
            netns.enter()?;
            while next.fetch_add(1, Ordering::Relaxed) < n {
                let outcome = attempt(proto, dst, options)?;
                shares
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(&outcome);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..n.min(PARALLEL)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().expect("an attempt does not panic"))
    })?;
    Ok(shares.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// An attempt from the namespace of the calling thread.
fn attempt(proto: Proto, dst: SocketAddr, options: &Options) -> Result<Outcome> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let token = format!(
        "{:x}-{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    );
    let request = Request::Who {
        token,
        length: options.reply_len,
    };
    let deadline = Instant::now() + options.timeout;
    match proto {
        Proto::Tcp => match open_tcp(dst, options)? {
            Err(outcome) => Ok(outcome),
            Ok(stream) => {
                let mut reader = BufReader::new(Timed::new(&stream, deadline));
                Ok(ask(&mut reader, &request).unwrap_or_else(|e| after_connect(&e)))
            }
        },
        Proto::Udp => {
            let socket = open(Type::DGRAM, dst, options)?;
            let exchange = || {
                socket.connect(&dst.into())?;
                exchange_datagrams(&UdpSocket::from(socket), &request, options.request_len, deadline)
            };
            Ok(exchange().unwrap_or_else(|e| while_connecting(&e)))
        }
    }
}

/// A connected TCP stream, or what came instead of one.
pub(crate) fn open_tcp(dst: SocketAddr, options: &Options) -> Result<Result<TcpStream, Outcome>> {
    let socket = open(Type::STREAM, dst, options)?;
    Ok(match socket.connect_timeout(&dst.into(), options.timeout) {
        Ok(()) => Ok(socket.into()),
        Err(error) => Err(while_connecting(&error)),
    })
}

fn open(kind: Type, dst: SocketAddr, options: &Options) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(dst), kind, None)?;
    if let Some(source) = options.source {
        socket.set_reuse_address(true)?;
        socket
            .bind(&source.into())
            .with_context(|| format!("cannot use {source} as source address"))?;
    }
    Ok(socket)
}

/// A connection of which every read ends by a deadline, however slowly bytes trickle in.
pub(crate) struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(stream: &'a TcpStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Sends the opening line and reads the first line of the answer.
pub(crate) fn ask(reader: &mut BufReader<Timed<'_>>, request: &Request) -> io::Result<Outcome> {
    let mut stream = reader.get_ref().stream;
    stream.write_all(request.to_line().as_bytes())?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(match Answer::from_bytes(line.as_bytes()) {
        Some(answer) if answer.token == request.token() => Outcome::Answered(answer),
        _ if line.is_empty() => Outcome::Reset,
        _ => Outcome::Garbled(line),
    })
}

fn exchange_datagrams(
    socket: &UdpSocket,
    request: &Request,
    length: usize,
    deadline: Instant,
) -> io::Result<Outcome> {
    let mut datagram = request.to_line().into_bytes();
    datagram.resize(datagram.len().max(length), b' ');
    socket.send(&datagram)?;
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome::Silent);
        }
        socket.set_read_timeout(Some(left))?;
        let n = socket.recv(&mut buffer)?;
        match Answer::from_bytes(&buffer[..n]) {
            Some(answer) if answer.token == request.token() => return Ok(Outcome::Answered(answer)),
            // The answer to somebody who had this port before.
            Some(_) => {}
            None => {
                return Ok(Outcome::Garbled(
                    String::from_utf8_lossy(&buffer[..n.min(80)]).into_owned(),
                ));
            }
        }
    }
}

fn while_connecting(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::Silent,
        _ => Outcome::Unreachable(error.to_string()),
    }
}

fn after_connect(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Outcome::Reset,
        _ => while_connecting(error),
    }
}
