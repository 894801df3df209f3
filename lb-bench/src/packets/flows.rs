//! A flow table, ours or a floor's, with general addresses.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
};
use lb_common::abi::{Family as Typed, Flow, Protocol, Tuple, V4, V6, names};

use super::family::Family;

/// A flow entry's key and value.
pub(crate) type Entry = (Tuple<IpAddr>, Flow<IpAddr>);

/// A flow table.
pub(crate) trait FlowTable {
    /// The entry with this key.
    fn get(&self, key: &Tuple<IpAddr>) -> Result<Option<Flow<IpAddr>>>;
    /// Writes an entry.
    fn put(&mut self, entry: &Entry) -> Result<()>;
    /// Removes an entry, if it is there.
    fn remove(&mut self, key: &Tuple<IpAddr>);
}

/// Takes a family's flow table out of a loaded object.
pub(crate) fn take(ebpf: &mut Ebpf, family: Family) -> Result<Box<dyn FlowTable>> {
    Ok(match family {
        Family::V4 => Box::new(open::<V4>(ebpf)?),
        Family::V6 => Box::new(open::<V6>(ebpf)?),
    })
}

fn open<F: Typed>(ebpf: &mut Ebpf) -> Result<Table<F>>
where
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    let name = names::FLOWS[F::INDEX];
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    Ok(Table(HashMap::try_from(map)?))
}

/// The tuple of a TCP segment.
pub(crate) fn tuple(from: SocketAddr, to: SocketAddr) -> Tuple<IpAddr> {
    Tuple {
        source: from.ip(),
        destination: to.ip(),
        source_port: from.port(),
        destination_port: to.port(),
        protocol: Protocol::Tcp as u8,
        phase: 0,
        reserved: 0,
    }
}

/// Both halves of a flow, read by the key of its forward half.
pub(crate) fn pair(table: &dyn FlowTable, key: Tuple<IpAddr>) -> Result<Option<[Entry; 2]>> {
    let Some(forward) = table.get(&key)? else {
        return Ok(None);
    };
    let twin = forward.to.reverse();
    Ok(table.get(&twin)?.map(|reverse| [(key, forward), (twin, reverse)]))
}

/// The same flow of another client.
pub(crate) fn of_client([forward, reverse]: &[Entry; 2], client: SocketAddr) -> [Entry; 2] {
    let from = |mut tuple: Tuple<IpAddr>| {
        tuple.source = client.ip();
        tuple.source_port = client.port();
        tuple
    };
    let to = |mut tuple: Tuple<IpAddr>| {
        tuple.destination = client.ip();
        tuple.destination_port = client.port();
        tuple
    };
    let with = |flow: &Flow<IpAddr>, to| Flow { to, ..*flow };
    [
        (from(forward.0), with(&forward.1, from(forward.1.to))),
        (to(reverse.0), with(&reverse.1, to(reverse.1.to))),
    ]
}

struct Table<F: Typed>(HashMap<MapData, Tuple<F::Addr>, Flow<F::Addr>>)
where
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod;

impl<F: Typed> FlowTable for Table<F>
where
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    fn get(&self, key: &Tuple<IpAddr>) -> Result<Option<Flow<IpAddr>>> {
        match self.0.get(&typed::<F>(key), 0) {
            Ok(flow) => {
                let to = convert(&flow.to, Into::into);
                Ok(Some(leading(&flow, to)))
            }
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&mut self, (key, flow): &Entry) -> Result<()> {
        let value = leading(flow, typed::<F>(&flow.to));
        Ok(self.0.insert(typed::<F>(key), value, 0)?)
    }

    fn remove(&mut self, key: &Tuple<IpAddr>) {
        let _ = self.0.remove(&typed::<F>(key));
    }
}

fn typed<F: Typed>(tuple: &Tuple<IpAddr>) -> Tuple<F::Addr> {
    convert(tuple, |ip| {
        F::from_ip(ip).expect("an address of the table's family")
    })
}

fn convert<A: Copy, B>(tuple: &Tuple<A>, address: impl Fn(A) -> B) -> Tuple<B> {
    Tuple {
        source: address(tuple.source),
        destination: address(tuple.destination),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        phase: tuple.phase,
        reserved: tuple.reserved,
    }
}

fn leading<A, B>(flow: &Flow<A>, to: Tuple<B>) -> Flow<B> {
    Flow {
        to,
        seen: flow.seen,
        created: flow.created,
        device: flow.device,
        twin_device: flow.twin_device,
        state: flow.state,
        action: flow.action,
        flags: flow.flags,
    }
}
