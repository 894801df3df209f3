//! `lb-agent counters`: what became of packets, hook by hook, or Service by Service.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use clap::Args;
use lb_common::abi::{Kind, names};
use serde_json::json;

use super::view::{Format, Opened, ViewArgs};
use crate::{
    config::Instance,
    inspect::{BackendTrafficRow, TrafficRow, table as lines, traffic},
    load::PinDirectory,
    maps::{
        counters::{Counters, CountersError, Sum},
        traffic as counted,
    },
};

/// Flags of `lb-agent counters`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CountersArgs {
    /// By Service, and with -o wide by backend, instead of by hook. Only where the agent runs with --service-counters.
    #[arg(long)]
    services: bool,
    #[command(flatten)]
    view: ViewArgs,
}

const EXAMPLES: &str = "Examples:
  lb-agent counters                              what became of packets, at each hook
  lb-agent counters --services                   what each Service received, and what became of it
  lb-agent counters --services -s shop/web -o wide      the same of one Service, backend by backend
  lb-agent counters --services -o json | jq '.items[] | select(.received.packets != ([.outcomes[].packets] | add))'

By Service: FLOWS are new connections and exchanges of datagrams. AT-SOCKETS are TCP connections that got their backend at
their socket (--connect-hooks): no program sees their packets, which are in none of the other columns. RECEIVED are packets
from clients, ANSWERED packets from backends, with their bytes as the programs see them (with link headers; segments that a
device has joined are one packet). Each packet is counted once on a node, by the program that translates or refuses it. What
was counted for a Service that is gone has its address. All since the maps were made: a restart of the agent keeps them.";

/// What to do where Services are not counted.
pub(super) const SWITCHED_OFF: &str = "packets are not counted for each Service here: start the agent with --service-counters \
     (chart: serviceCounters: true); a restart under traffic does that, and counting begins then";

/// The counters of an instance.
pub(super) fn read(instance: &Instance) -> Result<Result<Counters, CountersError>> {
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    Ok(Counters::read(&pins.map(names::COUNTERS)))
}

/// Prints the counters.
pub(super) async fn print(args: &CountersArgs) -> Result<()> {
    let CountersArgs { services, view } = args;
    if *services {
        return view.show(|opened| of_services(view, opened)).await;
    }
    ensure!(
        !view.is_filtered(),
        "hooks are not of a Service: --namespace, --service and --address need --services"
    );
    let instance = view.instance();
    let show = view.repeat(|_| {
        let counters = read(&instance)??;
        match view.format() {
            Format::Table | Format::Wide => Ok(table(&counters)),
            Format::Json | Format::Yaml => view.document(&json(&counters)),
        }
    });
    show.await
}

/// What was counted for Services.
pub(super) fn rows(instance: &Instance, opened: &Opened) -> Result<Option<Vec<TrafficRow>>> {
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    let all = counted::read(|name| pins.map(name))?;
    Ok(all.map(|all| traffic(&all, &opened.names, &opened.filter)))
}

fn of_services(view: &ViewArgs, opened: &Opened) -> Result<String> {
    let Some(rows) = rows(&view.instance(), opened)? else {
        bail!("{SWITCHED_OFF}");
    };
    if view.format() == Format::Wide {
        let rows: Vec<BackendTrafficRow> = rows.iter().flat_map(TrafficRow::by_backend).collect();
        return Ok(lines(&rows, true));
    }
    view.render(&opened.listing(rows), |_| String::new())
}

fn table(counters: &Counters) -> String {
    let mut text = format!(
        "{:<14} {:<28} {:>12} {:>15}\n",
        "HOOK", "OUTCOME", "PACKETS", "BYTES"
    );
    for (hook, outcome, counter) in &counters.outcomes {
        let (packets, bytes) = (counter.packets, counter.bytes);
        writeln!(
            text,
            "{:<14} {:<28} {packets:>12} {bytes:>15}",
            hook.name(),
            outcome.name()
        )
        .expect("writing to a string succeeds");
    }
    for sum in counters.sums() {
        let Sum { hook, received, .. } = sum;
        let (packets, bytes) = (received.packets, received.bytes);
        writeln!(
            text,
            "{:<14} {:<28} {packets:>12} {bytes:>15}   = {}",
            hook.name(),
            "received",
            parts(&sum)
        )
        .expect("writing to a string succeeds");
    }
    for (event, count) in &counters.events {
        writeln!(text, "{:<14} {:<28} {count:>12}", "flow table", event.name())
            .expect("writing to a string succeeds");
    }
    text
}

/// What the packets of a hook add up from.
fn parts(sum: &Sum) -> String {
    let parts = sum.parts.iter().filter(|(_, counter)| counter.packets > 0);
    let parts = parts.map(|(kind, counter)| format!("{} {}", kind_name(*kind), counter.packets));
    parts.collect::<Vec<_>>().join(" + ")
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Passed => "passed",
        Kind::Forwarded => "forwarded",
        Kind::Rejected => "rejected",
        Kind::Dropped => "dropped",
    }
}

fn json(counters: &Counters) -> serde_json::Value {
    let outcomes: Vec<_> = counters
        .outcomes
        .iter()
        .map(|(hook, outcome, counter)| {
            json!({
                "hook": hook.name(),
                "outcome": outcome.name(),
                "number": outcome.index(*hook),
                "meaning": outcome.help().trim(),
                "packets": counter.packets,
                "bytes": counter.bytes,
            })
        })
        .collect();
    let events: serde_json::Map<_, _> = counters
        .events
        .iter()
        .map(|(event, count)| (event.name().to_owned(), json!(count)))
        .collect();
    let hooks: Vec<_> = (counters.sums().iter())
        .map(|sum| {
            let mut hook = json!({ "hook": sum.hook.name(), "received": sum.received.packets });
            for (kind, counter) in &sum.parts {
                hook[kind_name(*kind)] = counter.packets.into();
            }
            hook
        })
        .collect();
    json!({ "outcomes": outcomes, "hooks": hooks, "events": events })
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Counter, Event, Hook, Outcome};

    use super::*;

    #[test]
    fn hooks_and_outcomes_have_their_names_in_both_forms() {
        let counters = Counters {
            outcomes: vec![(
                Hook::PodIn,
                Outcome::ForwardedNew,
                Counter {
                    packets: 2,
                    bytes: 120,
                },
            )],
            events: vec![(Event::FlowDisplaced, 1)],
        };
        let text = table(&counters);
        assert!(
            text.contains("pod-in") && text.contains("forwarded-new"),
            "{text}"
        );
        assert!(text.contains("= forwarded 2\n"), "{text}");
        let value = json(&counters);
        assert_eq!(value["outcomes"][0]["packets"], 2);
        let hook = json!({"hook": "pod-in", "received": 2, "forwarded": 2, "passed": 0, "rejected": 0, "dropped": 0});
        assert_eq!(value["hooks"], json!([hook]));
        assert_eq!(value["events"]["flow-displaced"], 1);
    }
}
