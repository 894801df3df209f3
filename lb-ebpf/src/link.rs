//! Link headers that were lost sight of.
//!
//! Generic XDP copies a packet that has little room in front of it, and forgets the length of the copy's link header
//! (`mac_len` of `struct sk_buff`; Linux 6.8 and newer): TC's ingress then sees the packet from its network header on.
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::{bpf_skb_change_head, bpf_skb_load_bytes_relative, bpf_skb_store_bytes};
use lb_common::net::{Cursor, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use crate::packet::Tc;

/// `BPF_HDR_START_MAC`: offsets count from the link header.
const BPF_HDR_START_MAC: u32 = 0;

/// The body of [`Tc::find_link`]: 1 if the link header was lost, and is where it belongs now.
#[inline(always)]
pub(crate) fn find(packet: &Tc) -> u32 {
    // SAFETY: reads a field of the program's own context.
    let protocol = u16::from_be(unsafe { (*packet.skb).protocol } as u16);
    let version = match protocol {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => return 0,
    };
    if packet
        .load::<[u8; 2]>(0)
        .is_none_or(|[first, _]| first >> 4 != version)
    {
        return 0;
    }
    let mut link = [0_u32; ETHERNET.div_ceil(4)];
    let room = link.as_mut_ptr().cast();
    let (skb, length) = (packet.skb, ETHERNET as u32);
    // SAFETY: the context is the program's own; the room is at least as long as said.
    if unsafe { bpf_skb_load_bytes_relative(skb.cast(), 0, room, length, BPF_HDR_START_MAC) } != 0 {
        return 0;
    }
    // SAFETY: the context is the program's own; a failure leaves the packet as it is.
    if unsafe { bpf_skb_change_head(skb, length, 0) } != 0 {
        return 0;
    }
    // SAFETY: the context is the program's own; the room is at least as long as said.
    (unsafe { bpf_skb_store_bytes(skb, 0, room, length, 0) } == 0) as u32
}
