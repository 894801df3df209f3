//! Who may lose by a fragment that is held back.

use super::*;

const DEVICES: [DeviceKind; 6] = [
    DeviceKind::Uplink,
    DeviceKind::Tunnel,
    DeviceKind::Pod,
    DeviceKind::BridgePort,
    DeviceKind::Host,
    DeviceKind::Loopback,
];

#[test]
fn only_what_no_one_else_can_want_is_stopped() {
    use Address as A;
    let rows = [
        (None, Hold::No),
        (Some(A::VIP | A::CLUSTER_IP), Hold::Stop),
        (Some(A::VIP | A::EXTERNAL), Hold::Stop),
        (Some(A::CLUSTER_IP), Hold::Stop),
        (Some(A::OWN), Hold::Copy),
        (Some(A::OWN | A::NODE_PORTS), Hold::Copy),
        (Some(A::VIP | A::EXTERNAL | A::OWN), Hold::Copy),
        (Some(A::OTHER_NODE), Hold::Copy),
        (Some(A::LOCALHOST), Hold::Copy),
    ];
    for (flags, expected) in rows {
        let address = flags.map(|flags| A { flags });
        for device in DEVICES {
            let sender = matches!(device, DeviceKind::Host | DeviceKind::Loopback);
            let before = if sender { Hold::No } else { expected };
            assert_eq!(
                hold(Phase::Before, device, address),
                before,
                "{flags:?}, {device:?}"
            );
            assert_eq!(
                hold(Phase::After, device, address),
                Hold::Copy,
                "{flags:?}, {device:?}"
            );
        }
    }
}

#[test]
fn a_fragment_waits_for_four_ticks_and_a_clock_that_turns_over_changes_nothing() {
    for seen in [0, 1, 1000, u32::MAX - 2, u32::MAX] {
        for age in 0..=4 {
            assert!(is_good(seen, seen.wrapping_add(age)), "{seen} {age}");
        }
        for age in [5, 6, 1000, u32::MAX / 2] {
            assert!(!is_good(seen, seen.wrapping_add(age)), "{seen} {age}");
        }
        assert!(is_good(seen, seen.wrapping_sub(1)), "another CPU's clock");
    }
}
