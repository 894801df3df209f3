//! Arrays of programs, which others hand packets over to.

use aya::maps::{MapData, ProgramArray};

/// A place for each program.
pub(super) type Places = ProgramArray<MapData>;

/// Empties an array: what is in it stays in the kernel for as long as the array is pinned. Whoever finds a place empty goes on.
pub(super) fn clear(places: &mut Places) {
    for index in places.indices().flatten().collect::<Vec<_>>() {
        let _ = places.clear_index(&index);
    }
}
