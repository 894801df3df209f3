//! Why nothing would help.

use lb_common::abi::Outcome;

use super::{super::cells::Cell, Case, Want, changes::family};

/// For a destination that is no Service's.
pub(super) fn nobodys(cell: &Cell) -> String {
    let to = cell.packet.to;
    format!(
        "no Service has {to}/{}, so there is nothing to change about one; ask for the address of the Service that is meant",
        cell.packet.protocol
    )
}

/// For a Service of which no change was found to help.
pub(super) fn none(case: &Case<'_>, want: Want) -> String {
    let key = &case.service.key;
    let ipv6 = case.cell.packet.to.is_ipv6();
    let family = family(ipv6);
    if want == Want::NoCost {
        return format!(
            "the client's address is kept only by a node that has an endpoint of Service {key} (externalTrafficPolicy: Local), \
             or for a client on a node with the agent"
        );
    }
    match case.outcome {
        Outcome::RejectedNoEndpoints => {
            let (all, ready) = case.endpoints(ipv6).fold((0, 0), |(all, ready), endpoint| {
                (all + 1, ready + usize::from(endpoint.ready))
            });
            format!(
                "no policy helps where no endpoint can be used: Service {key} has {all} {family} endpoints, {ready} of them ready \
                 for this port. Look at its pods: kubectl get endpointslices -n {} -l kubernetes.io/service-name={}",
                key.namespace, key.name
            )
        }
        Outcome::DroppedSourceRange => {
            let ranges = case.service.source_ranges.of_family(ipv6).unwrap_or_default();
            let ranges: Vec<_> = ranges.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            let source = case.cell.packet.from.ip();
            format!(
                "{source} is not in loadBalancerSourceRanges of Service {key} ({}), which is its operator's choice: only adding \
                 {source}/{} there lets it in",
                if ranges.is_empty() {
                    "which lets nobody in".to_owned()
                } else {
                    ranges.join(", ")
                },
                if ipv6 { 128 } else { 32 }
            )
        }
        Outcome::DroppedSpoofed => format!(
            "{} is an address of node {} itself or of its pods: from outside, nobody may have it",
            case.cell.packet.from.ip(),
            case.cell.node
        ),
        Outcome::DroppedNoLocalEndpoints => format!(
            "Service {key} was asked with another policy, and with an endpoint on node {}, and neither is enough",
            case.cell.node
        ),
        Outcome::RejectedNoFrontend | Outcome::PassedNoFrontend => {
            let ports = case
                .service
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.port, port.protocol));
            let ports = ports.collect::<Vec<_>>().join(", ");
            format!(
                "Service {key} has {ports}, but a client here has no answer from them either: ask about those"
            )
        }
        outcome => format!("nothing about Service {key} changes this ({})", outcome.name()),
    }
}
