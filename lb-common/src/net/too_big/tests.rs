//! The answer is the ICMP error that is built from scratch.

use super::*;
use crate::testing::checksum::assert_checksums;
use crate::testing::dump::assert_same;
use crate::testing::node::packet_of_family;
use crate::testing::packet::{self, Packet, Transport};
use crate::testing::tables::address;

fn check<F: TooBig>(packet: &Packet, mtu: u32, told: [u8; 4]) {
    let packet = packet_of_family::<F>(packet);
    let frame = packet.build();
    let mut refusal = Refusal::default();
    let (source, destination) = (
        address::<F>(packet.source.ip()),
        address::<F>(packet.destination.ip()),
    );
    let length = refusal.too_big::<F>(source, destination, &Headers::of(&frame), mtu);
    refusal.link::<F>(core::array::from_fn(|i| frame[i]));
    let [kind, code] = F::TOO_BIG;
    let mut expected = packet
        .error(packet.destination.ip(), kind, code, QUOTE)
        .macs(packet.destination_mac, packet.source_mac);
    if let Transport::Icmp { rest, .. } = &mut expected.transport {
        *rest = told;
    }
    let mut expected = expected.build();
    if F::ADDR_LEN == 4 {
        // It must not be fragmented itself, and needs no identification.
        expected[18..20].fill(0);
    }
    assert_same("too-big", &refusal.frame[..length], &expected);
    assert_checksums(&refusal.frame[..length]);
    assert_eq!(F::end(&refusal.frame.as_slice()), Some(length as u32));
}

#[test]
fn the_answer_quotes_the_packet_and_tells_the_mtu() {
    let tcp = packet::tcp("192.0.2.1:40000", "10.96.0.1:80").payload(&[7; 1400]);
    let udp = packet::udp("192.0.2.1:40000", "10.96.0.1:80").payload(&[7; 1400]);
    for packet in [tcp, udp.clone(), udp.in_fragments(1200).remove(0)] {
        check::<V4>(&packet, 1400, [0, 0, 5, 0x78]);
        check::<V4>(&packet, 576, [0, 0, 2, 0x40]);
        check::<V6>(&packet, 1400, [0, 0, 5, 0x78]);
        // No link that carries IPv6 is smaller.
        check::<V6>(&packet, 576, [0, 0, 5, 0]);
    }
}
