//! Lines that the programs of a developer's build write about packets. Only with feature `log`.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::warn;

/// How often they are looked for: waiting for the ring buffer itself would need `unsafe`.
const INTERVAL: Duration = Duration::from_millis(20);

/// Prints them until the process ends.
pub(super) fn follow(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            return warn!(%error, "the programs write no log: build them with `cargo xtask build --log`");
        }
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    });
}
