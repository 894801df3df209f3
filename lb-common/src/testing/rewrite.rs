//! Writes a translation into a frame, as the programs in the kernel do: the host's twin of the eBPF crate's
//! file of the same name, with the kernel's checksum helper as it is documented and implemented.

use std::vec::Vec;

use crate::abi::Tuple;
use crate::net::{Cursor, Differences, Edit, Net, Parsed, Sum, apply, differences, fold, shift_difference};

/// Who brings the transport's checksum up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// XDP: the program itself, addresses and ports at once.
    Xdp,
    /// TC: `bpf_l4_csum_replace`, first for the addresses, then for the ports.
    Tc,
    /// TC, and the sender has left the checksum to its device: only the addresses count.
    TcPartial,
}

impl Way {
    /// All of them that packets with complete checksums meet.
    pub const COMPLETE: [Self; 2] = [Self::Xdp, Self::Tc];
}

/// Makes `to` the frame's tuple; `None` if the frame cannot be rewritten.
#[must_use]
pub fn translate<F: Net>(
    frame: &[u8],
    parsed: &Parsed<F::Addr>,
    to: &Tuple<F::Addr>,
    way: Way,
) -> Option<Vec<u8>> {
    let by = differences::<F>(&parsed.tuple, to);
    let mut out = frame.to_vec();
    let at = parsed.at();
    put(&mut out, F::ADDRESSES, to.source.as_ref())?;
    put(&mut out, F::ADDRESSES + F::ADDR_LEN, to.destination.as_ref())?;
    if let Some(field) = F::CHECKSUM {
        let old = frame.load::<u16>(field)?;
        put(&mut out, field, &apply(old, by.addresses).to_ne_bytes())?;
    }
    put(&mut out, at, &to.source_port.to_be_bytes())?;
    put(&mut out, at + 2, &to.destination_port.to_be_bytes())?;
    match Edit::of(to.protocol) {
        Edit::Checksum { field, zero_is_none } => {
            let old = frame.load::<u16>(at + field)?;
            let new = checksum(old, by, zero_is_none, way);
            put(&mut out, at + field, &new.to_ne_bytes())?;
        }
        Edit::Crc32c => {
            let old = frame.load::<u32>(at + 8)?;
            let difference = little_endian(&parsed.tuple) ^ little_endian(to);
            let rest = F::end(&frame)?.wrapping_sub(parsed.transport).wrapping_sub(4);
            let new = old.to_le() ^ shift_difference(difference, rest);
            put(&mut out, at + 8, &new.to_le_bytes())?;
        }
    }
    Some(out)
}

fn checksum(old: u16, by: Differences, zero_is_none: bool, way: Way) -> u16 {
    let step = |old: u16, by: u32, pseudo: bool| match (old, way) {
        (0, _) if zero_is_none => 0,
        (_, Way::TcPartial) if pseudo => fold_wide(u64::from(old) + u64::from(by)),
        (_, Way::TcPartial) => old,
        _ => match apply(old, by) {
            0 if zero_is_none => 0xffff,
            new => new,
        },
    };
    match way {
        Way::Xdp => step(
            old,
            Sum::default().plus(by.addresses).plus(by.ports).difference(),
            true,
        ),
        Way::Tc | Way::TcPartial => step(step(old, by.addresses, true), by.ports, false),
    }
}

fn fold_wide(sum: u64) -> u16 {
    fold(((sum & 0xffff_ffff) + (sum >> 32)) as u32)
}

fn little_endian<A>(tuple: &Tuple<A>) -> u32 {
    u32::from(tuple.source_port.to_be()) | u32::from(tuple.destination_port.to_be()) << 16
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}
