//! NAT as a value: which words of a packet change, and by how much its checksums change with them.
//!
//! Addresses and ports are kept apart because the kernel wants them apart: an address belongs to the pseudo
//! header, which a sender that leaves its checksum to the device has already summed; a port does not.

use crate::abi::{Protocol, Tuple};

use super::{Net, Sum};

/// By how much the checksums of a packet change when its tuple does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Differences {
    /// Of the addresses: for the IPv4 header and for the pseudo header of TCP and UDP.
    pub addresses: u32,
    /// Of the ports: for TCP and UDP.
    pub ports: u32,
}

/// How a transport protects its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    /// An Internet checksum with a pseudo header, at this offset in the transport header.
    Checksum {
        /// Offset of the field.
        field: usize,
        /// Zero means "none", and a sum of zero is written as all ones (RFC 768).
        zero_is_none: bool,
    },
    /// CRC32c over the whole SCTP packet without a pseudo header, at offset 8 (RFC 9260, appendix A).
    Crc32c,
}

impl Edit {
    /// The protection of a protocol.
    #[inline(always)]
    #[must_use]
    pub const fn of(protocol: u8) -> Self {
        if protocol == Protocol::Tcp as u8 {
            Self::Checksum {
                field: 16,
                zero_is_none: false,
            }
        } else if protocol == Protocol::Udp as u8 {
            Self::Checksum {
                field: 6,
                zero_is_none: true,
            }
        } else {
            Self::Crc32c
        }
    }
}

/// The differences between two tuples of one packet.
#[inline(always)]
#[must_use]
pub fn differences<F: Net>(from: &Tuple<F::Addr>, to: &Tuple<F::Addr>) -> Differences {
    let mut addresses = Sum::default();
    for word in F::words(from.source) {
        addresses = addresses.minus(word);
    }
    for word in F::words(from.destination) {
        addresses = addresses.minus(word);
    }
    for word in F::words(to.source) {
        addresses = addresses.plus(word);
    }
    for word in F::words(to.destination) {
        addresses = addresses.plus(word);
    }
    let ports = Sum::default().minus(port_word(from)).plus(port_word(to));
    Differences {
        addresses: addresses.difference(),
        ports: ports.difference(),
    }
}

/// Both ports as they lie in the packet.
#[inline(always)]
pub(super) fn port_word<A>(tuple: &Tuple<A>) -> u32 {
    let [s0, s1] = tuple.source_port.to_be_bytes();
    let [d0, d1] = tuple.destination_port.to_be_bytes();
    u32::from_ne_bytes([s0, s1, d0, d1])
}

#[cfg(test)]
mod tests;
