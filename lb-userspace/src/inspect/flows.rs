//! One line for each flow: who talks to whom, as the client sees it and as the backend does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{Action, Address, Family, Flow, Phase, State},
    net::lifetime,
};
use serde::Serialize;

use super::{
    clock::{Clock, duration},
    filter::Filter,
    names::{Names, ServiceName},
    ports::{family, protocol},
    table::{Row, or_dash},
};
use crate::maps::{FlowEntry, Lookup, MapError};

/// A flow: a connection, or an exchange of datagrams.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FlowRow {
    /// The Service; null if names are not known, or if it is gone.
    pub service: Option<ServiceName>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Who asks.
    pub client: SocketAddr,
    /// What the client sends to.
    pub frontend: SocketAddr,
    /// Whom the backend sees: the client, or this node in its place.
    pub source: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// `new`, `answered`, `established`, `closing-by-client`, `closing-by-backend` or `closed`.
    pub state: &'static str,
    /// What becomes of the client's packets after their translation: `stack`, `redirect` or `receive`.
    pub action: &'static str,
    /// The device that they are redirected to, or received on; null: the stack routes them.
    pub device: Option<String>,
    /// Seconds since the first packet.
    pub age_seconds: u64,
    /// Seconds since the last packet in either direction (within some 16).
    pub idle_seconds: u64,
    /// Seconds until it is forgotten, if nothing more comes.
    pub expires_seconds: u64,
}

/// The flows of one family that `filter` wants, those that were quiet for longest last. `halves` are the entries of the
/// flow table, `device` gives the name of an interface.
///
/// # Errors
/// If a map cannot be read.
pub fn flows<F: Family>(
    maps: &dyn Lookup<F>,
    halves: &[FlowEntry<F>],
    names: &Names,
    filter: &Filter,
    clock: &Clock,
    device: &dyn Fn(u32) -> String,
) -> Result<Vec<FlowRow>, MapError> {
    let forward = halves
        .iter()
        .filter(|(_, flow)| flow.flags & Flow::<F::Addr>::REVERSE == 0);
    // By their keys: an entry may have been read twice. First what is translated before the routing decision.
    let (mut second, mut first) = (BTreeMap::new(), BTreeMap::new());
    for (key, flow) in forward {
        let stage = if key.phase == Phase::After as u8 {
            &mut second
        } else {
            &mut first
        };
        stage.insert(*key, *flow);
    }
    let mut rows = Vec::new();
    for (key, flow) in first {
        // Of two translations in a row, the second begins with what the first ends with.
        let last = second.get(&flow.to).unwrap_or(&flow);
        let (to, at): (IpAddr, IpAddr) = (key.destination.into(), last.to.destination.into());
        let service = match names.at(Some(to), key.destination_port, key.protocol) {
            Some(exact) => Some(exact),
            None if takes_node_ports(maps, &key.destination)? => {
                names.at(None, key.destination_port, key.protocol)
            }
            None => None,
        };
        let client: IpAddr = key.source.into();
        let source: IpAddr = last.to.source.into();
        if !filter.admits(service.as_ref(), &[client, to, source, at]) {
            continue;
        }
        let seen = if flow.seen.wrapping_sub(last.seen) < u32::MAX / 2 {
            flow.seen
        } else {
            last.seen
        };
        let state = State::from_number(flow.state);
        let idle_seconds = clock.since(seen);
        rows.push(FlowRow {
            service,
            family: family::<F>(),
            protocol: protocol(key.protocol),
            client: SocketAddr::new(client, key.source_port),
            frontend: SocketAddr::new(to, key.destination_port),
            source: SocketAddr::new(source, last.to.source_port),
            backend: SocketAddr::new(at, last.to.destination_port),
            state: state_name(state),
            action: action(flow.action),
            device: (flow.device != 0).then(|| device(flow.device)),
            age_seconds: clock.since(flow.created),
            idle_seconds,
            expires_seconds: clock
                .seconds(lifetime(key.protocol, state))
                .saturating_sub(idle_seconds),
        });
    }
    sort(&mut rows);
    Ok(rows)
}

/// The busiest first: those that a packet passed last.
pub(super) fn sort(rows: &mut [FlowRow]) {
    let order = |row: &FlowRow| (row.idle_seconds, row.client, row.frontend, row.protocol.clone());
    rows.sort_by_cached_key(order);
}

/// Whether NodePorts are served on an address, for anybody.
fn takes_node_ports<F: Family>(maps: &dyn Lookup<F>, address: &F::Addr) -> Result<bool, MapError> {
    let any = Address::NODE_PORTS | Address::OTHER_NODE | Address::LOCALHOST;
    Ok(maps
        .address(address)?
        .is_some_and(|address| address.flags & any != 0))
}

fn state_name(state: State) -> &'static str {
    match state {
        State::New => "new",
        State::Answered => "answered",
        State::Established => "established",
        State::ClosingForward => "closing-by-client",
        State::ClosingReverse => "closing-by-backend",
        State::Closed => "closed",
    }
}

/// Of both halves' actions, that of the client's packets.
fn action(both: u8) -> &'static str {
    match both & 0xf {
        of if of == Action::Neighbour as u8 => "redirect",
        of if of == Action::Receive as u8 => "receive",
        _ => "stack",
    }
}

impl Row for FlowRow {
    fn headings(wide: bool) -> Vec<&'static str> {
        let mut headings = vec![
            "SERVICE", "PROTO", "CLIENT", "FRONTEND", "BACKEND", "STATE", "AGE", "IDLE",
        ];
        if wide {
            headings.extend(["SOURCE-SEEN", "ACTION", "DEVICE", "EXPIRES"]);
        }
        headings
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let mut cells = vec![
            self.service
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            self.protocol.clone(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.state.to_owned(),
            duration(self.age_seconds),
            duration(self.idle_seconds),
        ];
        if wide {
            cells.extend([
                self.source.to_string(),
                self.action.to_owned(),
                or_dash(self.device.as_ref()),
                duration(self.expires_seconds),
            ]);
        }
        cells
    }
}
