//! Connections that the kernel's connection tracking translates: made by rules of another proxy's before our programs were
//! there, or by rules that have nothing to do with Services.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::StreamExt;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status,
        Tuple,
    },
};
use rtnetlink::{
    packet_core::{DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    proto::{ConnectionHandle, new_connection},
    sys::{self, protocols::NETLINK_NETFILTER},
};
use tokio::time::timeout;

/// How many entries there are in this network namespace; missing if the kernel tracks nothing.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Which bits of the status an entry must have as they are given. Kernels that do not know of it tell of all entries.
const CTA_STATUS_MASK: u16 = 26;
/// `enum tcp_conntrack`: neither end has anything to say any more (TIME_WAIT, CLOSE).
const OVER: std::ops::RangeInclusive<u8> = 7..=8;
/// How long an answer may take; the agent's start waits for it.
const LIMIT: Duration = Duration::from_secs(5);
/// More destinations than this are cut off: rules that translate whole networks are none of a proxy's for Services.
const MOST: usize = 1 << 16;

/// What it translates the destinations of.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tracked {
    /// Destinations of TCP connections, as their clients know them, but for those of this node's own processes, whom no
    /// program of ours stands in the way of. Also of connections that were closed lately: where those are, others may be open
    /// that have begun since.
    pub translated: BTreeSet<SocketAddr>,
    /// Ports that clients of any protocol have as their backends see them, where they are not their own: of connections that
    /// are not over, and of UDP that is more than a question and its answer.
    pub masqueraded: BTreeSet<u16>,
}

/// Asks the kernel; `own` are the addresses of this node.
///
/// # Errors
/// If the kernel does not tell, or not in time.
pub(super) async fn read(own: &BTreeSet<IpAddr>) -> io::Result<Tracked> {
    // Asking makes the kernel load what answers; not for nothing.
    let count = fs::read_to_string(COUNT).unwrap_or_default();
    if matches!(count.trim(), "" | "0") {
        return Ok(Tracked::default());
    }
    let (connection, handle, _) = new_connection(NETLINK_NETFILTER)?;
    let connection = tokio::spawn(connection);
    let told = timeout(LIMIT, ask(&handle, own)).await;
    connection.abort();
    told?
}

async fn ask(handle: &ConnectionHandle<NetfilterMessage>, own: &BTreeSet<IpAddr>) -> io::Result<Tracked> {
    let mut tracked = Tracked::default();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let question = ConntrackMessage::Get(vec![
            ConntrackAttribute::CtaStatus(Status::DstNat),
            ConntrackAttribute::Other(DefaultNla::new(
                CTA_STATUS_MASK,
                Status::DstNat.bits().to_be_bytes().to_vec(),
            )),
        ]);
        let question = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), question);
        let question = NetlinkMessage::new(header, NetlinkPayload::from(question));
        let kernel = sys::SocketAddr::new(0, 0);
        let mut answers = handle.request(question, kernel).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) = message.inner {
                        tracked.add(&entry, own);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(tracked)
}

/// Addresses and ports of one direction.
#[derive(Default)]
struct Ends {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    destination_port: Option<u16>,
    protocol: Option<Protocol>,
}

impl Ends {
    fn of(parts: &[Tuple]) -> Self {
        let mut ends = Self::default();
        for part in parts {
            match part {
                Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                    IPTuple::SourceAddress(ip) => ends.source = Some(*ip),
                    IPTuple::DestinationAddress(ip) => ends.destination = Some(*ip),
                    _ => {}
                }),
                Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                    ProtoTuple::Protocol(number) => ends.protocol = Some(*number),
                    ProtoTuple::DestinationPort(number) => ends.destination_port = Some(*number),
                    _ => {}
                }),
                _ => {}
            }
        }
        ends
    }
}

impl Tracked {
    /// Takes an entry in, if it counts.
    fn add(&mut self, entry: &[ConntrackAttribute], own: &BTreeSet<IpAddr>) {
        let (mut there, mut back, mut status) = (Ends::default(), Ends::default(), Status::empty());
        let mut over = false;
        for attribute in entry {
            match attribute {
                ConntrackAttribute::CtaStatus(bits) => status = *bits,
                ConntrackAttribute::CtaTupleOrig(parts) => there = Ends::of(parts),
                ConntrackAttribute::CtaTupleReply(parts) => back = Ends::of(parts),
                ConntrackAttribute::CtaProtoInfo(infos) => over = infos.iter().any(is_over),
                _ => {}
            }
        }
        if !status.contains(Status::DstNat) {
            return;
        }
        if status.contains(Status::SrcNat | Status::Assured) && !over {
            self.masqueraded.extend(back.destination_port);
        }
        if let (Some(source), Some(ip), Some(port)) =
            (there.source, there.destination, there.destination_port)
            && there.protocol == Some(Protocol::Tcp)
            && !own.contains(&source)
            && self.translated.len() < MOST
        {
            self.translated.insert(SocketAddr::new(ip, port));
        }
    }
}

fn is_over(info: &ProtoInfo) -> bool {
    let ProtoInfo::TCP(infos) = info else {
        return false;
    };
    infos
        .iter()
        .any(|info| matches!(info, ProtoInfoTCP::State(state) if OVER.contains(state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str, ports: [u16; 2], protocol: Protocol) -> Vec<Tuple> {
        let ip = |text: &str| text.parse().unwrap();
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(ip(source)),
                IPTuple::DestinationAddress(ip(destination)),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(ports[0]),
                ProtoTuple::DestinationPort(ports[1]),
            ]),
        ]
    }

    fn entry(status: Status, source: &str, protocol: Protocol) -> Vec<ConntrackAttribute> {
        in_state(status, source, protocol, 3)
    }

    fn in_state(status: Status, source: &str, protocol: Protocol, state: u8) -> Vec<ConntrackAttribute> {
        vec![
            ConntrackAttribute::CtaTupleOrig(ends(source, "10.96.0.10", [40_000, 80], protocol)),
            ConntrackAttribute::CtaTupleReply(ends("10.244.2.7", "192.168.0.1", [8080, 63_873], protocol)),
            ConntrackAttribute::CtaStatus(status),
            ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![ProtoInfoTCP::State(state)])]),
        ]
    }

    #[test]
    fn translated_connections_count() {
        let own = BTreeSet::from(["192.168.0.1".parse().unwrap()]);
        let there = Status::DstNat | Status::Assured;
        let both = there | Status::SrcNat;
        for (entry, to, port) in [
            (entry(there, "10.244.1.7", Protocol::Tcp), true, false),
            (entry(both, "10.244.1.7", Protocol::Tcp), true, true),
            (entry(both, "192.168.0.1", Protocol::Tcp), false, true),
            (entry(both, "10.244.1.7", Protocol::Udp), false, true),
            (entry(Status::SrcNat, "10.244.1.7", Protocol::Tcp), false, false),
            (
                entry(both - Status::Assured, "10.244.1.7", Protocol::Udp),
                false,
                false,
            ),
            // TIME_WAIT.
            (in_state(both, "10.244.1.7", Protocol::Tcp, 7), true, false),
            (Vec::new(), false, false),
        ] {
            let mut tracked = Tracked::default();
            tracked.add(&entry, &own);
            let to = to.then(|| "10.96.0.10:80".parse().unwrap());
            assert_eq!(tracked.translated, to.into_iter().collect(), "{entry:?}");
            let port = port.then_some(63_873);
            assert_eq!(tracked.masqueraded, port.into_iter().collect(), "{entry:?}");
        }
    }
}
