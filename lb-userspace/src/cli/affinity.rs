//! `lb-agent affinity`: which clients stay with which backend.

use anyhow::Result;
use clap::Args;

use super::view::ViewArgs;
use crate::inspect::affinities;

/// Flags of `lb-agent affinity`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct AffinityArgs {
    #[command(flatten)]
    view: ViewArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent affinity -s shop/web                  the clients of a Service, and their backends
  lb-agent affinity -a 203.0.113.7               where a client is kept

One record is for all addresses of a Service port. STATE kept: the client's next flow goes to BACKEND, if the traffic
policy lets it use that; over: the client was idle for longer than TIMEOUT; backend-gone: the Service does not have it
any more, and the client gets another one; service-gone: no Service that is served has this record.";

/// Prints the records.
pub(super) async fn print(args: &AffinityArgs) -> Result<()> {
    let view = &args.view;
    let show = view.show(|opened| {
        let (names, filter, clock) = (&opened.names, &opened.filter, &opened.clock);
        let (v4, v6) = (&opened.v4, &opened.v6);
        let mut rows = affinities(v4, &v4.affinities()?, names, filter, clock)?;
        rows.extend(affinities(v6, &v6.affinities()?, names, filter, clock)?);
        rows.sort_by_key(|row| row.idle_seconds);
        view.render(&opened.listing(rows), |_| String::new())
    });
    show.await
}
