//! Every kind of expectation can fail, and each way of failing is told from the others.

use super::*;
use crate::format::Case;

const OWN: &str = "192.168.0.2";
const CLIENT: &str = "10.180.0.200";
const B1: &str = "10.180.0.1:80";
const B2: &str = "10.180.1.1:80";
const DST: &str = "172.30.0.41:80";

/// The only flow of a scenario, with this expectation; `more` are further keys of the flow.
fn flow_with(expect: &str, more: &str) -> Flow {
    let text = format!(
        "format: lbcase/v1\nname: x\nip_family: IPv4\n\
         nodes: [{{name: a, self: true, ip: {OWN}, pod_cidr: 10.180.0.0/24}}]\n\
         flows:\n\
         - {{name: first, client: {{kind: pod, node: a, ip: {CLIENT}}}, \
            dst: {{ip: 172.30.0.41, port: 80, proto: TCP}}, expect: {{outcome: reject}}}}\n\
         - {{name: f, client: {{kind: pod, node: a, ip: {CLIENT}}}, {more} \
            dst: {{ip: 172.30.0.41, port: 80, proto: TCP}}, expect: {expect}}}\n"
    );
    Case::parse(&text).unwrap().flows.remove(1)
}

/// `by source`, `refused`, `silent`; anything else is in words.
fn seen(text: &str) -> Seen {
    match text.split_once(' ') {
        _ if text == "refused" => Seen::Refused,
        _ if text == "silent" => Seen::Silent,
        Some((by, source)) if by.parse::<SocketAddr>().is_ok() => Seen::Answered {
            by: by.parse().unwrap(),
            source: source.parse().unwrap(),
        },
        _ => Seen::Other(text.into()),
    }
}

fn context() -> Context {
    Context {
        own: [OWN.parse().unwrap()].into(),
        earlier: [("first".to_owned(), [B1.parse().unwrap()].into())].into(),
    }
}

fn verdict(flow: &Flow, attempts: &[&str]) -> Result<(), String> {
    let observation = Observation {
        attempts: attempts.iter().map(|text| seen(text)).collect(),
        arrived: Vec::new(),
    };
    super::flow(flow, &observation, &context())
}

