//! Servers that say who they are and whom they saw, over TCP and UDP, on threads of this process.
//!
//! Each address of a place gets its own socket: a UDP reply then leaves from the address that was asked.
//! What is said over the wire: `wire`.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    addr::Proto,
    netns::Netns,
    pattern::Pattern,
    wire::{Answer, Request},
};

/// Connections one server holds at a time; more are closed at once, so that a mistake cannot eat the machine.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may stay silent or stuck (but for held ones, which are meant to).
const IDLE: Duration = Duration::from_secs(120);
/// Bytes written or read at a time.
const CHUNK: u64 = 64 * 1024;
/// How often a UDP server looks whether it should stop, should the wake-up be missed.
const UDP_WAKE: Duration = Duration::from_millis(200);

/// A running server; dropping it stops it and closes its connections.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    stop: AtomicBool,
    requests: AtomicU64,
    connections: Mutex<HashMap<u64, TcpStream>>,
}

impl Server {
    /// Serves on `port` of each address, inside `netns`, under `name`.
    pub fn start(netns: &Netns, name: &str, proto: Proto, addresses: &[IpAddr], port: u16) -> Result<Self> {
        netns.run(|| Self::start_here(name, proto, addresses, port))
    }

    /// The same in the namespace of the calling thread: for a process of its own inside a pod.
    pub fn start_here(name: &str, proto: Proto, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let open = |ip: &IpAddr| {
            let at = SocketAddr::new(*ip, port);
            listen(proto, at).with_context(|| format!("{name} cannot serve {proto} on {at}"))
        };
        let sockets = addresses.iter().map(open).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            name: name.into(),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let mut server = Self {
            shared,
            threads: Vec::new(),
            sockets: Vec::new(),
        };
        for socket in sockets {
            let (shared, own) = (Arc::clone(&server.shared), socket.try_clone()?);
            server.sockets.push(socket);
            server.threads.push(thread::spawn(move || match proto {
                Proto::Tcp => accept(&shared, &own.into()),
                Proto::Udp => answer_datagrams(&shared, &own.into()),
            }));
        }
        Ok(server)
    }

    /// Connections accepted and datagrams answered so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Wakes the thread that waits; an unconnected UDP socket reports an error, and wakes all the same.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for stream in self.shared.open().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &Request, peer: SocketAddr, local: SocketAddr, length: usize) -> Answer {
        Answer {
            name: self.name.clone(),
            peer,
            local,
            token: request.token().into(),
            length,
        }
    }
}

fn listen(proto: Proto, at: SocketAddr) -> io::Result<Socket> {
    let kind = match proto {
        Proto::Tcp => Type::STREAM,
        Proto::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    if proto == Proto::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&at.into())?;
    match proto {
        Proto::Tcp => socket.listen(1024)?,
        Proto::Udp => socket.set_read_timeout(Some(UDP_WAKE))?,
    }
    Ok(socket)
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for (id, stream) in (0u64..).zip(listener.incoming()) {
        if shared.stopping() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(copy) = stream.try_clone() else { continue };
        let mut open = shared.open();
        if open.len() >= MAX_CONNECTIONS {
            continue;
        }
        open.insert(id, copy);
        drop(open);
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(shared);
        // Not joined: ends as soon as its socket is shut down.
        thread::spawn(move || {
            // The client's side of a failure is what a test looks at.
            let _ = converse(&shared, &stream);
            shared.open().remove(&id);
        });
    }
}

fn converse(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    let mut line = String::new();
    // A limit, so that a stranger's endless line ends.
    (&mut reader).take(4096).read_line(&mut line)?;
    let request = Request::from_line(&line);
    let answer = shared.answer(&request, peer, local, line.len()).to_line();
    match request {
        Request::Http => {
            let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            write!(writer, "{head}Content-Length: {}\r\n\r\n{answer}", answer.len())?;
            // The rest of the request must be read: closing with unread bytes would send a reset.
            while reader.read_line({
                line.clear();
                &mut line
            })? > 2
            {}
        }
        Request::Who { .. } => writer.write_all(answer.as_bytes())?,
        Request::Get { bytes, seed, rate } => {
            writer.write_all(answer.as_bytes())?;
            send_pattern(&mut writer, bytes, seed, rate)?;
        }
        Request::Put { bytes, seed } => {
            writer.write_all(answer.as_bytes())?;
            let verdict = match receive_pattern(&mut reader, bytes, seed)? {
                Ok(()) => "ok\n".into(),
                Err(at) => format!("wrong at {at}\n"),
            };
            writer.write_all(verdict.as_bytes())?;
        }
        Request::Hold => {
            writer.write_all(answer.as_bytes())?;
            stream.set_read_timeout(None)?;
            loop {
                let bytes = reader.fill_buf()?;
                let n = bytes.len();
                if n == 0 {
                    break;
                }
                writer.write_all(bytes)?;
                reader.consume(n);
            }
        }
    }
    Ok(())
}

/// Portions that a limited transfer sends in a second.
const PORTIONS: u64 = 50;

/// Sends `bytes` bytes of the pattern, `rate` a second (0: no limit).
pub(crate) fn send_pattern(to: &mut impl Write, bytes: u64, seed: u64, rate: u64) -> io::Result<()> {
    let (mut pattern, mut left) = (Pattern::new(seed), bytes);
    let portion = if rate == 0 {
        CHUNK
    } else {
        (rate / PORTIONS).clamp(1, CHUNK)
    };
    let mut buffer = vec![0; usize::try_from(portion).expect("a chunk is small")];
    while left > 0 {
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        pattern.fill(&mut buffer[..n]);
        to.write_all(&buffer[..n])?;
        left -= n as u64;
        if rate > 0 {
            thread::sleep(Duration::from_secs(portion) / u32::try_from(rate).unwrap_or(u32::MAX));
        }
    }
    Ok(())
}

/// Reads `bytes` bytes of the pattern; the inner error is where the first wrong byte was.
pub(crate) fn receive_pattern(from: &mut impl Read, bytes: u64, seed: u64) -> io::Result<Result<(), u64>> {
    let (mut pattern, mut left) = (Pattern::new(seed), bytes);
    let mut buffer = vec![0; usize::try_from(CHUNK).expect("a chunk is small")];
    while left > 0 {
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = match from.read(&mut buffer[..n])? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{left} bytes missing"),
                ));
            }
            n => n,
        };
        if let Err(at) = pattern.compare(&buffer[..n]) {
            return Ok(Err(at));
        }
        left -= n as u64;
    }
    Ok(Ok(()))
}

fn answer_datagrams(shared: &Shared, socket: &UdpSocket) {
    let Ok(local) = socket.local_addr() else { return };
    let _ = SockRef::from(socket).set_recv_buffer_size(1 << 20);
    let mut buffer = vec![0; 65536];
    while !shared.stopping() {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if shared.stopping() {
            return;
        }
        let line = buffer[..length].split(|&b| b == b'\n').next().unwrap_or_default();
        let request = Request::from_line(&String::from_utf8_lossy(line));
        let mut reply = shared
            .answer(&request, peer, local, length)
            .to_line()
            .into_bytes();
        if let Request::Who { length, .. } = request {
            reply.resize(reply.len().max(length.min(65_000)), b' ');
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        // An error here belongs to an earlier datagram (a client that has gone).
        let _ = socket.send_to(&reply, peer);
    }
}
