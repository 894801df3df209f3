//! Programs at sockets: they run in the process that asks, once for a connection, and see no packets.
//!
//! A `connect` gets its backend before there is a packet, so that nothing has to be translated; `getpeername` still says
//! whom the process asked for. `bind` keeps this node's own processes off the NodePorts.
#![allow(unsafe_code)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_set_retval},
    programs::{SockAddrContext, SockContext},
};
use lb_common::{
    abi::{Addr4, Addr6, Backend, FrontendKey, Hook, Kind, Node, Outcome, Peer, V4, V6},
    net::{self, CONNECTED, Caller},
};

use crate::{
    maps::{self, Maps},
    tables::{Kernel, counts, listens},
    trace::{self, Of},
    traffic, watch,
};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails.
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

/// Reads a field of a context: one access of the field's size, or the verifier refuses it.
macro_rules! read {
    ($of:expr, $field:ident$([$at:literal])?) => {
        // SAFETY: a field of the program's own context, or of the socket in it; the verifier checks it.
        unsafe { (&raw const (*$of).$field$([$at])?).read_volatile() }
    };
}

/// Writes a field of a context.
macro_rules! write {
    ($of:expr, $field:ident$([$at:literal])?, $value:expr) => {{
        let value = $value;
        // SAFETY: a field of the program's own context; the verifier checks it.
        unsafe { (&raw mut (*$of).$field$([$at])?).write_volatile(value) }
    }};
}

/// The words of an IPv4-mapped IPv6 address before the IPv4 address (RFC 4291, section 2.5.5.2).
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// `connect` of an IPv4 socket.
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    let asked = Addr4 {
        bytes: read!(ctx.sock_addr, user_ip4).to_ne_bytes(),
    };
    connect::<V4>(ctx, asked, |backend| {
        write!(ctx.sock_addr, user_ip4, u32::from_ne_bytes(backend.bytes));
    })
}

/// `connect` of an IPv6 socket, also to an IPv4 address.
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    let asked = user_ip6(ctx.sock_addr);
    if let Some(asked) = mapped(&asked) {
        return connect::<V4>(ctx, asked, |backend| {
            write!(ctx.sock_addr, user_ip6[3], u32::from_ne_bytes(backend.bytes));
        });
    }
    connect::<V6>(ctx, asked, |backend| set_user_ip6(ctx.sock_addr, backend))
}

/// `getpeername` of an IPv4 socket.
pub(crate) fn getpeername4(ctx: &SockAddrContext) -> i32 {
    let seen = general(Addr4 {
        bytes: read!(ctx.sock_addr, user_ip4).to_ne_bytes(),
    });
    if let Some(peer) = translated(ctx, &seen) {
        let [.., last] = words(&peer.frontend);
        write!(ctx.sock_addr, user_ip4, last);
        write!(ctx.sock_addr, user_port, u32::from(peer.frontend_port.to_be()));
    }
    ALLOW
}

/// `getpeername` of an IPv6 socket.
pub(crate) fn getpeername6(ctx: &SockAddrContext) -> i32 {
    if let Some(peer) = translated(ctx, &user_ip6(ctx.sock_addr)) {
        set_user_ip6(ctx.sock_addr, &peer.frontend);
        write!(ctx.sock_addr, user_port, u32::from(peer.frontend_port.to_be()));
    }
    ALLOW
}

/// `bind` of an IPv4 socket, once it has its address.
pub(crate) fn post_bind4(ctx: &SockContext) -> i32 {
    let address = Addr4 {
        bytes: read!(ctx.sock, src_ip4).to_ne_bytes(),
    };
    conclude_bind(if is_of_node(ctx.as_ptr().cast()) {
        bind::<V4>(ctx, &address)
    } else {
        Outcome::PassedNotOurs
    })
}

/// `bind` of an IPv6 socket, once it has its address.
pub(crate) fn post_bind6(ctx: &SockContext) -> i32 {
    if !is_of_node(ctx.as_ptr().cast()) {
        return conclude_bind(Outcome::PassedNotOurs);
    }
    let address = address6([
        read!(ctx.sock, src_ip6[0]),
        read!(ctx.sock, src_ip6[1]),
        read!(ctx.sock, src_ip6[2]),
        read!(ctx.sock, src_ip6[3]),
    ]);
    if let Some(address) = mapped(&address) {
        return conclude_bind(bind::<V4>(ctx, &address));
    }
    let outcome = bind::<V6>(ctx, &address);
    // Such a socket takes the port of IPv4 as well. (Whether it is told not to cannot be seen here.)
    if address == Addr6::default() && outcome as u8 != Outcome::RejectedNodePort as u8 {
        return conclude_bind(bind::<V4>(ctx, &Addr4::default()));
    }
    conclude_bind(outcome)
}

