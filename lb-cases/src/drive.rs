//! Does what a flow says, with real packets, and tells what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_lab::{Options, Place, Proto};

use crate::{
    format::{Case, Flow, Outcome, Protocol},
    line::{Ends, Line},
    plan::Plan,
    sctp,
    seen::{Observation, Seen},
    slots::Slot,
};

/// Source ports that the runner gives out: below the kernel's own, above those that Services and the agent
/// (10,249 and 10,256) have.
const FIRST_PORT: u16 = 11_000;
const LAST_PORT: u16 = 29_999;

/// Source ports that no connection of this scenario has had yet. (A datagram from a port that was used a moment
/// ago belongs to the flow of that moment, rightly.)
#[derive(Debug, Default)]
pub(crate) struct Ports {
    next: BTreeMap<IpAddr, u16>,
    fixed: BTreeSet<u16>,
}

impl Ports {
    pub(crate) fn new(case: &Case) -> Self {
        let steps = case.steps();
        let flows = steps.iter().flat_map(|step| step.flows);
        let fixed = flows.flat_map(|flow| [Some(flow.dst.port), flow.client.port]);
        Self {
            next: BTreeMap::new(),
            fixed: fixed.flatten().collect(),
        }
    }

    fn take(&mut self, client: IpAddr, number: usize) -> Vec<u16> {
        let Self { next, fixed } = self;
        let next = next.entry(client).or_insert(FIRST_PORT);
        let mut ports = Vec::new();
        while ports.len() < number {
            if !fixed.contains(next) {
                ports.push(*next);
            }
            *next = if *next == LAST_PORT { FIRST_PORT } else { *next + 1 };
        }
        ports
    }
}

/// What a scenario's flows share.
pub(crate) struct Driver<'a> {
    pub(crate) ports: Ports,
    /// Flows that others continue, by name.
    lines: BTreeMap<String, (Ends, Line)>,
    /// Names of flows that a later one continues.
    continued: BTreeSet<&'a str>,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        let flows = case
            .flows
            .iter()
            .chain(case.then.iter().flat_map(|then| &then.flows));
        Self {
            ports: Ports::new(case),
            lines: BTreeMap::new(),
            continued: flows.filter_map(|flow| flow.continues.as_deref()).collect(),
        }
    }

    /// Does what a flow says from this place.
    pub(crate) fn drive(&mut self, place: &Place, flow: &Flow, slot: &Slot<'_>) -> Result<Observation> {
        let plan = Plan::of(flow);
        let mut attempts = Vec::new();
        if let Some(name) = &flow.continues {
            let known = self.lines.remove(name);
            let (ends, mut line) = known.with_context(|| format!("{name:?} is not in use any more"))?;
            attempts.push(line.exchange(&ends, plan.limit)?);
            // By both names: either may be continued.
            self.lines.insert(name.clone(), (ends, line));
            return Ok(Observation {
                attempts,
                ..Observation::default()
            });
        }
        if self.continued.contains(flow.name.as_str()) {
            let port = flow.client.port;
            let port = port.or_else(|| self.ports.take(flow.client.ip.0, 1).first().copied());
            let ends = Ends {
                place: place.clone(),
                from: SocketAddr::new(flow.client.ip.0, port.unwrap_or_default()),
                to: flow.dst.socket(),
            };
            let mut line = Line::open(flow.dst.proto, &ends)?;
            attempts.push(line.exchange(&ends, plan.limit)?);
            self.lines.insert(flow.name.clone(), (ends, line));
        }
        let rest = plan.attempts.saturating_sub(attempts.len());
        let ports = match flow.client.port {
            Some(port) if rest > 0 => vec![port],
            Some(_) => Vec::new(),
            None => self.ports.take(flow.client.ip.0, rest),
        };
        match flow.repeat {
            None => attempts.extend(connect(place, flow, &ports, plan.limit)?),
            Some(repeat) => {
                for port in ports {
                    slot.idle(Duration::from_secs(repeat.gap_seconds));
                    attempts.extend(connect(place, flow, &[port], plan.limit)?);
                }
            }
        }
        Ok(Observation {
            attempts,
            ..Observation::default()
        })
    }
}

/// One connection from each port.
fn connect(place: &Place, flow: &Flow, ports: &[u16], limit: Duration) -> Result<Vec<Seen>> {
    let (from, dst) = (flow.client.ip.0, flow.dst.socket());
    let proto = match flow.dst.proto {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
        Protocol::Sctp => return sctp::connect_each(place.netns(), from, ports, dst, limit),
    };
    let options = |port: &u16| Options {
        timeout: limit,
        ..Options::from(SocketAddr::new(from, *port))
    };
    let options: Vec<_> = ports.iter().map(options).collect();
    let outcomes = place.connect_each(proto, dst, &options)?;
    let mut seen: Vec<Seen> = outcomes.into_iter().map(Into::into).collect();
    if proto == Proto::Udp && flow.expect.outcome != Outcome::Drop {
        // A single datagram may be lost on a busy machine.
        for (seen, options) in seen.iter_mut().zip(&options) {
            if *seen == Seen::Silent {
                *seen = place.connect(proto, dst, options)?.into();
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once_and_never_those_that_mean_something() {
        let client = "10.0.0.1".parse().unwrap();
        let mut ports = Ports {
            fixed: [11_001].into(),
            ..Ports::default()
        };
        assert_eq!(ports.take(client, 3), [11_000, 11_002, 11_003]);
        assert_eq!(ports.take(client, 1), [11_004]);
        let all: BTreeSet<_> = ports.take("::1".parse().unwrap(), 18_999).into_iter().collect();
        assert_eq!(all.len(), 18_999);
        assert!(!all.contains(&11_001));
    }
}
