//! CRC32c (Castagnoli), SCTP's checksum, and how it changes when the ports do.
//!
//! The CRC is linear over GF(2): if only the first four bytes of a packet change, the checksum changes by
//! the CRC (without start and end inversion) of those bytes' difference followed by as many zero bytes as
//! the packet goes on for. Feeding `n` zero bytes is a multiplication by x^(8n), done by squaring, so the
//! rest of the packet is never read. RFC 9260, appendix A; M. Adler's `crc32_combine` has the same idea.

const POLYNOMIAL: u32 = 0x82f6_3b78; // reflected

/// CRC32c of `bytes`, as SCTP stores it (little endian).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| advance_byte(crc ^ byte as u32))
}

/// By what (exclusive or) the checksum changes when the first four bytes of a packet change by `difference`
/// (exclusive or of old and new, bytes in packet order read as a little-endian word) and `rest` bytes follow.
#[inline(always)]
#[must_use]
pub fn shift_difference(difference: u32, rest: u32) -> u32 {
    let mut crc = difference;
    let mut i = 0;
    while i < 4 {
        crc = advance_byte(crc);
        i += 1;
    }
    // Multiply by x^(8 rest): square x^8 for every binary digit of `rest`.
    let mut power = X8;
    let mut bit = 0;
    while bit < 16 {
        if rest >> bit & 1 != 0 {
            crc = multiply(crc, power);
        }
        power = multiply(power, power);
        bit += 1;
    }
    crc
}

/// x^8 in the reflected representation (x^0 is the highest bit).
const X8: u32 = 1 << (31 - 8);

/// Product of two polynomials modulo the CRC's.
#[inline(never)]
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        // Branch-free: the verifier would explore every combination of branches.
        product ^= b & 0u32.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
    }
    product
}

#[inline(always)]
fn advance_byte(mut crc: u32) -> u32 {
    let mut i = 0;
    while i < 8 {
        crc = (crc >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(crc & 1));
        i += 1;
    }
    crc
}
