//! What a generation of programs and maps leaves to the next one, and how the next one takes over while packets pass.
//!
//! Maps that are laid out the same are used on ([`Heritage`]). Of tables that are not (another version of the agent, older or
//! newer, or another size), entries are copied ([`carry`]) while the programs of the generation before go on: see
//! [`lb_common::abi::Stage`] and [`Handover`] for how no flow is missed.
//!
//! *Invariant*: this process may end at any instant. Tables are pinned before the first program works on them, and the tables
//! of the generation before until the last one does not any more; so whoever is next finds both, and goes on from there.

mod carry;
mod flows;
mod heritage;
mod programs;
mod raw;
mod schema;

pub(super) use heritage::{Heritage, kept};
pub(super) use programs::Handover;
pub(super) use schema::{Schema, SchemaError};
