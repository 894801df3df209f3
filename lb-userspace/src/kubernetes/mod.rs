//! From Kubernetes objects to plain values.

mod convert;

pub use convert::{Annotations, Converted, Object};
