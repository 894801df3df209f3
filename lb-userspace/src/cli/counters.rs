//! `lb-agent counters`: what became of packets, hook by hook.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::{Context, Result};
use clap::Args;
use lb_common::abi::{Kind, names};
use serde_json::json;

use super::{InstanceArgs, Output};
use crate::{
    config::Instance,
    load::PinDirectory,
    maps::counters::{Counters, CountersError, Sum},
};

/// Flags of `lb-agent counters`.
#[derive(Args, Debug)]
pub(super) struct CountersArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The counters of an instance.
pub(super) fn read(instance: &Instance) -> Result<Result<Counters, CountersError>> {
    let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
    Ok(Counters::read(&pins.map(names::COUNTERS)))
}

/// Prints the counters.
pub(super) fn print(args: &CountersArgs) -> Result<()> {
    let counters = read(&Instance::from(args.instance.clone()))??;
    let text = match args.output {
        Output::Text => table(&counters),
        Output::Json => format!("{:#}\n", json(&counters)),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot print")
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
