//! What programs write down about the packets that somebody watches, in words.
//!
//! ```text
//! question (who, whom) + maps -> ends (what is watched) -> programs -> records -> steps -> packets -> text, JSON
//! ```
//!
//! *Not here*: the programs that write records, and the ring they come by (`load`), the command (`cli`).

mod ends;
mod packet;
mod step;

pub use ends::{Place, Side, Watched, ends};
pub use packet::{Names, Packet, Packets};
pub use step::{Told, source_afterwards, step};
