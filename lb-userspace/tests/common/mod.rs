//! What the tests share: saying that one was skipped, and waiting for something with a deadline.

pub(crate) mod apiserver;
pub(crate) mod relay;

use std::{env, fs::OpenOptions, io::Write as _};

/// Says loudly that a test could not run, and why. Where `LB_SKIP_FILE` names a file, it is written there
/// too, so that whoever runs the tests can count.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {why}");
    if let Some(path) = env::var_os("LB_SKIP_FILE") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("LB_SKIP_FILE is writable");
        // In one piece: other tests write too.
        file.write_all(format!("{test}: {why}\n").as_bytes())
            .expect("LB_SKIP_FILE is writable");
    }
}
