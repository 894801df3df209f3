//! The change from one generation of programs to another whose maps are laid out otherwise.
//!
//! A flow that is opened while its table is copied into another would be missed, and one that changes would be out of date. So
//! programs of the new generation come in two instances. The first looks at every packet whether its flow is in the new tables,
//! with both halves; if not, the program of the old generation serves the packet from the old ones (a tail call). Flows are
//! copied while these are there, and each moves at one instant. Then the first instance opens new flows itself, the last ones
//! are copied, and the second instance, which looks at nothing of this, takes its place.

/// Who serves packets of flows that are not in the new tables, in the map `.data.handover`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u32)]
pub enum Stage {
    /// The old generation.
    #[default]
    Copying = 0,
    /// The old generation, but for packets that begin a flow.
    Opening = 1,
}
