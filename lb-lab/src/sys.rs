//! The one thing the standard library and its like do not offer safely: the address of a packet socket.
#![allow(unsafe_code)]

use std::mem::size_of;

use socket2::{SockAddr, SockAddrStorage};

/// All protocols, for packet sockets.
pub(crate) const ALL_PROTOCOLS: u16 = 0x0003;

/// The address that binds a packet socket to a device.
pub(crate) fn packet_address(ifindex: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data, valid for every bit pattern, and smaller than any socket address may be.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::AF_PACKET.cast_unsigned() as libc::sa_family_t;
    address.sll_protocol = ALL_PROTOCOLS.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an initialised sockaddr_ll (zeroed, then filled) of exactly this length.
    unsafe { SockAddr::new(storage, len) }
}
