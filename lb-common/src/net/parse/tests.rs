//! Headers taken apart: every family and protocol, cut short at every length, and random bytes.

use std::net::IpAddr;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::checksum::Layers;
use crate::testing::packet::{self, Packet, Transport};
use crate::testing::tables::address;

const CLIENT4: &str = "192.0.2.1:40000";
const SERVER4: &str = "10.96.0.1:80";
const CLIENT6: &str = "[2001:db8::1]:40000";
const SERVER6: &str = "[fd00:96::1]:80";

/// What a packet is parsed to, if it is a Service's.
fn expected<F: Net>(packet: &Packet) -> Parsed<F::Addr> {
    let frame = packet.build();
    Parsed {
        tuple: Tuple {
            source: address::<F>(packet.source.ip()),
            destination: address::<F>(packet.destination.ip()),
            source_port: packet.source.port(),
            destination_port: packet.destination.port(),
            protocol: packet.protocol(),
            phase: 0,
            reserved: 0,
        },
        transport: Layers::of(&frame).expect("a frame that was built").transport as u32,
        flags: match packet.transport {
            Transport::Tcp { flags, .. } => flags,
            _ => 0,
        },
        first: 0,
    }
}

fn parse<F: Net>(packet: &Packet) -> Result<Parsed<F::Addr>, Odd> {
    F::parse(&packet.build().as_slice())
}

/// The same packet with other addresses, of each family.
fn both(make: impl Fn(&str, &str) -> Packet) -> (Packet, Packet) {
    (make(CLIENT4, SERVER4), make(CLIENT6, SERVER6))
}

type Make = fn(&str, &str) -> Packet;

#[test]
fn addresses_ports_and_flags_are_read_whatever_the_transport() {
    let rows: [(&str, Make); 8] = [
        ("SYN", |c, s| packet::tcp(c, s).syn()),
        ("all flags", |c, s| packet::tcp(c, s).flags(0xff)),
        ("TCP options and data", |c, s| {
            packet::tcp(c, s)
                .flags(0x18)
                .tcp_options(&[1; 40])
                .payload(b"data")
        }),
        ("empty UDP", |c, s| packet::udp(c, s)),
        ("UDP", |c, s| packet::udp(c, s).payload(b"question")),
        ("SCTP", |c, s| packet::sctp(c, s).payload(&[1, 0, 0, 20])),
        ("link padding", |c, s| packet::udp(c, s).padding(18)),
        ("the highest ports", |c, s| {
            let mut packet = packet::tcp(c, s);
            packet.source.set_port(65_535);
            packet.destination.set_port(65_534);
            packet
        }),
    ];
    for (what, make) in rows {
        let (four, six) = both(make);
        assert_eq!(parse::<V4>(&four), Ok(expected::<V4>(&four)), "{what}");
        assert_eq!(parse::<V6>(&six), Ok(expected::<V6>(&six)), "{what}");
    }
}

#[test]
fn ipv4_options_of_every_length_are_skipped() {
    for words in 0..=10 {
        let packet = packet::tcp(CLIENT4, SERVER4)
            .syn()
            .ip_options(&vec![1; words * 4]);
        let parsed = parse::<V4>(&packet);
        assert_eq!(parsed, Ok(expected::<V4>(&packet)), "{words} words of options");
        assert_eq!(parsed.map(|p| p.at()), Ok(34 + words * 4));
    }
}

#[test]
fn packets_without_ports_at_first_sight_pass_or_are_looked_at() {
    use Odd::Look;
    const OTHER: Odd = Odd::Pass(Outcome::PassedOther);
    const MALFORMED: Odd = Odd::Pass(Outcome::PassedMalformed);
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let (c4, s4) = (ip("192.0.2.1"), ip("10.96.0.1"));
    let (c6, s6) = (ip("2001:db8::1"), ip("fd00:96::1"));
    let udp = packet::udp(CLIENT4, SERVER4).payload(&[0; 64]);
    let rows = [
        ("ICMP echo", packet::icmp(c4, s4, 8, 0).payload(&[0; 32]), Look),
        ("GRE", packet::other(c4, s4, 47).payload(&[0; 32]), OTHER),
        ("protocol 0", packet::other(c4, s4, 0).payload(&[0; 32]), OTHER),
        ("protocol 255", packet::other(c4, s4, 255), OTHER),
        ("second fragment", udp.clone().fragment(8, true), Look),
        ("last fragment", udp.clone().fragment(65_528, false), Look),
        (
            "last fragment, empty",
            packet::udp(CLIENT4, SERVER4).fragment(8, false),
            Look,
        ),
    ];
    for (what, packet, outcome) in rows {
        assert_eq!(parse::<V4>(&packet), Err(outcome), "{what}");
    }
    let tcp = packet::tcp(CLIENT6, SERVER6);
    let rows = [
        ("ICMPv6 echo", packet::icmp(c6, s6, 128, 0), Look),
        (
            "neighbour solicitation",
            packet::icmp(c6, s6, 135, 0).payload(&[0; 16]),
            Look,
        ),
        ("no next header", packet::other(c6, s6, 59), OTHER),
        (
            "hop-by-hop options",
            tcp.clone().extension(0, &[1, 4, 0, 0, 0, 0]),
            Look,
        ),
        ("routing header", tcp.clone().extension(43, &[0; 6]), Look),
        (
            "destination options",
            tcp.clone().extension(60, &[1, 4, 0, 0, 0, 0]),
            Look,
        ),
        ("first fragment", tcp.clone().fragment(0, true), Look),
        (
            "second fragment",
            tcp.clone().payload(&[0; 8]).fragment(8, false),
            Look,
        ),
    ];
    for (what, packet, outcome) in rows {
        assert_eq!(parse::<V6>(&packet), Err(outcome), "{what}");
    }
    // A header that contradicts itself.
    for (what, first, outcome) in [
        ("version 0", 0x05, MALFORMED),
        ("version 6", 0x65, MALFORMED),
        ("no length", 0x40, MALFORMED),
        ("length of 16 bytes", 0x44, MALFORMED),
    ] {
        let mut frame = udp.build();
        frame[ETHERNET] = first;
        assert_eq!(V4::parse(&frame.as_slice()), Err(outcome), "{what}");
    }
    let mut frame = tcp.build();
    frame[ETHERNET] = 0x40;
    assert_eq!(V6::parse(&frame.as_slice()), Err(MALFORMED), "version 4");
}

