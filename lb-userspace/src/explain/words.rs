//! The rule of a case, in words: for people who did not write the programs.

use lb_common::{
    abi::{Address, FrontendKind, Hook, Kind, Outcome, Protocol, Set},
    net::Scope,
};

use super::{inquiry::Finding, position::Position};

/// What is said about.
pub(super) struct Case<'a> {
    pub(super) finding: &'a Finding,
    pub(super) position: Position,
    /// `Service namespace/name`, or the destination if it is none's.
    pub(super) service: &'a str,
    pub(super) node: &'a str,
    pub(super) client: &'a str,
    pub(super) to: &'a str,
    /// The address is a Service's, with `ipMode: Proxy`.
    pub(super) proxied: bool,
}

/// Why it ends as it does.
pub(super) fn rule(case: &Case<'_>) -> String {
    let Case {
        finding,
        service,
        node,
        client,
        to,
        ..
    } = case;
    match finding.outcome {
        outcome if outcome.kind() == Kind::Forwarded => forwarded(case),
        Outcome::DroppedNoLocalEndpoints => {
            let (policy, here, end) = if finding.frontend == Some(FrontendKind::ClusterIp) {
                ("internalTrafficPolicy: Local", "the client's own node", "")
            } else {
                let end = ": silence, so that whoever balances in front tries another node";
                (
                    "externalTrafficPolicy: Local",
                    "the node that a packet arrives on",
                    end,
                )
            };
            format!(
                "{service} has {policy}: only endpoints on {here} may be used; node {node} has none, others have{end}"
            )
        }
        Outcome::RejectedNoEndpoints => format!(
            "{service} has no endpoint that could be used, on any node: none is ready, and none is both serving and \
             terminating"
        ),
        Outcome::DroppedSourceRange => format!(
            "{service} has loadBalancerSourceRanges, and none of them has {client}. They hold for the load \
             balancer's addresses, and for every client, also inside the cluster"
        ),
        Outcome::RejectedNoFrontend => {
            format!("no Service port is served at {to}, and the address is a Service's")
        }
        Outcome::DroppedSpoofed => format!(
            "a packet with the address of {client} cannot arrive on an uplink of node {node}: it is that node's own, \
             or one of its pods'"
        ),
        Outcome::DroppedNoRoute => {
            format!("node {node} has no route to a backend, or no address to send from on the way to it")
        }
        Outcome::DroppedNoService => format!("{to} is in the Services' range, and no Service has it"),
        Outcome::PassedNotOurs if case.proxied => format!(
            "{service} leaves this address to its load balancer (ipMode: Proxy, or an annotation): packets leave to it, \
             and it must be able to come back to a node"
        ),
        // Only routes can be at fault: at lb0 such a packet is translated.
        Outcome::PassedNotOurs
            if finding.hook == Hook::UplinkOut
                && finding.address.is_some_and(|address| address.has(Address::VIP)) =>
        {
            format!(
                "{to} is served here, but node {node} routes its own packets to it out of the uplink, past lb0, where they would be \
                 translated: the agent has not set that route yet, or somebody else's route is the better one (ip route get)"
            )
        }
        Outcome::PassedNotOurs => format!("{to} is no Service's address, and no node's"),
        Outcome::PassedNoFrontend => format!(
            "node {node} serves no Service port at {to} for this client: the packet goes on as if the agent were not there"
        ),
        outcome => outcome.help().to_owned(),
    }
}

fn forwarded(case: &Case<'_>) -> String {
    let Case {
        finding,
        position,
        service,
        node,
        ..
    } = case;
    let local = |flag| finding.set.is_some_and(|set| set.has(flag));
    match (finding.frontend, finding.scope) {
        (Some(FrontendKind::ClusterIp), Some(Scope::Local)) => {
            format!("{service} has internalTrafficPolicy: Local: only endpoints on node {node} are used")
        }
        (Some(FrontendKind::ClusterIp), _) => {
            format!("{service} has internalTrafficPolicy: Cluster: every endpoint serves every client")
        }
        (_, Some(Scope::Local)) => format!(
            "{service} has externalTrafficPolicy: Local: only endpoints on node {node} are used, and they see the \
             client's own address"
        ),
        _ if local(Set::EXTERNAL_LOCAL) && *position != Position::Outside => format!(
            "{service} has externalTrafficPolicy: Local, which does not limit clients on a node with the agent: they are \
             translated on their own node, as if they had used the ClusterIP, and reach every endpoint"
        ),
        _ => {
            format!("{service} has externalTrafficPolicy: Cluster: every endpoint is used, on whatever node")
        }
    }
}

/// What the client notices.
pub(super) fn client_sees(kind: Kind, protocol: Protocol, ipv6: bool) -> String {
    let icmp = if ipv6 { "ICMPv6" } else { "ICMP" };
    match (kind, protocol) {
        (Kind::Forwarded, _) => "an answer of a backend, from the address that it asked".to_owned(),
        (Kind::Passed, _) => "whatever is at that address without us: perhaps nothing".to_owned(),
        (Kind::Rejected, Protocol::Tcp) => "connection refused, at once (TCP RST)".to_owned(),
        (Kind::Rejected, _) => format!("connection refused, at once ({icmp} port unreachable)"),
        (Kind::Dropped, _) => "silence, until it gives up".to_owned(),
    }
}

/// Where a program is.
pub(super) fn place(hook: Hook) -> &'static str {
    match hook {
        Hook::UplinkXdp => "XDP on the uplink",
        Hook::UplinkIn => "TC ingress of the uplink",
        Hook::UplinkOut => "TC egress of the uplink",
        Hook::PodIn => "TC ingress of the pod's device",
        Hook::PodOut => "TC egress of the pod's device",
        Hook::HostOut => "TC egress of lb0",
        Hook::LoopbackOut => "TC egress of lo",
        Hook::Connect => "connect of a socket",
        Hook::Bind => "bind of a socket",
    }
}
