//! The builder against the verifier, and against one frame by hand.

use super::*;
use crate::testing::checksum::{assert_checksums, verify};

fn examples() -> Vec<(&'static str, Packet)> {
    let (c4, s4) = ("192.0.2.1:40000", "10.96.0.1:80");
    let (c6, s6) = ("[2001:db8::1]:40000", "[fd00:96::1]:80");
    let mut all = vec![];
    for (client, server) in [(c4, s4), (c6, s6)] {
        let (from, to) = (client.socket().ip(), server.socket().ip());
        all.extend([
            ("SYN", tcp(client, server).syn().seq(7)),
            (
                "options and an odd payload",
                tcp(client, server).tcp_options(&[2, 4, 5]).payload(b"abc"),
            ),
            ("empty UDP", udp(client, server)),
            ("UDP", udp(client, server).payload(b"question")),
            ("padded UDP", udp(client, server).payload(b"q").padding(17)),
            ("SCTP", sctp(client, server).payload(&[1, 0, 0, 4])),
            ("echo", icmp(from, to, 8, 0).payload(b"ping")),
            ("VLAN", tcp(client, server).vlan(7).vlan(8)),
            (
                "first fragment",
                udp(client, server).payload(&[1; 16]).fragment(0, true),
            ),
            (
                "last fragment",
                udp(client, server).payload(&[1; 16]).fragment(24, false),
            ),
            ("GRE", other(from, to, 47).payload(&[0; 8])),
        ]);
    }
    all.push(("IPv4 options", tcp(c4, s4).ip_options(&[148, 4, 0, 0, 1])));
    all.push((
        "IPv6 extensions",
        tcp(c6, s6).extension(0, &[1, 4]).extension(60, &[1; 12]),
    ));
    all
}

#[test]
fn built_packets_have_right_checksums_and_lengths() {
    for (what, packet) in examples() {
        let result = verify(&packet.build());
        assert_eq!(result, Ok(()), "{what}: {packet:?}");
    }
}

#[test]
fn a_changed_byte_is_noticed_wherever_a_checksum_covers_it() {
    let packet = tcp("192.0.2.1:40000", "10.96.0.1:80").payload(b"payload");
    let frame = packet.build();
    for at in 14..frame.len() {
        let mut broken = frame.clone();
        broken[at] ^= 0x10;
        assert!(verify(&broken).is_err(), "byte {at}");
    }
}

#[test]
fn replies_are_the_packet_turned_round() {
    for (what, packet) in examples() {
        assert_eq!(packet.reply().reply(), packet, "{what}");
        assert_checksums(&packet.reply().build());
    }
}

#[test]
fn a_known_frame_comes_out_byte_by_byte() {
    let frame = udp("10.0.0.1:53", "10.0.0.2:1024").payload(b"hi").build();
    let expected = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // link
        0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2, // network
        0, 53, 4, 0, 0, 10, 0x7f, 0x39, b'h', b'i', // transport
    ];
    assert_eq!(frame, expected);
}