#[inline(always)]
fn connect<F: At>(ctx: &SockAddrContext, address: F::Addr, write: impl FnOnce(&F::Addr)) -> i32 {
    let Some(caller) = caller(ctx) else {
        return conclude(Outcome::PassedNotOurs);
    };
    let port = u16::from_be(read!(ctx.sock_addr, user_port) as u16);
    let mut asked = FrontendKey {
        address,
        port,
        protocol: CONNECTED,
        reserved: 0,
    };
    let tables = Kernel {
        ctx: ctx.as_ptr(),
        device: 0,
    };
    watch::connects::<F>(&asked);
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let listens = |backend: &_| listens::<F>(ctx.as_ptr(), backend);
    let decided = net::connect::<F, _>(&tables, &mut asked, caller, random, listens);
    trace::served::<F>(Of::Socket, &asked);
    let backend = match decided {
        Ok(backend) => backend,
        Err(outcome) => {
            traffic::refused::<F>(&address, port, outcome);
            return conclude(outcome);
        }
    };
    if !remember::<F>(ctx, address, port, backend) {
        return conclude(Outcome::PassedToTcSource);
    }
    let key = FrontendKey {
        address,
        port,
        protocol: CONNECTED,
        reserved: 0,
    };
    traffic::connected::<F>(&key, backend);
    trace::connected::<F>(&key, backend.address, backend.port);
    write(&backend.address);
    write!(ctx.sock_addr, user_port, u32::from(backend.port.to_be()));
    conclude(Outcome::ForwardedNew)
}

/// Who asks; nobody that we translate for, if it is no TCP socket.
#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Option<Caller> {
    if read!(ctx.sock_addr, protocol) != u32::from(CONNECTED) {
        return None;
    }
    let node = maps::node.get(0)?;
    let of_node = is_of_node(ctx.as_ptr().cast());
    // Without the node's own namespace its processes would be taken for pods.
    if node.netns == 0 || !of_node && node.flags & Node::CONNECT_PODS == 0 {
        return None;
    }
    let socket = socket(ctx)?;
    let bound = read!(socket, src_ip4)
        | read!(socket, src_ip6[0])
        | read!(socket, src_ip6[1])
        | read!(socket, src_ip6[2])
        | read!(socket, src_ip6[3]);
    Some(Caller {
        of_node,
        bound: bound != 0,
    })
}

/// Whether the socket is in this node's own network namespace.
#[inline(always)]
fn is_of_node(ctx: *mut core::ffi::c_void) -> bool {
    let own = maps::node.get(0).map_or(0, |node| node.netns);
    // SAFETY: the context is the program's own.
    own != 0 && unsafe { bpf_get_netns_cookie(ctx) } == own
}

/// Leaves with the socket what `getpeername` needs; `false`: there is no memory for it.
#[inline(always)]
fn remember<F: At>(ctx: &SockAddrContext, address: F::Addr, port: u16, backend: &Backend<F::Addr>) -> bool {
    let mut peer = Peer {
        frontend: F::general(address),
        backend: F::general(backend.address),
        frontend_port: port,
        backend_port: backend.port,
    };
    // SAFETY: the context is the program's own, and so is its socket.
    let place = unsafe { maps::peers.get_or_insert_ptr_mut(ctx, Some(&mut peer)) };
    if place.is_null() {
        return false;
    }
    // It may have tried to connect before.
    // SAFETY: not null; the memory is the socket's, which this process holds.
    unsafe { *place = peer };
    true
}

/// What `connect` left with the socket, if it is what it is connected to.
#[inline(always)]
fn translated(ctx: &SockAddrContext, seen: &Addr6) -> Option<Peer> {
    trace::other_text();
    if read!(ctx.sock_addr, protocol) != u32::from(CONNECTED) {
        return None;
    }
    // SAFETY: the context is the program's own, and so is its socket.
    let place = unsafe { maps::peers.get_ptr_mut(ctx) };
    if place.is_null() {
        return None;
    }
    // SAFETY: not null; the memory is the socket's, which this process holds.
    let peer = unsafe { *place };
    let port = u16::from_be(read!(ctx.sock_addr, user_port) as u16);
    (peer.backend == *seen && peer.backend_port == port).then_some(peer)
}

