//! Incremental sums against sums from scratch, and the two zeros of one's complement arithmetic.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::checksum::internet;

/// Words of 32 bits as they lie in the packet.
fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn from_scratch(words: &[u32]) -> u16 {
    u16::from_ne_bytes(internet(&[&bytes(words)]).to_be_bytes())
}

#[test]
fn sums_fold_to_sixteen_bits_with_their_carries() {
    for (sum, folded) in [
        (0, 0),
        (1, 1),
        (0xffff, 0xffff),
        (0x1_0000, 1),
        (0xffff_0000, 0xffff),
        (0xffff_ffff, 0xffff),
        (0xffff_0001, 1),
        (0xfffe_0001, 0xffff),
        (0x1234_5678, 0x68ac),
    ] {
        assert_eq!(fold(sum), folded, "{sum:#x}");
    }
}

#[test]
fn the_zeros_of_ones_complement_do_not_get_mixed_up() {
    let same = |word: u32| Sum::default().minus(word).plus(word).difference();
    for (old, difference, new, why) in [
        (0x1234, 0, 0x1234, "no difference"),
        (0x1234, 0xffff_ffff, 0x1234, "a difference that is the other zero"),
        (0x1234, 0xffff, 0x1234, "the same in sixteen bits"),
        (0x1234, same(0xabcd_ef01), 0x1234, "a word replaced by itself"),
        (0x1234, same(0), 0x1234, "zero replaced by itself"),
        (0x1234, same(u32::MAX), 0x1234, "all ones replaced by themselves"),
        (0xfffe, 1, 0xfffd, "a small difference"),
        (0x0001, 1, 0x0000, "the field becomes zero"),
        (0x0000, 1, 0xfffe, "the field was zero"),
        (0x0000, 0xfffe, 0x0001, "the field was zero, minus one"),
    ] {
        assert_eq!(apply(old, difference), new, "{why}");
    }
}

#[test]
fn replacing_a_word_by_an_extreme_one_equals_a_sum_from_scratch() {
    let extremes = [
        0,
        1,
        0xffff,
        0x1_0000,
        0xffff_0000,
        0xffff_fffe,
        u32::MAX,
        0x8000_0000,
    ];
    for rest in [1, 0xffff, u32::MAX, 0x1234_5678] {
        for old in extremes {
            for new in extremes {
                let difference = Sum::default().minus(old).plus(new).difference();
                let field = apply(from_scratch(&[rest, old]), difference);
                assert_eq!(
                    field,
                    from_scratch(&[rest, new]),
                    "{rest:#x}: {old:#x} to {new:#x}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn replacing_words_equals_a_sum_from_scratch(
        // Not all zero: a packet's sum never is, and the two zeros would differ.
        first in 1..u32::MAX,
        words in prop::collection::vec((any::<u32>(), any::<u32>()), 1..12),
    ) {
        let (old, new): (Vec<u32>, Vec<u32>) = words.iter().copied().unzip();
        let mut sum = Sum::default();
        for (old, new) in &words {
            sum = sum.minus(*old).plus(*new);
        }
        let with = |words: &[u32]| from_scratch(&[&[first], words].concat());
        prop_assert_eq!(apply(with(&old), sum.difference()), with(&new));
    }
}
