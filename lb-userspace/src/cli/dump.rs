//! `lb-agent dump`: the maps in the kernel, as text.

use std::io::{self, Write as _};

use anyhow::{Result, bail};
use clap::Args;

use super::InstanceArgs;
use crate::{
    config::Instance,
    load::PinDirectory,
    maps::{Dump, audit, bpf},
};

/// Flags of `lb-agent dump`.
#[derive(Args, Debug)]
pub(super) struct DumpArgs {
    #[command(flatten)]
    instance: InstanceArgs,
}

/// Prints what the maps mean; fails if their contents do not fit together.
pub(super) fn print(args: DumpArgs) -> Result<()> {
    let instance = Instance::from(args.instance);
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    let store = bpf::open_pinned(|name| pins.map(name))?;
    let dump = Dump::read(&store)?;
    io::stdout().write_all(dump.to_string().as_bytes())?;
    // While an agent writes, what is read first may be older than what is read last.
    match audit::contradictions(&dump).as_slice() {
        [] => Ok(()),
        found => bail!(
            "the maps do not fit together (was the agent writing?): {}",
            found.join("; ")
        ),
    }
}
