//! The routes that lead Service addresses to `lb0`.
//!
//! Ranges of ClusterIPs are nobody else's: their routes are in the main table, and what no program has taken out of
//! forwarded traffic ends at `lb0`. Any other address may have ports that no Service serves, of which this node is only
//! a router: its route is in a table that is looked at for the node's own packets only (`rules`).
//!
//! They have a protocol number of their own: leftovers of a process before are known by it, and nobody else's routes
//! are ever touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::{StreamExt, TryStreamExt, stream};
use lb_common::abi::DeviceKind;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope},
    },
};

use super::HostError;
use crate::{model::NodeFacts, node::Prefix};

/// Of the numbers that nobody has registered (`/etc/iproute2/rt_protos`).
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(108);
/// IPv6 has no metric 0; this is the best one.
const METRIC6: u32 = 1;
/// Requests under way at once: a node with thousands of Service addresses outside the ranges starts quickly.
pub(super) const PARALLEL: usize = 32;

/// For packets of this node's own processes only. Of the numbers that nobody has registered
/// (`/etc/iproute2/rt_tables`).
pub(super) const OWN_TABLE: u8 = 108;

/// Table and destination.
type Place = (u8, Prefix);
/// The source address that node processes use towards each.
type Routes = BTreeMap<Place, IpAddr>;

/// The routes there should be: ranges of Service addresses, and addresses outside them. None to the node's own
/// addresses, none in a family the node has no address of.
#[must_use]
pub fn wanted(
    service_cidrs: &[Prefix],
    service_addresses: impl IntoIterator<Item = IpAddr>,
    facts: &NodeFacts,
) -> BTreeMap<(u8, Prefix), IpAddr> {
    let outside = service_addresses.into_iter().filter(|address| {
        !service_cidrs.iter().any(|cidr| cidr.contains(*address)) && facts.own.binary_search(address).is_err()
    });
    let ranges = service_cidrs
        .iter()
        .map(|cidr| (RouteHeader::RT_TABLE_MAIN, *cidr));
    let destinations = ranges.chain(outside.map(|address| (OWN_TABLE, Prefix::host(address))));
    let (source4, source6) = (source(facts, true), source(facts, false));
    destinations
        .filter_map(|to| {
            Some((
                to,
                if to.1.address().is_ipv4() {
                    source4
                } else {
                    source6
                }?,
            ))
        })
        .collect()
}

/// One difference between the routes there are and those there should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Remove,
    Replace(IpAddr),
    Add(IpAddr),
}

/// Makes it so; what fails is tried again by the next call.
pub(super) async fn sync(handle: &Handle, lb0: u32, wanted: &Routes) -> Vec<HostError> {
    let present = match read(handle, lb0).await {
        Ok(present) => present,
        Err(source) => return vec![HostError::Routes(source)],
    };
    let changes = diff(&present, wanted).into_iter();
    let requests = changes.map(|(to, change)| apply(handle.clone(), lb0, to, change));
    let results: Vec<Result<(), HostError>> =
        stream::iter(requests).buffer_unordered(PARALLEL).collect().await;
    results.into_iter().filter_map(Result::err).collect()
}

fn diff(present: &BTreeMap<Place, Option<IpAddr>>, wanted: &Routes) -> Vec<(Place, Change)> {
    let gone = present
        .keys()
        .filter(|to| !wanted.contains_key(to))
        .map(|to| (*to, Change::Remove));
    let changed = wanted.iter().filter_map(|(to, source)| match present.get(to) {
        None => Some((*to, Change::Add(*source))),
        Some(old) if *old != Some(*source) => Some((*to, Change::Replace(*source))),
        Some(_) => None,
    });
    gone.chain(changed).collect()
}

async fn apply(handle: Handle, lb0: u32, to: Place, change: Change) -> Result<(), HostError> {
    let routes = handle.route();
    let (action, result) = match change {
        Change::Remove => ("remove", routes.del(message(lb0, to, None)).execute().await),
        Change::Replace(source) => (
            "replace",
            routes
                .add(message(lb0, to, Some(source)))
                .replace()
                .execute()
                .await,
        ),
        Change::Add(source) => ("add", routes.add(message(lb0, to, Some(source))).execute().await),
    };
    result.map_err(|source| HostError::Route {
        action,
        destination: to.1,
        source,
    })
}

fn message(lb0: u32, (table, to): Place, source: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(lb0)
        .protocol(PROTOCOL)
        .scope(RouteScope::Link)
        .build();
    message.header.address_family = if to.address().is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.table = table;
    message.header.destination_prefix_length = to.length();
    message
        .attributes
        .push(RouteAttribute::Destination(to.address().into()));
    message
        .attributes
        .extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    if to.address().is_ipv6() {
        message.attributes.push(RouteAttribute::Priority(METRIC6));
    }
    message
}

