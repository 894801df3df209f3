//! The plan on maps in memory: what is written, in which order, and what comes of failures.

mod anything;
mod golden;
mod order;
mod support;
mod tracked;