#[test]
fn each_expectation_is_met_and_missed() {
    let b1 = format!("{B1} {CLIENT}");
    let b2 = format!("{B2} {CLIENT}");
    let b1_own = format!("{B1} {OWN}");
    let b2_own = format!("{B2} {OWN}");
    let b1_other = format!("{B1} 10.9.9.9");
    let stranger = format!("10.180.0.9:80 {CLIENT}");
    let other_port = format!("10.180.0.1:81 {CLIENT}");
    let untouched = format!("{DST} {CLIENT}");
    let (b1, b2, b1_own, b2_own) = (&*b1, &*b2, &*b1_own, &*b2_own);
    let (stranger, other_port, untouched) = (&*stranger, &*other_port, &*untouched);
    let both = format!("outcome: forward, backends: ['{B1}', '{B2}']");
    let one = format!("outcome: forward, backends: ['{B1}']");
    let rows: &[(&str, String, &[&str], Option<&str>)] = &[
        ("both are reached", format!("{{{both}}}"), &[b1, b2], None),
        (
            "one is missed",
            format!("{{{both}}}"),
            &[b1, b1],
            Some("never reached"),
        ),
        (
            "another one is reached",
            format!("{{{both}}}"),
            &[b1, b2, stranger],
            Some("none of the backends"),
        ),
        (
            "another port is reached",
            format!("{{{one}}}"),
            &[other_port],
            Some("none of the backends"),
        ),
        (
            "untouched",
            format!("{{{one}}}"),
            &[untouched],
            Some("it is a pass"),
        ),
        (
            "one is silent",
            format!("{{{both}}}"),
            &[b1, b2, "silent"],
            Some("some forward, some drop"),
        ),
        (
            "refused",
            format!("{{{one}}}"),
            &["refused"],
            Some("it is a reject"),
        ),
        (
            "no route",
            format!("{{{one}}}"),
            &["unreachable: no route"],
            Some("no route"),
        ),
        (
            "nothing tried",
            format!("{{{one}}}"),
            &[],
            Some("nothing was tried"),
        ),
        (
            "own address",
            format!("{{{one}, source: preserved}}"),
            &[b1],
            None,
        ),
        (
            "node's instead",
            format!("{{{one}, source: preserved}}"),
            &[b1_own],
            Some("not preserved"),
        ),
        (
            "node's",
            format!("{{{one}, source: masqueraded}}"),
            &[b1_own],
            None,
        ),
        (
            "own instead",
            format!("{{{one}, source: masqueraded}}"),
            &[b1],
            Some("not masqueraded"),
        ),
        (
            "nobody's",
            format!("{{{one}, source: masqueraded}}"),
            &[&b1_other],
            Some("not masqueraded"),
        ),
        (
            "also own",
            format!("{{{one}, source: masqueraded, source_also_ok: preserved}}"),
            &[b1, b1_own],
            None,
        ),
        (
            "nobody's all the same",
            format!("{{{one}, source: masqueraded, source_also_ok: preserved}}"),
            &[&b1_other],
            Some("not masqueraded"),
        ),
        (
            "each its own",
            format!("{{{both}, source: {{'{B1}': masqueraded, default: preserved}}}}"),
            &[b1_own, b2],
            None,
        ),
        (
            "the named one differs",
            format!("{{{both}, source: {{'{B1}': masqueraded, default: preserved}}}}"),
            &[b1, b2],
            Some("not masqueraded"),
        ),
        (
            "the default differs",
            format!("{{{both}, source: {{'{B1}': masqueraded, default: preserved}}}}"),
            &[b1_own, b2_own],
            Some("not preserved"),
        ),
        ("sticks", format!("{{{both}, sticky: true}}"), &[b2, b2], None),
        (
            "does not stick",
            format!("{{{both}, sticky: true}}"),
            &[b1, b2],
            Some("2 backends instead of one"),
        ),
        (
            "the same",
            format!("{{{both}, same_backend_as: first}}"),
            &[b1, b1],
            None,
        ),
        (
            "another",
            format!("{{{both}, same_backend_as: first}}"),
            &[b2],
            Some("not the backend of"),
        ),
        (
            "enough",
            format!("{{{both}, min_distinct_backends: 2}}"),
            &[b1, b2],
            None,
        ),
        (
            "too few",
            format!("{{{both}, min_distinct_backends: 2}}"),
            &[b1, b1],
            Some("instead of at least 2"),
        ),
        (
            "rejected",
            "{outcome: reject}".into(),
            &["refused", "refused"],
            None,
        ),
        (
            "not rejected",
            "{outcome: reject}".into(),
            &["silent"],
            Some("it is a drop"),
        ),
        (
            "forwarded",
            "{outcome: reject}".into(),
            &[b1],
            Some("it is a forward"),
        ),
        ("dropped", "{outcome: drop}".into(), &["silent"], None),
        (
            "not dropped",
            "{outcome: drop}".into(),
            &["refused"],
            Some("it is a reject"),
        ),
        ("passed", "{outcome: pass}".into(), &[untouched], None),
        (
            "lost",
            "{outcome: pass}".into(),
            &["silent"],
            Some("it is a drop"),
        ),
        (
            "refused by the stack or us",
            "{outcome: pass}".into(),
            &["refused"],
            Some("it is a reject"),
        ),
        (
            "also passes",
            "{outcome: drop, also_ok: [pass]}".into(),
            &[untouched],
            None,
        ),
        (
            "is not also rejected",
            "{outcome: drop, also_ok: [pass]}".into(),
            &["refused"],
            Some("it is a reject"),
        ),
        (
            "also forwards",
            "{outcome: pass, also_ok: [forward]}".into(),
            &[stranger],
            None,
        ),
        (
            "also forwards, but not there",
            format!("{{outcome: pass, also_ok: [forward], backends: ['{B1}']}}"),
            &[stranger],
            Some("none of the backends"),
        ),
    ];
    for (what, expect, attempts, miss) in rows {
        let verdict = verdict(&flow_with(expect, ""), attempts);
        match (miss, &verdict) {
            (None, Ok(())) => {}
            (Some(words), Err(why)) => assert!(why.contains(words), "{what}: {why}"),
            _ => panic!("{what}: {verdict:?}"),
        }
    }
}

#[test]
fn silence_is_no_drop_if_packets_arrived() {
    let flow = flow_with("{outcome: drop}", "");
    let mut observation = Observation {
        attempts: vec![Seen::Silent],
        arrived: Vec::new(),
    };
    assert!(super::flow(&flow, &observation, &context()).is_ok());
    observation.arrived.push("TCP to 10.180.0.1:80".into());
    assert!(super::flow(&flow, &observation, &context()).is_err());
}

#[test]
fn few_connections_need_not_reach_every_backend() {
    let both = format!("{{outcome: forward, backends: ['{B1}', '{B2}']}}");
    let b1 = format!("{B1} {CLIENT}");
    for (more, ok) in [("", false), ("repeat: {count: 2, gap_seconds: 1},", true)] {
        assert_eq!(verdict(&flow_with(&both, more), &[&b1]).is_ok(), ok, "{more}");
    }
}
