//! Gathers what the cluster is to be told of its objects.

use tokio::sync::watch;

use super::health::Checks;
use crate::{apply::Status, health, model::Problem, source::events::Warning};

/// The reason of events about what cannot be served as it is written.
const CANNOT_SERVE: &str = "CannotServe";

/// Follows what is wrong until there is nothing to follow any more.
pub(super) async fn follow(
    mut status: watch::Receiver<Status>,
    mut checks: watch::Receiver<Checks>,
    warnings: watch::Sender<Vec<Warning>>,
) {
    loop {
        let warn = |reason| {
            move |problem: &Problem| Warning {
                reason,
                object: problem.object.clone(),
                message: problem.message.clone(),
            }
        };
        let mut current: Vec<_> = (status.borrow_and_update().problems.iter())
            .map(warn(CANNOT_SERVE))
            .collect();
        current.extend(
            checks
                .borrow_and_update()
                .problems
                .iter()
                .map(warn(health::FAILED_TO_START)),
        );
        current.extend(checks.borrow().taken.iter().map(warn(CANNOT_SERVE)));
        warnings.send_if_modified(|before| {
            let modified = *before != current;
            *before = current;
            modified
        });
        let changed = tokio::select! {
            changed = status.changed() => changed,
            changed = checks.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
