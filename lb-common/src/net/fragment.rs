//! Fragments follow the first one of their datagram, which alone has the ports.
//!
//! The first fragment is translated like any packet; then its ports are [remembered](remember) under what all
//! fragments of the datagram have in common. Later ones find them there, and with them the flow.
//!
//! *Identification*: where a translation gives packets of many senders one source address, two of them may use
//! one identification at a time, and their fragments would be put together wrongly. So an IPv4 datagram whose
//! source address changes gets a new identification, counted up for all such datagrams of this node (RFC 6864,
//! section 5.3.1): it repeats after 65,536 of them. IPv6's has 32 bits, drawn at random by its sender, and is kept.

use crate::abi::{Flow, Fragment, FragmentKey, Phase, Protocol, Tuple};

use super::{
    Cursor, Headers, Layers, Net, Sum, Tables, apply,
    held::is_younger,
    icmp::{Changed, change_addresses},
};

/// What is remembered of datagrams in fragments.
pub trait Fragments<F: Net>: Tables<F> {
    /// What the first fragment of a datagram said, if it was ever seen: see [`known`].
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment>;
    /// Notes what a first fragment says.
    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment);
    /// An identification that this node has not given to a datagram for a while.
    fn next_id(&self) -> u16;
}

/// Ticks for which a first fragment is remembered: as long as receivers wait for the rest (30 s in Linux). Later another
/// datagram may have its identification.
const REMEMBERED: u32 = 30;

/// What the first fragment of a datagram said, if it was seen a while ago at most.
#[inline(always)]
pub fn known<F: Net, T: Fragments<F>>(tables: &T, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
    let fragment = tables.fragment(key)?;
    is_younger(fragment.seen, tables.tick(), REMEMBERED).then_some(fragment)
}

/// Fills in the key of the datagram that a fragment belongs to.
#[inline(always)]
pub(super) fn fragment_key<A: Copy>(layers: &Layers<A>, phase: Phase, key: &mut FragmentKey<A>) {
    key.source = layers.source;
    key.destination = layers.destination;
    key.id = layers.id;
    key.protocol = layers.protocol;
    key.phase = phase as u8;
    key.reserved = 0;
}

/// Whether fragments of a protocol are followed. SCTP's checksum cannot be changed without the whole packet's
/// length, which no fragment knows; SCTP makes its packets small enough by itself.
#[inline(always)]
#[must_use]
pub(super) const fn is_followed(protocol: u8) -> bool {
    protocol == Protocol::Tcp as u8 || protocol == Protocol::Udp as u8
}

/// Remembers a first fragment with `tuple`, translated by `flow` if there is one; gives the identification that
/// it must have from now on, if that is another.
#[inline(always)]
pub fn remember<F: Net, T: Fragments<F>>(
    tables: &T,
    key: &FragmentKey<F::Addr>,
    tuple: &Tuple<F::Addr>,
    flow: Option<&Flow<F::Addr>>,
) -> Option<u16> {
    let mut fragment = Fragment {
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        id: key.id,
        seen: tables.tick(),
    };
    let mut new = None;
    if F::ID.is_some() && flow.is_some_and(|flow| flow.to.source != tuple.source) {
        // Seen again (cut up further, or sent twice): its other fragments may be on their way already.
        let id = match known(tables, key) {
            Some(known) if known.is_of(tuple) => known.id as u16,
            _ => tables.next_id(),
        };
        fragment.id = id as u32;
        new = Some(id);
    }
    tables.remember(key, &fragment);
    new
}

impl Fragment {
    /// Whether it is of a datagram with these ports.
    #[inline(always)]
    const fn is_of<A>(&self, tuple: &Tuple<A>) -> bool {
        self.source_port == tuple.source_port && self.destination_port == tuple.destination_port
    }
}

/// Fills in the tuple that a later fragment would have, from its datagram's key and what the first one said.
#[inline(always)]
pub fn later_tuple<A: Copy>(key: &FragmentKey<A>, fragment: &Fragment, tuple: &mut Tuple<A>) {
    tuple.source = key.source;
    tuple.destination = key.destination;
    tuple.source_port = fragment.source_port;
    tuple.destination_port = fragment.destination_port;
    tuple.protocol = key.protocol;
    tuple.phase = key.phase;
    tuple.reserved = 0;
}

/// Translates a later fragment in the copy of its beginning: it has addresses and an identification, no ports.
/// Gives by how much the addresses change a sum over the packet.
#[inline(always)]
pub fn translate_later<F: Net>(
    headers: &mut Headers,
    layers: &Layers<F::Addr>,
    to: &Tuple<F::Addr>,
    id: u32,
) -> u32 {
    let mut changed = Changed::default();
    change_addresses::<F>(headers, layers, &to.source, &to.destination, &mut changed);
    if let Some(field) = F::ID {
        let network = (layers.network as usize) & (super::HEADERS - 1);
        let sum = headers.change(network + field, (id as u16).to_be_bytes(), Sum::default());
        if let Some(at) = F::CHECKSUM_IN_HEADER
            && let Some(old) = (&*headers).load::<u16>(network + at)
        {
            let new = apply(old, sum.difference());
            let _ = headers.change(network + at, new.to_ne_bytes(), Sum::default());
        }
    }
    changed.pair
}
