//! Carries out one operation.

use lb_common::abi::{Family, Frontend, FrontendKey, ROWS_PER_ELEMENT, Rows};

use crate::{
    maps::{FamilyMaps, MapError, MapStore, Table},
    plan::{FamilyOp, Op},
};

/// Carries out one operation. After a failure in the middle of it, it can be repeated as a whole.
pub fn write(store: &mut MapStore, op: &Op) -> Result<(), MapError> {
    match op {
        Op::Node(node) => store.node.put(&0, node),
        Op::Device { index, device } => put_or_remove(&mut *store.devices, index, device.as_ref()),
        Op::Table { first, lookup } => {
            for (element, chunk) in (*first..).zip(lookup.rows().chunks(ROWS_PER_ELEMENT)) {
                let mut rows = Rows {
                    rows: [0; ROWS_PER_ELEMENT],
                };
                rows.rows[..chunk.len()].copy_from_slice(chunk);
                store.maglev.put(&element, &rows)?;
            }
            Ok(())
        }
        Op::V4(op) => write_family(&mut store.v4, op),
        Op::V6(op) => write_family(&mut store.v6, op),
        Op::Grace => {
            (store.grace)();
            Ok(())
        }
    }
}

fn write_family<F: Family>(maps: &mut FamilyMaps<F>, op: &FamilyOp<F>) -> Result<(), MapError> {
    match op {
        FamilyOp::Source { prefix, source } => put_or_remove(&mut *maps.sources, prefix, source.as_ref()),
        FamilyOp::Mark { address, is_set } => put_or_remove(
            &mut *maps.frontends,
            &FrontendKey::mark_of(*address),
            is_set.then_some(&Frontend::MARK),
        ),
        FamilyOp::Range { prefix, range } => put_or_remove(&mut *maps.ranges, prefix, range.as_ref()),
        FamilyOp::Backends { first, backends, .. } => (*first..)
            .zip(&**backends)
            .try_for_each(|(index, backend)| maps.backends.put(&index, backend)),
        FamilyOp::Set { index, set } => maps.sets.put(index, set),
        FamilyOp::Service { index, service } => maps.services.put(index, service),
        FamilyOp::Frontend { key, frontend } => put_or_remove(&mut *maps.frontends, key, frontend.as_ref()),
        FamilyOp::Address { address, value } => put_or_remove(&mut *maps.addresses, address, value.as_ref()),
    }
}

fn put_or_remove<K, V>(table: &mut dyn Table<K, V>, key: &K, value: Option<&V>) -> Result<(), MapError> {
    match value {
        Some(value) => table.put(key, value),
        None => table.remove(key),
    }
}
