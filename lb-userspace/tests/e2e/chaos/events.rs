//! What happens to agents, drawn from a seed.

use std::{fmt, time::Duration};

use super::random::Random;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    /// SIGTERM, and a start.
    Restart,
    /// SIGKILL at any time, and a start.
    Kill,
    /// SIGKILL between the first and the last map write of a plan that follows a change, and a start.
    KillWithinPlan,
    /// A start that is killed between the first and the last map write that fill its maps, and another.
    KillWithinFilling,
    /// The next agent has programs of another text, or those from before.
    Text,
    /// The next agent has maps of another layout, or those from before.
    Layout,
    /// The next agent is at another hook of the uplinks.
    Hook,
    /// The API server is killed and started.
    ApiServer,
}

/// The kinds in a dozen events, in any order: of what ends by SIGKILL, half ends within a plan.
const DOZEN: [Kind; 12] = [
    Kind::Restart,
    Kind::Restart,
    Kind::Kill,
    Kind::Kill,
    Kind::KillWithinPlan,
    Kind::KillWithinFilling,
    Kind::Text,
    Kind::Text,
    Kind::Layout,
    Kind::Layout,
    Kind::Hook,
    Kind::ApiServer,
];

/// Hooks of the uplinks, of which an agent has one.
const HOOKS: [&str; 3] = ["tc", "xdp-native", "xdp-generic"];

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    /// Whose agent.
    pub(super) node: usize,
    /// What it is started with.
    pub(super) hook: &'static str,
    /// Map writes of a plan after which it is killed.
    pub(super) writes: u64,
    /// How long it stays away.
    pub(super) away: Duration,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restart => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::KillWithinPlan => "SIGKILL within a plan",
            Self::KillWithinFilling => "SIGKILL within the filling",
            Self::Text => "other text",
            Self::Layout => "other layout",
            Self::Hook => "other hook",
            Self::ApiServer => "API server killed",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == Kind::ApiServer {
            return f.write_str(self.kind.name());
        }
        write!(f, "{} node{}", self.kind.name(), self.node + 1)?;
        match self.kind {
            Kind::KillWithinPlan | Kind::KillWithinFilling => write!(f, " after {} writes", self.writes),
            Kind::Hook => write!(f, " {}", self.hook),
            _ => Ok(()),
        }
    }
}

/// So many events, on so many nodes. What cannot be done here is a restart instead: all else is as it would be.
pub(super) fn draw(
    random: &mut Random,
    count: usize,
    nodes: usize,
    can: impl Fn(Kind) -> bool,
) -> Vec<Event> {
    let mut hooks = vec![HOOKS[0]; nodes];
    let mut events = Vec::new();
    let mut kinds = Vec::new();
    while events.len() < count {
        if kinds.is_empty() {
            kinds = DOZEN.to_vec();
            random.shuffle(&mut kinds);
        }
        let kind = kinds.pop().expect("there are some");
        let kind = if can(kind) { kind } else { Kind::Restart };
        let node = random.index(nodes);
        if kind == Kind::Hook {
            let others: Vec<_> = HOOKS.into_iter().filter(|hook| *hook != hooks[node]).collect();
            hooks[node] = others[random.index(others.len())];
        }
        let most = if kind == Kind::KillWithinFilling { 150 } else { 12 };
        events.push(Event {
            kind,
            node,
            hook: hooks[node],
            writes: 1 + random.below(most),
            away: Duration::from_millis(random.below(500)),
        });
    }
    events
}

#[test]
fn the_same_seed_gives_the_same_events_of_every_kind() {
    let draw = |seed| draw(&mut Random::new(seed), 48, 2, |_| true);
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let count = |kind| draw(7).iter().filter(|event| event.kind == kind).count();
    for kind in DOZEN {
        assert_eq!(
            count(kind),
            4 * DOZEN.iter().filter(|one| **one == kind).count(),
            "{kind:?}"
        );
    }
    assert_eq!(
        count(Kind::Kill),
        count(Kind::KillWithinPlan) + count(Kind::KillWithinFilling)
    );
}

#[test]
fn what_cannot_be_done_leaves_all_else_as_it_is() {
    let all = draw(&mut Random::new(7), 48, 2, |_| true);
    let some = draw(&mut Random::new(7), 48, 2, |kind| kind != Kind::ApiServer);
    for (all, some) in all.iter().zip(&some) {
        let kind = if all.kind == Kind::ApiServer {
            Kind::Restart
        } else {
            all.kind
        };
        assert_eq!(*some, Event { kind, ..all.clone() });
    }
}