/// Our routes, as the kernel has them.
async fn read(handle: &Handle, lb0: u32) -> Result<BTreeMap<Place, Option<IpAddr>>, rtnetlink::Error> {
    let mut present = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for table in [RouteHeader::RT_TABLE_MAIN, OWN_TABLE] {
            // The kernel sends only what matches (strict checking is on).
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = table;
            request.header.protocol = PROTOCOL;
            request.attributes.push(RouteAttribute::Oif(lb0));
            let routes = handle.route().get(request).execute().try_collect();
            let routes: Vec<RouteMessage> = match routes.await {
                // A table comes into being with its first route.
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENOENT => continue,
                routes => routes?,
            };
            let ours = routes
                .iter()
                .filter(|route| route.header.protocol == PROTOCOL && route.header.table == table);
            present.extend(ours.filter_map(|route| {
                let (to, source) = parse(route, lb0)?;
                Some(((table, to), source))
            }));
        }
    }
    Ok(present)
}

fn parse(route: &RouteMessage, lb0: u32) -> Option<(Prefix, Option<IpAddr>)> {
    let (mut destination, mut source, mut device) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    (device == Some(lb0)).then_some(())?;
    Some((
        Prefix::new(destination?, route.header.destination_prefix_length)?,
        source,
    ))
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The address that node processes are known by: the primary one, which NodePorts are served on unless the operator
/// chose others; else one of an uplink.
fn source(facts: &NodeFacts, v4: bool) -> Option<IpAddr> {
    let uplinks = facts
        .devices
        .values()
        .filter(|device| device.kind == DeviceKind::Uplink);
    let of_uplinks: BTreeSet<IpAddr> = uplinks
        .filter_map(|device| {
            if v4 {
                device.snat4.map(IpAddr::from)
            } else {
                device.snat6.map(IpAddr::from)
            }
        })
        .collect();
    let family = |address: &&IpAddr| address.is_ipv4() == v4;
    let primary = facts
        .node_ports
        .iter()
        .filter(family)
        .find(|address| of_uplinks.contains(address));
    primary
        .or(of_uplinks.first())
        .or_else(|| facts.node_ports.iter().find(family))
        .or_else(|| facts.own.iter().find(family))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceFacts;

    fn facts(own: &[&str], uplink: &str) -> NodeFacts {
        let uplink = DeviceFacts {
            name: "eth0".into(),
            kind: DeviceKind::Uplink,
            mac: [0; 6],
            bridge_mac: [0; 6],
            mtu: 1500,
            snat4: uplink.parse().ok(),
            snat6: uplink.parse().ok(),
            takes_xdp: false,
        };
        let mut own: Vec<IpAddr> = own.iter().map(|address| address.parse().unwrap()).collect();
        own.sort_unstable();
        NodeFacts {
            devices: [(2, uplink)].into(),
            own,
            ..NodeFacts::default()
        }
    }

    #[test]
    fn routes_lead_to_ranges_and_to_addresses_outside_them() {
        for (what, cidrs, addresses, own, uplink, expected) in [
            (
                "an address inside a range has no route of its own",
                &["10.96.0.0/12"][..],
                &["10.96.0.1", "192.0.2.10"][..],
                &["10.244.0.1", "192.168.0.5"][..],
                "192.168.0.5",
                &["108 192.0.2.10/32 192.168.0.5", "254 10.96.0.0/12 192.168.0.5"][..],
            ),
            (
                "a node address that is also an externalIP has none",
                &[],
                &["192.168.0.5", "192.168.0.6"],
                &["192.168.0.5"],
                "192.168.0.5",
                &["108 192.168.0.6/32 192.168.0.5"],
            ),
            (
                "a family that the node has no address of has none",
                &["10.96.0.0/12", "fd00:96::/112"],
                &["2001:db8::1"],
                &["192.168.0.5"],
                "192.168.0.5",
                &["254 10.96.0.0/12 192.168.0.5"],
            ),
            (
                "IPv6",
                &["fd00:96::/112"],
                &["2001:db8::1", "192.0.2.1"],
                &["fd00::5"],
                "fd00::5",
                &["108 2001:db8::1/128 fd00::5", "254 fd00:96::/112 fd00::5"],
            ),
        ] {
            let cidrs: Vec<Prefix> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            let addresses = addresses.iter().map(|address| address.parse().unwrap());
            let mut routes: Vec<String> = wanted(&cidrs, addresses, &facts(own, uplink))
                .iter()
                .map(|((table, to), source)| format!("{table} {to} {source}"))
                .collect();
            routes.sort_unstable();
            assert_eq!(routes, expected, "{what}");
        }
    }
}
