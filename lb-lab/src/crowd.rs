//! Many established connections, and many sockets with numbered datagrams, each kind looked after by one thread.
//!
//! Nobody waits for any of them: each is looked at when its turn comes, what has come is compared with what was sent, and the next
//! number is sent. A thousand connections so cost two system calls each and turn.
//!
//! *Not here*: new connections (`client`), one stream that is looked at closely (`stream`).

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::SockRef;

use crate::{
    netns::Netns,
    transfer::Held,
    wire::{Answer, Request},
};

/// What does not come back for so long is lost: longer than TCP on a busy machine needs to repeat a segment a few times.
const LOST: Duration = Duration::from_secs(20);
/// How long the answers to the last datagrams are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// How a member of a crowd failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A connection was reset or closed.
    Reset,
    /// Nothing came back.
    Lost,
    /// Something else came back than what was sent, or it came from another server.
    Wrong,
    /// A datagram was refused.
    Refused,
}

/// A failure of one member.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which one, in the order in which they were given.
    pub member: usize,
    /// How.
    pub fault: Fault,
    /// In words.
    pub what: String,
    /// When all was well for the last time: for a lost datagram, when it was sent.
    pub since: Instant,
    /// When it was noticed.
    pub at: Instant,
}

/// What a crowd has come to.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Numbers sent.
    pub sent: u64,
    /// Numbers that came back.
    pub back: u64,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// One of many, and what is done when its turn comes.
pub trait Member: Send + 'static {
    /// Takes in what has come, and sends the next number if `more`. An error ends it.
    fn turn(&mut self, more: bool, progress: &mut Tally<'_>) -> io::Result<()>;

    /// Whether it still waits for something.
    fn waits(&self) -> bool;
}

/// Where a member writes down what became of its turn.
pub struct Tally<'a> {
    member: usize,
    progress: MutexGuard<'a, Progress>,
}

impl Tally<'_> {
    fn fail(&mut self, fault: Fault, since: Instant, what: String) {
        let failure = Failure {
            member: self.member,
            fault,
            what,
            since,
            at: Instant::now(),
        };
        self.progress.failures.push(failure);
    }
}

/// Members that are looked after in the background; ends when dropped.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    progress: Mutex<Progress>,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    /// Gives each member a turn `every` so long, evenly spread.
    pub fn start<M: Member>(members: Vec<M>, every: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || run(&own, members, every));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// What it has come to so far.
    pub fn progress(&self) -> Progress {
        self.shared.progress().clone()
    }

    /// Numbers sent and come back, and failures so far.
    pub fn counts(&self) -> (u64, u64, usize) {
        let progress = self.shared.progress();
        (progress.sent, progress.back, progress.failures.len())
    }

    /// Ends it, once the last answers have come, and says what it came to.
    pub fn stop(mut self) -> Progress {
        self.end();
        self.progress()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crowd({:?})", self.counts())
    }
}

fn run<M: Member>(shared: &Shared, members: Vec<M>, every: Duration) {
    let mut members: Vec<_> = members.into_iter().map(Some).collect();
    let between = every / u32::try_from(members.len().max(1)).unwrap_or(u32::MAX);
    let mut next = Instant::now();
    let give_turn = |number: usize, member: &mut Option<M>, more: bool| {
        let Some(one) = member else { return };
        let mut tally = Tally {
            member: number,
            progress: shared.progress(),
        };
        if one.turn(more, &mut tally).is_err() {
            *member = None;
        }
    };
    'all: loop {
        for (number, member) in members.iter_mut().enumerate() {
            if shared.stop.load(Ordering::Relaxed) {
                break 'all;
            }
            // Behind schedule, the turns follow each other at once: none is left out, and none is given twice.
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += between;
            give_turn(number, member, true);
        }
    }
    let end = Instant::now() + LAST_ANSWERS;
    while Instant::now() < end && members.iter().flatten().any(Member::waits) {
        thread::sleep(Duration::from_millis(50));
        for (number, member) in members.iter_mut().enumerate() {
            give_turn(number, member, false);
        }
    }
    for (number, member) in members.iter_mut().enumerate() {
        if member.as_ref().is_some_and(Member::waits) {
            give_turn(number, member, false);
        }
    }
}

/// A connection whose turn is to see its last number come back, and to send the next.
#[derive(Debug)]
pub struct Echoing {
    held: Held,
    sent: u64,
    waits: bool,
    back: Vec<u8>,
    well: Instant,
}

impl Echoing {
    /// Looks after a connection from now on.
    pub fn new(held: Held) -> io::Result<Self> {
        held.stream().set_nonblocking(true)?;
        Ok(Self {
            held,
            sent: 0,
            waits: false,
            back: Vec::new(),
            well: Instant::now(),
        })
    }

