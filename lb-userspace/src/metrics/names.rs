//! The names of the metrics, and what each says.
//!
//! First those of kube-proxy that dashboards and alerts rely on, then our own (`lb_`), then those of every
//! process. Labels have few values each: no name of an object is one, but where Services are counted one by one (`services`).

use std::time::SystemTime;

use super::{
    Snapshot,
    services::services,
    text::{CONTENT_TYPE, Kind, Text},
};
use crate::{
    apply::{FamilyPace, Fill, Histogram},
    http::Answer,
};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY: &str = "ip_family";

/// All metrics, as an answer.
#[must_use]
pub fn render(snapshot: &Snapshot) -> Answer {
    let mut text = Text::default();
    following(&mut text, snapshot);
    objects(&mut text, snapshot);
    health(&mut text, snapshot);
    stale_flows(&mut text, snapshot);
    packets(&mut text, snapshot);
    if let Some(all) = &snapshot.services {
        services(&mut text, all);
    }
    maps(&mut text, snapshot);
    fill(&mut text, snapshot);
    state(&mut text, snapshot);
    process(&mut text, snapshot);
    Answer {
        status: 200,
        headers: vec![("content-type", CONTENT_TYPE.into())],
        body: text.finish(),
    }
}

/// How fast the maps follow.
fn following(text: &mut Text, snapshot: &Snapshot) {
    let mut histograms = |name, help, of: fn(&FamilyPace) -> Histogram| {
        let mut metric = text.metric(Kind::Histogram, name, help);
        for (family, pace) in FAMILIES.iter().zip(&snapshot.status.pace) {
            metric.histogram(&[(FAMILY, family)], &of(pace));
        }
    };
    histograms(
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "How long a round of map writes took.",
        |pace| pace.full.with(&pace.partial),
    );
    histograms(
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "How long the first filling of the maps took.",
        |pace| pace.full.clone(),
    );
    histograms(
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "How long a later round of map writes took.",
        |pace| pace.partial.clone(),
    );
    histograms(
        "kubeproxy_network_programming_duration_seconds",
        "From the change of an endpoint in the cluster until it was live here.",
        |pace| pace.programming.clone(),
    );
    for (name, help, of) in [
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When everything was last live.",
            (|waiting| waiting.live) as fn(&crate::apply::Waiting) -> Option<SystemTime>,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change last came in.",
            |waiting| waiting.asked,
        ),
    ] {
        let mut metric = text.metric(Kind::Gauge, name, help);
        for (family, waiting) in FAMILIES.iter().zip(&snapshot.waits.families) {
            metric.sample(&[(FAMILY, family)], seconds(of(waiting)));
        }
    }
    text.single(
        Kind::Counter,
        "lb_sync_failures_total",
        "Rounds of map writes that have left something to write.",
        snapshot.status.failed_rounds,
    );
}

/// Changes of objects, and what they leave unreachable.
fn objects(text: &mut Text, snapshot: &Snapshot) {
    let waits = &snapshot.waits;
    for (total, pending, help, objects) in [
        (
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "Changes of Services",
            waits.services,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices",
            waits.endpoints,
        ),
    ] {
        text.single(Kind::Counter, total, &format!("{help}."), objects.total);
        text.single(
            Kind::Gauge,
            pending,
            &format!("{help} that are not live yet."),
            objects.pending,
        );
    }
    let mut metric = text.metric(
        Kind::Gauge,
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Service ports with a policy Local that have endpoints, but none here.",
    );
    for (policy, counts) in [
        ("internal", snapshot.no_local.internal),
        ("external", snapshot.no_local.external),
    ] {
        for (family, count) in FAMILIES.iter().zip(counts) {
            metric.sample(&[(FAMILY, family), ("traffic_policy", policy)], count);
        }
    }
}

fn health(text: &mut Text, snapshot: &Snapshot) {
    for (name, help, counts) in [
        (
            "kubeproxy_proxy_healthz_total",
            "Answers of /healthz.",
            snapshot.healthz,
        ),
        (
            "kubeproxy_proxy_livez_total",
            "Answers of /livez.",
            snapshot.livez,
        ),
    ] {
        let mut metric = text.metric(Kind::Counter, name, help);
        for (code, count) in ["200", "503"].iter().zip(counts) {
            metric.sample(&[("code", code)], count);
        }
    }
    text.single(
        Kind::Gauge,
        "lb_health_check_listeners",
        "Open listeners of Services' health checks.",
        snapshot.health_checks,
    );
}

fn stale_flows(text: &mut Text, snapshot: &Snapshot) {
    let flows = &snapshot.flows;
    let mut metric = text.metric(
        Kind::Histogram,
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "How long a walk in search of UDP flows to endpoints that no longer serve took.",
    );
    for (family, walks) in FAMILIES.iter().zip(&flows.walks) {
        metric.histogram(&[(FAMILY, family)], walks);
    }
    let mut by_family = |kind, name, help, values: [u64; 2]| {
        let mut metric = text.metric(kind, name, help);
        for (family, value) in FAMILIES.iter().zip(values) {
            metric.sample(&[(FAMILY, family)], value);
        }
    };
    by_family(
        Kind::Counter,
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "UDP flows to endpoints that no longer serve that were removed.",
        flows.stale,
    );
    by_family(
        Kind::Gauge,
        "lb_flow_entries",
        "Entries of the flow table; a connection has two.",
        flows.entries.map(u64::from),
    );
    by_family(
        Kind::Gauge,
        "lb_flow_capacity",
        "Entries that fit into the flow table.",
        [flows.capacity.into(); 2],
    );
    by_family(
        Kind::Counter,
        "lb_flows_expired_total",
        "Idle entries that were removed from the flow table.",
        flows.expired,
    );
}

