//! Which ports processes of this node wait for packets on.
//!
//! Read from `/proc/net`, which is that of the network namespace of the calling thread.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::abi::Protocol;

/// A socket that waits for whoever comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiting {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address it is bound to; unspecified: all of its family (of IPv6: mostly of both).
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// The states of `tcp(7)`: one that listens, and what UDP sockets without a peer are in.
const TCP_LISTEN: &str = "0A";
const UDP_WITHOUT_PEER: &str = "07";

/// All of them, TCP and UDP. A table that cannot be read is empty.
#[must_use]
pub fn waiting() -> Vec<Waiting> {
    let tables = [
        ("tcp", Protocol::Tcp, TCP_LISTEN),
        ("tcp6", Protocol::Tcp, TCP_LISTEN),
        ("udp", Protocol::Udp, UDP_WITHOUT_PEER),
        ("udp6", Protocol::Udp, UDP_WITHOUT_PEER),
    ];
    let read = |(name, protocol, state)| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        parse(&text, protocol, state)
    };
    tables.into_iter().flat_map(read).collect()
}

fn parse(table: &str, protocol: Protocol, wanted: &str) -> Vec<Waiting> {
    let lines = table.lines().skip(1);
    let socket = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, port) = words.nth(1)?.split_once(':')?;
        (words.nth(1)? == wanted).then_some(())?;
        Some(Waiting {
            protocol,
            address: parse_address(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
        })
    };
    lines.filter_map(socket).collect()
}

/// Words of 32 bits, each as a number of the machine's order whose bytes are in network order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:7580 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0500A8C0:7580 0900A8C0:C000 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   garbage
";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_those_that_wait_are_told() {
        let told: Vec<_> = (parse(TCP, Protocol::Tcp, TCP_LISTEN).iter())
            .map(|socket| format!("{} {}", socket.address, socket.port))
            .collect();
        assert_eq!(told, ["127.0.0.1 10249", "0.0.0.0 30080"]);
        let six = "B80D0120000000000000000005000000";
        assert_eq!(parse_address(six), Some("2001:db8::5".parse().unwrap()));
        assert_eq!(parse_address("00"), None);
    }

    #[test]
    fn sockets_of_this_process_are_found() {
        let tcp = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = waiting();
        for (protocol, address) in [
            (Protocol::Tcp, tcp.local_addr().unwrap()),
            (Protocol::Udp, udp.local_addr().unwrap()),
        ] {
            let socket = Waiting {
                protocol,
                address: address.ip(),
                port: address.port(),
            };
            assert!(found.contains(&socket), "{socket:?} in {found:?}");
        }
    }
}
