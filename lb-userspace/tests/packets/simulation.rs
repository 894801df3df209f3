//! The decision without a kernel, over the same map contents: what `lb_common::net` says a packet comes to.

use std::collections::BTreeMap;

use lb_common::{
    abi::{Action, Device, DeviceKind, FragmentKey, Kind, Node, Outcome, Phase, Rows},
    net::{
        Arrival, Before, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Net, Odd, Parsed, Scratch, Tables as _, before,
        open, opened,
    },
    testing::{
        odd::{Odds, later, odd, remember_first},
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

/// A first fragment is remembered.
trait Note<A> {
    fn note(
        &self,
        datagram: Option<FragmentKey<A>>,
        parsed: &Parsed<A>,
        unless: bool,
        frame: &[u8],
    ) -> Vec<u8>;
}

impl<F: Net> Note<F::Addr> for SimTables<F> {
    fn note(
        &self,
        datagram: Option<FragmentKey<F::Addr>>,
        parsed: &Parsed<F::Addr>,
        unless: bool,
        frame: &[u8],
    ) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if let Some(datagram) = datagram.filter(|_| !unless) {
            remember_first(self, &mut frame, &datagram, &parsed.tuple, parsed.flags);
        }
        frame
    }
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
        let Some(destination) = F::destination(&frame) else {
            return leave(Outcome::PassedMalformed);
        };
        let Some(address) = self.address(&destination) else {
            return leave(Outcome::PassedNotOurs);
        };
        let odds = match F::parse(&frame) {
            Ok(parsed) => Odds::Ports(parsed, None),
            Err(Odd::Pass(outcome)) => Odds::Pass(outcome),
            Err(Odd::Look) => odd::<F>(self, frame, Phase::Before),
        };
        let (parsed, datagram) = match odds {
            Odds::Ports(parsed, datagram) => (parsed, datagram),
            Odds::Pass(outcome) => return leave(outcome),
            Odds::Later(_) if at_xdp => return leave(Outcome::PassedToTcFragment),
            Odds::Later(known) => {
                return leave(later(known, Phase::Before, DeviceKind::Uplink, Some(address)));
            }
            Odds::Translated(flow, outcome, _) if at_xdp && flow.action() != Action::Stack => {
                let fragment = outcome == Outcome::ForwardedFragment;
                return leave(if fragment {
                    Outcome::PassedToTcFragment
                } else {
                    Outcome::PassedToTcError
                });
            }
            Odds::Translated(flow, outcome, mut translated) => {
                if flow.action() == Action::Neighbour && !age::<F>(&mut translated) {
                    return Verdict {
                        outcome: Outcome::DroppedExpired,
                        frame: Some(translated),
                    };
                }
                return Verdict {
                    outcome,
                    frame: Some(translated),
                };
            }
        };
        let kind = DeviceKind::Uplink;
        let arrival = Arrival { device, kind };
        let Before { flow, outcome } = before::<F, _>(self, &parsed).unwrap_or_else(|| {
            scratch.parsed = parsed;
            let outcome = open(self, &arrival, &mut scratch, address);
            opened(&scratch, outcome)
        });
        let Some(flow) = flow.copied() else {
            self.note(datagram, &parsed, at_xdp, frame);
            return leave(outcome);
        };
        let mut aged = frame.to_vec();
        if flow.action() == Action::Neighbour {
            if !age::<F>(&mut aged) {
                // Remembered, but it goes nowhere.
                self.note(datagram, &parsed, at_xdp, frame);
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
            Some(translated) => Verdict {
                outcome,
                frame: Some(self.note(datagram, &parsed, false, &translated)),
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
