//! `lb-agent backends`: every backend, and its share of new flows.

use anyhow::Result;
use clap::Args;

use super::view::ViewArgs;
use crate::inspect::backends;

/// Flags of `lb-agent backends`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BackendsArgs {
    #[command(flatten)]
    view: ViewArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent backends -s shop/web                  who answers for a Service, and for how much of it
  lb-agent backends -a 10.244.1.5                which Services an endpoint answers for
  lb-agent backends -o wide                      with rows of the tables and places in the maps

SHARE is the part of the rows that a backend has in the lookup table (Maglev) of policy Cluster, LOCAL-SHARE in that of
policy Local; `-`: that policy does not use it. NODE is `this` for a backend on this node. The maps hold whom new flows
may go to, and not why: endpoints that are not ready are in no list (kubectl get endpointslices).";

/// Prints the backends.
pub(super) async fn print(args: &BackendsArgs) -> Result<()> {
    let view = &args.view;
    let show = view.show(|opened| {
        let mut rows = backends(&opened.v4, &opened.names, &opened.filter)?;
        rows.extend(backends(&opened.v6, &opened.names, &opened.filter)?);
        rows.sort_by(|a, b| (a.service.is_none(), &a.service).cmp(&(b.service.is_none(), &b.service)));
        view.render(&opened.listing(rows), |_| String::new())
    });
    show.await
}
