//! From Kubernetes objects to plain values.

mod convert;

pub use convert::{Converted, Object};
