//! Packets that are not plain: every kind of them, cut short at every length, and random bytes; what is translated
//! must be the packet that is built from scratch with the new addresses.

use std::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::abi::{Flow, State, V4, V6};
use crate::net::{Fragments, HEADERS, Tables, remember};
use crate::testing::checksum::assert_checksums;
use crate::testing::dump::assert_same;
use crate::testing::node::{of_family, packet_of_family};
use crate::testing::odd::{Odds, odd, remember_first};
use crate::testing::packet::{self, Packet};
use crate::testing::tables::{SimTables, address};

const CLIENT: &str = "192.0.2.1:40000";
const SERVICE: &str = "10.96.0.1:80";
const BACKEND: &str = "10.244.1.10:8080";
const NODE: &str = "192.168.1.1:61000";

fn seen<F: Net>(frame: &[u8]) -> (Seen, Look<F::Addr>, Parsed<F::Addr>) {
    let mut space = Look {
        headers: Headers::of(frame),
        ..Look::default()
    };
    let mut parsed = Parsed::default();
    let seen = look::<F>(&mut space, Phase::Before, &mut parsed);
    (seen, space, parsed)
}

fn tuple<F: Net>(packet: &Packet) -> Tuple<F::Addr> {
    Tuple {
        source: address::<F>(packet.source.ip()),
        destination: address::<F>(packet.destination.ip()),
        source_port: packet.source.port(),
        destination_port: packet.destination.port(),
        protocol: packet.protocol(),
        phase: 0,
        reserved: 0,
    }
}

/// Maps with one flow entry: packets like `from` become packets like `to`.
fn tables<F: Net>(from: &Packet, to: &Packet) -> SimTables<F> {
    let tables = SimTables::<F>::default();
    let flow = Flow {
        to: tuple::<F>(to),
        state: State::Established as u8,
        ..Flow::default()
    };
    tables.create(&tuple::<F>(from), &flow);
    tables
}

fn translated<F: Net>(tables: &SimTables<F>, packet: &Packet) -> Vec<u8> {
    match odd::<F>(tables, &packet.build(), Phase::Before) {
        Odds::Translated(_, _, frame) => frame,
        other => panic!("{packet:?}: {other:?}"),
    }
}

/// An error about `about` is translated as an answer to it that becomes an answer to `original`.
fn check_error<F: Net>(about: &Packet, original: &Packet, from: IpAddr, kind: u8, length: usize) {
    let about = packet_of_family::<F>(about);
    let original = packet_of_family::<F>(original);
    let from = of_family::<F>(from);
    let tables = tables::<F>(&about.reply(), &original.reply());
    let becomes = if about.destination == original.destination {
        from
    } else {
        original.destination.ip()
    };
    let error = about.error(from, kind, 0, length);
    let expected = original.error(becomes, kind, 0, length);
    let got = translated::<F>(&tables, &error);
    assert_same("icmp-error", &got, &expected.build());
    assert_checksums(&got);
}

fn packets() -> Vec<(Packet, usize)> {
    // The second: where the checksum ends in the transport header.
    std::vec![
        (
            packet::tcp(CLIENT, BACKEND).syn().seq(7).payload(b"some data"),
            18
        ),
        (packet::udp(CLIENT, BACKEND).payload(b"a question"), 8),
        (packet::sctp(CLIENT, BACKEND).payload(&[1, 0, 0, 20, 9, 9]), 12),
    ]
}

#[test]
fn errors_are_translated_as_answers_and_quotes_the_other_way_round() {
    let router: IpAddr = "10.9.9.9".parse().expect("valid");
    for (about, _) in packets() {
        let (client, backend) = (about.source.ip(), about.destination.ip());
        for original in [
            about.clone().to(SERVICE),
            about.clone().from(NODE),
            about.clone().to(SERVICE).from(NODE),
        ] {
            for from in [client, backend, router] {
                for kind in [3, 11, 12] {
                    check_error::<V4>(&about, &original, from, kind, 200);
                }
                for kind in [1, 2, 3, 4] {
                    check_error::<V6>(&about, &original, from, kind, 200);
                }
            }
        }
    }
}

#[test]
fn a_quote_may_end_anywhere_behind_the_ports() {
    for (about, sealed) in packets() {
        let original = about.clone().to(SERVICE).from(NODE);
        let whole = packet_of_family::<V6>(&about).quotable().len();
        // Where a checksum is cut in two it cannot be right.
        let half = sealed - if sealed == 12 { 3 } else { 1 };
        for length in (4..whole - 40).filter(|length| !(half..sealed).contains(length)) {
            check_error::<V4>(&about, &original, about.destination.ip(), 3, 20 + length);
            check_error::<V6>(&about, &original, about.destination.ip(), 1, 40 + length);
        }
    }
}

