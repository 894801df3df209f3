//! Asks the kernel what a device's driver can do with XDP (netlink family `netdev`, Linux 6.3 and newer).
//!
//! Asked rather than tried: to put a program on a device makes some drivers take their link down and up.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// The number of the family that knows all others (`linux/genetlink.h`).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Of `linux/netdev.h`.
const GET_DEVICE: u8 = 1;
const INTERFACE: u16 = 1;
const XDP_FEATURES: u16 = 3;
const REQUEST: u16 = 1;
/// Lengths of the headers of netlink and generic netlink.
const HEADERS: usize = 16 + 4;
/// The driver runs XDP programs (`NETDEV_XDP_ACT_BASIC`).
const BASIC: u64 = 1;

/// Whether the driver of the device of this index runs XDP programs; `None`: the kernel does not tell.
#[must_use]
pub fn xdp_features(index: u32) -> Option<bool> {
    features(index)
        .ok()
        .flatten()
        .map(|features| features & BASIC != 0)
}

fn features(index: u32) -> io::Result<Option<u64>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let answer = ask(&socket, CONTROLLER, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let family = attribute(&answer, FAMILY_ID).and_then(|value| value.try_into().ok());
    let Some(family) = family.map(u16::from_ne_bytes) else {
        return Ok(None);
    };
    let answer = ask(&socket, family, GET_DEVICE, INTERFACE, &index.to_ne_bytes())?;
    let features = attribute(&answer, XDP_FEATURES).and_then(|value| value.try_into().ok());
    Ok(features.map(u64::from_ne_bytes))
}

/// Sends a request with one attribute; gives the answer.
fn ask(socket: &Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(&request(family, command, kind, value), 0)?;
    Ok(socket.recv_from_full()?.0)
}

fn request(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let padded = value.len().next_multiple_of(4);
    let length = (HEADERS + 4 + padded) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and port: there is one question at a time.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(length as usize, 0);
    message
}

/// An attribute of an answer. (An error has another type and no such attribute.)
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let number = |bytes: &[u8]| Some(u16::from_ne_bytes(bytes.try_into().ok()?));
    // `NLMSG_ERROR`
    if number(answer.get(4..6)?)? == 2 {
        return None;
    }
    let mut rest = answer.get(HEADERS..)?;
    loop {
        let length = usize::from(number(rest.get(..2)?)?);
        let kind = number(rest.get(2..4)?)?;
        let value = rest.get(4..length)?;
        // The highest bits are flags.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_errors_have_none() {
        let mut answer = request(7, 1, 3, &[9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(attribute(&answer, 3), Some(&[9, 8, 7, 6, 5, 4, 3, 2][..]));
        assert_eq!(attribute(&answer, 4), None);
        for length in 0..answer.len() {
            assert_eq!(attribute(&answer[..length], 3), None, "cut at {length}");
        }
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(attribute(&answer, 3), None);
    }

    #[test]
    fn a_device_that_is_not_there_has_no_features() {
        assert_eq!(xdp_features(u32::MAX - 1), None);
    }
}