#[test]
fn the_first_fragment_of_a_datagram_is_looked_at_closer() {
    let (four, six) = both(|c, s| packet::udp(c, s).payload(&[0; 24]).fragment(0, true));
    assert_eq!(parse::<V4>(&four), Err(Odd::Look));
    assert_eq!(parse::<V6>(&six), Err(Odd::Look));
}

/// A frame that is cut short is malformed until the last byte that is needed, and the same as the whole from
/// there on.
fn check_truncation<F: Net>(packet: &Packet, needed: usize) {
    let frame = packet.build();
    let transport = expected::<F>(packet).at();
    for length in 0..=frame.len() {
        let outcome = F::parse(&&frame[..length]);
        if length < transport + needed {
            assert_eq!(
                outcome,
                Err(Odd::Pass(Outcome::PassedMalformed)),
                "{length} of {packet:?}"
            );
        } else {
            assert_eq!(outcome, Ok(expected::<F>(packet)), "{length} of {packet:?}");
        }
    }
}

#[test]
fn headers_cut_short_at_any_length_are_malformed() {
    // Of TCP the flags are needed (read with what is behind them), of the others the whole of eight bytes.
    let rows: [(Make, usize); 3] = [
        (|c, s| packet::tcp(c, s).syn().payload(b"data"), 18),
        (|c, s| packet::udp(c, s).payload(b"data"), 8),
        (|c, s| packet::sctp(c, s).payload(&[0; 16]), 8),
    ];
    for (make, needed) in rows {
        let (four, six) = both(make);
        check_truncation::<V4>(&four, needed);
        check_truncation::<V4>(&four.ip_options(&[1; 40]), needed);
        check_truncation::<V6>(&six, needed);
    }
}

#[test]
fn the_end_is_that_of_the_network_header() {
    for padding in [0, 1, 46] {
        let (four, six) = both(|c, s| packet::udp(c, s).payload(b"abc").padding(padding));
        let (four, six) = (four.build(), six.build());
        assert_eq!(V4::end(&four.as_slice()), Some((four.len() - padding) as u32));
        assert_eq!(V6::end(&six.as_slice()), Some((six.len() - padding) as u32));
    }
    assert_eq!(V4::end(&[].as_slice()), None);
    assert_eq!(V6::end(&[0; 19].as_slice()), None);
}

#[test]
fn a_cursor_reads_nothing_behind_the_end() {
    let bytes = [1u8, 2, 3, 4];
    let cursor = bytes.as_slice();
    assert_eq!(cursor.load::<u16>(2), Some(u16::from_ne_bytes([3, 4])));
    assert_eq!(cursor.load::<u16>(3), None);
    assert_eq!(cursor.load::<u16>(usize::MAX), None);
    assert_eq!(cursor.load::<[u8; 0]>(4), Some([]));
}

/// Random bytes behind a header that gets them further than the first check.
fn almost_a_packet() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        Just(vec![]),
        any::<u8>().prop_map(|n| vec![0x40 | n & 0xf]),
        Just(vec![0x60]),
    ];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(132), any::<u8>()];
    (start, protocol, prop::collection::vec(any::<u8>(), 0..160)).prop_map(|(start, protocol, mut bytes)| {
        for (at, byte) in (ETHERNET..).zip(start) {
            if let Some(to) = bytes.get_mut(at) {
                *to = byte;
            }
        }
        for at in [ETHERNET + 6, ETHERNET + 9] {
            if let Some(to) = bytes.get_mut(at) {
                *to = protocol;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn random_bytes_are_parsed_or_passed(bytes in almost_a_packet()) {
        let cursor = bytes.as_slice();
        check_random::<V4>(&cursor)?;
        check_random::<V6>(&cursor)?;
    }
}

fn check_random<F: Net>(cursor: &&[u8]) -> Result<(), TestCaseError> {
    match F::parse(cursor) {
        Ok(parsed) => {
            prop_assert!(parsed.transport <= 74);
            prop_assert_eq!(parsed.at(), parsed.transport as usize);
            prop_assert!(parsed.at() + 8 <= cursor.len());
            prop_assert!(Protocol::from_number(parsed.tuple.protocol).is_some());
            prop_assert_eq!((parsed.tuple.phase, parsed.tuple.reserved), (0, 0));
        }
        Err(Odd::Pass(outcome)) => prop_assert_eq!(outcome.kind(), crate::abi::Kind::Passed),
        Err(Odd::Look) => {}
    }
    let _ = F::end(cursor);
    Ok(())
}
