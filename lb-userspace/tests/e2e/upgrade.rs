//! The agent comes back with tables that are laid out otherwise; traffic does not notice.

use crate::{
    cluster::{Cluster, hook},
    restart::many_restarts,
};

/// Sizes of the flow tables, one after the other.
const SIZES: [&str; 3] = ["262144", "20000", "40000"];

/// One more than there are sizes: the first one comes again.
const CHANGES: u32 = 4;

/// From the next start on, agents have tables of the next size. The one that runs must have moved flows if its tables
/// are others than those before it: so from the second change on.
fn change_size(cluster: &mut Cluster, number: u32) {
    if number >= 2 {
        let log = cluster.log(0);
        assert!(log.contains("their entries are copied"), "{log}");
    }
    cluster.set_argument("--max-flows", SIZES[number as usize % SIZES.len()]);
}

#[test]
fn flows_move_into_tables_of_another_size_as_root() {
    many_restarts(
        "flows_move_into_tables_of_another_size_as_root",
        &hook(),
        CHANGES,
        change_size,
    );
}

#[test]
fn flows_move_into_other_tables_by_xdp_as_well_as_root() {
    many_restarts(
        "flows_move_into_other_tables_by_xdp_as_well_as_root",
        "xdp",
        CHANGES,
        |cluster, number| {
            change_size(cluster, number);
            cluster.set_hook(["xdp-native", "xdp-generic", "tc", "xdp", "xdp"][number as usize % 5]);
        },
    );
}
