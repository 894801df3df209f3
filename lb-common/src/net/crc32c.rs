//! CRC32c (Castagnoli), SCTP's checksum, and how it changes when the ports do.
//!
//! The CRC is linear over GF(2): if only the first four bytes of a packet change, the checksum changes by
//! the CRC (without start and end inversion) of those bytes' difference followed by as many zero bytes as
//! the packet goes on for. Feeding `n` zero bytes is a multiplication by x^(8n), one table for each binary
//! digit of `n`, so the rest of the packet is never read. RFC 9260, appendix A; the idea is that of zlib's
//! `crc32_combine`.
//!
//! Tables rather than bit loops: recent verifiers follow both values of every bit that is spread by an
//! arithmetic shift, which no program survives.

const POLYNOMIAL: u32 = 0x82f6_3b78; // reflected
/// x^8 in the reflected representation (x^0 is the highest bit).
const X8: u32 = 1 << (31 - 8);
/// Binary digits of a packet's length.
const DIGITS: usize = 16;

/// The product of four bits of a checksum, at one of eight places, with a power of x.
type Nibbles = [[u32; 16]; 8];

/// `SHIFTS[d]`: multiplies by x^(8 * 2^d).
static SHIFTS: [Nibbles; DIGITS] = shifts();

/// CRC32c of `bytes`, as SCTP stores it (little endian).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, &byte| shift(crc ^ byte as u32, &SHIFTS[0]))
}

/// By what (exclusive or) the checksum changes when the first four bytes of a packet change by `difference`
/// (exclusive or of old and new, bytes in packet order read as a little-endian word) and `rest` bytes follow
/// (at most 65,535).
#[inline(never)]
#[must_use]
pub fn shift_difference(difference: u32, rest: u32) -> u32 {
    // The four bytes themselves: x^32.
    let mut crc = shift(difference, &SHIFTS[2]);
    let mut digit = 0;
    while digit < DIGITS {
        if rest >> digit & 1 != 0 {
            crc = shift(crc, &SHIFTS[digit]);
        }
        digit += 1;
    }
    crc
}

#[inline(always)]
const fn shift(crc: u32, by: &Nibbles) -> u32 {
    let mut product = 0;
    let mut place = 0;
    while place < 8 {
        product ^= by[place][(crc >> (4 * place)) as usize & 15];
        place += 1;
    }
    product
}

const fn shifts() -> [Nibbles; DIGITS] {
    let mut shifts = [[[0; 16]; 8]; DIGITS];
    let mut power = X8;
    let mut digit = 0;
    while digit < DIGITS {
        let mut place = 0;
        while place < 8 {
            let mut nibble = 0;
            while nibble < 16 {
                shifts[digit][place][nibble] = multiply((nibble as u32) << (4 * place), power);
                nibble += 1;
            }
            place += 1;
        }
        power = multiply(power, power);
        digit += 1;
    }
    shifts
}

/// Product of two polynomials modulo the CRC's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        if a >> bit & 1 != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

#[cfg(test)]
mod tests;
