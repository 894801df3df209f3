//! Keeps the node's facts up to date: netlink and hints in, [`NodeFacts`] out.
//!
//! *Invariant*: facts are published only when they differ from those before.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Hints, NetlinkError, Snapshot, Tracked,
    facts::reduce,
    netlink::{Netlink, Stale},
};
use crate::model::NodeFacts;

/// Changes come in bursts (a pod is a link, its routes, a bridge port): wait for the rest of one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// On a node with a very large route table, reading must not become the main occupation.
const REST_PER_READING: u32 = 4;
/// How often connection tracking is asked, while it translates something: until it no longer does.
const TRACKED: Duration = Duration::from_secs(10);
/// After an error that should not happen.
const RETRY: Duration = Duration::from_secs(1);

/// The facts, and a task that keeps them up to date until the last receiver is dropped. In a node's network
/// namespace: that of the calling thread.
///
/// # Errors
/// If the kernel cannot be asked at all.
pub async fn watch(hints: watch::Receiver<Hints>) -> Result<watch::Receiver<NodeFacts>, NetlinkError> {
    let netlink = Netlink::open()?;
    let mut snapshot = Snapshot::default();
    netlink.read(&mut snapshot, Stale::ALL).await?;
    let (sender, receiver) = watch::channel(reduce(&snapshot, &hints.borrow()));
    tokio::spawn(follow(netlink, snapshot, hints, sender));
    Ok(receiver)
}

async fn follow(
    mut netlink: Netlink,
    mut snapshot: Snapshot,
    mut hints: watch::Receiver<Hints>,
    facts: watch::Sender<NodeFacts>,
) {
    let mut hints_may_change = true;
    let mut look = interval(TRACKED);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            stale = netlink.changed() => stale,
            changed = hints.changed(), if hints_may_change => {
                hints_may_change = changed.is_ok();
                Ok(Stale::default())
            }
            _ = look.tick(), if snapshot.tracked != Tracked::default() => Ok(Stale::TRACKED),
            () = facts.closed() => return,
        };
        let updated = match changed {
            Ok(stale) => update(&mut netlink, &mut snapshot, stale).await,
            Err(error) => Err(error),
        };
        if let Err(error) = updated {
            tracing::warn!(%error, "cannot follow the node's devices, trying again");
            netlink = reopen(&mut snapshot).await;
        }
        let new = reduce(&snapshot, &hints.borrow_and_update());
        facts.send_if_modified(|old| {
            let modified = *old != new;
            *old = new;
            modified
        });
    }
}

async fn update(
    netlink: &mut Netlink,
    snapshot: &mut Snapshot,
    mut stale: Stale,
) -> Result<(), NetlinkError> {
    if !stale.any() {
        return Ok(());
    }
    sleep(DEBOUNCE).await;
    netlink.take_pending(&mut stale);
    let start = Instant::now();
    netlink.read(snapshot, stale).await?;
    let rest = start.elapsed() * REST_PER_READING;
    if rest > DEBOUNCE {
        sleep(rest).await;
    }
    Ok(())
}

async fn reopen(snapshot: &mut Snapshot) -> Netlink {
    loop {
        sleep(RETRY).await;
        let reopened = async {
            let netlink = Netlink::open()?;
            netlink.read(snapshot, Stale::ALL).await?;
            Ok::<_, NetlinkError>(netlink)
        };
        match reopened.await {
            Ok(netlink) => return netlink,
            Err(error) => tracing::warn!(%error, "cannot follow the node's devices, trying again"),
        }
    }
}