    fn receive(&mut self, tally: &mut Tally<'_>) -> Result<(), (Fault, String)> {
        let expected = self.sent.to_be_bytes();
        let mut buffer = [0; 64];
        loop {
            match io::Read::read(&mut self.held.stream(), &mut buffer) {
                Ok(0) => return Err((Fault::Reset, "closed by the other end".into())),
                Ok(n) => self.back.extend(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err((Fault::Reset, error.to_string())),
            }
            if !self.waits || self.back.len() > expected.len() || !expected.starts_with(&self.back) {
                let what = format!("{expected:?} came back as {:?}", self.back);
                return Err((Fault::Wrong, what));
            }
            if self.back == expected {
                self.back.clear();
                self.well = Instant::now();
                tally.progress.back += 1;
                self.waits = false;
            }
        }
    }
}

impl Member for Echoing {
    fn turn(&mut self, more: bool, tally: &mut Tally<'_>) -> io::Result<()> {
        let mut outcome = self.receive(tally);
        if outcome.is_ok() && self.waits {
            if self.well.elapsed() < if more { LOST } else { LAST_ANSWERS } {
                return Ok(());
            }
            outcome = Err((Fault::Lost, format!("number {} did not come back", self.sent)));
        }
        if outcome.is_ok() && more {
            self.sent += 1;
            self.waits = true;
            self.well = Instant::now();
            tally.progress.sent += 1;
            let sent = self.sent.to_be_bytes();
            outcome = match io::Write::write(&mut self.held.stream(), &sent) {
                Ok(n) if n == sent.len() => Ok(()),
                Ok(n) => Err((Fault::Lost, format!("only {n} of 8 bytes could be sent"))),
                Err(error) => Err((Fault::Reset, error.to_string())),
            };
        }
        outcome.map_err(|(fault, what)| {
            let what = format!("{what} ({} numbers before)", self.sent.saturating_sub(1));
            tally.fail(fault, self.well, what.clone());
            io::Error::other(what)
        })
    }

    fn waits(&self) -> bool {
        self.waits
    }
}

/// A socket with numbered datagrams to one address: each is answered, all of them by the same server.
#[derive(Debug)]
pub struct Numbered {
    socket: UdpSocket,
    sent: u64,
    waiting: BTreeMap<u64, Instant>,
    by: Option<Answer>,
}

impl Numbered {
    pub(crate) fn open(netns: &Netns, dst: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| {
            let any: SocketAddr = if dst.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
            let socket = UdpSocket::bind(any)?;
            socket.connect(dst).with_context(|| format!("no way to {dst}"))?;
            socket.set_nonblocking(true)?;
            let _ = SockRef::from(&socket).set_recv_buffer_size(1 << 20);
            Ok(socket)
        })?;
        Ok(Self {
            socket,
            sent: 0,
            waiting: BTreeMap::new(),
            by: None,
        })
    }

    /// Asks the first question, and waits for its answer: who will answer all others.
    pub fn meet(&mut self, limit: Duration) -> Result<Answer> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(limit))?;
        self.socket.send(request(0).as_bytes())?;
        let mut buffer = [0; 2048];
        let n = self.socket.recv(&mut buffer).context("nobody answers")?;
        let answer = Answer::from_bytes(&buffer[..n]).context("an answer that makes no sense")?;
        self.socket.set_nonblocking(true)?;
        self.by = Some(answer.clone());
        Ok(answer)
    }

    /// Its own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn receive(&mut self, tally: &mut Tally<'_>) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(n) => self.take(&buffer[..n], tally),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tally.fail(Fault::Refused, Instant::now(), "a datagram was refused".into());
                }
                Err(error) => {
                    tally.fail(Fault::Refused, Instant::now(), error.to_string());
                    return Err(error);
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], tally: &mut Tally<'_>) {
        let now = Instant::now();
        let Some(answer) = Answer::from_bytes(bytes) else {
            return tally.fail(Fault::Wrong, now, "an answer that makes no sense".into());
        };
        let number = answer.token.parse().unwrap_or(u64::MAX);
        if self.waiting.remove(&number).is_none() {
            return tally.fail(
                Fault::Wrong,
                now,
                format!("an answer nobody waits for: {answer:?}"),
            );
        }
        tally.progress.back += 1;
        let by = self.by.get_or_insert_with(|| answer.clone());
        if (&by.name, by.peer) != (&answer.name, answer.peer) {
            let what = format!(
                "answered by {}, which saw {}; before by {}, which saw {}",
                answer.name, answer.peer, by.name, by.peer
            );
            tally.fail(Fault::Wrong, now, what);
            self.by = Some(answer);
        }
    }
}

fn request(number: u64) -> String {
    let token = number.to_string();
    Request::Who { token, length: 0 }.to_line()
}

impl Member for Numbered {
    fn turn(&mut self, more: bool, tally: &mut Tally<'_>) -> io::Result<()> {
        self.receive(tally)?;
        while let Some((number, since)) = self.waiting.first_key_value()
            && (since.elapsed() > LOST || !more && since.elapsed() > LAST_ANSWERS)
        {
            let (number, since) = (*number, *since);
            let by = self.by.as_ref().map_or("nobody yet", |by| &by.name);
            tally.fail(
                Fault::Lost,
                since,
                format!("datagram {number} to {by} was not answered"),
            );
            self.waiting.remove(&number);
        }
        if more {
            self.sent += 1;
            self.waiting.insert(self.sent, Instant::now());
            tally.progress.sent += 1;
            match self.socket.send(request(self.sent).as_bytes()) {
                Ok(_) => {}
                Err(error) => {
                    tally.fail(Fault::Refused, Instant::now(), error.to_string());
                    self.waiting.remove(&self.sent);
                }
            }
        }
        Ok(())
    }

    fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}
