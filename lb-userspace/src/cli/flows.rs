//! `lb-agent flows`: who talks to whom.

use anyhow::Result;
use clap::{Args, ValueEnum};
use nix::net::if_::if_indextoname;

use super::view::{Opened, ViewArgs};
use crate::inspect::{FlowRow, SummaryBy, flows, summary};

/// Rows for people, if they do not say how many.
const LIMIT: usize = 100;

/// Flags of `lb-agent flows`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct FlowsArgs {
    /// Count flows instead, by what they have in common.
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Option<By>,
    /// At most so many lines; 0: all. Without it: 100 in a table, all in JSON and YAML.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    view: ViewArgs,
}

/// What flows are counted by.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// Clients' addresses.
    Client,
    /// Services' ports.
    Service,
    /// Backends.
    Backend,
}

const EXAMPLES: &str = "Examples:
  lb-agent flows -a 10.244.1.5                   what an address talks to, as client or as backend
  lb-agent flows -s shop/web --limit 0           all flows of a Service
  lb-agent flows --by client --limit 10          who has most flows
  lb-agent flows -o wide                         with the source that the backend sees, devices, and what is left

The flows that a packet passed last come first. CLIENT and FRONTEND are what the client's packets have, BACKEND is where
they go. STATE new: nobody has answered. IDLE is exact to some 16 seconds while packets pass in one direction only. TCP
connections of this node that got their backend at their socket (--connect-hooks) have no flow. Packets and bytes are
not counted for each flow: lb-agent counters has them for each hook.";

/// Prints the flows.
pub(super) async fn print(args: &FlowsArgs) -> Result<()> {
    let view = &args.view;
    let limit = match args.limit {
        Some(0) => usize::MAX,
        Some(limit) => limit,
        None if view.format().is_text() => LIMIT,
        None => usize::MAX,
    };
    let show = view.show(|opened| {
        let rows = read(opened)?;
        match args.by {
            None => view.render(&opened.listing(rows).limited(limit), |_| String::new()),
            Some(by) => {
                let by = match by {
                    By::Client => SummaryBy::Client,
                    By::Service => SummaryBy::Service,
                    By::Backend => SummaryBy::Backend,
                };
                let listing = opened.listing(summary(&rows, by)).limited(limit);
                view.render(&listing, |_| String::new())
            }
        }
    });
    show.await
}

pub(super) fn read(opened: &Opened) -> Result<Vec<FlowRow>> {
    let Opened {
        v4,
        v6,
        names,
        filter,
        clock,
        ..
    } = opened;
    let mut rows = flows(v4, &v4.flows()?, names, filter, clock, &device)?;
    rows.extend(flows(v6, &v6.flows()?, names, filter, clock, &device)?);
    // Both families are in this order already.
    rows.sort_by_key(|row| row.idle_seconds);
    Ok(rows)
}

/// The name of an interface, or its number if it is gone.
fn device(index: u32) -> String {
    let name = if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("if{index}"))
}
