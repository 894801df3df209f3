//! What programs send by themselves while a packet is with them: heard on the devices of the namespace.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};

/// A busy machine may leave what was sent to a thread of the kernel.
const LIMIT: Duration = Duration::from_secs(2);

/// Hears all devices of the namespace that it was made in.
pub(crate) struct Tap(OwnedFd);

impl Tap {
    pub(crate) fn new() -> Self {
        let all = SockProtocol::EthAll;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all);
        Self(socket.expect("root may listen"))
    }

    /// Whatever was sent up to now is nobody's concern.
    pub(crate) fn forget(&self) {
        while self.next().is_some() {}
    }

    /// The frames on `device` that are among `known`, in their order. At least `count` of them are waited for.
    pub(crate) fn heard(&self, device: u32, known: &[Vec<u8>], count: usize) -> Vec<Vec<u8>> {
        let end = Instant::now() + LIMIT;
        let mut heard = Vec::new();
        loop {
            while let Some((on, frame)) = self.next() {
                if on == device && known.contains(&frame) {
                    heard.push(frame);
                }
            }
            if heard.len() >= count || Instant::now() > end {
                return heard;
            }
            thread::yield_now();
        }
    }

    fn next(&self) -> Option<(u32, Vec<u8>)> {
        let mut frame = vec![0; 65_536];
        let (length, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut frame).ok()?;
        frame.truncate(length);
        let device = from.map_or(0, |from| u32::try_from(from.ifindex()).unwrap_or_default());
        Some((device, frame))
    }
}
