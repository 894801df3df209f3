//! What must be counted for Services, told from a packet as it came and as it went: the entries of flows are not looked at.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Counter, Kind, Leg, Outcome, TrafficKey, Tuple, V4, V6},
    net::{Net, Odd},
};

use crate::{
    maps::{Traffic, with_addresses},
    site::{Host, Site, Svc},
};

/// Nothing is counted where that is switched off.
pub(crate) fn nothing(counted: &Traffic) -> Result<(), String> {
    if counted.is_empty() {
        return Ok(());
    }
    Err(format!("counted for a Service although that is off: {counted:?}"))
}

/// Whether `counted` is what a packet comes to that came as `before`, and went as `after` with this outcome.
pub(crate) fn check(
    site: &Site,
    outcome: Outcome,
    before: &[u8],
    after: &[u8],
    counted: &Traffic,
) -> Result<(), String> {
    let all = Counter {
        packets: 1,
        bytes: before.len() as u64,
    };
    let common = |key: &TrafficKey<IpAddr>, counter: &Counter| {
        *counter == all && key.outcome == outcome as u8 && key.reserved == 0
    };
    let seen_again = matches!(outcome, Outcome::ForwardedHeld | Outcome::ForwardedSplit);
    let matches = match (outcome.kind(), tuple(site, before), tuple(site, after)) {
        (Kind::Passed, ..) => counted.is_empty(),
        _ if seen_again => counted.is_empty(),
        (Kind::Forwarded, Some(before), Some(after)) => {
            let expected = exchange(site, &before, &after);
            let counted: Vec<_> = counted.iter().collect();
            match (expected, &counted[..]) {
                (None, []) => true,
                (Some(expected), [(key, counter)]) => {
                    common(key, counter) && TrafficKey { outcome: 0, ..**key } == expected
                }
                _ => false,
            }
        }
        // ICMP errors and later fragments: their flow is not to be seen in them, and may be a second translation.
        (Kind::Forwarded, ..) => {
            let of_service = |key: &TrafficKey<IpAddr>| {
                is_frontend(site, SocketAddr::new(key.frontend, key.frontend_port)) && key.backend_port != 0
            };
            counted.len() <= 1
                && counted
                    .iter()
                    .all(|(key, counter)| common(key, counter) && of_service(key))
        }
        (Kind::Rejected | Kind::Dropped, Some(before), _) => {
            let to = destination(&before);
            let none = [
                Outcome::RejectedNoFrontend,
                Outcome::DroppedNoService,
                Outcome::DroppedOther,
            ];
            let expected = is_frontend(site, to) && !none.contains(&outcome);
            let asked = |key: &TrafficKey<IpAddr>| {
                SocketAddr::new(key.frontend, key.frontend_port) == to
                    && key.leg == Leg::Asked as u8
                    && key.protocol == before.protocol
            };
            let answered = counted.keys().all(|key| key.leg == Leg::Answered as u8);
            counted.len() <= 1
                && counted.iter().all(|(key, counter)| common(key, counter))
                && (counted.keys().all(asked) && counted.len() == usize::from(expected)
                    || !expected && answered)
        }
        (Kind::Rejected | Kind::Dropped, None, _) => {
            counted.len() <= 1 && counted.iter().all(|(key, counter)| common(key, counter))
        }
    };
    if matches {
        return Ok(());
    }
    Err(format!("{outcome:?}: counted for Services: {counted:?}\n"))
}

/// What a translated packet is counted under, but for its outcome.
fn exchange(site: &Site, before: &Tuple<IpAddr>, after: &Tuple<IpAddr>) -> Option<TrafficKey<IpAddr>> {
    let (leg, frontend, backend) = if is_frontend(site, destination(before)) {
        (Leg::Asked, destination(before), destination(after))
    } else if is_frontend(site, source(after)) && source(before) != source(after) {
        (Leg::Answered, source(after), source(before))
    } else {
        return None;
    };
    Some(TrafficKey {
        frontend: frontend.ip(),
        backend: backend.ip(),
        frontend_port: frontend.port(),
        backend_port: backend.port(),
        protocol: before.protocol,
        outcome: 0,
        leg: leg as u8,
        reserved: 0,
    })
}

fn source(tuple: &Tuple<IpAddr>) -> SocketAddr {
    SocketAddr::new(tuple.source, tuple.source_port)
}

fn destination(tuple: &Tuple<IpAddr>) -> SocketAddr {
    SocketAddr::new(tuple.destination, tuple.destination_port)
}

/// Whether a Service has this address, or has had it. (One that is not there has none.)
fn is_frontend(site: &Site, at: SocketAddr) -> bool {
    let has = |hosts: &[Host]| hosts.iter().any(|host| site.ip(*host) == at.ip());
    let served = || Svc::ALL.iter().filter(|svc| **svc != Svc::NoService);
    let port = |of: fn(Svc) -> u16| served().any(|svc| of(*svc) == at.port());
    has(&[Host::Vip, Host::FormerVip, Host::Balancer, Host::External]) && port(Svc::port)
        || has(&[Host::Node, Host::OtherNode, Host::Localhost]) && port(Svc::node_port)
}

/// A frame's tuple, if it has ports to be seen.
fn tuple(site: &Site, frame: &[u8]) -> Option<Tuple<IpAddr>> {
    fn of<F: Net>(frame: &[u8]) -> Option<Tuple<IpAddr>> {
        match F::parse(&frame) {
            Ok(parsed) => Some(with_addresses(&parsed.tuple, Into::into)),
            Err(Odd::Look | Odd::Pass(_)) => None,
        }
    }
    if site.is_v4() {
        of::<V4>(frame)
    } else {
        of::<V6>(frame)
    }
}
