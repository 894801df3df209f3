//! This process's network namespace, as programs know it.

use std::io;

use nix::{
    getsockopt_impl, sockopt_impl,
    sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
};

sockopt_impl!(
    /// The kernel's number of a socket's network namespace (socket(7)).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The kernel's number (cookie) of the network namespace of this process: unique since the machine was started.
///
/// # Errors
/// If the kernel does not tell (Linux 5.14 and newer do).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok(getsockopt(&socket, NetnsCookie)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_namespace_has_a_number_that_stays() {
        let cookie = super::netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(super::netns_cookie().unwrap(), cookie);
    }
}
