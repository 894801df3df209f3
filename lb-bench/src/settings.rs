//! What the program `restore` is told and remembers: the words of the map `settings`, on both sides of the kernel
//! boundary.

/// Words of the map's one element.
pub(crate) const WORDS: usize = 16;
/// The first words are the packet's first bytes, which are written anew before each run: of an IPv4 packet 64.
pub(crate) const TEMPLATE4: usize = 8;
/// And of an IPv6 packet 80.
pub(crate) const TEMPLATE6: usize = 10;
/// One of the modes below.
pub(crate) const MODE: usize = 10;
/// Flows less one (a power of two less one), for [`RANDOM`].
pub(crate) const MASK: usize = 11;
/// The state of the random numbers, or the next flow's number.
pub(crate) const NEXT: usize = 12;
/// The last 32 bits of the first client's address.
pub(crate) const CLIENT: usize = 13;

/// Mode: the template as it is, one flow.
pub(crate) const ONE: u64 = 0;
/// Mode: a flow by chance for each packet.
pub(crate) const RANDOM: u64 = 1;
/// Mode: one flow after the other, each once.
pub(crate) const EACH: u64 = 2;

/// Flows that share a client's address: one for each of this many source ports.
pub(crate) const PORTS: u32 = 1 << 14;
/// The first source port.
pub(crate) const FIRST_PORT: u16 = 1024;

/// The last 32 bits of a flow's source address, and its source port.
#[inline(always)]
#[must_use]
pub(crate) const fn client(first: u32, flow: u32) -> (u32, u16) {
    (
        first.wrapping_add(flow / PORTS),
        FIRST_PORT + (flow % PORTS) as u16,
    )
}
