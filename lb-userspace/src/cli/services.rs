//! `lb-agent services`: every frontend, and why one is not served.

use anyhow::Result;
use clap::Args;

use super::view::ViewArgs;
use crate::inspect::{Listing, services};

/// Flags of `lb-agent services`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServicesArgs {
    #[command(flatten)]
    view: ViewArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent services                              every address and port that is served here
  lb-agent services -n shop -s web -o wide       one Service, with ranges, both policies and places in the maps
  lb-agent services -a 192.0.2.30                whose address this is, as frontend or backend
  lb-agent services -o json | jq '.items[] | select(.refused != [])'       what is not served to everybody
  lb-agent services -w                           again every two seconds

POLICY is the traffic policy that counts for this address. BACKENDS are those for the whole cluster, HERE those of this
node, which clients outside are limited to by policy Local. ROWS is the size of the lookup table (Maglev). SERVED says who gets no answer and under which reason `lb-agent counters` counts that:
`outside` are clients that are not on this node, `here` its pods and processes; `to its ranges`: -o wide shows which. Below the table: what these
reasons mean, and which objects cannot be served as they stand, with what would mend them.
The maps are read as they are: also while no agent runs.";

/// Prints the frontends.
pub(super) async fn print(args: &ServicesArgs) -> Result<()> {
    let view = &args.view;
    let show = view.show(|opened| {
        let (names, filter, clock) = (&opened.names, &opened.filter, &opened.clock);
        let mut rows = services(&opened.v4, names, filter, clock)?;
        rows.extend(services(&opened.v6, names, filter, clock)?);
        // By name, not by family.
        rows.sort_by(|a, b| (a.service.is_none(), &a.service).cmp(&(b.service.is_none(), &b.service)));
        let mut listing = opened.listing(rows);
        listing.problems = Some(opened.problems());
        view.render(&listing, Listing::why)
    });
    show.await
}
