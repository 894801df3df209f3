//! `lb-agent detach`: takes everything out of the kernel.

use std::{fs, io};

use anyhow::{Context, Result};
use clap::Args;

use super::{InstanceArgs, SysctlArgs};
use crate::{
    agent::lock::Lock,
    config::Instance,
    load::{self, PinDirectory},
    node::host,
};

/// Flags of `lb-agent detach`.
#[derive(Args, Debug)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    sysctls: SysctlArgs,
}

/// Removes programs, maps, `lb0` and its routes, and the run-time files.
pub(super) async fn detach(args: DetachArgs) -> Result<()> {
    let instance = Instance::from(args.instance);
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    let _lock = Lock::take(&instance)?;
    // Routes first: they lead node processes to programs that are about to go.
    host::remove(&args.sysctls.into())
        .await
        .context("lb0, its routes or its settings are still there")?;
    load::detach(&pins).context("programs or maps are still there")?;
    match fs::remove_dir_all(instance.directory()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", instance.directory().display()))
        }
        _ => Ok(()),
    }
}
