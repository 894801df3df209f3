//! The order of writes: from what is written to what should be.
//!
//! Backends, tables, ranges, sets, words, frontends, addresses: each stage refers to the one before. Removal goes
//! the other way, with a grace period before anything is removed that a program may have found by way of
//! what went before.
//!
//! *Invariants*: an element of a hash that was removed or replaced is not refilled within a grace period,
//! because a reader would see another key's value; so every list with such a step ends with
//! [`Op::Grace`], and replacements within one map have one in between.

use lb_common::abi::Service;

use super::{
    entries::{Change, Entries},
    family::FamilyPlanner,
    op::{FamilyOp, Op, Planned},
    planner::Planner,
};

/// Everything that is left to write, in order, as if each write succeeded.
pub(super) fn operations(planner: &Planner) -> Vec<Op> {
    let mut ops = Operations::default();
    let (v4, v6) = (planner.v4(), planner.v6());

    ops.writes(planner.node(), |(), node| Op::Node(node.unwrap_or_default()));
    ops.writes(planner.devices(), |index, device| Op::Device { index, device });
    ops.sources(v4);
    ops.sources(v6);

    ops.list
        .extend(planner.tables().unwritten().map(|(first, lookup)| Op::Table {
            first,
            lookup: lookup.clone(),
        }));
    ops.ranges(v4);
    ops.ranges(v6);
    ops.sets(v4);
    ops.sets(v6);
    ops.switches(v4);
    ops.switches(v6);
    ops.frontends(v4);
    ops.frontends(v6);
    ops.addresses(v4);
    ops.addresses(v6);

    ops.frontend_removals(v4);
    ops.frontend_removals(v6);
    ops.removals(planner.devices(), |index, device| Op::Device { index, device });
    if v4.removals().chain(v6.removals()).next().is_some() {
        ops.list.push(Op::Grace);
    }
    ops.service_removals(v4);
    ops.service_removals(v6);
    ops.address_removals(v4);
    ops.address_removals(v6);

    if ops.leaves_something || v4.awaits_grace() || v6.awaits_grace() || planner.tables().awaits_grace() {
        ops.list.push(Op::Grace);
    }
    ops.list
}

#[derive(Default)]
struct Operations {
    list: Vec<Op>,
    /// Something was removed or replaced, and must not be reused before a grace period.
    leaves_something: bool,
}

impl Operations {
    /// New entries, then replaced ones.
    fn writes<K: Ord + Copy, V: PartialEq + Copy>(
        &mut self,
        entries: &Entries<K, V>,
        op: impl Fn(K, Option<V>) -> Op,
    ) {
        let mut replaced = Vec::new();
        for (key, change) in entries.changes() {
            match change {
                Change::Insert(value) => self.list.push(op(key, Some(value))),
                Change::Replace(value) => replaced.push(op(key, Some(value))),
                Change::Remove => {}
            }
        }
        for (place, op) in replaced.into_iter().enumerate() {
            if place > 0 {
                self.list.push(Op::Grace);
            }
            self.list.push(op);
            self.leaves_something = true;
        }
    }

    fn removals<K: Ord + Copy, V: PartialEq + Copy>(
        &mut self,
        entries: &Entries<K, V>,
        op: impl Fn(K, Option<V>) -> Op,
    ) {
        for (key, change) in entries.changes() {
            if change == Change::Remove {
                self.list.push(op(key, None));
                self.leaves_something = true;
            }
        }
    }

    fn sources<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        self.writes(&family.sources, |prefix, source| {
            F::op(FamilyOp::Source { prefix, source })
        });
    }

    fn ranges<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        self.writes(&family.ranges.entries, |prefix, range| {
            F::op(FamilyOp::Range { prefix, range })
        });
    }

    fn sets<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        for draft in family.drafts() {
            self.list
                .extend(draft.backends.into_iter().chain(draft.set).map(F::op));
        }
    }

    fn switches<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        for draft in family.drafts() {
            self.list.push(F::op(draft.switch));
            self.leaves_something |= draft.replaces;
        }
    }

    fn frontends<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        // In the same map, so before anything of it is replaced.
        self.writes(&family.addresses.marks, mark::<F>);
        self.writes(&family.frontends, |key, frontend| {
            F::op(FamilyOp::Frontend { key, frontend })
        });
    }

    fn addresses<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        self.writes(&family.addresses.entries, |address, value| {
            F::op(FamilyOp::Address { address, value })
        });
    }

    fn frontend_removals<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        self.removals(&family.frontends, |key, frontend| {
            F::op(FamilyOp::Frontend { key, frontend })
        });
        self.removals(&family.addresses.marks, mark::<F>);
    }

    fn service_removals<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        for index in family.removals() {
            self.list.push(F::op(FamilyOp::Service {
                index,
                service: Service::default(),
            }));
            self.leaves_something = true;
        }
    }

    fn address_removals<F: Planned>(&mut self, family: &FamilyPlanner<F>) {
        self.removals(&family.addresses.entries, |address, value| {
            F::op(FamilyOp::Address { address, value })
        });
        self.removals(&family.sources, |prefix, source| {
            F::op(FamilyOp::Source { prefix, source })
        });
        self.removals(&family.ranges.entries, |prefix, range| {
            F::op(FamilyOp::Range { prefix, range })
        });
    }
}

fn mark<F: Planned>(address: F::Addr, set: Option<()>) -> Op {
    let is_set = set.is_some();
    F::op(FamilyOp::Mark { address, is_set })
}
