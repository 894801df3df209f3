//! `lb-agent status`: reads what the running agent wrote.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{InstanceArgs, Output, counters};
use crate::{
    agent::{
        lock::Lock,
        report::{Report, SourceReport},
    },
    config::Instance,
};

/// Flags of `lb-agent status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Prints the status. Fails if no agent is running, after having printed what the last one said.
pub(super) fn print(args: &StatusArgs) -> Result<()> {
    let instance = Instance::from(args.instance.clone());
    let file = instance.status_file();
    let text = fs::read_to_string(&file).with_context(|| {
        format!(
            "no agent of instance `{}` has run here: cannot read {}",
            instance.name,
            file.display()
        )
    })?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} was written by an agent of another version", file.display()))?;
    let alive = Lock::is_held(&instance);
    // Without root the rest of the status can still be read.
    let counted = counters::read(&instance)?.ok();
    let events: BTreeMap<_, _> = counted
        .iter()
        .flat_map(|counters| &counters.events)
        .map(|(event, count)| (event.name(), *count))
        .collect();
    let output = match args.output {
        Output::Text => describe(&report, alive) + &describe_events(&events),
        Output::Json => {
            let mut value = serde_json::to_value(&report)?;
            value["alive"] = alive.into();
            value["flow_events"] = serde_json::to_value(&events)?;
            format!("{value:#}\n")
        }
    };
    io::stdout().write_all(output.as_bytes())?;
    if !alive {
        bail!("the agent is not running; what it has left in the kernel goes on as it was");
    }
    Ok(())
}

fn describe_events(events: &BTreeMap<&str, u64>) -> String {
    let happened: Vec<_> = events
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if happened.is_empty() {
        return String::new();
    }
    format!("flow table: {}\n", happened.join(", "))
}

/// Who tells, or since when nobody does.
fn source_lines(source: &SourceReport) -> Vec<String> {
    let at = |seconds: u64| {
        let time = i64::try_from(seconds)
            .ok()
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        time.map_or_else(|| seconds.to_string(), |time| time.to_string())
    };
    let mut lines = Vec::new();
    if source.remembered {
        lines.push(
            "  nobody has answered yet: only default/kubernetes is served, with the endpoints remembered from before the \
             start"
                .to_owned(),
        );
    }
    if let Some(server) = &source.server {
        lines.push(format!("  API server: {server}"));
    }
    if let Some(since) = source.failing_since {
        let heard = source.last_heard.map_or("never".to_owned(), at);
        lines.push(format!(
            "  failing since {}, last heard: {heard}; what was told last is served",
            at(since)
        ));
    }
    lines
}

fn describe(report: &Report, alive: bool) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string succeeds");
    let Report {
        version,
        pid,
        node,
        source,
        generation,
        generation_live,
        ..
    } = report;
    let running = if alive {
        format!("running (pid {pid})")
    } else {
        "not running".to_owned()
    };
    line(format!("lb-agent {version} on node {node}: {running}"));
    let synced = if source.synced {
        ""
    } else {
        ", first lists not complete"
    };
    line(format!(
        "source: {}{synced} ({} failures, {} malformed)",
        source.name, source.errors, source.malformed
    ));
    source_lines(source).into_iter().for_each(&mut line);
    let complete = if generation == generation_live {
        "complete".to_owned()
    } else {
        format!("{generation} is under way")
    };
    line(format!("generation live: {generation_live} ({complete})"));
    line(format!(
        "serving: {} service ports, {} frontends, {} backends",
        report.services_live, report.frontends_live, report.backends_live
    ));
    line(format!(
        "flow entries: {} IPv4, {} IPv6, of {} each ({} expired so far)",
        report.flow_entries[0],
        report.flow_entries[1],
        report.flow_capacity,
        report.flows_expired.iter().sum::<u64>()
    ));
    line(format!("devices ({}, hook {}):", report.attach, report.hook));
    for (device, programs) in &report.devices {
        let xdp = report.xdp.get(device).map(|xdp| match &xdp.reason {
            None => format!("xdp uplink_xdp ({})", xdp.mode),
            Some(reason) => format!("xdp uplink_xdp ({}, since the driver says: {reason})", xdp.mode),
        });
        let programs: Vec<_> = xdp.iter().chain(programs).map(String::as_str).collect();
        line(format!("  {device}: {}", programs.join(", ")));
    }
    let sockets = &report.sockets;
    let programs = match sockets.programs.as_slice() {
        [] => "none".to_owned(),
        programs => format!("{} of {}", programs.join(", "), sockets.cgroup),
    };
    let reason = sockets.reason.as_ref().map(|reason| format!(" ({reason})"));
    line(format!("sockets: {programs}{}", reason.unwrap_or_default()));
    if report.next_hops > 0 {
        let by = match report.next_hops_reminded {
            0 => "the kernel",
            _ => "the agent",
        };
        line(format!(
            "next hops to other nodes kept resolved by {by}: {}",
            report.next_hops
        ));
    }
    if report.leaves_tracked {
        line(
            "connections that another proxy has opened are left to connection tracking until they end"
                .to_owned(),
        );
    }
    line("services:".to_owned());
    for service in &report.services {
        let name = match service.port_name.as_str() {
            "" => service.service.clone(),
            port => format!("{}:{port}", service.service),
        };
        line(format!(
            "  {name} {}: {}; backends {} cluster, {} local",
            service.protocol,
            service.frontends.join(", "),
            service.backends_cluster,
            service.backends_local
        ));
    }
    for problem in &report.problems {
        line(format!("problem: {}: {}", problem.object, problem.message));
    }
    for failure in &report.failures {
        line(format!("failure: {failure}"));
    }
    for failed in &report.failed_writes {
        let error = io::Error::from_raw_os_error(failed.errno);
        line(format!(
            "failed writes: map {}: {} x {error}",
            failed.map, failed.count
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::report::XdpReport;

    #[test]
    fn what_is_live_is_said_in_words() {
        let mut report = Report {
            node: "n1".into(),
            pid: 7,
            generation: 3,
            generation_live: 3,
            attach: "tcx".into(),
            ..Report::default()
        };
        report.devices.insert(
            "eth0".into(),
            vec!["ingress uplink_in".into(), "egress uplink_out".into()],
        );
        let text = describe(&report, true);
        assert!(
            text.contains("running (pid 7)") && text.contains("generation live: 3 (complete)"),
            "{text}"
        );
        assert!(
            text.contains("  eth0: ingress uplink_in, egress uplink_out\n"),
            "{text}"
        );
        report.hook = "xdp".into();
        for (reason, words) in [
            (None, "  eth0: xdp uplink_xdp (generic), ingress uplink_in"),
            (
                Some("Operation not supported".to_owned()),
                "xdp uplink_xdp (generic, since the driver says: Operation not supported), ingress",
            ),
        ] {
            let mode = "generic".into();
            report.xdp.insert("eth0".into(), XdpReport { mode, reason });
            let text = describe(&report, true);
            assert!(text.contains("(tcx, hook xdp)") && text.contains(words), "{text}");
        }
        report.generation = 4;
        let text = describe(&report, false);
        assert!(
            text.contains("not running") && text.contains("3 (4 is under way)"),
            "{text}"
        );
    }
}
