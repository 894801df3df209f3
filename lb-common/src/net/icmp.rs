//! ICMP errors about our flows: the packet that an error quotes has a flow's tuple, so the error is translated
//! as the flow's answer would be, and what it quotes the other way round (RFC 5508, section 4.2).
//!
//! An error is a packet back: of a packet with tuple `q` it travels like one with the tuple `reverse(q)`, so the
//! entry with that key says what becomes of it. Both address headers, the quoted ports and every checksum that
//! is there change; a quote may end anywhere behind the ports.
//!
//! The outer source becomes the flow's address wherever the flow's does, whoever reports the error: the address
//! of a router behind a translation may be one that leads nowhere in front of it, or that a filter of reverse
//! paths drops, and then path MTU discovery would fail. (Netfilter does the same.)
//!
//! *Not here*: an error never changes a flow's state, and keeps no flow alive.

use crate::abi::{Outcome, Phase, Protocol, Tuple};

use super::{Cursor, Edit, Headers, Layers, Net, Sum, apply, crc32c::shift_difference, edit::port_word};

/// Length of an ICMP error's header; the quoted packet follows.
const HEADER: u32 = 8;

/// Whether the packet is an ICMP error (in one piece); the layers are its own.
#[inline(always)]
#[must_use]
pub(super) fn is_error<F: Net>(headers: &Headers, outer: &Layers<F::Addr>) -> bool {
    let kind = headers.load::<u8>(outer.transport as usize);
    !outer.is_fragment() && kind.is_some_and(|kind| F::is_error(outer.protocol, kind))
}

/// Reads the packet that an error quotes: its layers, and into `key` the tuple of an answer to it at `phase`.
///
/// # Errors
/// The outcome of an error that cannot be about a flow.
#[inline(always)]
pub(super) fn quoted<F: Net>(
    headers: &Headers,
    outer: &Layers<F::Addr>,
    inner: &mut Layers<F::Addr>,
    phase: Phase,
    key: &mut Tuple<F::Addr>,
) -> Result<(), Outcome> {
    F::layers(headers, outer.transport + HEADER, inner).map_err(|_| Outcome::PassedOther)?;
    if Protocol::from_number(inner.protocol).is_none() {
        return Err(Outcome::PassedOther);
    }
    // Only a first fragment has ports. And an error goes to whoever sent what it quotes.
    if inner.offset != 0 || outer.destination != inner.source {
        return Err(Outcome::PassedOther);
    }
    let ports = headers
        .load::<u32>(inner.transport as usize)
        .ok_or(Outcome::PassedOther)?;
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    key.source = inner.destination;
    key.destination = inner.source;
    key.source_port = u16::from_be_bytes([d0, d1]);
    key.destination_port = u16::from_be_bytes([s0, s1]);
    key.protocol = inner.protocol;
    key.phase = phase as u8;
    key.reserved = 0;
    Ok(())
}

/// Translates an error, in the copy of its beginning, as an answer `key` that becomes `to`.
#[inline(always)]
pub fn translate_error<F: Net>(
    headers: &mut Headers,
    outer: &Layers<F::Addr>,
    inner: &Layers<F::Addr>,
    key: &Tuple<F::Addr>,
    to: &Tuple<F::Addr>,
) {
    // What is quoted went the other way.
    let mut addresses = Changed::default();
    change_addresses::<F>(headers, inner, &to.destination, &to.source, &mut addresses);
    let mut body = addresses.all;
    let transport = (inner.transport as usize) & (super::HEADERS - 1);
    let (old, new) = (port_word(&reversed_ports(key)), port_word(&reversed_ports(to)));
    body = headers.change(transport, new.to_ne_bytes(), body);
    let ports = Sum::default().minus(old).plus(new).difference();
    match Edit::of(inner.protocol) {
        Edit::Checksum { field, zero_is_none } => {
            if let Some(sum) = (&*headers).load::<u16>(transport + field)
                && (sum != 0 || !zero_is_none)
            {
                let by = Sum::default().plus(addresses.pair).plus(ports).difference();
                let new = match apply(sum, by) {
                    0 if zero_is_none => 0xffff,
                    new => new,
                };
                body = headers.change(transport + field, new.to_ne_bytes(), body);
            }
        }
        Edit::Crc32c => {
            if let Some(crc) = (&*headers).load::<u32>(transport + 8) {
                let rest = inner.end.wrapping_sub(inner.transport).wrapping_sub(4);
                let new =
                    crc.to_le() ^ shift_difference(u32::from_le(old) ^ u32::from_le(new), rest & 0xffff);
                body = headers.change(transport + 8, new.to_le_bytes(), body);
            }
        }
    }

    let source = if key.source == to.source {
        &outer.source
    } else {
        &to.source
    };
    let mut outer_addresses = Changed::default();
    change_addresses::<F>(headers, outer, source, &to.destination, &mut outer_addresses);
    // The pseudo header, which ICMP has in IPv6 only.
    let by = if F::CHECKSUM_IN_HEADER.is_some() {
        body.difference()
    } else {
        body.plus(outer_addresses.pair).difference()
    };
    let field = (outer.transport as usize & (super::HEADERS - 1)) + 2;
    if let Some(sum) = (&*headers).load::<u16>(field) {
        let _ = headers.change(field, apply(sum, by).to_ne_bytes(), Sum::default());
    }
}

/// By how much a change of addresses changes sums.
#[derive(Clone, Copy, Default)]
pub(super) struct Changed {
    /// Of everything that was written, the header's own checksum included.
    pub(super) all: Sum,
    /// Of the addresses alone.
    pub(super) pair: u32,
}

/// Writes other addresses into a network header, and its checksum. A function of its own: it would need its caller's
/// stack twice.
#[inline(never)]
pub(super) fn change_addresses<F: Net>(
    headers: &mut Headers,
    layers: &Layers<F::Addr>,
    source: &F::Addr,
    destination: &F::Addr,
    changed: &mut Changed,
) {
    let network = (layers.network as usize) & (super::HEADERS - 1);
    let mut at = network + F::ADDRESSES_IN_HEADER;
    let mut sum = Sum::default();
    for word in F::words(*source) {
        sum = headers.change(at, word.to_ne_bytes(), sum);
        at += 4;
    }
    for word in F::words(*destination) {
        sum = headers.change(at, word.to_ne_bytes(), sum);
        at += 4;
    }
    let pair = sum.difference();
    if let Some(field) = F::CHECKSUM_IN_HEADER
        && let Some(old) = (&*headers).load::<u16>(network + field)
    {
        sum = headers.change(network + field, apply(old, pair).to_ne_bytes(), sum);
    }
    changed.all = sum;
    changed.pair = pair;
}

/// A tuple with its ports the other way round (and no addresses, which are not asked for).
#[inline(always)]
fn reversed_ports<A>(tuple: &Tuple<A>) -> Tuple<()> {
    Tuple {
        source: (),
        destination: (),
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
        protocol: tuple.protocol,
        phase: 0,
        reserved: 0,
    }
}
