//! What becomes of packets that are not plain: the host's twin of the eBPF crate's file of the same name.

use std::vec::Vec;

use crate::abi::{Address, DeviceKind, Flow, FragmentKey, Outcome, Phase, Tuple};
use crate::net::{
    Cursor, HEADERS, Headers, Hold, Look, Net, Parsed, Read, Seen, Tables, apply, belongs, hold, known,
    later_tuple, look, remember, translate_error, translate_later,
};

use super::tables::SimTables;

/// What such a packet comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Odds<A> {
    /// It has ports, and is treated like any other; the datagram that it is the first fragment of.
    Ports(Parsed<A>, Option<FragmentKey<A>>),
    /// Translated by this flow entry, to these bytes.
    Translated(Flow<A>, Outcome, Vec<u8>),
    /// A later fragment of no flow's datagram; whether the first one is known.
    Later(bool),
    /// Left as it is.
    Pass(Outcome),
}

/// Looks closer at a frame, at one side of the routing decision.
#[must_use]
pub fn odd<F: Net>(tables: &SimTables<F>, frame: &[u8], phase: Phase) -> Odds<F::Addr> {
    let mut space = Look {
        headers: Headers::of(frame),
        ..Look::default()
    };
    let mut parsed = Parsed::default();
    match look::<F>(&mut space, phase, &mut parsed) {
        Seen::Ports => Odds::Ports(parsed, (parsed.first != 0).then_some(space.datagram)),
        Seen::Pass(outcome) => Odds::Pass(outcome),
        Seen::Later => {
            let Some(fragment) = known(tables, &space.datagram) else {
                return Odds::Later(false);
            };
            later_tuple(&space.datagram, &fragment, &mut space.key);
            let Some(flow) = tables.flow(&space.key) else {
                return Odds::Later(true);
            };
            translate_later::<F>(&mut space.headers, &space.outer, &flow.to, fragment.id);
            Odds::Translated(*flow, Outcome::ForwardedFragment, written(frame, &space.headers))
        }
        Seen::Error => {
            let Some(flow) = tables.flow(&space.key) else {
                return Odds::Pass(Outcome::PassedNotOurs);
            };
            let Look {
                headers,
                outer,
                inner,
                key,
                ..
            } = &mut space;
            translate_error::<F>(headers, outer, inner, key, &flow.to);
            Odds::Translated(*flow, Outcome::ForwardedError, written(frame, &space.headers))
        }
    }
}

/// The outcome of a later fragment of no flow's datagram to `address`, on a device of kind `device`. Nothing is kept: what
/// is held back is lost here.
#[must_use]
pub fn later(known: bool, phase: Phase, device: DeviceKind, address: Option<Address>) -> Outcome {
    if !known && hold(phase, device, address) == Hold::Stop {
        Outcome::ForwardedHeld
    } else {
        Outcome::PassedFragment
    }
}

/// Remembers a first fragment that had `tuple`, and gives it the identification that it needs.
pub fn remember_first<F: Net>(
    tables: &SimTables<F>,
    frame: &mut [u8],
    datagram: &FragmentKey<F::Addr>,
    tuple: &Tuple<F::Addr>,
    flags: u8,
) {
    let flow = tables.flow(tuple).filter(|flow| belongs(flow, flags));
    let (Some(id), Some(at), Some(sum)) = (
        remember(tables, datagram, tuple, flow),
        <F as Read>::ID,
        F::CHECKSUM,
    ) else {
        return;
    };
    let at = crate::net::ETHERNET + at;
    let difference = {
        let frame: &[u8] = frame;
        crate::net::Sum::default()
            .minus(frame.load::<u16>(at).unwrap_or_default().into())
            .plus(id.to_be().into())
            .difference()
    };
    let old = u16::from_ne_bytes([frame[sum], frame[sum + 1]]);
    frame[at..at + 2].copy_from_slice(&id.to_be_bytes());
    frame[sum..sum + 2].copy_from_slice(&apply(old, difference).to_ne_bytes());
}

fn written(frame: &[u8], headers: &Headers) -> Vec<u8> {
    let mut out = frame.to_vec();
    let length = out.len().min(HEADERS);
    out[..length].copy_from_slice(&headers.bytes[..length]);
    out
}
