//! Watches endpoints while nothing is to arrive there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use lb_lab::{Capture, Lab};

use crate::{
    format::Protocol,
    layout::{Layout, PEERS, UPLINK, pod_place},
};

const ETHERNET: usize = 14;
const SYN: u8 = 2;
const SYN_AND_ACK: u8 = 0x12;

/// Records of every place with endpoints.
pub(crate) struct Watch(Vec<Capture>);

impl Watch {
    /// Starts recording what opens connections to endpoints, by this protocol.
    pub(crate) fn start(lab: &Lab, layout: &Layout, proto: Protocol) -> Result<Self> {
        let pods = (0..layout.pods.len()).map(pod_place);
        let mut captures = Vec::new();
        for place in pods.chain([PEERS.to_owned()]) {
            let ends: BTreeSet<_> = layout
                .listeners
                .iter()
                .filter(|listener| listener.place == place && listener.proto == proto)
                .map(|listener| listener.at)
                .collect();
            if !ends.is_empty() {
                let filter = move |frame: &[u8]| opens(frame, proto).is_some_and(|to| ends.contains(&to));
                captures.push(lab.at(&place)?.capture(UPLINK, filter)?);
            }
        }
        Ok(Self(captures))
    }

    /// What has arrived.
    pub(crate) fn arrived(&self, proto: Protocol) -> Vec<String> {
        let packets = self.0.iter().flat_map(Capture::packets);
        packets
            .filter_map(|packet| Some(format!("{proto} to {}", opens(&packet.bytes, proto)?)))
            .collect()
    }
}

/// Whereto a frame opens a connection by this protocol, if it does.
fn opens(frame: &[u8], proto: Protocol) -> Option<SocketAddr> {
    let number = match proto {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let packet = frame.get(ETHERNET..)?;
    let (ip, header, next): (IpAddr, usize, u8) = match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (
                Ipv4Addr::from(to).into(),
                usize::from(packet[0] & 15) * 4,
                packet[9],
            )
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(to).into(), 40, packet[6])
        }
        _ => return None,
    };
    let transport = packet.get(header..)?;
    let port = u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?);
    let first = proto != Protocol::Tcp || transport.get(13)? & SYN_AND_ACK == SYN;
    (next == number && first).then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_opens_a_connection_counts() {
        let mut frame = vec![0; ETHERNET + 40];
        frame[ETHERNET] = 0x45;
        frame[ETHERNET + 9] = 6;
        frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&[10, 180, 0, 1]);
        frame[ETHERNET + 20 + 3] = 80;
        for (flags, opened) in [(0x02, true), (0x12, false), (0x10, false), (0xc2, true)] {
            frame[ETHERNET + 20 + 13] = flags;
            let to = opens(&frame, Protocol::Tcp);
            assert_eq!(to.is_some(), opened, "flags {flags:x}");
            assert!(to.is_none_or(|to| to == "10.180.0.1:80".parse().unwrap()));
            assert_eq!(opens(&frame, Protocol::Udp), None);
        }
        assert_eq!(opens(&frame[..20], Protocol::Tcp), None, "cut off");
    }
}
