//! What is watched: a question in names and addresses becomes the ends that programs compare packets with.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::{
    abi::{Address, End, Family, FrontendKey, Protocol, V4, V6},
    net::Net,
};

use crate::{
    explain::{Destination, QuestionError},
    maps::{Lookup, MapError},
};

/// A destination, or all ports of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// As `explain` has it.
    Destination(Destination),
    /// Whatever is sent to this address.
    Address(IpAddr),
}

impl FromStr for Place {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        match crate::model::parse_address(text) {
            Some(address) => Ok(Self::Address(address)),
            None => text.parse().map(Self::Destination),
        }
    }
}

/// One side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who begins.
    From,
    /// Whom it is about.
    To,
}

impl Side {
    const fn number(self) -> u8 {
        match self {
            Self::From => End::FROM,
            Self::To => End::TO,
        }
    }
}

/// A part of what is watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Watched {
    /// All ports of an address.
    Address(IpAddr),
    /// One port. If it is a frontend, its backends as well: that is where the packets go.
    Port(SocketAddr, Protocol),
    /// One port of this node's own: without packets whose ports are not known, which are mostly about something else.
    NodePort(SocketAddr, Protocol),
}

/// The ends for all of this on one side.
///
/// # Errors
/// If a map cannot be read.
pub fn ends(
    watched: &[Watched],
    side: Side,
    v4: &dyn Lookup<V4>,
    v6: &dyn Lookup<V6>,
) -> Result<BTreeSet<End>, MapError> {
    let mut ends = BTreeSet::new();
    for one in watched {
        match one {
            Watched::Address(address) => {
                ends.insert(end(*address, 0, 0, side));
                ends.insert(end(*address, 0, End::NO_PORTS, side));
            }
            Watched::Port(place, protocol) | Watched::NodePort(place, protocol) => {
                let backends = match place.ip() {
                    IpAddr::V4(_) => behind::<V4>(v4, *place, *protocol)?,
                    IpAddr::V6(_) => behind::<V6>(v6, *place, *protocol)?,
                };
                for place in backends.iter().chain([place]) {
                    ends.insert(end(place.ip(), place.port(), *protocol as u8, side));
                }
                let other = matches!(one, Watched::Port(..)).then_some(place);
                for place in backends.iter().chain(other) {
                    ends.insert(end(place.ip(), 0, End::NO_PORTS, side));
                }
            }
        }
    }
    Ok(ends)
}

/// An address as ends have it.
pub(super) fn general(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn end(address: IpAddr, port: u16, protocol: u8, side: Side) -> End {
    End {
        address: general(address),
        port,
        protocol,
        side: side.number(),
    }
}

/// The backends of the frontend at `place`: none if there is no frontend.
fn behind<F: Net>(
    maps: &dyn Lookup<F>,
    place: SocketAddr,
    protocol: Protocol,
) -> Result<Vec<SocketAddr>, MapError> {
    let Some(address) = F::from_ip(place.ip()) else {
        return Ok(Vec::new());
    };
    let mut key = FrontendKey {
        address,
        port: place.port(),
        protocol: protocol as u8,
        reserved: 0,
    };
    let mut frontend = maps.frontend(&key)?;
    let node_ports = Address::NODE_PORTS | Address::OTHER_NODE | Address::LOCALHOST;
    if frontend.is_none()
        && maps
            .address(&address)?
            .is_some_and(|address| address.flags & node_ports != 0)
    {
        key.address = <F as Family>::Addr::default();
        frontend = maps.frontend(&key)?;
    }
    let service = frontend.map_or(Ok(None), |frontend| maps.service(frontend.service))?;
    let Some(set) = service
        .and_then(|service| service.set())
        .map_or(Ok(None), |set| maps.set(set))?
    else {
        return Ok(Vec::new());
    };
    let indices = (0..u32::from(set.total)).map(|position| set.backends + position);
    let mut backends = Vec::new();
    for index in indices {
        backends.extend(
            maps.backend(index)?
                .map(|backend| SocketAddr::new(backend.address.into(), backend.port)),
        );
    }
    Ok(backends)
}