/// What the programs count.
fn packets(text: &mut Text, snapshot: &Snapshot) {
    let counters = snapshot.counters.as_ref();
    text.single(
        Kind::Gauge,
        "lb_counters_readable",
        "Whether the programs' counters can be read.",
        u8::from(counters.is_some()),
    );
    let Some(counters) = counters else { return };
    let mut by_outcome = |name, help, value: fn(&lb_common::abi::Counter) -> u64| {
        let mut metric = text.metric(Kind::Counter, name, help);
        for (hook, outcome, counter) in &counters.outcomes {
            metric.sample(
                &[("hook", hook.name()), ("outcome", outcome.name())],
                value(counter),
            );
        }
    };
    by_outcome(
        "lb_packets_total",
        "Packets, by what became of them at which hook.",
        |c| c.packets,
    );
    by_outcome(
        "lb_bytes_total",
        "Bytes, by what became of them at which hook.",
        |c| c.bytes,
    );
    let mut metric = text.metric(
        Kind::Counter,
        "lb_flow_events_total",
        "What happened to the flow tables.",
    );
    for (event, count) in &counters.events {
        metric.sample(&[("event", event.name())], count);
    }
}

/// What the agent does to the maps.
fn maps(text: &mut Text, snapshot: &Snapshot) {
    let mut metric = text.metric(
        Kind::Counter,
        "lb_map_operations_total",
        "Entries written to and removed from the maps.",
    );
    for writes in &snapshot.writes {
        metric.sample(&[("map", writes.map), ("operation", "write")], writes.puts);
        metric.sample(&[("map", writes.map), ("operation", "remove")], writes.removals);
    }
    let mut metric = text.metric(
        Kind::Counter,
        "lb_map_errors_total",
        "Operations on the maps that the kernel refused, by its error number.",
    );
    for writes in &snapshot.writes {
        for (errno, count) in &writes.failed {
            metric.sample(&[("map", writes.map), ("errno", &errno.to_string())], count);
        }
    }
}

/// How full the maps are that the agent writes.
fn fill(text: &mut Text, snapshot: &Snapshot) {
    for (name, help, of) in [
        (
            "lb_map_entries",
            "Elements of a map that are taken.",
            (|fill| fill.entries) as fn(&Fill) -> u64,
        ),
        ("lb_map_capacity", "Elements that a map holds.", |fill| {
            fill.capacity.into()
        }),
    ] {
        let mut metric = text.metric(Kind::Gauge, name, help);
        for fill in &snapshot.status.fill {
            metric.sample(&[("map", fill.map)], of(fill));
        }
    }
}

/// How the agent stands.
fn state(text: &mut Text, snapshot: &Snapshot) {
    let Snapshot { status, source, .. } = snapshot;
    let mut metric = text.metric(Kind::Gauge, "lb_build_info", "Version of the agent.");
    metric.sample(&[("version", snapshot.version)], 1);
    let gauges: [(_, _, u64); 11] = [
        ("lb_generation", "Changes that have come in.", status.received),
        (
            "lb_generation_live",
            "Changes that are completely live.",
            status.live,
        ),
        (
            "lb_service_ports",
            "Service ports that are live.",
            status.counts.services as u64,
        ),
        (
            "lb_frontends",
            "Addresses of Services that are live.",
            status.counts.frontends as u64,
        ),
        (
            "lb_backends",
            "Backends that are live.",
            status.counts.backends as u64,
        ),
        (
            "lb_devices",
            "Devices that programs are attached to.",
            snapshot.devices as u64,
        ),
        (
            "lb_failures",
            "Things that the agent cannot do at present.",
            snapshot.failures as u64,
        ),
        (
            "lb_source_synced",
            "Whether the source has told everything once.",
            source.synced.into(),
        ),
        (
            "lb_source_failing",
            "Things that the source cannot do at present.",
            source.failing as u64,
        ),
        (
            "lb_source_last_heard_seconds",
            "While the source fails: when it was last heard, in seconds since 1970; 0 if it never was.",
            source.last_heard,
        ),
        (
            "lb_source_remembered",
            "Whether only the API servers' Service is served, as remembered from before the start.",
            source.remembered.into(),
        ),
    ];
    for (name, help, value) in gauges {
        text.single(Kind::Gauge, name, help, value);
    }
    text.single(
        Kind::Gauge,
        "lb_source_failing_seconds",
        "For how long the source cannot do something; 0: it can do everything.",
        source.failing_for.as_secs_f64(),
    );
    let mut metric = text.metric(
        Kind::Gauge,
        "lb_problems",
        "Objects that cannot be served as they stand, by kind; lb-agent status names them.",
    );
    for (kind, count) in snapshot.problems_by_kind() {
        metric.sample(&[("kind", kind)], count);
    }
    for (name, help, value) in [
        ("lb_source_errors_total", "Failures of the source.", source.errors),
        (
            "lb_malformed_objects_total",
            "Objects (and files) that could not be understood.",
            source.malformed,
        ),
    ] {
        text.single(Kind::Counter, name, help, value);
    }
}

fn process(text: &mut Text, snapshot: &Snapshot) {
    let process = &snapshot.process;
    text.single(
        Kind::Counter,
        "process_cpu_seconds_total",
        "CPU time.",
        process.cpu_seconds,
    );
    text.single(
        Kind::Gauge,
        "process_resident_memory_bytes",
        "Resident memory.",
        process.resident_bytes,
    );
    text.single(
        Kind::Gauge,
        "process_open_fds",
        "Open file descriptors.",
        process.open_files,
    );
    text.single(
        Kind::Gauge,
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
        process.started,
    );
}

fn seconds(time: Option<SystemTime>) -> f64 {
    time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
