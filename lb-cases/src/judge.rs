//! Holds what was seen against what is expected. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::{
    format::{Expected, Flow, Outcome, SourceAt},
    plan::Plan,
    seen::{Observation, Seen},
};

/// What a judgement depends on besides the flow itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// The addresses of `self`.
    pub(crate) own: BTreeSet<IpAddr>,
    /// Who answered earlier flows, by their names.
    pub(crate) earlier: BTreeMap<String, BTreeSet<SocketAddr>>,
}

/// A flow that did not do what it should: what is wrong, in words.
pub(crate) fn flow(flow: &Flow, seen: &Observation, context: &Context) -> Result<(), String> {
    let expect = &flow.expect;
    let dst = flow.dst.socket();
    let mut outcomes = BTreeSet::new();
    for attempt in &seen.attempts {
        outcomes.insert(outcome(attempt, dst, expect)?);
    }
    let mut outcomes = outcomes.into_iter();
    let (one, more) = (outcomes.next(), outcomes.next());
    let outcome = match (one, more) {
        (None, _) => return Err("nothing was tried".into()),
        (Some(one), None) => one,
        (Some(one), Some(other)) => return Err(format!("some {one}, some {other}")),
    };
    if outcome != expect.outcome && !expect.also_ok.contains(&outcome) {
        return Err(format!("it is a {outcome}"));
    }
    match outcome {
        Outcome::Forward => forwarded(flow, seen, context),
        Outcome::Drop if !seen.arrived.is_empty() => Err("silent, but packets arrived at endpoints".into()),
        Outcome::Drop | Outcome::Reject | Outcome::Pass => Ok(()),
    }
}

/// Which outcome one attempt shows.
fn outcome(seen: &Seen, dst: SocketAddr, expect: &Expected) -> Result<Outcome, String> {
    match seen {
        // A backend may happen to have the Service's own address and port.
        Seen::Answered { by, .. } if expect.backends.contains(by) => Ok(Outcome::Forward),
        Seen::Answered { by, .. } if *by == dst => Ok(Outcome::Pass),
        Seen::Answered { .. } => Ok(Outcome::Forward),
        Seen::Refused => Ok(Outcome::Reject),
        Seen::Silent => Ok(Outcome::Drop),
        Seen::Other(what) => Err(what.clone()),
    }
}

fn forwarded(flow: &Flow, seen: &Observation, context: &Context) -> Result<(), String> {
    let expect = &flow.expect;
    let reached = seen.answered();
    if expect.outcome != Outcome::Forward && expect.backends.is_empty() {
        return Ok(());
    }
    if let Some(stranger) = reached.iter().find(|by| !expect.backends.contains(by)) {
        return Err(format!("{stranger} is none of the backends"));
    }
    if Plan::of(flow).all_backends
        && let Some(missed) = expect.backends.iter().find(|backend| !reached.contains(backend))
    {
        return Err(format!("{missed} was never reached"));
    }
    let one = expect.sticky || expect.same_backend_as.is_some();
    if one && reached.len() != 1 {
        return Err(format!("{} backends instead of one", reached.len()));
    }
    if let Some(name) = &expect.same_backend_as {
        let earlier = context.earlier.get(name);
        if earlier.is_none_or(|earlier| *earlier != reached) {
            return Err(format!("not the backend of {name:?}, which was {earlier:?}"));
        }
    }
    if let Some(min) = expect.min_distinct_backends
        && reached.len() < min
    {
        return Err(format!("{} backends instead of at least {min}", reached.len()));
    }
    seen.attempts
        .iter()
        .try_for_each(|seen| source(flow, seen, context))
}

/// What one backend saw as the client's address.
fn source(flow: &Flow, seen: &Seen, context: &Context) -> Result<(), String> {
    let Seen::Answered { by, source } = seen else {
        return Ok(());
    };
    let Some(wanted) = flow.expect.source.as_ref().and_then(|all| all.at(*by)) else {
        return Ok(());
    };
    let is = |wanted: SourceAt| match wanted {
        SourceAt::Preserved => *source == flow.client.ip.0,
        SourceAt::Masqueraded => context.own.contains(source),
    };
    if is(wanted) || flow.expect.source_also_ok.is_some_and(is) {
        return Ok(());
    }
    Err(format!("{by} saw {source} as the client: not {wanted}"))
}

#[cfg(test)]
mod tests;
