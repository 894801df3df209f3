//! The tables against a CRC that is computed bit by bit.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::checksum;

#[test]
fn the_check_value_of_crc32c_comes_out() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[]), 0);
    // RFC 3720, appendix B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
}

/// Changes the first four bytes of `packet` by `difference`, and its checksum by [`shift_difference`].
fn check(packet: &[u8], difference: u32) {
    let mut changed = packet.to_vec();
    for (byte, by) in changed.iter_mut().zip(difference.to_le_bytes()) {
        *byte ^= by;
    }
    let by = shift_difference(difference, packet.len() as u32 - 4);
    assert_eq!(
        checksum::crc32c(packet) ^ by,
        checksum::crc32c(&changed),
        "{} bytes, {difference:#010x}",
        packet.len()
    );
}

#[test]
fn a_difference_is_shifted_through_packets_of_any_length() {
    for length in (12..300).chain([511, 512, 1023, 1460, 1500, 4096, 8999, 9000]) {
        let packet: Vec<u8> = (0..length).map(|n: u32| (n * 31 + 7) as u8).collect();
        check(&packet, 0x1234_5678);
        check(&packet, 1 << (length % 32));
    }
}

#[test]
fn the_longest_and_the_shortest_rest_are_shifted_through() {
    for rest in [0, 1, 65_534, 65_535] {
        check(&vec![0x5a; rest + 4], u32::MAX);
    }
    assert_eq!(shift_difference(0, 1000), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_packets_get_the_checksum_from_scratch(
        packet in prop::collection::vec(any::<u8>(), 12..2000),
        difference in any::<u32>(),
    ) {
        prop_assert_eq!(crc32c(&packet), checksum::crc32c(&packet));
        check(&packet, difference);
    }
}
