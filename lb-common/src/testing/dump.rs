//! Frames as text: one in hexadecimal, or two side by side with their differences marked.

use std::fmt::Write;
use std::{format, string::String, vec};

use super::checksum::{ICMP, ICMPV6, Layers, SCTP, TCP, UDP, verify, word};
use super::pcap;

const ROW: usize = 16;

/// A frame in one line, then its bytes.
#[must_use]
pub fn hex(frame: &[u8]) -> String {
    let mut text = format!("{}\n", describe(frame));
    for (row, bytes) in frame.chunks(ROW).enumerate() {
        let _ = writeln!(text, "{:04x} {}", row * ROW, cells(bytes, bytes));
    }
    text
}

/// Two frames, each in one line, then their bytes side by side; a byte that differs has a star before it.
#[must_use]
pub fn side_by_side(left: &[u8], right: &[u8]) -> String {
    let mut text = format!("left:  {}\nright: {}\n", describe(left), describe(right));
    for at in (0..left.len().max(right.len())).step_by(ROW) {
        let (a, b) = (row(left, at), row(right, at));
        let mark = if a == b { ' ' } else { '<' };
        let _ = writeln!(text, "{at:04x} {:48} | {:48} {mark}", cells(a, b), cells(b, a));
    }
    text
}

/// What a frame is: addresses, ports, flags, and what is wrong with it.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let layers = match Layers::of(frame) {
        Ok(layers) => layers,
        Err(error) => return format!("{} bytes: {error}", frame.len()),
    };
    let at = layers.transport;
    let protocol = match layers.protocol {
        TCP => "TCP",
        UDP => "UDP",
        SCTP => "SCTP",
        ICMP => "ICMP",
        ICMPV6 => "ICMPv6",
        _ => "protocol ",
    };
    let mut text = format!("{} bytes: {protocol}", frame.len());
    if protocol.ends_with(' ') {
        let _ = write!(text, "{}", layers.protocol);
    }
    let ports = matches!(layers.protocol, TCP | UDP | SCTP) && !layers.later_fragment;
    let port = |offset| match word(frame, offset) {
        Ok(port) if ports => format!(" port {port}"),
        _ => String::new(),
    };
    let _ = write!(
        text,
        " {}{} > {}{}",
        layers.source,
        port(at),
        layers.destination,
        port(at + 2)
    );
    match (
        layers.protocol,
        frame.get(at),
        frame.get(at + 1),
        frame.get(at + 13),
    ) {
        (TCP, _, _, Some(flags)) if ports => {
            let names: String = "FSRPAUEC"
                .chars()
                .enumerate()
                .filter_map(|(bit, c)| (flags >> bit & 1 == 1).then_some(c))
                .collect();
            let _ = write!(text, " [{names}]");
        }
        (ICMP | ICMPV6, Some(kind), Some(code), _) => {
            let _ = write!(text, " type {kind} code {code}");
        }
        _ => {}
    }
    let ttl = if layers.source.is_ipv4() { 8 } else { 7 };
    let _ = write!(text, " ttl {}", frame[layers.network + ttl]);
    if let Err(error) = verify(frame) {
        let _ = write!(text, " ({error})");
    }
    text
}

/// Panics unless two frames are the same, with both of them side by side; saves them as a capture called
/// `name`.
///
/// # Panics
/// If they differ.
#[track_caller]
pub fn assert_same(name: &str, got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let saved = match pcap::save(name, &[got, expected]) {
        Ok(path) => format!("both are in {}", path.display()),
        Err(error) => format!("not saved: {error}"),
    };
    panic!(
        "{name}: left is what came out, right is what was expected; {saved}\n{}",
        side_by_side(got, expected)
    );
}

fn row(frame: &[u8], at: usize) -> &[u8] {
    frame.get(at..frame.len().min(at + ROW)).unwrap_or_default()
}

fn cells(bytes: &[u8], other: &[u8]) -> String {
    let mut cells = vec![];
    for (i, byte) in bytes.iter().enumerate() {
        let mark = if other.get(i) == Some(byte) { ' ' } else { '*' };
        cells.push(format!("{mark}{byte:02x}"));
    }
    cells.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::packet;

    #[test]
    fn differing_bytes_are_marked_on_both_sides() {
        let a = packet::tcp("10.0.0.1:1", "10.0.0.2:2").syn().build();
        let mut b = a.clone();
        b[14 + 8] = 63;
        b.push(7);
        let text = side_by_side(&a, &b);
        assert_eq!(
            text.lines().next(),
            Some("left:  54 bytes: TCP 10.0.0.1 port 1 > 10.0.0.2 port 2 [S] ttl 64")
        );
        assert_eq!(text.matches('*').count(), 3, "{text}");
        assert!(text.contains("*40"), "{text}");
        assert!(text.contains("*3f"), "{text}");
        assert!(text.contains("*07"), "{text}");
        assert_eq!(text.matches('<').count(), 2, "{text}");
    }
}
