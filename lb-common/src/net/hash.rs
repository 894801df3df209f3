//! The flow hash: which row of a table a new flow reads, the same on every node of a cluster.

use crate::abi::{FragmentKey, Tuple, Waiting};

use super::Net;

/// Hash of a packet's addresses, ports and protocol (of the packet as the client sent it).
///
/// Murmur3's mixing steps over 32-bit words: cheap in BPF and good in all bits, which the reduction by
/// modulo needs.
#[inline(always)]
#[must_use]
pub fn flow_hash<F: Net>(tuple: &Tuple<F::Addr>, seed: u32) -> u32 {
    let mut hash = seed;
    for word in F::words(tuple.source) {
        hash = mix(hash, word);
    }
    for word in F::words(tuple.destination) {
        hash = mix(hash, word);
    }
    hash = mix(
        hash,
        ((tuple.source_port as u32) << 16) | tuple.destination_port as u32,
    );
    finish(mix(hash, tuple.protocol as u32))
}

/// Hash of a client, whatever it sends from and to.
#[inline(always)]
pub(super) fn client_hash<F: Net>(client: F::Addr, seed: u32) -> u32 {
    let mut hash = seed;
    for word in F::words(client) {
        hash = mix(hash, word);
    }
    finish(hash)
}

/// Hash of a datagram that comes in fragments: no number that means something else in [`Waiting`].
#[inline(always)]
#[must_use]
pub fn datagram_hash<F: Net>(key: &FragmentKey<F::Addr>, seed: u32) -> u32 {
    let mut hash = seed;
    for word in F::words(key.source) {
        hash = mix(hash, word);
    }
    for word in F::words(key.destination) {
        hash = mix(hash, word);
    }
    hash = mix(hash, key.id);
    match finish(mix(hash, (key.phase as u32) << 8 | key.protocol as u32)) {
        Waiting::FREE | Waiting::BUSY => Waiting::BUSY + 1,
        hash => hash,
    }
}

#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let word = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ word)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

#[inline(always)]
pub(super) const fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests;
