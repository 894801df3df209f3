//! Packets as they pass a device: recorded, looked at, printed, saved for Wireshark; and sent.
//!
//! Recording happens before a device's ingress programs and after its egress programs.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{netns::Netns, place::Place, sys, wait::wait_for};

/// How many packets are kept; the oldest go first.
const MAX_PACKETS: usize = 20_000;
/// How many bytes of a packet are kept: headers and a bit (segments not yet cut up are 64 KiB long).
const SNAP: usize = 2048;

/// A recorded packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was seen.
    pub time: SystemTime,
    /// Its length.
    pub length: usize,
    /// Its first bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A running record; ends when dropped. If that is because of a panic, the record is saved first.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    on_panic: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    packets: Mutex<VecDeque<Packet>>,
    stop: AtomicBool,
}

impl Capture {
    pub(crate) fn start(
        place: &Place,
        device: &str,
        filter: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self> {
        let socket = open(place.netns(), device)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        // Best effort: a burst must not be lost.
        let _ = socket.set_recv_buffer_size(4 << 20);
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || own.record(socket, filter));
        let on_panic = place.folder().join(format!("{}-{device}.pcap", place.name()));
        Ok(Self {
            shared,
            thread: Some(thread),
            on_panic,
        })
    }

    /// The record so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.shared.packets().iter().cloned().collect()
    }

    /// Waits for a packet that `wanted` likes, recorded before or after the call.
    pub fn wait_for(&self, limit: Duration, what: &str, wanted: impl Fn(&Packet) -> bool) -> Result<Packet> {
        let mut found = None;
        wait_for(limit, what, || {
            found = self.shared.packets().iter().find(|p| wanted(p)).cloned();
            found.is_some()
        })?;
        found.context("found a moment ago")
    }

    /// Writes the record in the form that tcpdump and Wireshark read.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            write_pcap(&mut file, &self.packets())?;
            file.flush()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if thread::panicking() {
            match self.save(&self.on_panic) {
                Ok(()) => eprintln!("packets are saved in {}", self.on_panic.display()),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
}

impl Shared {
    fn packets(&self) -> MutexGuard<'_, VecDeque<Packet>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, mut socket: Socket, filter: impl Fn(&[u8]) -> bool) {
        let mut buffer = vec![0; 256 * 1024];
        while !self.stop.load(Ordering::Relaxed) {
            // Errors: nothing came in time, or the device went down for a moment.
            let Ok(length) = socket.read(&mut buffer) else {
                continue;
            };
            if !filter(&buffer[..length]) {
                continue;
            }
            let bytes = buffer[..length.min(SNAP)].to_vec();
            let mut packets = self.packets();
            if packets.len() == MAX_PACKETS {
                packets.pop_front();
            }
            packets.push_back(Packet {
                time: SystemTime::now(),
                length,
                bytes,
            });
        }
    }
}

/// Sends a frame out of a device.
pub(crate) fn send(netns: &Netns, device: &str, frame: &[u8]) -> Result<()> {
    send_all(netns, device, [frame]).map(drop)
}

/// Sends frames out of a device; returns how many.
pub(crate) fn send_all(
    netns: &Netns,
    device: &str,
    frames: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Result<u32> {
    let socket = open(netns, device)?;
    let mut sent = 0;
    for frame in frames {
        socket
            .send(frame.as_ref())
            .with_context(|| format!("cannot send out of {device}"))?;
        sent += 1;
    }
    Ok(sent)
}

fn open(netns: &Netns, device: &str) -> Result<Socket> {
    netns.run(|| {
        let ifindex = nix::net::if_::if_nametoindex(device)
            .with_context(|| format!("no device {device} in {}", netns.name()))?;
        // Protocol 0 until it is bound: otherwise it would hear all devices for a moment.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket
            .bind(&sys::packet_address(ifindex))
            .with_context(|| format!("cannot listen on {device}"))?;
        Ok(socket)
    })
}

/// The classic format, microseconds, link type Ethernet.
fn write_pcap(to: &mut impl io::Write, packets: &[Packet]) -> io::Result<()> {
    let snap = u32::try_from(SNAP).unwrap_or(u32::MAX);
    to.write_all(&0xa1b2_c3d4u32.to_le_bytes())?;
    to.write_all(&[2, 0, 4, 0])?; // version 2.4
    for word in [0, 0, snap, 1] {
        to.write_all(&u32::to_le_bytes(word))?; // time zone, accuracy, longest packet, link type
    }
    for packet in packets {
        let time = packet
            .time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for word in [
            seconds,
            time.subsec_micros(),
            length(packet.bytes.len()),
            length(packet.length),
        ] {
            to.write_all(&word.to_le_bytes())?;
        }
        to.write_all(&packet.bytes)?;
    }
    Ok(())
}

/// Bytes for people: 16 a line, with offsets and characters.
pub fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = chunk.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = chunk
            .iter()
            .map(|&b| if b.is_ascii_graphic() { b.into() } else { '.' })
            .collect();
        let _ = writeln!(out, "{:04x}  {:<47}  {text}", line * 16, hex.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_shows_offsets_and_characters() {
        let dump = hex_dump(b"0123456789abcdefGH\n");
        let lines: Vec<_> = dump.lines().collect();
        assert_eq!(
            lines[0],
            "0000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"
        );
        assert_eq!(lines[1].trim_end(), format!("0010  {:<47}  GH.", "47 48 0a"));
    }

    #[test]
    fn a_pcap_file_has_a_header_and_a_record_for_each_packet() {
        let packet = Packet {
            time: SystemTime::UNIX_EPOCH,
            length: 100,
            bytes: vec![7; 3],
        };
        let mut file = Vec::new();
        write_pcap(&mut file, &[packet.clone(), packet]).unwrap();
        assert_eq!(file.len(), 24 + 2 * (16 + 3));
        assert_eq!(
            file[24..43],
            [0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 0, 0, 7, 7, 7]
        );
    }
}
