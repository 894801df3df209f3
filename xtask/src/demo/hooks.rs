//! Which hook did the work: by the agents' own account, and by the counters in the kernel.

use anyhow::Result;

use super::agent::Counter;
use super::cluster::Cluster;
use super::{Hook, PodNetwork};
use crate::report::{Check, Report};

/// What an outcome's name begins with when XDP leaves a packet to TC.
const LEFT_TO_TC: &str = "passed-to-tc";
/// Left, too: a reply to a process of the node that sent by lb0. It must be received on lb0, where the reverse path
/// filter expects it, and XDP cannot send there.
const FOR_HOST: &str = "passed-to-tc-host";
/// Of the packets that XDP could translate on an uplink, those that it translated, at least.
const MOST: f64 = 0.9;

/// Packets from outside, by who took care of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    /// Translated or refused at XDP.
    xdp: u64,
    /// Left to TC by XDP, for one of its named reasons.
    left: u64,
    /// Of those, replies to processes of the node.
    host: u64,
    /// Translated or refused at TC.
    tc: u64,
}

/// One check for each node: where the program is, and who did the work.
pub(super) fn check(
    cluster: &Cluster,
    hook: Hook,
    network: PodNetwork,
    report: &mut Report,
    print: &mut dyn FnMut(String),
) -> Result<()> {
    let expected = match hook {
        Hook::Tc => "none",
        Hook::Xdp | Hook::XdpNative => "native",
        Hook::XdpGeneric => "generic",
    };
    print(String::new());
    for agent in &cluster.agents {
        let seen = agent.xdp_mode()?;
        report.check(Check {
            id: format!("hooks/{}-xdp-mode", agent.node()),
            expected: expected.to_owned(),
            ok: seen == expected,
            seen,
        });
        let counters = agent.counters()?;
        let work = Work::of(&counters);
        let Work { xdp, left, tc, .. } = work;
        let why = why_left(&counters);
        let seen = format!("{xdp} packets by XDP, {left} left to TC{why}, {tc} by TC");
        print(format!("  {} from outside: {seen}", agent.node()));
        report.check(Check {
            id: format!("hooks/{}-work", agent.node()),
            expected: work.expected(hook, network).to_owned(),
            ok: work.is_right(hook, network),
            seen,
        });
    }
    Ok(())
}

/// The reasons for which XDP left packets to TC, in parentheses.
fn why_left(counters: &[Counter]) -> String {
    let reasons = counters
        .iter()
        .filter(|row| row.hook == "uplink-xdp" && row.packets > 0)
        .filter_map(|row| Some((row.outcome.strip_prefix(LEFT_TO_TC)?, row.packets)))
        .map(|(reason, packets)| format!("{} {packets}", reason.trim_start_matches('-')))
        .collect::<Vec<_>>();
    if reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.join(", "))
    }
}

impl Work {
    fn of(counters: &[Counter]) -> Self {
        let sum = |hook: &str, wanted: &dyn Fn(&str) -> bool| {
            let rows = counters
                .iter()
                .filter(|row| row.hook == hook && wanted(&row.outcome));
            rows.map(|row| row.packets).sum()
        };
        let handled = |outcome: &str| !outcome.starts_with("passed");
        Self {
            xdp: sum("uplink-xdp", &handled),
            left: sum("uplink-xdp", &|outcome| outcome.starts_with(LEFT_TO_TC)),
            host: sum("uplink-xdp", &|outcome| outcome == FOR_HOST),
            tc: sum("uplink-in", &handled),
        }
    }

    fn expected(&self, hook: Hook, network: PodNetwork) -> &'static str {
        match (hook, network) {
            (Hook::Tc, _) => "all by TC",
            // Tunnels have no XDP: what comes out of them is TC's.
            (_, PodNetwork::Tunnel) => "some by XDP",
            _ => {
                "nine of ten by XDP, replies to the node's own processes aside, and by TC only what it was left"
            }
        }
    }

    fn is_right(&self, hook: Hook, network: PodNetwork) -> bool {
        let Self { xdp, left, host, tc } = *self;
        match (hook, network) {
            (Hook::Tc, _) => xdp == 0 && tc > 0,
            (_, PodNetwork::Tunnel) => xdp > 0,
            _ => xdp > 0 && tc <= left && xdp as f64 >= MOST * (xdp + left - host) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_told_apart_and_judged() {
        let row = |hook: &str, outcome: &str, packets| Counter {
            hook: hook.into(),
            outcome: outcome.into(),
            packets,
        };
        let counters = [
            row("uplink-xdp", "forwarded-flow", 90),
            row("uplink-xdp", "rejected-no-endpoints", 4),
            row("uplink-xdp", "passed-not-ours", 1000),
            row("uplink-xdp", "passed-to-tc-host", 2),
            row("uplink-xdp", "passed-to-tc-tunnel", 4),
            row("uplink-in", "forwarded-new", 5),
            row("uplink-in", "passed-not-ours", 1000),
            row("uplink-out", "forwarded-flow", 77),
        ];
        let work = Work::of(&counters);
        assert_eq!(
            work,
            Work {
                xdp: 94,
                left: 6,
                host: 2,
                tc: 5
            }
        );
        assert_eq!(why_left(&counters), " (host 2, tunnel 4)");
        let for_host = |xdp, left, host, tc| Work { xdp, left, host, tc };
        let work = |xdp, left, tc| for_host(xdp, left, 0, tc);
        for (work, hook, network, right) in [
            (for_host(50, 50, 46, 50), Hook::Xdp, PodNetwork::Routed, true),
            (for_host(50, 50, 40, 50), Hook::Xdp, PodNetwork::Routed, false),
            (work(94, 6, 5), Hook::Xdp, PodNetwork::Routed, true),
            (work(94, 4, 5), Hook::Xdp, PodNetwork::Routed, false),
            (work(50, 50, 50), Hook::XdpGeneric, PodNetwork::Bridge, false),
            (work(0, 0, 0), Hook::XdpNative, PodNetwork::Routed, false),
            (work(50, 10, 50), Hook::Xdp, PodNetwork::Tunnel, true),
            (work(0, 0, 50), Hook::Tc, PodNetwork::Routed, true),
            (work(1, 0, 50), Hook::Tc, PodNetwork::Routed, false),
        ] {
            assert_eq!(
                work.is_right(hook, network),
                right,
                "{work:?} {hook:?} {network:?}"
            );
        }
    }
}
