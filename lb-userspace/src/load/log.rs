//! Lines that the programs of a developer's build write about packets. Only with feature `log`.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Prints them until the process ends.
pub(super) fn follow(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            return warn!(%error, "the programs write no log: build them with `cargo xtask build --log`");
        }
    };
    tokio::spawn(async move {
        let mut logger = match AsyncFd::register(logger) {
            Ok(logger) => logger,
            Err(error) => return warn!(%error, "the programs' log cannot be followed"),
        };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
