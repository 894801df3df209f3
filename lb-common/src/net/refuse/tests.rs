//! Refusals as whole frames: each must be the frame that the builder makes from scratch.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::testing::checksum::assert_checksums;
use crate::testing::dump::assert_same;
use crate::testing::packet::{self, Checksum, Packet, Transport, flag};

const CLIENT4: &str = "192.0.2.1:40000";
const SERVER4: &str = "10.96.0.1:80";
const CLIENT6: &str = "[2001:db8::1]:40000";
const SERVER6: &str = "[fd00:96::1]:80";

/// The RST that answers `packet`.
fn reset<F: Refuse>(packet: &Packet) -> Vec<u8> {
    let frame = packet.build();
    let cursor = frame.as_slice();
    let parsed = F::parse(&cursor).expect("a TCP packet");
    let segment = Segment::read::<F, _>(&cursor, &parsed).expect("a whole header");
    let mut refusal = Refusal { frame: [0xee; FRAME] };
    let length = refusal.reset::<F>(&parsed.tuple, &segment);
    refusal.link::<F>(*frame.first_chunk().expect("a link header"));
    refusal.frame[..length].to_vec()
}

fn check_reset<F: Refuse>(what: &str, sent: &Packet, seq: u32, ack: Option<u32>) {
    let mut expected = sent
        .reply()
        .seq(seq)
        .ack(ack.unwrap_or(0))
        .flags(flag::RST | ack.map_or(0, |_| flag::ACK))
        .window(0)
        .tcp_options(&[])
        .payload(&[])
        .padding(0)
        .ttl(64);
    expected.ip_options.clear();
    let expected = expected.build();
    assert_same(what, &reset::<F>(sent), &expected);
    if sent.checksum == Checksum::Complete {
        assert_checksums(&expected);
    }
}

#[test]
fn resets_follow_the_rules_for_segments_of_unknown_connections() {
    // RFC 9293, section 3.5.2, group 1: the sequence number is the one acknowledged; or it is zero, and everything
    // that was sent is acknowledged.
    let rows: [(&str, Packet, u32, Option<u32>); 9] = [
        (
            "SYN",
            packet::tcp(CLIENT4, SERVER4).syn().seq(1000),
            0,
            Some(1001),
        ),
        (
            "SYN with options",
            packet::tcp(CLIENT4, SERVER4)
                .syn()
                .seq(1000)
                .tcp_options(&[2, 4, 5, 180, 4, 2, 1]),
            0,
            Some(1001),
        ),
        (
            "SYN with data",
            packet::tcp(CLIENT4, SERVER4).syn().seq(1000).payload(b"hello"),
            0,
            Some(1006),
        ),
        (
            "SYN at the end of the numbers",
            packet::tcp(CLIENT4, SERVER4).syn().seq(u32::MAX),
            0,
            Some(0),
        ),
        (
            "data",
            packet::tcp(CLIENT4, SERVER4)
                .flags(flag::PSH)
                .seq(5)
                .ack(77)
                .payload(b"hello"),
            77,
            None,
        ),
        (
            "FIN",
            packet::tcp(CLIENT4, SERVER4)
                .flags(flag::FIN)
                .seq(5)
                .ack(u32::MAX),
            u32::MAX,
            None,
        ),
        (
            "FIN without ACK",
            packet::tcp(CLIENT4, SERVER4)
                .flags(flag::FIN)
                .seq(5)
                .payload(b"ab"),
            0,
            Some(8),
        ),
        (
            "data in a padded frame",
            packet::tcp(CLIENT4, SERVER4).seq(5).payload(b"a").padding(5),
            0,
            Some(6),
        ),
        (
            "data behind IPv4 options",
            packet::tcp(CLIENT4, SERVER4)
                .seq(5)
                .payload(b"a")
                .ip_options(&[1; 40]),
            0,
            Some(6),
        ),
    ];
    for (what, packet, seq, ack) in rows {
        check_reset::<V4>(what, &packet, seq, ack);
        let mut six = packet.from(CLIENT6).to(SERVER6);
        six.ip_options.clear();
        check_reset::<V6>(what, &six, seq, ack);
    }
}

