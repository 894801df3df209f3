//! Waiting for conditions, and leaving out tests that cannot run here.

use std::{
    fs::OpenOptions,
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; after `limit` fails with `what` it was.
pub fn wait_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        sleep(INTERVAL);
    }
    Ok(())
}

/// Says loudly that a test is left out: on stderr, and in the file named by `LB_SKIP_FILE`, which the test
/// command counts. A reason that starts with `test_name: ` is attributed to that test.
pub fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
    let Some(path) = std::env::var_os("LB_SKIP_FILE") else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut f| writeln!(f, "{reason}")) {
        eprintln!("cannot note this in {}: {error}", path.display());
    }
}

/// Whether a lab can be built here; if not, the test function `test` is skipped loudly, by that name. Use as
/// `if !require_root("test") { return }`.
pub fn require_root(test: &str) -> bool {
    let root = is_root();
    if !root {
        skip(&format!("{test}: needs root, for network namespaces"));
    }
    root
}

/// Whether labs can be built here.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
