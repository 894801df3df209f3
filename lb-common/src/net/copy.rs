//! Copies word by word. Of a plain assignment between places that may overlap the compiler makes a call of `memmove`,
//! which for this target goes byte by byte: ten times the instructions.

use crate::abi::{Flow, Tuple};

use super::{Net, Parsed};

/// `*to = *from`
#[inline(always)]
pub fn copy_tuple<F: Net>(from: &Tuple<F::Addr>, to: &mut Tuple<F::Addr>) {
    to.source = F::copied(&from.source);
    to.destination = F::copied(&from.destination);
    to.source_port = from.source_port;
    to.destination_port = from.destination_port;
    to.protocol = from.protocol;
    to.phase = from.phase;
    to.reserved = from.reserved;
}

/// `*to = *from`
#[inline(always)]
pub fn copy_flow<F: Net>(from: &Flow<F::Addr>, to: &mut Flow<F::Addr>) {
    copy_tuple::<F>(&from.to, &mut to.to);
    to.seen = from.seen;
    to.created = from.created;
    to.device = from.device;
    to.twin_device = from.twin_device;
    to.state = from.state;
    to.action = from.action;
    to.flags = from.flags;
}

/// `*to = *from`
#[inline(always)]
pub fn copy_parsed<F: Net>(from: &Parsed<F::Addr>, to: &mut Parsed<F::Addr>) {
    copy_tuple::<F>(&from.tuple, &mut to.tuple);
    to.transport = from.transport;
    to.flags = from.flags;
    to.first = from.first;
}