#[test]
fn a_reset_of_a_segment_without_checksum_has_the_pseudo_headers_sum_only() {
    for data in [0, 1, 1460, 60_000] {
        let payload = vec![7; data];
        let sent = packet::tcp(CLIENT4, SERVER4)
            .syn()
            .seq(9)
            .checksum(Checksum::Partial)
            .payload(&payload);
        check_reset::<V4>("partial IPv4", &sent, 0, Some(10 + data as u32));
        check_reset::<V6>(
            "partial IPv6",
            &sent.from(CLIENT6).to(SERVER6),
            0,
            Some(10 + data as u32),
        );
    }
}

#[test]
fn segments_are_read_at_every_length_or_not_at_all() {
    let whole = packet::tcp(CLIENT4, SERVER4)
        .syn()
        .seq(1)
        .payload(b"data")
        .build();
    let parsed = V4::parse(&whole.as_slice()).expect("a TCP packet");
    for length in 0..whole.len() {
        let segment = Segment::read::<V4, _>(&&whole[..length], &parsed);
        assert_eq!(segment.is_some(), length >= parsed.at() + 20, "{length}");
    }
}

/// The ICMP error that answers `packet`.
fn unreachable<F: Refuse>(packet: &Packet) -> Vec<u8> {
    let frame = packet.build();
    let parsed = F::parse(&frame.as_slice()).expect("a packet with ports");
    let mut quote = [0xee; 48];
    quote[..F::QUOTE].copy_from_slice(&frame[ETHERNET..ETHERNET + F::QUOTE]);
    let mut refusal = Refusal { frame: [0xee; FRAME] };
    let length = refusal.unreachable::<F>(&parsed.tuple, &quote);
    refusal.link::<F>(*frame.first_chunk().expect("a link header"));
    refusal.frame[..length].to_vec()
}

fn check_unreachable<F: Refuse>(what: &str, sent: &Packet, kind: u8, code: u8) {
    let quoted = sent.build();
    let mut expected = sent.reply().ttl(64).padding(0).checksum(Checksum::Complete);
    expected.transport = Transport::Icmp {
        kind,
        code,
        rest: [0; 4],
    };
    let expected = expected
        .payload(&quoted[ETHERNET..ETHERNET + F::HEADER + 8])
        .build();
    assert_checksums(&expected);
    assert_same(what, &unreachable::<F>(sent), &expected);
}

#[test]
fn datagrams_are_answered_with_port_unreachable_that_names_the_socket() {
    let rows = [
        ("UDP", packet::udp(CLIENT4, SERVER4).payload(b"question")),
        ("empty UDP", packet::udp(CLIENT4, SERVER4).padding(18)),
        (
            "UDP without a checksum",
            packet::udp(CLIENT4, SERVER4)
                .checksum(Checksum::Absent)
                .payload(b"q"),
        ),
        ("large UDP", packet::udp(CLIENT4, SERVER4).payload(&[1; 1472])),
        ("SCTP", packet::sctp(CLIENT4, SERVER4).payload(&[1, 0, 0, 20])),
    ];
    for (what, packet) in rows {
        check_unreachable::<V4>(what, &packet, 3, 3);
        let six = packet.from(CLIENT6).to(SERVER6).checksum(Checksum::Complete);
        check_unreachable::<V6>(what, &six, 1, 4);
    }
}

#[test]
fn the_largest_answer_fits() {
    assert_eq!(unreachable::<V6>(&packet::udp(CLIENT6, SERVER6)).len(), 110);
    assert!(reset::<V6>(&packet::tcp(CLIENT6, SERVER6)).len() <= FRAME);
}
