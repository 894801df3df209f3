//! The specification of [`select`], row by row.

use super::*;

/// The node is `node-a` in `zone-a`; the flags say what an endpoint is.
///
/// `L` on this node, `R` ready, `S` serving, `T` terminating, `X` on a lost node; `a`, `b` hinted for that
/// zone, `1` hinted for this node, `2` for another.
fn check(description: &str, endpoints: &[&str], zone: Option<&str>, cluster: &str, local: &str, exist: bool) {
    let hints = |text: &str, names: &[(char, &str)]| -> Vec<String> {
        names
            .iter()
            .filter(|(c, _)| text.contains(*c))
            .map(|(_, name)| (*name).to_owned())
            .collect()
    };
    let zones: Vec<_> = endpoints
        .iter()
        .map(|e| hints(e, &[('a', "zone-a"), ('b', "zone-b")]))
        .collect();
    let nodes: Vec<_> = endpoints
        .iter()
        .map(|e| hints(e, &[('1', "node-a"), ('2', "node-b")]))
        .collect();
    let candidates: Vec<_> = (endpoints.iter().zip(&zones).zip(&nodes))
        .map(|((text, for_zones), for_nodes)| Candidate {
            on_this_node: text.contains('L'),
            ready: text.contains('R'),
            serving: text.contains('S'),
            terminating: text.contains('T'),
            node_lost: text.contains('X'),
            for_zones,
            for_nodes,
        })
        .collect();
    let picked = |flags: &[bool]| -> String { flags.iter().map(|f| if *f { '+' } else { '-' }).collect() };
    let both = select(
        &candidates,
        "node-a",
        zone,
        Scopes {
            cluster: true,
            local: true,
        },
    );
    assert_eq!(picked(&both.in_cluster), cluster, "Cluster: {description}");
    assert_eq!(picked(&both.in_local), local, "Local: {description}");
    assert_eq!(both.endpoints_exist, exist, "exist: {description}");

    for (cluster, local) in [(true, false), (false, true), (false, false)] {
        let one = select(&candidates, "node-a", zone, Scopes { cluster, local });
        let none = vec![false; candidates.len()];
        let expected = Selection {
            in_cluster: if cluster {
                both.in_cluster.clone()
            } else {
                none.clone()
            },
            in_local: if local { both.in_local.clone() } else { none },
            endpoints_exist: both.endpoints_exist,
        };
        assert_eq!(one, expected, "a scope out of play selects nobody: {description}");
    }
}

#[test]
fn conditions_decide_who_is_usable() {
    for (description, endpoints, cluster, local, exist) in [
        ("nobody at all", &[][..], "", "", false),
        ("ready ones only", &["LRS", "RS", "LS", ""], "++--", "+---", true),
        (
            "ready without serving (publishNotReadyAddresses)",
            &["LR"],
            "+",
            "+",
            true,
        ),
        (
            "ready and terminating (publishNotReadyAddresses)",
            &["LRST", "RT"],
            "++",
            "+-",
            true,
        ),
        (
            "not ready, not terminating: never",
            &["LS", "S"],
            "--",
            "--",
            false,
        ),
        (
            "terminating but not serving: never",
            &["LT", "T"],
            "--",
            "--",
            false,
        ),
    ] {
        check(description, endpoints, Some("zone-a"), cluster, local, exist);
    }
}

#[test]
fn the_two_scopes_fall_back_to_terminating_endpoints_independently() {
    for (description, endpoints, cluster, local, exist) in [
        (
            "both fall back",
            &["LST", "ST", "T", "S"][..],
            "++--",
            "+---",
            true,
        ),
        (
            "Local falls back while another node is ready",
            &["LST", "RS"],
            "-+",
            "+-",
            true,
        ),
        (
            "a local terminating one does not join the Cluster scope",
            &["LST", "LRS"],
            "-+",
            "-+",
            true,
        ),
        ("nobody here, ready elsewhere", &["RS"], "+", "-", true),
        ("nobody here, terminating elsewhere", &["ST"], "+", "-", true),
    ] {
        check(description, endpoints, Some("zone-a"), cluster, local, exist);
    }
}

#[test]
fn terminating_endpoints_of_a_lost_node_do_not_count() {
    for (description, endpoints, cluster, local, exist) in [
        ("nothing else is left: refuse", &["STX"][..], "-", "-", false),
        (
            "others of a living node are left",
            &["STX", "ST"],
            "-+",
            "--",
            true,
        ),
        ("ready is believed", &["RSX"], "+", "-", true),
    ] {
        check(description, endpoints, Some("zone-a"), cluster, local, exist);
    }
}

#[test]
fn hints_narrow_the_cluster_scope_all_or_nothing() {
    let here = Some("zone-a");
    for (description, endpoints, zone, cluster, local) in [
        ("same zone", &["RSa", "RSb", "RSa"][..], here, "+-+", "---"),
        ("several zones in one hint", &["RSab", "RSb"], here, "+-", "--"),
        (
            "a ready endpoint without a hint",
            &["RSa", "RSb", "RS"],
            here,
            "+++",
            "---",
        ),
        (
            "an endpoint that is not ready is not asked",
            &["RSa", "RSb", "S"],
            here,
            "+--",
            "---",
        ),
        (
            "a terminating endpoint is not asked",
            &["RSa", "RSb", "ST"],
            here,
            "+--",
            "---",
        ),
        ("nobody for our zone", &["RSb", "RSb"], here, "++", "--"),
        (
            "the one for our zone is not ready",
            &["Sa", "RSb"],
            here,
            "-+",
            "--",
        ),
        ("this node has no zone", &["RSa", "RSb"], None, "++", "--"),
        (
            "the fall-back does not look at hints",
            &["STa", "STb"],
            here,
            "++",
            "--",
        ),
        ("Local does not look at hints", &["LRSb", "RSa"], here, "-+", "+-"),
        (
            "same node beats same zone",
            &["RSa1", "RSa2", "RSb2"],
            here,
            "+--",
            "---",
        ),
        (
            "nobody for our node: same zone",
            &["Sa1", "RSa2", "RSb2"],
            here,
            "-+-",
            "---",
        ),
        (
            "node hints are incomplete: same zone",
            &["RSa1", "RSa", "RSb2"],
            here,
            "++-",
            "---",
        ),
        ("same node needs no zone", &["RSa1", "RSb2"], None, "+-", "--"),
        ("neither node nor zone", &["RSb2", "RSb2"], here, "++", "--"),
    ] {
        check(description, endpoints, zone, cluster, local, true);
    }
}
