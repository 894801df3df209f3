//! One's complement arithmetic for Internet checksums (RFC 1071, RFC 1624).
//!
//! *Byte order*: everything here works on words as they lie in the packet, read in the machine's order. The
//! one's complement sum is the same in either order (RFC 1071, section 2B), so nothing is ever swapped.
//!
//! Not here: SCTP's CRC, see `crc32c`.

/// A sum that has not been folded: adding a word never overflows before 2^32 of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds a word that is new in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes away a word that was in the packet: adds its complement (RFC 1624, equation 3).
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, word: u32) -> Self {
        Self(self.0 + !word as u64)
    }

    /// The sum as a 32-bit difference, the form that the kernel's checksum helpers take.
    #[inline(always)]
    #[must_use]
    pub const fn difference(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }
}

/// Folds a 32-bit sum to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field `old` after a change of the data by `difference`.
#[inline(always)]
#[must_use]
pub const fn apply(old: u16, difference: u32) -> u16 {
    let sum = (!old) as u64 + difference as u64;
    !fold(((sum & 0xffff_ffff) + (sum >> 32)) as u32)
}

#[cfg(test)]
mod tests;
