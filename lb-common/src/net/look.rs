//! The closer look at a packet that is not plain: which of the few kinds it is that concern flows.

use crate::abi::{Fragment, FragmentKey, Outcome, Phase, Protocol, Tuple};

use super::{
    Headers, Layers, Net, Parsed,
    fragment::{fragment_key, is_followed},
    icmp::{is_error, quoted},
    parse::transport,
};

/// Room for a closer look; too large for the kernel's stack.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Look<A> {
    /// The packet's beginning.
    pub headers: Headers,
    /// Its layers.
    pub outer: Layers<A>,
    /// The layers of the packet that it quotes, if it is an ICMP error.
    pub inner: Layers<A>,
    /// The datagram that it is a fragment of.
    pub datagram: FragmentKey<A>,
    /// The tuple of the flow that it belongs to.
    pub key: Tuple<A>,
    /// What the datagram's first fragment said.
    pub fragment: Fragment,
    /// What that tuple becomes.
    pub to: Tuple<A>,
}

/// What a packet turns out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A packet with ports, like any other: behind extension headers, or a first fragment, whose ports are to be
    /// remembered for `datagram`.
    Ports,
    /// A later fragment of `datagram`.
    Later,
    /// An ICMP error about the packet that `key` is an answer to.
    Error,
    /// Nothing that concerns flows.
    Pass(Outcome),
}

/// Looks at the packet in `look.headers`, at one side of the routing decision. `parsed` is filled in for packets
/// with ports.
#[inline(always)]
pub fn look<F: Net>(look: &mut Look<F::Addr>, phase: Phase, parsed: &mut Parsed<F::Addr>) -> Seen {
    let Look {
        headers,
        outer,
        inner,
        datagram,
        key,
        ..
    } = look;
    if let Err(outcome) = F::layers(headers, super::ETHERNET as u32, outer) {
        return Seen::Pass(outcome);
    }
    let Some(protocol) = Protocol::from_number(outer.protocol) else {
        if !is_error::<F>(headers, outer) {
            return Seen::Pass(Outcome::PassedOther);
        }
        return match quoted::<F>(headers, outer, inner, phase, key) {
            Ok(()) => Seen::Error,
            Err(outcome) => Seen::Pass(outcome),
        };
    };
    if outer.is_fragment() {
        if !is_followed(outer.protocol) {
            return Seen::Pass(Outcome::PassedFragment);
        }
        fragment_key(outer, phase, datagram);
        if outer.offset != 0 {
            return Seen::Later;
        }
    }
    let cursor: &Headers = headers;
    let Some(found) = transport(&cursor, protocol, outer.transport as usize) else {
        return Seen::Pass(Outcome::PassedMalformed);
    };
    *parsed = found;
    parsed.tuple.source = outer.source;
    parsed.tuple.destination = outer.destination;
    parsed.first = outer.is_fragment() as u8;
    Seen::Ports
}

#[cfg(test)]
mod tests;
