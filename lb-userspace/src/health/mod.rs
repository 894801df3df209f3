//! What others are told of this node's health: probes, and load balancers in front of it.
//!
//! *Not here*: how HTTP is spoken (`http`), what is measured (`metrics`).

mod answer;
mod listeners;

pub use answer::{DataPlane, FamilyHealth, healthz, livez, service};
pub use listeners::{Listeners, Place};

/// Why a health check cannot be asked: the reason of the event on its Service, kube-proxy's word.
pub const FAILED_TO_START: &str = "FailedToStartServiceHealthcheck";
