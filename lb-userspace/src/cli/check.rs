//! `lb-agent check`: can this machine be served, before there is an agent?

mod look;
mod proxies;

use std::io::{self, Write as _};

use anyhow::{Result, bail};
use clap::Args;

use super::{InstanceArgs, Output};
use crate::{
    inspect::findings,
    node::{DeviceOverride, Hints},
};

/// Flags of `lb-agent check`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// What a device is, as for `lb-agent run`: NAME or NAME=KIND. May be repeated.
    #[arg(long = "device", value_name = "NAME[=KIND]")]
    devices: Vec<DeviceOverride>,
    /// Names of pods' devices, as for `lb-agent run`.
    #[arg(long, value_name = "PATTERN,...", default_value = Hints::POD_DEVICES)]
    pod_devices: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    instance: InstanceArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent check                          on a node, as root, before the first agent
  lb-agent check --device eth1            where addresses and routes do not tell which device leads outside
  lb-agent check -o json | jq '.findings[] | select(.level != \"ok\")'

WARN: the agent serves, but something is slower, missing or in its way. FAIL: it cannot serve, or must not yet, and the
command fails. Below each: what to do. Nothing is changed: no mount is made, no program is attached. The Node object is
not asked: which devices are uplinks is told by default routes and --device alone.";

/// Prints what was found. Fails if something stands in the way.
pub(super) async fn print(args: CheckArgs) -> Result<()> {
    let CheckArgs {
        devices,
        pod_devices,
        output,
        instance,
    } = args;
    let hints = Hints {
        devices,
        pod_devices: Hints::patterns(&pod_devices),
        ..Hints::default()
    };
    let found = findings(&look::look(&instance.into(), &hints).await?);
    let text = match output {
        Output::Text => found.text(),
        Output::Json => format!("{:#}\n", serde_json::to_value(&found)?),
    };
    io::stdout().write_all(text.as_bytes())?;
    match found.failures {
        0 => Ok(()),
        1 => bail!("one thing stands in the way"),
        many => bail!("{many} things stand in the way"),
    }
}
