//! Traffic in the background, watched while something else changes: a slow download, or numbered datagrams.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    client::{self, Options, Timed},
    netns::Netns,
    pattern::Pattern,
    transfer::next_seed,
    wait::wait_for,
    wire::{Answer, Request},
};

/// A stream that is silent for so long has failed.
const STALLED: Duration = Duration::from_secs(20);
/// How long answers to the last datagrams are waited for.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Longer than any test: what an endless download asks for.
const ENDLESS: u64 = 1 << 50;

/// What a stream has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Received and found right: bytes of a download, or answers to datagrams.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Who sent how much of it.
    pub by: BTreeMap<String, u64>,
    /// Datagrams that were refused (port unreachable).
    pub refused: u64,
    /// Longest time without anything received, between two things received.
    pub longest_gap: Duration,
    /// What ended the stream before it was stopped.
    pub error: Option<String>,
}

impl Report {
    /// Datagrams without an answer.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// Traffic in the background; ends when dropped.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    report: Mutex<Report>,
    last: Mutex<Instant>,
    stop: AtomicBool,
}

impl Stream {
    pub(crate) fn tcp(netns: &Netns, dst: SocketAddr, rate: u64) -> Result<Self> {
        let stream = match netns.run(|| client::open_tcp(dst, &Options::default()))? {
            Ok(stream) => stream,
            Err(outcome) => bail!("{dst}: {outcome}"),
        };
        Ok(Self::start(move |shared| shared.download(&stream, rate)))
    }

    pub(crate) fn udp(netns: &Netns, dst: SocketAddr, rate: u32) -> Result<Self> {
        let socket = netns.run(|| {
            let any: SocketAddr = if dst.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
            let socket = UdpSocket::bind(any)?;
            socket.connect(dst).with_context(|| format!("no way to {dst}"))?;
            Ok(socket)
        })?;
        Ok(Self::start(move |shared| shared.exchange(&socket, rate)))
    }

    fn start(work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            report: Mutex::default(),
            last: Mutex::new(Instant::now()),
            stop: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            if let Err(error) = work(&own) {
                own.report().error = Some(error.to_string());
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// What it has come to so far.
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Waits until `amount` more was received than at the moment of the call: proof that it still goes on.
    pub fn wait_for_more(&self, amount: u64, limit: Duration) -> Result<()> {
        let wanted = self.report().received + amount;
        wait_for(limit, "the stream to go on", || {
            let report = self.report();
            report.received >= wanted || report.error.is_some()
        })?;
        match self.report() {
            Report { received, .. } if received >= wanted => Ok(()),
            Report { error, received, .. } => bail!("the stream broke after {received}: {error:?}"),
        }
    }

    /// Ends it and says what it came to.
    pub fn stop(mut self) -> Report {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn received(&self, by: &Answer, amount: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = self.report();
        if report.received > 0 {
            report.longest_gap = report.longest_gap.max(last.elapsed());
        }
        *last = Instant::now();
        report.received += amount;
        *report.by.entry(by.name.clone()).or_default() += amount;
    }

    fn download(&self, stream: &TcpStream, rate: u64) -> io::Result<()> {
        let seed = next_seed();
        let mut reader = BufReader::new(Timed::new(stream, Instant::now() + STALLED));
        let request = Request::Get {
            bytes: ENDLESS,
            seed,
            rate,
        };
        let outcome = client::ask(&mut reader, &request)?;
        let Some(by) = outcome.answer() else {
            return Err(io::Error::other(outcome.to_string()));
        };
        let mut pattern = Pattern::new(seed);
        let mut check = |bytes: &[u8]| {
            let wrong = |at| io::Error::new(io::ErrorKind::InvalidData, format!("byte {at} is wrong"));
            pattern.compare(bytes).map_err(wrong)?;
            self.received(by, bytes.len() as u64);
            Ok::<_, io::Error>(())
        };
        check(reader.buffer())?;
        let mut buffer = vec![0; 64 * 1024];
        let mut heard = Instant::now();
        // Short reads, so that a request to stop is seen.
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        while !self.stopping() {
            match (&mut &*stream).read(&mut buffer) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "closed by the server",
                    ));
                }
                Ok(n) => {
                    heard = Instant::now();
                    check(&buffer[..n])?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && heard.elapsed() < STALLED => {}
                Err(e) => return Err(e),
            }
        }
        stream.shutdown(Shutdown::Both)
    }

    fn exchange(&self, socket: &UdpSocket, rate: u32) -> io::Result<()> {
        let interval = Duration::from_secs(1) / rate.max(1);
        let start = Instant::now();
        for number in 0u32.. {
            if self.stopping() {
                break;
            }
            let request = Request::Who {
                token: number.to_string(),
                length: 0,
            };
            self.report().sent += 1;
            self.note_refusal(socket.send(request.to_line().as_bytes()).map(drop))?;
            self.answers(socket, start + interval * (number + 1))?;
        }
        let end = Instant::now() + LAST_ANSWERS;
        while self.report().lost() > 0 && Instant::now() < end {
            self.answers(socket, Instant::now() + Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Takes in answers until `until`.
    fn answers(&self, socket: &UdpSocket, until: Instant) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(n) => {
                    if let Some(answer) = Answer::from_bytes(&buffer[..n]) {
                        self.received(&answer, 1);
                    }
                }
                Err(e) => self.note_refusal(Err(e))?,
            }
        }
    }

    /// Refusals and silence are counted; datagrams go on.
    fn note_refusal(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.report().refused += 1,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        Ok(())
    }
}
