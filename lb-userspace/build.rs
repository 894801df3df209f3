//! Puts the eBPF object where the agent embeds it from: `$OUT_DIR/lb-ebpf`.
//!
//! *Input*: `LB_EBPF_OBJECT`, the object's path, set by `cargo xtask build`. Without it the embedded object is
//! empty, so that the host's crates still build and test by plain cargo; such an agent refuses to start.

use std::path::PathBuf;
use std::{env, fs};

const VARIABLE: &str = "LB_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts")).join("lb-ebpf");
    let object = match env::var_os(VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
    {
        None => Vec::new(),
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            match fs::read(&path) {
                Ok(object) => object,
                Err(error) => {
                    println!(
                        "cargo::error={VARIABLE} names {}, which cannot be read: {error}",
                        path.display()
                    );
                    return;
                }
            }
        }
    };
    if let Err(error) = fs::write(&out, object) {
        println!("cargo::error=cannot write {}: {error}", out.display());
    }
}
