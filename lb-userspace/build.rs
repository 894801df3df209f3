//! Puts the eBPF object where the agent embeds it from.
//!
//! Input: `LB_EBPF_OBJECT`, the path of the built object (`cargo xtask build` sets it). Output: `lb-ebpf.o` in the
//! build's own folder; empty without the variable, so that the agent compiles (and says so at start) before anyone
//! has an eBPF toolchain.

use std::{env, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=LB_EBPF_OBJECT");
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("lb-ebpf.o");
    let written = match env::var_os("LB_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path)
                .map_err(|error| format!("LB_EBPF_OBJECT={}: {error}", path.display()))
                .and_then(|object| fs::write(&target, object).map_err(|error| error.to_string()))
        }
        None => fs::write(&target, []).map_err(|error| error.to_string()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}
