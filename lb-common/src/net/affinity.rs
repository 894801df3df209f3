//! Session affinity: a client goes on with the backend that it had last.
//!
//! *Invariants*: a record is honoured only while its backend is in the scope that is selected for this very packet,
//! so it never leads to a backend that is gone, not ready or excluded by a policy. Only a new flow refreshes it: an
//! old one may go on for days. Two first flows of a client at the same time choose the same backend, since neither
//! their ports nor the order of their packets decide.

use core::cmp::Ordering;

use crate::abi::{Affinity, AffinityKey, Event, Set};

use super::{Net, Scope, Scratch, Tables, hash::client_hash};

/// Steps of a search among the most backends that a set can have, which is fewer than two to the power of this.
const STEPS: u32 = 17;

/// Stands for the position of a backend that there is none of. A set has fewer backends. (A plain number, since the
/// kernel's programs have one register for what a function returns.)
pub(super) const NONE: u32 = u32::MAX;

/// Leaves in `scratch.position` where the backend is that the client of `scratch.parsed` had last, if that may be used;
/// and in `scratch.row_hash` what another one is chosen by.
#[inline(never)]
pub(super) fn recall<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, set: &Set) {
    scratch.position = NONE;
    let tick = tables.tick();
    scratch.affinity_key = AffinityKey {
        service: set.identity,
        client: scratch.parsed.tuple.source,
    };
    // The time is in it: a client that comes back after its record ended is balanced anew.
    let seed = set.identity[0] ^ tick.rotate_left(16);
    scratch.row_hash = client_hash::<F>(scratch.affinity_key.client, seed);
    let Some(record) = tables.affinity(&scratch.affinity_key) else {
        return;
    };
    if record.is_over(tick) {
        return;
    }
    scratch.affinity.backend = F::copied(&record.backend);
    scratch.affinity.port = record.port;
    scratch.affinity.seen = record.seen;
    scratch.affinity.timeout = record.timeout;
    let scope = if scratch.scope == Scope::Local as u16 {
        Scope::Local
    } else {
        Scope::Cluster
    };
    scratch.position = position(tables, &scratch.affinity, set, scope);
    if scratch.position == NONE {
        return;
    }
    if scratch.affinity.seen != tick || scratch.affinity.timeout != set.affinity_timeout {
        tables.refresh_affinity(&scratch.affinity_key, tick, set.affinity_timeout);
    }
}

/// Notes the backend at `scratch.flow.to` as that of the client in `scratch.affinity_key`.
#[inline(never)]
pub(super) fn keep<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, set: &Set) {
    scratch.affinity = Affinity {
        backend: scratch.flow.to.destination,
        port: scratch.flow.to.destination_port,
        reserved: 0,
        seen: tables.tick(),
        timeout: set.affinity_timeout,
    };
    if !tables.put_affinity(&scratch.affinity_key, &scratch.affinity) {
        tables.count(Event::AffinityFailed);
    }
}

/// Where the backend of a record is within a scope. The backends of a set are three parts, each sorted.
#[inline(always)]
pub(super) fn position<F: Net, T: Tables<F>>(
    tables: &T,
    wanted: &Affinity<F::Addr>,
    set: &Set,
    scope: Scope,
) -> u32 {
    let (cluster_from, local, total) = (set.cluster_from as u32, set.local as u32, set.total as u32);
    let (from, middle, to) = match scope {
        Scope::Local => (0, cluster_from, local),
        Scope::Cluster => (cluster_from, local, total),
    };
    match search(tables, set.backends, from, middle, wanted) {
        NONE => search(tables, set.backends, middle, to, wanted),
        position => position,
    }
}

/// Binary search among the backends `low..high` of the set whose first backend is `first`.
#[inline(never)]
fn search<F: Net, T: Tables<F>>(
    tables: &T,
    first: u32,
    mut low: u32,
    mut high: u32,
    wanted: &Affinity<F::Addr>,
) -> u32 {
    let mut found = NONE;
    tables.search(STEPS, |_| {
        if low >= high {
            return true;
        }
        let middle = low + (high - low) / 2;
        let Some(backend) = tables.backend(first.wrapping_add(middle)) else {
            return true;
        };
        match compare::<F>((backend.address, backend.port), (wanted.backend, wanted.port)) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => found = middle,
        }
        found != NONE
    });
    found
}

/// The order of backends within a part of a set: by address, then port. Word by word, since comparing bytes in a
/// loop is beyond what a verifier likes.
#[inline(always)]
fn compare<F: Net>(a: (F::Addr, u16), b: (F::Addr, u16)) -> Ordering {
    for (a, b) in F::words(a.0).zip(F::words(b.0)) {
        let (a, b) = (u32::from_be(a), u32::from_be(b));
        if a < b {
            return Ordering::Less;
        }
        if a > b {
            return Ordering::Greater;
        }
    }
    a.1.cmp(&b.1)
}
