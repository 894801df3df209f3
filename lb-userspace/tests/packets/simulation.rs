//! The decision without a kernel, over the same map contents: what `lb_common::net` says a packet comes to.

use std::collections::BTreeMap;

use lb_common::{
    abi::{Action, Device, DeviceKind, Kind, Node, Outcome, Rows},
    net::{Arrival, Before, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Net, Scratch, before},
    testing::{
        rewrite::{Way, age, translate},
        tables::SimTables,
    },
};

use crate::{
    maps::{Flows, with_addresses, with_target},
    site::{Dev, Host, Site},
};

/// What the maps of both families have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) node: Node,
    pub(crate) devices: BTreeMap<u32, Device>,
    pub(crate) maglev: Vec<Rows>,
}

/// What a packet comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// What the packet is afterwards; `None`: a refusal.
    pub(crate) frame: Option<Vec<u8>>,
}

/// One family's maps without a kernel.
pub(crate) trait Simulation {
    /// A packet that arrives on an uplink, at TC or at XDP.
    fn arrive(&self, site: &Site, device: u32, frame: &[u8], way: Way) -> Verdict;
    /// The flow table.
    fn flows(&self) -> Flows;
}

impl<F: Net> Simulation for SimTables<F> {
    fn arrive(&self, site: &Site, device: u32, frame: &[u8], way: Way) -> Verdict {
        let at_xdp = way == Way::Xdp;
        let leave = |outcome: Outcome| Verdict {
            outcome,
            frame: (outcome.kind() != Kind::Rejected).then(|| frame.to_vec()),
        };
        let ethertype = if F::ADDR_LEN == 4 {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        };
        if frame.get(12..14) != Some(&ethertype.to_be_bytes()) {
            return leave(Outcome::PassedOther);
        }
        let mut scratch = Scratch::default();
        let parsed = match F::parse(&frame) {
            Ok(parsed) => parsed,
            Err(outcome) => return leave(outcome),
        };
        let kind = DeviceKind::Uplink;
        let arrival = Arrival { device, kind };
        let (flow, outcome) = match before::<F, _>(self, &arrival, &parsed, || Some(&mut scratch)) {
            Before::Leave(outcome) => return leave(outcome),
            Before::Translate(flow, outcome) => (*flow, outcome),
        };
        let mut aged = frame.to_vec();
        if flow.action() == Action::Neighbour {
            if !age::<F>(&mut aged) {
                return leave(Outcome::DroppedExpired);
            }
            if at_xdp {
                let (out, mac) = site.hop(flow.to.destination.into());
                let length = F::length(&frame).unwrap_or_default();
                let narrow = site.ip(Host::NarrowPod) == flow.to.destination.into();
                let mtu = if narrow { 1280 } else { 1500 };
                let able = |out: Dev| site.dev(out) == device || Dev::OUT_OF_XDP.contains(&out);
                let (out, mac) = match (out, mac) {
                    (None, _) => return leave(Outcome::PassedToTcRoute),
                    _ if length > mtu => return leave(Outcome::PassedToTcMtu),
                    (Some(Dev::Tun0), _) => return leave(Outcome::PassedToTcTunnel),
                    (Some(out), _) if !able(out) => return leave(Outcome::PassedToTcDevice),
                    (Some(_), None) => return leave(Outcome::PassedToTcNeighbour),
                    (Some(out), Some(mac)) => (out, mac),
                };
                aged[..12].copy_from_slice(&[mac, out.mac()].concat());
            }
        }
        match translate::<F>(&aged, &parsed, &flow.to, way) {
            Some(frame) => Verdict {
                outcome,
                frame: Some(frame),
            },
            None => leave(Outcome::DroppedRewrite),
        }
    }

    fn flows(&self) -> Flows {
        let entries = SimTables::flows(self).into_iter();
        let general = |(key, flow): (_, lb_common::abi::Flow<F::Addr>)| {
            let to = with_addresses(&flow.to, Into::into);
            (with_addresses(&key, Into::into), with_target(&flow, to))
        };
        entries.map(general).collect()
    }
}
