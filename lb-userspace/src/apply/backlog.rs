//! What was asked for and is not in the maps yet: how much, and since when, family by family.
//!
//! *Invariant*: a change counts as waiting from the moment it is sent. So it is seen to wait also if the
//! reconciler hangs in a system call and never takes it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Instant, SystemTime},
};

use super::Change;

/// Where changes are sent to.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: mpsc::Sender<Change>,
    backlog: Arc<Backlog>,
}

/// What waits, shared by those who send, write and ask.
#[derive(Default, Debug)]
pub struct Backlog(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    sent: u64,
    families: [Waiting; 2],
    objects: [Objects; 2],
}

/// How a family stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Waiting {
    /// When the oldest change that is not live was sent; `None`: all are live.
    pub since: Option<Instant>,
    /// When a change was last sent.
    pub asked: Option<SystemTime>,
    /// When everything was last live.
    pub live: Option<SystemTime>,
}

/// Changes of objects.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Objects {
    /// Sent since the start.
    pub total: u64,
    /// Not live yet.
    pub pending: u64,
}

/// What waits at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Waits {
    /// IPv4 and IPv6.
    pub families: [Waiting; 2],
    /// Changes of Services.
    pub services: Objects,
    /// Changes of EndpointSlices.
    pub endpoints: Objects,
}

/// A new way for changes: in here, out there.
#[must_use]
pub fn channel() -> (Inbox, mpsc::Receiver<Change>) {
    let (sender, receiver) = mpsc::channel();
    let backlog = Arc::default();
    (Inbox { sender, backlog }, receiver)
}

impl Inbox {
    /// Sends a change; gives its number, counted from 1. It is live when [`super::Status::live`] is not less.
    pub fn send(&self, change: Change) -> u64 {
        // Held while sending: numbers are given in the order in which changes come out.
        let mut state = self.backlog.lock();
        state.take_note(&change, Instant::now(), SystemTime::now());
        // Nobody listens only while the agent ends.
        let _ = self.sender.send(change);
        state.sent
    }

    /// What waits.
    #[must_use]
    pub fn backlog(&self) -> Arc<Backlog> {
        Arc::clone(&self.backlog)
    }
}

impl Backlog {
    /// What waits now.
    #[must_use]
    pub fn waits(&self) -> Waits {
        let state = self.lock();
        Waits {
            families: state.families,
            services: state.objects[0],
            endpoints: state.objects[1],
        }
    }

    /// The first `received` changes are taken, and those of a family live if it is `settled`.
    pub(super) fn wrote(&self, received: u64, settled: [bool; 2], taken: [u64; 2]) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let mut state = self.lock();
        let more = state.sent > received;
        for (family, settled) in state.families.iter_mut().zip(settled) {
            if settled {
                // What was sent meanwhile has waited for as long as this round took, at most.
                family.since = more.then_some(now);
                family.live = Some(clock);
            }
        }
        if settled == [true, true] {
            for (objects, taken) in state.objects.iter_mut().zip(taken) {
                objects.pending -= taken.min(objects.pending);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_note(&mut self, change: &Change, now: Instant, clock: SystemTime) {
        self.sent += 1;
        for (family, concerned) in self.families.iter_mut().zip(change.families()) {
            if concerned {
                family.since.get_or_insert(now);
                family.asked = Some(clock);
            }
        }
        if let Change::Desired(update) = change {
            for (objects, more) in self
                .objects
                .iter_mut()
                .zip([update.origins.services, update.origins.endpoints])
            {
                objects.total += more;
                objects.pending += more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apply::Update, model::Origins};

    fn update(services: u64, endpoints: u64) -> Change {
        Change::Desired(Update {
            other_nodes: Some(vec![]),
            origins: Origins {
                services,
                endpoints,
                ..Origins::default()
            },
            ..Update::default()
        })
    }

    #[test]
    fn a_change_waits_from_sending_until_its_family_is_live() {
        let (inbox, receiver) = channel();
        let backlog = inbox.backlog();
        let waiting = || backlog.waits().families.map(|family| family.since.is_some());
        assert_eq!(waiting(), [false, false]);
        assert_eq!(inbox.send(update(1, 0)), 1);
        assert_eq!(inbox.send(update(0, 3)), 2);
        assert_eq!(receiver.try_iter().count(), 2);
        assert_eq!(waiting(), [true, true]);
        let since = backlog.waits().families[1].since;

        backlog.wrote(2, [true, false], [1, 3]);
        assert_eq!(waiting(), [false, true]);
        let waits = backlog.waits();
        assert_eq!(
            waits.families[1].since, since,
            "it goes on waiting from when it began"
        );
        assert!(waits.families[0].live.is_some() && waits.families[1].live.is_none());
        assert_eq!((waits.services.pending, waits.endpoints.pending), (1, 3));

        backlog.wrote(2, [true, true], [1, 3]);
        let waits = backlog.waits();
        assert_eq!(waiting(), [false, false]);
        assert_eq!(waits.services, Objects { total: 1, pending: 0 });
        assert_eq!(waits.endpoints, Objects { total: 3, pending: 0 });
    }

    #[test]
    fn a_family_that_cannot_be_written_waits_however_much_comes_in() {
        let (inbox, _receiver) = channel();
        inbox.send(update(1, 0));
        let backlog = inbox.backlog();
        let since = backlog.waits().families[1].since;
        inbox.send(update(1, 0));
        backlog.wrote(1, [true, false], [1, 0]);
        let failing = &backlog.waits().families[1];
        assert!(failing.since == since && failing.live.is_none());
    }

    #[test]
    fn a_change_that_was_sent_during_a_round_goes_on_waiting() {
        let (inbox, _receiver) = channel();
        inbox.send(update(1, 0));
        inbox.send(update(1, 0));
        let backlog = inbox.backlog();
        backlog.wrote(1, [true, true], [1, 0]);
        let waits = backlog.waits();
        assert!(waits.families.iter().all(|family| family.since.is_some()));
        assert_eq!(waits.services, Objects { total: 2, pending: 1 });
    }
}
