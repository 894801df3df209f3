use super::*;
use crate::format::Case;

fn reply(status: u16, headers: &str, body: &str) -> Reply {
    parse(&format!("HTTP/1.1 {status} X\r\n{headers}\r\n{body}")).unwrap()
}

fn expected(text: &str) -> HttpExpected {
    serde_norway::from_str(text).unwrap()
}

#[test]
fn each_part_of_an_answer_is_met_and_missed() {
    let good = || {
        reply(
            200,
            "Content-Type: application/json\r\nX-W: 3\r\n",
            "{\"a\":{\"b\":1,\"c\":2},\"d\":true}",
        )
    };
    let rows = [
        ("status: 200", good(), None),
        ("status: 503", good(), Some("status 200")),
        (
            "{status: 200, headers: {content-type: application/json, X-W: '3'}}",
            good(),
            None,
        ),
        ("{status: 200, headers: {X-W: 3}}", good(), None),
        ("{status: 200, headers: {X-W: '4'}}", good(), Some("X-W")),
        ("{status: 200, headers: {X-Y: '3'}}", good(), Some("X-Y")),
        ("{status: 200, json: {a: {b: 1}, d: true}}", good(), None),
        ("{status: 200, json: {a: {b: 2}}}", good(), Some("lacks")),
        ("{status: 200, json: {e: 1}}", good(), Some("lacks")),
        (
            "{status: 200, json: {a: 1}}",
            reply(200, "", "text"),
            Some("no JSON"),
        ),
        ("status: 200", Reply::Refused, Some("refused")),
        ("refused: true", Reply::Refused, None),
        ("refused: true", good(), Some("answered with 200")),
        (
            "refused: true",
            Reply::Other("timed out".into()),
            Some("timed out"),
        ),
    ];
    for (expect, reply, miss) in rows {
        match (miss, judge(&expected(expect), &reply)) {
            (None, Ok(())) => {}
            (Some(word), Err(why)) => assert!(why.contains(word), "{expect}: {why}"),
            (_, verdict) => panic!("{expect}: {verdict:?}"),
        }
    }
}

#[test]
fn a_body_in_chunks_is_put_together() {
    let Reply::Answer { body, .. } = reply(
        200,
        "Transfer-Encoding: chunked\r\n",
        "3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
    ) else {
        panic!("it is an answer");
    };
    assert_eq!(body, "abcde");
}

#[test]
fn a_metric_is_looked_up_by_some_of_its_labels() {
    let text = "# TYPE x gauge\n\
        kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 2\n\
        kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 0\n\
        kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 0\n";
    for (labels, value, ok) in [
        ("{traffic_policy: internal}", 2, true),
        ("{traffic_policy: internal}", 1, false),
        ("{traffic_policy: external}", 0, true),
        ("{traffic_policy: other}", 0, false),
    ] {
        let text_case = format!(
            "format: lbcase/v1\nname: x\nip_family: IPv4\nnodes: [{{name: a, self: true, ip: 1.1.1.1}}]\n\
             metrics: [{{id: no_local_endpoints, labels: {labels}, value: {value}}}]\n"
        );
        let case = Case::parse(&text_case).unwrap();
        assert_eq!(
            judge_metric(&case.metrics[0], text).is_ok(),
            ok,
            "{labels} {value}"
        );
    }
}