#[inline(always)]
fn bind<F: Maps>(ctx: &SockContext, address: &F::Addr) -> Outcome {
    let tables = Kernel {
        ctx: ctx.as_ptr(),
        device: 0,
    };
    let port = read!(ctx.sock, src_port) as u16;
    net::bind::<F, _>(&tables, address, port, read!(ctx.sock, protocol) as u8)
}

/// Counts a connection, and lets it go on or fail.
#[inline(always)]
fn conclude(outcome: Outcome) -> i32 {
    trace::outcome(Of::Socket, outcome);
    count(Hook::Connect, outcome);
    end(outcome, ECONNREFUSED)
}

/// Counts a socket that was bound, and lets it go on or fail.
#[inline(always)]
fn conclude_bind(outcome: Outcome) -> i32 {
    count(Hook::Bind, outcome);
    end(outcome, EADDRINUSE)
}

#[inline(always)]
fn end(outcome: Outcome, error: i32) -> i32 {
    trace::other_text();
    match outcome.kind() {
        Kind::Passed | Kind::Forwarded => ALLOW,
        Kind::Rejected | Kind::Dropped => {
            // SAFETY: no pointers.
            unsafe { bpf_set_retval(-error) };
            REFUSE
        }
    }
}

/// Counts atomically: processes interrupt each other, packets' programs do not.
#[inline(always)]
fn count(hook: Hook, outcome: Outcome) {
    if counts()
        && let Some(counter) = maps::counters.get_ptr_mut(outcome.index(hook))
    {
        // SAFETY: within the counter, which is valid.
        let packets = unsafe { &raw mut (*counter).packets };
        // SAFETY: an aligned word of per-CPU memory, which only these programs write, atomically.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(packets, 1) };
    }
}

/// The socket behind a call.
#[inline(always)]
fn socket(ctx: &SockAddrContext) -> Option<*mut bpf_sock> {
    let union = read!(ctx.sock_addr, __bindgen_anon_1);
    // SAFETY: the union has one meaning.
    let socket = unsafe { union.sk };
    (!socket.is_null()).then_some(socket)
}

/// What the two families do differently at sockets.
trait At: Maps {
    /// The address as an IPv6 address.
    fn general(address: Self::Addr) -> Addr6;
}

impl At for V4 {
    #[inline(always)]
    fn general(address: Addr4) -> Addr6 {
        general(address)
    }
}

impl At for V6 {
    #[inline(always)]
    fn general(address: Addr6) -> Addr6 {
        address
    }
}

#[inline(always)]
fn general(address: Addr4) -> Addr6 {
    let [a, b, c] = MAPPED;
    address6([a, b, c, u32::from_ne_bytes(address.bytes)])
}

/// The IPv4 address that an IPv6 address stands for.
#[inline(always)]
fn mapped(address: &Addr6) -> Option<Addr4> {
    let [a, b, c, last] = words(address);
    let same = (a ^ MAPPED[0]) | (b ^ MAPPED[1]) | (c ^ MAPPED[2]);
    (same == 0).then_some(Addr4 {
        bytes: last.to_ne_bytes(),
    })
}

#[inline(always)]
fn words(address: &Addr6) -> [u32; 4] {
    bytemuck::cast(address.bytes)
}

#[inline(always)]
fn address6(words: [u32; 4]) -> Addr6 {
    Addr6 {
        bytes: bytemuck::cast(words),
    }
}

#[inline(always)]
fn user_ip6(of: *mut bpf_sock_addr) -> Addr6 {
    address6([
        read!(of, user_ip6[0]),
        read!(of, user_ip6[1]),
        read!(of, user_ip6[2]),
        read!(of, user_ip6[3]),
    ])
}

#[inline(always)]
fn set_user_ip6(of: *mut bpf_sock_addr, address: &Addr6) {
    let [a, b, c, d] = words(address);
    write!(of, user_ip6[0], a);
    write!(of, user_ip6[1], b);
    write!(of, user_ip6[2], c);
    write!(of, user_ip6[3], d);
}
