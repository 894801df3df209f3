//! Which packets of Services are counted, and under what: both ends of a flow are in its entry and its key, so that nothing is
//! looked up for it.

use crate::abi::{Flow, FrontendKey, Kind, Leg, Outcome, TrafficKey, Tuple};

use super::Net;

/// Says in `key` whose packet it is that has the tuple `of`; `flow`: what it is translated by, `asked`: the frontend that was
/// looked for if it is of no flow, `decided`: what it came to. `false`: it concerns no frontend, or that is seen elsewhere:
/// of two translations in a row, the one behind the routing decision only changes the source.
#[inline(always)]
pub fn traffic<F: Net>(
    of: &Tuple<F::Addr>,
    flow: Option<&Flow<F::Addr>>,
    asked: &FrontendKey<F::Addr>,
    decided: Outcome,
    key: &mut TrafficKey<F::Addr>,
) -> bool {
    key.protocol = of.protocol;
    key.reserved = 0;
    key.leg = Leg::Asked as u8;
    key.frontend = F::copied(&of.destination);
    key.frontend_port = of.destination_port;
    let Some(flow) = flow else {
        key.backend = F::Addr::default();
        key.backend_port = 0;
        // A mark is looked for where there is no frontend.
        return refuses_at_frontend(decided) && asked.protocol != 0;
    };
    if flow.flags & Flow::<F::Addr>::REVERSE == 0 {
        key.backend = F::copied(&flow.to.destination);
        key.backend_port = flow.to.destination_port;
    } else {
        key.leg = Leg::Answered as u8;
        key.frontend = F::copied(&flow.to.source);
        key.frontend_port = flow.to.source_port;
        key.backend = F::copied(&of.source);
        key.backend_port = of.source_port;
    }
    key.frontend_port != key.backend_port || key.frontend != key.backend
}

/// Whether a packet of a frontend is counted under this outcome: not if it is seen again, be it by TC or in pieces.
#[inline(always)]
#[must_use]
pub const fn counts_as_traffic(outcome: Outcome) -> bool {
    !matches!(outcome.kind(), Kind::Passed)
        && !matches!(outcome, Outcome::ForwardedHeld | Outcome::ForwardedSplit)
}

/// Whether a packet that is of no flow comes to this where there is a frontend.
#[inline(always)]
const fn refuses_at_frontend(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::RejectedNoEndpoints
            | Outcome::RejectedUnknownFlow
            | Outcome::DroppedNoLocalEndpoints
            | Outcome::DroppedSourceRange
            | Outcome::DroppedUnknownFlow
            | Outcome::DroppedSpoofed
            | Outcome::DroppedFlowsFull
            | Outcome::DroppedNoPort
            | Outcome::DroppedNoRoute
            | Outcome::DroppedInconsistent
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Addr4, V4};

    const CLIENT: Addr4 = Addr4 {
        bytes: [198, 51, 100, 7],
    };
    const SERVICE: Addr4 = Addr4 {
        bytes: [10, 96, 0, 10],
    };
    const POD: Addr4 = Addr4 {
        bytes: [10, 244, 1, 2],
    };
    const NODE: Addr4 = Addr4 {
        bytes: [192, 0, 2, 10],
    };

    fn tuple(source: (Addr4, u16), destination: (Addr4, u16)) -> Tuple<Addr4> {
        Tuple {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol: 6,
            ..Tuple::default()
        }
    }

    fn flow(to: Tuple<Addr4>, flags: u16) -> Flow<Addr4> {
        Flow {
            to,
            flags,
            ..Flow::default()
        }
    }

    const KEY: TrafficKey<Addr4> = TrafficKey {
        frontend: SERVICE,
        backend: POD,
        frontend_port: 80,
        backend_port: 8080,
        protocol: 6,
        outcome: 0,
        leg: Leg::Asked as u8,
        reserved: 0,
    };

    #[test]
    fn both_directions_of_a_flow_name_its_frontend_and_its_backend() {
        let reverse = Flow::<Addr4>::REVERSE;
        let (client, service, pod) = ((CLIENT, 1234), (SERVICE, 80), (POD, 8080));
        let node = (NODE, 61_000);
        for (what, of, to, flags, expected) in [
            (
                "from the client",
                tuple(client, service),
                tuple(client, pod),
                0,
                Some(Leg::Asked),
            ),
            (
                "under this node's address",
                tuple(client, service),
                tuple(node, pod),
                0,
                Some(Leg::Asked),
            ),
            (
                "the answer",
                tuple(pod, client),
                tuple(service, client),
                reverse,
                Some(Leg::Answered),
            ),
            (
                "the answer to this node",
                tuple(pod, node),
                tuple(service, client),
                reverse,
                Some(Leg::Answered),
            ),
            (
                "a second translation",
                tuple(client, pod),
                tuple(node, pod),
                0,
                None,
            ),
            (
                "the answer to a second one",
                tuple(pod, node),
                tuple(pod, client),
                reverse,
                None,
            ),
        ] {
            let mut key = TrafficKey::default();
            let flow = flow(to, flags);
            let asked = FrontendKey::default();
            let found = traffic::<V4>(&of, Some(&flow), &asked, Outcome::ForwardedFlow, &mut key);
            let expected = expected.map(|leg| TrafficKey {
                leg: leg as u8,
                ..KEY
            });
            assert_eq!(found.then_some(key), expected, "{what}");
        }
    }

    #[test]
    fn what_is_refused_names_its_frontend_if_there_is_one() {
        let of = tuple((CLIENT, 1234), (SERVICE, 80));
        let frontend = FrontendKey {
            address: SERVICE,
            port: 80,
            protocol: 6,
            reserved: 0,
        };
        for (outcome, asked, expected) in [
            (Outcome::RejectedNoEndpoints, frontend, true),
            (Outcome::DroppedSourceRange, frontend, true),
            (Outcome::DroppedUnknownFlow, frontend, true),
            (Outcome::DroppedUnknownFlow, FrontendKey::mark_of(SERVICE), false),
            (Outcome::RejectedNoFrontend, FrontendKey::mark_of(SERVICE), false),
            (Outcome::PassedNoFrontend, frontend, false),
            (Outcome::PassedOwnConnection, frontend, false),
        ] {
            let mut key = KEY;
            let found = traffic::<V4>(&of, None, &asked, outcome, &mut key);
            assert_eq!(found, expected, "{outcome:?}");
            let nobody = TrafficKey {
                backend: Addr4::default(),
                backend_port: 0,
                ..KEY
            };
            assert_eq!(key, nobody, "{outcome:?}");
        }
    }

    #[test]
    fn a_packet_that_is_seen_again_is_counted_then() {
        for (outcome, expected) in [
            (Outcome::ForwardedFlow, true),
            (Outcome::ForwardedNew, true),
            (Outcome::RejectedTooBig, true),
            (Outcome::DroppedExpired, true),
            (Outcome::ForwardedSplit, false),
            (Outcome::ForwardedHeld, false),
            (Outcome::PassedToTcNeighbour, false),
        ] {
            assert_eq!(counts_as_traffic(outcome), expected, "{outcome:?}");
        }
    }
}
