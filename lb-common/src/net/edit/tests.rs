//! Whole packets translated as the programs do it: each must be the packet that is built from scratch with
//! the new addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::abi::{V4, V6};
use crate::testing::checksum::{Layers, assert_checksums};
use crate::testing::dump::assert_same;
use crate::testing::packet::{self, Checksum, Packet};
use crate::testing::rewrite::{Way, translate};
use crate::testing::tables::address;

/// Translates `packet` to the addresses of `to` and expects the packet that is built with them.
fn check<F: Net>(packet: &Packet, to: (SocketAddr, SocketAddr), ways: &[Way]) {
    let frame = packet.build();
    let parsed = F::parse(&frame.as_slice()).expect("a packet with ports");
    let tuple = Tuple {
        source: address::<F>(to.0.ip()),
        destination: address::<F>(to.1.ip()),
        source_port: to.0.port(),
        destination_port: to.1.port(),
        ..parsed.tuple
    };
    let expected = packet.clone().from(to.0).to(to.1).build();
    for &way in ways {
        let got = translate::<F>(&frame, &parsed, &tuple, way).expect("it is long enough");
        assert_same(&std::format!("translate-{way:?}"), &got, &expected);
        if packet.checksum == Checksum::Complete {
            assert_checksums(&got);
        }
    }
}

fn check_both(packet: &Packet, to: (SocketAddr, SocketAddr), ways: &[Way]) {
    if packet.source.is_ipv4() {
        check::<V4>(packet, to, ways);
    } else {
        check::<V6>(packet, to, ways);
    }
}

fn socket(v4: bool) -> impl Strategy<Value = SocketAddr> {
    // Extreme words next to random ones: they are where carries go wrong.
    let word = prop_oneof![Just(0u32), Just(u32::MAX), Just(0xffff), any::<u32>()];
    let port = prop_oneof![Just(0u16), Just(u16::MAX), any::<u16>()];
    (prop::array::uniform4(word), port).prop_map(move |(words, port)| {
        let ip = if v4 {
            IpAddr::V4(Ipv4Addr::from(words[0]))
        } else {
            let words = words.map(u128::from);
            let bits = words[0] << 96 | words[1] << 64 | words[2] << 32 | words[3];
            IpAddr::V6(Ipv6Addr::from(bits))
        };
        (ip, port).into()
    })
}

fn two_pairs() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|v4| [socket(v4), socket(v4), socket(v4), socket(v4)])
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(any::<u8>(), 1400..1600),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn translated_packets_are_the_packets_built_from_scratch(
        sockets in two_pairs(),
        payload in payload(),
        options in prop::collection::vec(any::<u8>(), 0..=10).prop_map(|o| o.repeat(4)),
        flags in any::<u8>(),
    ) {
        let [source, destination, new_source, new_destination] = sockets;
        let to = (new_source, new_destination);
        let plain = [
            packet::tcp(source, destination).flags(flags).tcp_options(&options),
            packet::udp(source, destination),
            packet::sctp(source, destination),
        ];
        for packet in plain {
            let packet = packet.payload(&payload).ip_options(&options).padding(payload.len() % 3);
            check_both(&packet, to, &Way::COMPLETE);
        }
        for packet in [packet::tcp(source, destination).flags(flags), packet::udp(source, destination)] {
            let partial = packet.checksum(Checksum::Partial).payload(&payload);
            check_both(&partial, to, &[Way::TcPartial]);
        }
        if source.is_ipv4() {
            let absent = packet::udp(source, destination).checksum(Checksum::Absent).payload(&payload);
            check_both(&absent, to, &Way::COMPLETE);
        }
    }
}

const CLIENT: &str = "192.0.2.1:40000";
const VIP: &str = "10.96.0.1:80";

#[test]
fn sctp_packets_of_every_length_keep_a_right_checksum() {
    let to = (
        "10.0.0.1:50001".parse().expect("valid"),
        "10.244.1.2:8080".parse().expect("valid"),
    );
    for length in (0..260).chain((260..9000).step_by(487)).chain([8988]) {
        let payload: Vec<u8> = (0..length).map(|n: usize| (n * 7) as u8).collect();
        check::<V4>(&packet::sctp(CLIENT, VIP).payload(&payload), to, &[Way::Xdp]);
    }
}

#[test]
fn a_udp_sum_that_becomes_zero_is_written_as_all_ones() {
    // The payload's last word is chosen so that the translated datagram sums to zero.
    let to: SocketAddr = "10.244.1.2:8080".parse().expect("valid");
    let plain = packet::udp(CLIENT, VIP).to(to).payload(&[0, 0]).build();
    let field = Layers::of(&plain).expect("it was built").transport + 6;
    let payload = [plain[field], plain[field + 1]];
    let packet = packet::udp(CLIENT, VIP).payload(&payload);
    let wanted = packet.clone().to(to).build();
    assert_eq!(
        wanted[field..field + 2],
        [0xff, 0xff],
        "the example does what it says"
    );
    check::<V4>(&packet, (packet.source, to), &Way::COMPLETE);
    // And back again: the sum of a packet whose field is all ones.
    check::<V4>(
        &packet.clone().to(to),
        (packet.source, packet.destination),
        &Way::COMPLETE,
    );
}

#[test]
fn a_tcp_sum_that_becomes_zero_stays_zero() {
    let to: SocketAddr = "10.244.1.2:8080".parse().expect("valid");
    let plain = packet::tcp(CLIENT, VIP).syn().to(to).payload(&[0, 0]).build();
    let field = Layers::of(&plain).expect("it was built").transport + 16;
    let packet = packet::tcp(CLIENT, VIP)
        .syn()
        .payload(&[plain[field], plain[field + 1]]);
    assert_eq!(packet.clone().to(to).build()[field..field + 2], [0, 0]);
    check::<V4>(&packet, (packet.source, to), &Way::COMPLETE);
    check::<V4>(
        &packet.clone().to(to),
        (packet.source, packet.destination),
        &Way::COMPLETE,
    );
}

#[test]
fn each_protocol_is_protected_in_its_own_way() {
    let checksum = |field, zero_is_none| Edit::Checksum { field, zero_is_none };
    assert_eq!(Edit::of(6), checksum(16, false));
    assert_eq!(Edit::of(17), checksum(6, true));
    assert_eq!(Edit::of(132), Edit::Crc32c);
}

#[test]
fn equal_ports_make_a_difference_that_the_programs_recognise_as_none() {
    let frame = packet::tcp(CLIENT, VIP).build();
    let from = V4::parse(&frame.as_slice()).expect("a TCP packet").tuple;
    let mut to = from;
    to.destination = address::<V4>(IpAddr::from([10, 244, 1, 2]));
    assert_eq!(differences::<V4>(&from, &to).ports, u32::MAX);
}
