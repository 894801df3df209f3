//! SCTP without a kernel that knows it: INIT chunks from raw sockets, answered by INIT ACK from raw sockets.
//!
//! Both sides check the CRC32c, so that a translation that spoils it is seen as silence.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_common::net::crc32c;
use lb_lab::Netns;
use socket2::{Domain, Protocol, Socket, Type};

use crate::seen::Seen;

const SCTP: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// Ports, verification tag, checksum.
const HEADER: usize = 12;
/// A chunk's header and the fixed part of INIT and INIT ACK.
const CHUNK: usize = 20;
/// The parameter that carries a cookie; ours says what the server saw.
const COOKIE: u16 = 7;
/// How often a server looks whether it should stop.
const WAKE: Duration = Duration::from_millis(200);
/// When an INIT is sent again.
const AGAIN: Duration = Duration::from_millis(1000);
/// INITs under way at a time.
const PARALLEL: usize = 16;

/// Answers INITs to some ports of one address, until it is dropped.
pub(crate) struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    pub(crate) fn start(netns: &Netns, ip: IpAddr, ports: BTreeSet<u16>) -> Result<Self> {
        let socket = netns
            .run(|| Ok(raw(ip)?))
            .with_context(|| format!("cannot serve SCTP on {ip}"))?;
        socket.set_read_timeout(Some(WAKE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !own.load(Ordering::Relaxed) {
                // Errors: nothing came in time, or the peer has gone.
                let _ = respond(&socket, ip, &ports);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn respond(socket: &UdpSocket, ip: IpAddr, ports: &BTreeSet<u16>) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    let Some(packet) = Packet::parse(&buffer[..length], ip.is_ipv4()) else {
        return Ok(());
    };
    if packet.kind != INIT || !ports.contains(&packet.to) {
        return Ok(());
    }
    let cookie = format!("{} {}", SocketAddr::new(ip, packet.to), peer.ip());
    let answer = build(packet.to, packet.from, packet.tag, INIT_ACK, cookie.as_bytes());
    socket.send_to(&answer, SocketAddr::new(peer.ip(), 0)).map(drop)
}

/// One INIT from each of these ports of `from`; what came of each, in the same order.
pub(crate) fn connect_each(
    netns: &Netns,
    from: IpAddr,
    ports: &[u16],
    dst: SocketAddr,
    limit: Duration,
) -> Result<Vec<Seen>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Seen)>> {
        let mut own = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(port) = ports.get(number) else {
                return Ok(own);
            };
            own.push((number, netns.run(|| connect(from, *port, dst, limit))?));
        }
    };
    let mut all = thread::scope(|scope| {
        let workers: Vec<_> = (0..ports.len().min(PARALLEL))
            .map(|_| scope.spawn(work))
            .collect();
        let done = workers
            .into_iter()
            .map(|w| w.join().expect("an attempt does not panic"));
        done.collect::<Result<Vec<_>>>().map(|all| all.concat())
    })?;
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, seen)| seen).collect())
}

fn connect(from: IpAddr, port: u16, dst: SocketAddr, limit: Duration) -> Result<Seen> {
    let socket = raw(from).with_context(|| format!("cannot use {from} as source address"))?;
    let deadline = Instant::now() + limit;
    match exchange(&socket, port, dst, deadline) {
        Ok(seen) => Ok(seen),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Seen::Refused),
        Err(error) => Ok(Seen::Other(format!("unreachable: {error}"))),
    }
}

fn exchange(socket: &UdpSocket, port: u16, dst: SocketAddr, deadline: Instant) -> io::Result<Seen> {
    // Connected: it is told of ICMP errors.
    socket.connect(SocketAddr::new(dst.ip(), 0))?;
    let init = build(port, dst.port(), 0, INIT, b"");
    let mut buffer = [0; 2048];
    let mut again = Instant::now();
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Ok(Seen::Silent);
        }
        if now >= again {
            socket.send(&init)?;
            again = now + AGAIN;
        }
        let wait = deadline.min(again).saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(packet) = Packet::parse(&buffer[..length], dst.is_ipv4()) else {
            continue;
        };
        if packet.to != port || packet.from != dst.port() {
            continue;
        }
        match packet.kind {
            INIT_ACK => {
                let words: Vec<_> = packet.cookie.split_whitespace().collect();
                if let [by, source] = words[..]
                    && let (Ok(by), Ok(source)) = (by.parse(), source.parse())
                {
                    return Ok(Seen::Answered { by, source });
                }
            }
            ABORT => return Ok(Seen::Refused),
            _ => {}
        }
    }
}

