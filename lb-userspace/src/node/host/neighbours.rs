//! Keeps the next hops towards the other nodes resolved.
//!
//! A program at XDP learns from the kernel's tables how a packet leaves, but cannot start a resolution: what it finds
//! unresolved goes by way of TC. So the kernel is asked to keep these neighbours alive by itself (`NTF_EXT_MANAGED`,
//! Linux 5.16); an older one is reminded at every pass. Entries of ours are known by their protocol number, as our
//! routes are: leftovers of a process before are found, and nobody else's entries are ever touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    net::IpAddr,
};

use futures::{StreamExt, TryStreamExt, stream};
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
            NeighbourState,
        },
        route::{RouteAttribute, RouteMessage},
    },
};

use super::{
    HostError,
    routes::{PARALLEL, PROTOCOL, ip},
};

/// Next hops that are kept resolved.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kept {
    /// How many there are.
    pub next_hops: usize,
    /// How many of them the kernel does not keep by itself: the agent reminds it.
    pub reminded: usize,
}

/// The other nodes, and where their pods are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Others {
    /// Addresses of the nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// First addresses of the ranges of their pods. (Where pods are on a link of this node, each is its own next hop.)
    pub pods: BTreeSet<IpAddr>,
}

/// A neighbour: interface index, and address on that link.
type NextHop = (u32, IpAddr);

/// What the kernel has of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Present {
    /// It has our protocol number.
    ours: bool,
    /// The kernel keeps it resolved.
    managed: bool,
    /// It needs no resolution: the operator has said what it is.
    fixed: bool,
}

/// One difference between the neighbours there are and those there should be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    /// To be kept by the kernel.
    Keep,
    /// It is there, but the kernel did not understand that it should be kept.
    Remind,
    Remove,
}

/// Makes it so that what leads to `others` by one of `uplinks` is kept resolved, and nothing else is.
pub(super) async fn sync(
    handle: &Handle,
    others: &Others,
    uplinks: &BTreeSet<u32>,
) -> (Kept, Vec<HostError>) {
    let nodes = others.nodes.iter().map(|node| (*node, false));
    let pods = others.pods.iter().map(|pods| (*pods, true));
    let ways: Vec<_> = nodes
        .chain(pods)
        .map(|(to, by_router)| next_hop(handle.clone(), to, by_router))
        .collect();
    let mut wanted: BTreeSet<NextHop> = stream::iter(ways)
        .buffer_unordered(PARALLEL)
        .filter_map(ready)
        .collect()
        .await;
    wanted.retain(|(device, _)| uplinks.contains(device));
    let present = match read(handle).await {
        Ok(present) => present,
        Err(source) => return (Kept::default(), vec![HostError::Neighbours(source)]),
    };
    let steps = diff(&present, &wanted);
    let kept = Kept {
        next_hops: wanted.len(),
        reminded: steps.iter().filter(|(_, step)| *step == Step::Remind).count(),
    };
    let requests = steps
        .into_iter()
        .map(|(hop, step)| apply(handle.clone(), hop, step));
    let results: Vec<Result<(), HostError>> =
        stream::iter(requests).buffer_unordered(PARALLEL).collect().await;
    (kept, results.into_iter().filter_map(Result::err).collect())
}

fn diff(present: &BTreeMap<NextHop, Present>, wanted: &BTreeSet<NextHop>) -> Vec<(NextHop, Step)> {
    let gone = present
        .iter()
        .filter(|(hop, there)| there.ours && !there.fixed && !wanted.contains(hop))
        .map(|(hop, _)| (*hop, Step::Remove));
    let missing = wanted.iter().filter_map(|hop| match present.get(hop) {
        Some(Present { fixed: true, .. } | Present { managed: true, .. }) => None,
        Some(Present { ours: true, .. }) => Some((*hop, Step::Remind)),
        Some(_) | None => Some((*hop, Step::Keep)),
    });
    gone.chain(missing).collect()
}

