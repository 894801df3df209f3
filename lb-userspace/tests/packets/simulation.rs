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

use crate::maps::{Flows, with_addresses, with_target};

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
    fn arrive(&self, device: u32, frame: &[u8], way: Way) -> Verdict;
    /// The flow table.
    fn flows(&self) -> Flows;
}

impl<F: Net> Simulation for SimTables<F> {
    fn arrive(&self, device: u32, frame: &[u8], way: Way) -> Verdict {
        let at_xdp = way == Way::Xdp;
        let leave = |outcome: Outcome| {
            let rejected = outcome.kind() == Kind::Rejected;
            Verdict {
                outcome: if rejected && at_xdp {
                    Outcome::PassedToTc
                } else {
                    outcome
                },
                frame: (!rejected || at_xdp).then(|| frame.to_vec()),
            }
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
        match F::parse(&frame) {
            Ok(parsed) => scratch.parsed = parsed,
            Err(outcome) => return leave(outcome),
        }
        let parsed = scratch.parsed;
        let kind = DeviceKind::Uplink;
        let (flow, outcome) = match before::<F, _>(self, &Arrival { device, kind }, &mut scratch) {
            Before::Leave(outcome) => return leave(outcome),
            Before::Translate(flow, outcome) => (*flow, outcome),
        };
        if at_xdp && flow.action() != Action::Stack {
            return leave(Outcome::PassedToTc);
        }
        let mut aged = frame.to_vec();
        if flow.action() == Action::Neighbour && !age::<F>(&mut aged) {
            return leave(Outcome::DroppedExpired);
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
