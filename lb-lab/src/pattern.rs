//! Reproducible pseudo-random bytes: both ends of a transfer compute them from a seed, so every byte is checked.

/// A stream of bytes determined by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// The bytes that follow.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let word = self.word().to_le_bytes();
            let skip = usize::try_from(self.position % 8).expect("less than 8");
            let n = (8 - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&word[skip..skip + n]);
            done += n;
            self.position += n as u64;
        }
    }

    /// Compares what follows with `got`; returns the position in the whole stream of the first difference.
    pub(crate) fn compare(&mut self, got: &[u8]) -> Result<(), u64> {
        let start = self.position;
        let mut expected = vec![0; got.len()];
        self.fill(&mut expected);
        match got.iter().zip(&expected).position(|(a, b)| a != b) {
            Some(at) => Err(start + at as u64),
            None => Ok(()),
        }
    }

    /// SplitMix64 of the position: any place can be computed without the ones before it.
    fn word(&self) -> u64 {
        let mut z = self
            .seed
            .wrapping_add((self.position / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_how_they_are_asked_for() {
        let mut whole = [0; 100];
        Pattern::new(7).fill(&mut whole);
        let mut pieces = Pattern::new(7);
        let mut at = 0;
        for n in [1, 7, 8, 9, 30, 45] {
            assert_eq!(pieces.compare(&whole[at..at + n]), Ok(()));
            at += n;
        }
        assert_eq!(at, whole.len());
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let mut bytes = [0; 64];
        Pattern::new(1).fill(&mut bytes);
        bytes[33] ^= 1;
        let mut pattern = Pattern::new(1);
        assert_eq!(pattern.compare(&bytes[..20]), Ok(()));
        assert_eq!(pattern.compare(&bytes[20..]), Err(33));
    }
}
