//! `lb-agent explain` on manifests: cells with answers written by hand, remedies that are applied to the manifests and asked
//! again, and the text in `docs/explain.md` as it looks.

mod asked;
mod cells;
mod errors;
mod page;
mod remedies;
