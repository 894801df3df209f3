//! Reads links, addresses and routes from the kernel, and hears of their changes. What connection tracking translates is read
//! along, without hearing of it.
//!
//! Messages about changes only say *which* of the three tables to read again: what is read is always what the
//! kernel has, nothing can drift, and a queue that overflowed (ENOBUFS) costs no more than any other message.
//! A change of one table does not read the others, and the route table `local` is never read.

use std::{io, net::IpAddr};

use futures::{Stream, StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
    sys::SocketAddr,
};
use tokio::task::JoinHandle;

use super::{Address, Link, LinkKind, Prefix, Route, Snapshot, Tracked, tracked};

/// Table of the node's own addresses: `ip route show table local`.
const TABLE_LOCAL: u32 = 255;

/// What went wrong between the kernel's routing tables and us.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket; is the agent allowed to (CAP_NET_ADMIN, seccomp)?")]
    Socket(#[source] io::Error),
    /// A table could not be read.
    #[error("cannot read {table} by netlink")]
    Dump {
        /// Which.
        table: &'static str,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The socket that changes are heard on was closed.
    #[error("the netlink socket was closed")]
    Closed,
}

/// Which tables are to be read again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Stale {
    pub(super) links: bool,
    pub(super) addresses: bool,
    pub(super) routes: bool,
    pub(super) tracked: bool,
}

/// Two sockets: one asks, one listens (and may overflow without harm to the answers).
pub(super) struct Netlink {
    handle: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    tasks: [JoinHandle<()>; 2],
}

impl Stale {
    pub(super) const ALL: Self = Self {
        links: true,
        addresses: true,
        routes: true,
        tracked: true,
    };

    pub(super) const TRACKED: Self = Self {
        links: false,
        addresses: false,
        routes: false,
        tracked: true,
    };

    pub(super) fn any(self) -> bool {
        self != Self::default()
    }

    fn all_that_is_heard_of(&mut self) {
        *self = Self {
            tracked: self.tracked,
            ..Self::ALL
        };
    }

    fn add(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            NetlinkPayload::InnerMessage(message) => match message {
                // A link that goes takes addresses and routes along; for some of them there is no message.
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                    self.all_that_is_heard_of();
                }
                RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                    self.addresses = true;
                    self.routes = true;
                }
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => self.routes = true,
                _ => {}
            },
            NetlinkPayload::Overrun(_) => self.all_that_is_heard_of(),
            _ => {}
        }
    }
}

/// Links, addresses and routes as they are now (not what connection tracking translates), in the calling thread's network namespace.
///
/// # Errors
/// If the kernel cannot be asked.
pub async fn snapshot() -> Result<Snapshot, NetlinkError> {
    let mut snapshot = Snapshot::default();
    let mut all = Stale::default();
    all.all_that_is_heard_of();
    Netlink::open()?.read(&mut snapshot, all).await?;
    Ok(snapshot)
}

impl Netlink {
    /// Listens from now on: what is read afterwards misses nothing.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (asking, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        let (listening, _, changes) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(NetlinkError::Socket)?;
        Ok(Self {
            handle,
            changes,
            tasks: [tokio::spawn(asking), tokio::spawn(listening)],
        })
    }

    /// Waits for a change, and takes those that have come with it.
    pub(super) async fn changed(&mut self) -> Result<Stale, NetlinkError> {
        let mut stale = Stale::default();
        while !stale.any() {
            let (message, _) = self.changes.next().await.ok_or(NetlinkError::Closed)?;
            stale.add(&message.payload);
        }
        self.take_pending(&mut stale);
        Ok(stale)
    }

    /// Takes the changes that are already there.
    pub(super) fn take_pending(&mut self, stale: &mut Stale) {
        while let Ok((message, _)) = self.changes.try_recv() {
            stale.add(&message.payload);
        }
    }

    /// Reads what is stale.
    pub(super) async fn read(&self, snapshot: &mut Snapshot, stale: Stale) -> Result<(), NetlinkError> {
        if stale.links {
            snapshot.links = all("links", self.handle.link().get().execute(), link).await?;
        }
        if stale.addresses {
            snapshot.addresses = all("addresses", self.handle.address().get().execute(), address).await?;
        }
        if stale.routes {
            snapshot.routes.clear();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut request = RouteMessage::default();
                request.header.address_family = family;
                let routes = all("routes", self.handle.route().get(request).execute(), routes).await?;
                snapshot.routes.extend(routes.into_iter().flatten());
            }
        }
        if stale.tracked {
            let own = snapshot.addresses.iter().map(|address| address.address).collect();
            // Whoever cannot know of them can serve all the same.
            snapshot.tracked = tracked::read(&own).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "connection tracking cannot be read: connections that another proxy has opened may break");
                Tracked::default()
            });
        }
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn all<M, T>(
    table: &'static str,
    messages: impl Stream<Item = Result<M, rtnetlink::Error>>,
    convert: impl Fn(M) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let messages: Vec<M> = messages
        .try_collect()
        .await
        .map_err(|source| NetlinkError::Dump { table, source })?;
    Ok(messages.into_iter().filter_map(convert).collect())
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        mac: [0; 6],
        mtu: 0,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
                link.kind = kind.map_or(LinkKind::Other, link_kind);
            }
            _ => {}
        }
    }
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = LinkKind::Loopback;
    }
    Some(link)
}

fn link_kind(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Veth | InfoKind::Netkit => LinkKind::Pair,
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Vxlan
        | InfoKind::Geneve
        | InfoKind::IpIp
        | InfoKind::Ip6Tnl
        | InfoKind::SitTun
        | InfoKind::GreTun
        | InfoKind::GreTun6
        | InfoKind::GreTap
        | InfoKind::GreTap6
        | InfoKind::Wireguard
        | InfoKind::Xfrm => LinkKind::Tunnel,
        InfoKind::Tun => LinkKind::Tun,
        _ => LinkKind::Other,
    }
}

fn address(message: AddressMessage) -> Option<Address> {
    let (mut local, mut other_end) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => other_end = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let address = local.or(other_end)?;
    // Temporary addresses of IPv6 have the bit that marks secondary ones of IPv4.
    let unwanted = AddressFlags::Secondary | AddressFlags::Deprecated;
    Some(Address {
        device: message.header.index,
        address,
        prefix_length: message.header.prefix_len,
        global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
        usable: !flags.contains(AddressFlags::Dadfailed)
            && (!flags.contains(AddressFlags::Tentative) || flags.contains(AddressFlags::Optimistic)),
        preferred: !flags.intersects(unwanted),
    })
}

/// A route, one for each of its next hops.
fn routes(message: RouteMessage) -> Option<Vec<Route>> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut destination, mut metric, mut table) = (unspecified, 0, u32::from(header.table));
    let mut hops: Vec<(u32, bool)> = Vec::new();
    let (mut device, mut gateway) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
            RouteAttribute::MultiPath(next) => {
                hops.extend(
                    next.iter()
                        .map(|hop| (hop.interface_index, has_gateway(&hop.attributes))),
                );
            }
            _ => {}
        }
    }
    if header.kind != RouteType::Unicast || table == TABLE_LOCAL {
        return None;
    }
    hops.extend(device.map(|device| (device, gateway)));
    let destination = Prefix::new(destination, header.destination_prefix_length)?;
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    Some(
        hops.into_iter()
            .map(|(device, gateway)| Route {
                destination,
                device,
                gateway,
                metric,
                main,
            })
            .collect(),
    )
}

fn has_gateway(attributes: &[RouteAttribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
}
