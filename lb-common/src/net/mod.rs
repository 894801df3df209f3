//! Packets: what is in them, what becomes of them, and how they are changed.
//!
//! `parse` reads headers through a [`Cursor`]; `decide` holds the policy; `flow` opens and follows
//! flows in [`Tables`], with `open` and `install` as its parts; `edit` says which bytes change; `refuse` builds
//! the answers of a refusal. Not every packet is plain: `layers` takes the others apart, `icmp` and `fragment`
//! follow what they have to do with flows; `held` says what becomes of fragments that come too early.
//! Nothing here touches a packet or a map by itself, so the code that runs in the kernel is the code that
//! the tests on the host run.

mod affinity;
mod checksum;
mod connect;
mod copy;
mod crc32c;
mod cursor;
mod decide;
mod edit;
mod flow;
mod fragment;
mod frontend;
mod handover;
mod hash;
mod held;
mod icmp;
mod install;
mod layers;
mod look;
mod open;
mod parse;
mod refuse;
mod tables;
mod tcp;
mod too_big;
mod traffic;

pub use checksum::{Sum, apply, fold};
pub use connect::{CONNECTED, Caller, bind, connect};
pub use copy::{copy_flow, copy_parsed, copy_tuple};
pub use crc32c::{crc32c, shift_difference};
pub use cursor::Cursor;
pub use decide::{Choice, Client, Scope, choose, client};
pub use edit::{Differences, Edit, differences};
pub use flow::{
    After, Arrival, Before, Scratch, TWIN_TICKS, after, before, begins, belongs, give_way, open, opened,
    sweep,
};
pub use fragment::{Fragments, known, later_tuple, remember, translate_later};
pub use frontend::{at_lb0, range_bits};
pub use handover::is_taken_over;
pub use hash::{datagram_hash, flow_hash};
pub use held::{Hold, hold, is_good};
pub use icmp::translate_error;
pub use install::KEPT_ADDRESS_PORTS;
pub use layers::{HEADERS, Headers, Layers, Read};
pub use look::{Look, Seen, look};
pub use parse::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Net, Odd, Parsed, tcp_flag};
pub use refuse::{FRAME, Quote, Refusal, Refuse, Segment};
pub use tables::{Created, Entry, Tables};
pub use tcp::{lifetime, next_state};
pub use too_big::{SMALLEST_MTU, TooBig};
pub use traffic::{counts_as_traffic, traffic};