#[test]
fn a_quoted_sum_of_zero_stays_none_and_none_becomes_zero() {
    let about = packet::udp(CLIENT, BACKEND).payload(&[0, 0]);
    let original = about.clone().to(SERVICE);
    let none = |packet: &Packet| packet.clone().checksum(packet::Checksum::Absent);
    check_error::<V4>(&none(&about), &none(&original), about.destination.ip(), 3, 200);
    // The payload that fills the sum up to zero is the checksum without it.
    let field = original.build()[40..42].to_vec();
    let (about, original) = (about.payload(&field), original.payload(&field));
    check_error::<V4>(&about, &original, about.destination.ip(), 3, 200);
}

fn check_fragments<F: Net>(packet: &Packet, to: &Packet, size: usize) {
    let (packet, to) = (packet_of_family::<F>(packet), packet_of_family::<F>(to));
    let tables = tables::<F>(&packet, &to);
    let renamed = F::ID.is_some() && packet.source != to.source;
    let expected = to.clone().id(if renamed { 0 } else { packet.id });
    let pieces = packet
        .in_fragments(size)
        .into_iter()
        .zip(expected.in_fragments(size));
    for (number, (piece, expected)) in pieces.enumerate() {
        if number > 0 {
            assert_same("fragment", &translated::<F>(&tables, &piece), &expected.build());
            continue;
        }
        match odd::<F>(&tables, &piece.build(), Phase::Before) {
            Odds::Ports(parsed, Some(datagram)) => {
                assert_eq!(parsed.tuple, tuple::<F>(&packet));
                assert_eq!(parsed.first, 1);
                // What the ordinary way makes of it, but for the identification.
                let mut frame = to.in_fragments(size)[0].build();
                remember_first(&tables, &mut frame, &datagram, &parsed.tuple, parsed.flags);
                assert_same("first-fragment", &frame, &expected.build());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn later_fragments_follow_the_first_and_get_an_identification_of_this_node_with_its_address() {
    let udp = packet::udp(CLIENT, SERVICE).payload(&[0xa5; 600]).id(999);
    let tcp = packet::tcp(CLIENT, SERVICE).payload(&[0x5a; 600]).id(0xffff);
    for packet in [udp, tcp] {
        for size in [24, 64, 400, 512] {
            for to in [
                packet.clone().to(BACKEND),
                packet.clone().from(NODE).to(BACKEND),
                packet.clone().from(NODE),
            ] {
                check_fragments::<V4>(&packet, &to, size);
                check_fragments::<V6>(&packet, &to, size);
            }
        }
    }
}

#[test]
fn a_later_fragment_whose_first_was_not_seen_is_left() {
    let packet = packet::udp(CLIENT, SERVICE).payload(&[0xa5; 600]).id(999);
    let tables = tables::<V4>(&packet, &packet.clone().to(BACKEND));
    let pieces = packet.in_fragments(64);
    let left = Odds::Later(false);
    assert_eq!(odd::<V4>(&tables, &pieces[1].build(), Phase::Before), left);
    let (_, space, parsed) = seen::<V4>(&pieces[0].build());
    remember(&tables, &space.datagram, &parsed.tuple, None);
    assert!(tables.fragment(&space.datagram).is_some());
    let Odds::Translated(..) = odd::<V4>(&tables, &pieces[1].build(), Phase::Before) else {
        panic!("it follows the first");
    };
    // Another datagram, another protocol, another side of the routing decision.
    for other in [packet.clone().id(998), packet.clone().from("192.0.2.2:40000")] {
        let frame = other.in_fragments(64)[1].build();
        assert_eq!(odd::<V4>(&tables, &frame, Phase::Before), left);
    }
    assert_eq!(odd::<V4>(&tables, &pieces[1].build(), Phase::After), left);
    // Another datagram may have its identification half a minute later.
    tables.wait(30);
    assert_ne!(odd::<V4>(&tables, &pieces[1].build(), Phase::Before), left);
    tables.wait(1);
    assert_eq!(odd::<V4>(&tables, &pieces[1].build(), Phase::Before), left);
}

#[test]
fn up_to_six_extension_headers_are_followed() {
    let tcp = packet_of_family::<V6>(&packet::tcp(CLIENT, SERVICE).syn().payload(b"data"));
    for number in [0, 43, 60] {
        for count in 1..=8 {
            let packet = (0..count).fold(tcp.clone(), |packet, _| packet.extension(number, &[0; 6]));
            let (seen, _, parsed) = seen::<V6>(&packet.build());
            if count <= 6 {
                assert_eq!(seen, Seen::Ports, "{count} headers {number}");
                assert_eq!(parsed.tuple, tuple::<V6>(&tcp));
                assert_eq!((parsed.at(), parsed.flags, parsed.first), (54 + 8 * count, 2, 0));
            } else {
                assert_eq!(
                    seen,
                    Seen::Pass(Outcome::PassedExtension),
                    "{count} headers {number}"
                );
            }
        }
    }
    for number in [50, 51, 135, 139, 140, 253] {
        let (seen, ..) = seen::<V6>(&tcp.clone().extension(number, &[0; 14]).build());
        assert_eq!(seen, Seen::Pass(Outcome::PassedExtension), "header {number}");
    }
    // A route that is not at its end: the checksum is over another address.
    let (seen, ..) = seen::<V6>(&tcp.clone().extension(43, &[0, 1, 0, 0, 0, 0]).build());
    assert_eq!(seen, Seen::Pass(Outcome::PassedExtension));
}

#[test]
fn what_is_cut_short_is_never_taken_for_something_else() {
    let udp = packet::udp(CLIENT, SERVICE).payload(&[0xa5; 64]);
    let six = packet_of_family::<V6>(&udp);
    let rows = [
        six.clone().extension(0, &[0; 6]).extension(60, &[0; 14]),
        six.in_fragments(32).remove(0),
    ];
    for packet in rows {
        let frame = packet.build();
        let (_, _, whole) = seen::<V6>(&frame);
        for length in 0..whole.at() + 8 {
            let (seen, ..) = seen::<V6>(&frame[..length]);
            assert_eq!(seen, Seen::Pass(Outcome::PassedMalformed), "{length} bytes");
        }
    }
    let frame = udp.in_fragments(32)[0].build();
    for length in 0..42 {
        let (seen, ..) = seen::<V4>(&frame[..length]);
        assert_eq!(seen, Seen::Pass(Outcome::PassedMalformed), "{length} bytes");
    }
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (IpAddr::from(ip), port).into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_error_about_any_packet_is_the_one_that_is_built_from_scratch(
        sockets in prop::array::uniform4(socket()),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        which in 0..3usize,
        length in 18..120usize,
    ) {
        let [client, backend, one, other] = sockets;
        let about = match which {
            0 => packet::tcp(client, backend),
            1 => packet::udp(client, backend),
            _ => packet::sctp(client, backend),
        }
        .payload(&payload);
        let original = about.clone().from(one).to(other);
        check_error::<V4>(&about, &original, other.ip(), 3, 20 + length);
        check_error::<V6>(&about, &original, other.ip(), 1, 40 + length);
    }

    #[test]
    fn random_bytes_come_to_something(mut bytes in prop::collection::vec(any::<u8>(), 0..300), next in 0..64u8) {
        for version in [0x45, 0x60] {
            if let Some(first) = bytes.get_mut(14) {
                *first = version;
            }
            for at in [20, 23] {
                if let Some(protocol) = bytes.get_mut(at) {
                    *protocol = next;
                }
            }
            random::<V4>(&bytes)?;
            random::<V6>(&bytes)?;
        }
    }
}

fn random<F: Net>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (seen, space, parsed) = seen::<F>(bytes);
    match seen {
        Seen::Ports => {
            prop_assert!(parsed.at() + 8 <= bytes.len() && parsed.at() < HEADERS);
            prop_assert!(Protocol::from_number(parsed.tuple.protocol).is_some());
        }
        Seen::Later => prop_assert!(space.outer.offset != 0),
        Seen::Error => {
            let tables = SimTables::<F>::default();
            tables.create(&space.key, &Flow::default());
            let Odds::Translated(_, _, frame) = odd::<F>(&tables, bytes, Phase::Before) else {
                return Err(TestCaseError::fail("an error about a flow"));
            };
            prop_assert_eq!(frame.len(), bytes.len());
        }
        Seen::Pass(outcome) => prop_assert_eq!(outcome.kind(), crate::abi::Kind::Passed),
    }
    Ok(())
}