/// A raw socket of one address. (Whatever its kind, the standard library's datagram socket has the calls for it.)
fn raw(ip: IpAddr) -> io::Result<UdpSocket> {
    let at = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(SCTP)))?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// What is read of a packet.
struct Packet {
    from: u16,
    to: u16,
    kind: u8,
    /// The sender's initiate tag.
    tag: u32,
    cookie: String,
}

impl Packet {
    /// `None` if it is not whole, or its checksum is wrong. Raw IPv4 sockets hand out the network header too.
    fn parse(bytes: &[u8], ipv4: bool) -> Option<Self> {
        let skip = if ipv4 {
            usize::from(bytes.first()? & 15) * 4
        } else {
            0
        };
        let packet = bytes.get(skip..)?;
        let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        let checksum = packet.get(8..HEADER)?;
        let mut zeroed = packet.to_vec();
        zeroed[8..HEADER].fill(0);
        if crc32c(&zeroed).to_le_bytes() != checksum {
            return None;
        }
        let kind = *packet.get(HEADER)?;
        let tag = packet.get(HEADER + 4..HEADER + 8);
        let tag = tag
            .and_then(|tag| tag.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        let parameter = HEADER + CHUNK;
        let cookie = match word(parameter) {
            Some(COOKIE) => packet.get(parameter + 4..parameter + usize::from(word(parameter + 2)?)),
            _ => None,
        };
        Some(Self {
            from: word(0)?,
            to: word(2)?,
            kind,
            tag,
            cookie: String::from_utf8_lossy(cookie.unwrap_or_default()).into_owned(),
        })
    }
}

/// An INIT or INIT ACK, with a cookie if there is one.
fn build(from: u16, to: u16, tag: u32, kind: u8, cookie: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    let parameter = if cookie.is_empty() { 0 } else { 4 + cookie.len() };
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    packet.extend([kind, 0]);
    packet.extend(length(CHUNK + parameter));
    packet.extend((u32::from(from) << 16 | 1).to_be_bytes()); // initiate tag: not 0
    packet.extend(0xffff_u32.to_be_bytes()); // window
    packet.extend([0, 1, 0, 1]); // streams each way
    packet.extend(1_u32.to_be_bytes()); // first TSN
    if parameter > 0 {
        packet.extend(COOKIE.to_be_bytes());
        packet.extend(length(parameter));
        packet.extend(cookie);
    }
    packet.resize(packet.len().next_multiple_of(4), 0);
    let checksum = crc32c(&packet);
    packet[8..HEADER].copy_from_slice(&checksum.to_le_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_survives_the_wire_and_a_spoilt_one_does_not() {
        let bytes = build(7, 53, 9, INIT_ACK, b"10.0.0.1:53 10.0.0.2");
        let packet = Packet::parse(&bytes, false).unwrap();
        assert_eq!((packet.from, packet.to, packet.kind), (7, 53, INIT_ACK));
        assert_eq!(packet.tag, 7 << 16 | 1);
        assert_eq!(packet.cookie, "10.0.0.1:53 10.0.0.2");
        for byte in [0, 3, 8, 20, bytes.len() - 1] {
            let mut spoilt = bytes.clone();
            spoilt[byte] ^= 1;
            assert!(Packet::parse(&spoilt, false).is_none(), "byte {byte}");
        }
        let mut ipv4 = vec![0x45; 20];
        ipv4.extend(&bytes);
        assert!(Packet::parse(&ipv4, true).is_some_and(|p| p.to == 53));
    }
}