async fn apply(handle: Handle, (device, address): NextHop, step: Step) -> Result<(), HostError> {
    let neighbours = handle.neighbours();
    let mut request = neighbours
        .add(device, address)
        .state(NeighbourState::None)
        .replace();
    let message = request.message_mut();
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
    let (action, result) = match step {
        Step::Keep => {
            let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
            message.attributes.push(managed);
            ("keep", request.execute().await)
        }
        Step::Remind => ("resolve", request.flags(NeighbourFlags::Use).execute().await),
        Step::Remove => {
            let message = message.clone();
            ("remove", neighbours.del(message).execute().await)
        }
    };
    match result {
        // It went by itself, or with its device.
        Err(rtnetlink::Error::NetlinkError(error))
            if step == Step::Remove && matches!(-error.raw_code(), libc::ENOENT | libc::ENODEV) =>
        {
            Ok(())
        }
        Err(source) => Err(HostError::Neighbour {
            action,
            address,
            device,
            source,
        }),
        Ok(()) => Ok(()),
    }
}

/// How packets to `node` leave: by which device, to which neighbour; `None` if they do not, or not by a router although
/// they should.
async fn next_hop(handle: Handle, node: IpAddr, by_router: bool) -> Option<NextHop> {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = match node {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes.push(RouteAttribute::Destination(node.into()));
    let mut routes = Box::pin(handle.route().get(request).execute());
    way(&routes.try_next().await.ok()??, node).filter(|(_, next)| !by_router || *next != node)
}

fn way(route: &RouteMessage, node: IpAddr) -> Option<NextHop> {
    let (mut device, mut next) = (None, node);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(address) => next = ip(address)?,
            RouteAttribute::Via(via) => {
                next = match via {
                    rtnetlink::packet_route::route::RouteVia::Inet(address) => (*address).into(),
                    rtnetlink::packet_route::route::RouteVia::Inet6(address) => (*address).into(),
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    Some((device?, next))
}

/// The neighbours of both families.
async fn read(handle: &Handle) -> Result<BTreeMap<NextHop, Present>, rtnetlink::Error> {
    let mut present = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = handle.neighbours().get().set_address_family(family);
        let neighbours: Vec<NeighbourMessage> = request.execute().try_collect().await?;
        present.extend(neighbours.iter().filter_map(parse));
    }
    Ok(present)
}

fn parse(neighbour: &NeighbourMessage) -> Option<(NextHop, Present)> {
    let mut address = None;
    let mut there = Present {
        ours: false,
        managed: false,
        fixed: matches!(
            neighbour.header.state,
            NeighbourState::Permanent | NeighbourState::Noarp
        ),
    };
    for attribute in &neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::from(*v6)),
            NeighbourAttribute::Protocol(protocol) => there.ours = *protocol == PROTOCOL,
            NeighbourAttribute::ExtFlags(flags) => there.managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    Some(((neighbour.header.ifindex, address?), there))
}

/// Removes all neighbours of ours.
pub(super) async fn remove(handle: &Handle) -> Result<(), HostError> {
    let (_, errors) = sync(handle, &Others::default(), &BTreeSet::new()).await;
    errors.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_entries_are_removed_and_none_is_kept_twice() {
        let hop = |number: u8| (2, IpAddr::from([192, 168, 0, number]));
        let there = |ours, managed, fixed| Present { ours, managed, fixed };
        for (what, present, wanted, expected) in [
            ("nothing is there", None, true, Some(Step::Keep)),
            (
                "resolved by traffic",
                Some(there(false, false, false)),
                true,
                Some(Step::Keep),
            ),
            ("kept already", Some(there(true, true, false)), true, None),
            (
                "kept by somebody else",
                Some(there(false, true, false)),
                true,
                None,
            ),
            (
                "a kernel that keeps none",
                Some(there(true, false, false)),
                true,
                Some(Step::Remind),
            ),
            ("the operator's", Some(there(false, false, true)), true, None),
            (
                "no longer needed",
                Some(there(true, true, false)),
                false,
                Some(Step::Remove),
            ),
            (
                "a leftover, not kept",
                Some(there(true, false, false)),
                false,
                Some(Step::Remove),
            ),
            (
                "made the operator's since",
                Some(there(true, false, true)),
                false,
                None,
            ),
            ("somebody else's", Some(there(false, true, false)), false, None),
            ("nothing at all", None, false, None),
        ] {
            let present = present.into_iter().map(|there| (hop(9), there)).collect();
            let wanted = wanted.then_some(hop(9)).into_iter().collect();
            let steps: Vec<_> = expected.into_iter().map(|step| (hop(9), step)).collect();
            assert_eq!(diff(&present, &wanted), steps, "{what}");
        }
    }
}
