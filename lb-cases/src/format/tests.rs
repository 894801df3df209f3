use super::*;

const HEAD: &str = "format: lbcase/v1\nname: x\nip_family: IPv4\n";
const NODES: &str = "nodes: [{name: a, self: true, ip: 192.168.0.2, pod_cidr: 10.180.0.0/24}]\n";
const FLOW: &str =
    "client: {kind: pod, node: a, ip: 10.180.0.200}, dst: {ip: 172.30.0.041, port: 80, proto: TCP}";

/// The folder of open cases.
fn open_cases() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases")
}

#[test]
fn every_open_case_can_be_read() {
    let cases = read_folder(&open_cases()).unwrap();
    for (name, case) in &cases {
        assert!(case.is_ok(), "{name}: {:#}", case.as_ref().unwrap_err());
    }
    let flows: usize = cases
        .values()
        .flatten()
        .flat_map(|case| {
            case.steps()
                .iter()
                .map(|step| step.flows.len())
                .collect::<Vec<_>>()
        })
        .sum();
    assert!(
        cases.len() >= 55 && flows >= 296,
        "{} cases, {flows} flows",
        cases.len()
    );
}

#[test]
fn what_is_not_known_is_an_error_but_in_manifests() {
    let rows = [
        ("nothing wrong", String::new(), None),
        (
            "manifest",
            "services: [{kind: Service, spec: {anything: 1}}]\n".into(),
            None,
        ),
        ("scenario", "flavour: 1\n".into(), Some("flavour")),
        ("proxy", "proxy: {masquerade: true}\n".into(), Some("masquerade")),
        (
            "flow",
            format!("flows: [{{name: f, {FLOW}, speed: 1, expect: {{outcome: drop}}}}]\n"),
            Some("speed"),
        ),
        (
            "expect",
            format!("flows: [{{name: f, {FLOW}, expect: {{outcome: drop, soon: 1}}}}]\n"),
            Some("soon"),
        ),
        (
            "outcome",
            format!("flows: [{{name: f, {FLOW}, expect: {{outcome: lose}}}}]\n"),
            Some("lose"),
        ),
        ("step", "then: [{step: s, pods: []}]\n".into(), Some("pods")),
        (
            "metric",
            "metrics: [{id: speed, value: 1}]\n".into(),
            Some("speed"),
        ),
        (
            "state",
            "then: [{step: s, agent_state: asleep}]\n".into(),
            Some("asleep"),
        ),
    ];
    for (what, more, miss) in rows {
        let read = Case::parse(&format!("{HEAD}{NODES}{more}"));
        match (miss, read) {
            (None, Ok(_)) => {}
            (Some(word), Err(error)) => assert!(format!("{error:#}").contains(word), "{what}: {error:#}"),
            (_, read) => panic!("{what}: {read:?}"),
        }
    }
}

#[test]
fn senseless_scenarios_are_refused() {
    let flow =
        |more: &str, expect: &str| format!("flows: [{{name: f, {FLOW}, {more} expect: {{{expect}}}}}]\n");
    let rows = [
        (format!("{HEAD}nodes: []\n"), "self"),
        (format!("{}{NODES}", HEAD.replace("v1", "v2")), "lbcase/v2"),
        (
            format!("{HEAD}{NODES}{}", flow("", "outcome: forward")),
            "without `backends`",
        ),
        (
            format!(
                "{HEAD}{NODES}{}",
                flow("", "outcome: drop, backends: ['1.1.1.1:1']")
            ),
            "with `drop`",
        ),
        (
            format!("{HEAD}{NODES}{}", flow("continues: g,", "outcome: drop")),
            "no earlier flow",
        ),
        (
            format!(
                "{HEAD}{NODES}{}",
                flow(
                    "",
                    "outcome: forward, backends: ['1.1.1.1:1'], same_backend_as: g"
                )
            ),
            "no earlier flow",
        ),
        (
            format!(
                "{HEAD}{NODES}{}",
                flow(
                    "",
                    "outcome: forward, backends: ['1.1.1.1:1'], min_distinct_backends: 2"
                )
            ),
            "of 1 backends",
        ),
        (
            format!(
                "{HEAD}{NODES}http: [{{name: h, client: {{kind: external, ip: 1.1.1.1}}, get: {{ip: 1.1.1.1, port: 1, path: /}}, expect: {{}}}}]\n"
            ),
            "`refused` or a `status`",
        ),
    ];
    for (text, word) in rows {
        let error = format!("{:#}", Case::parse(&text).expect_err(&text));
        assert!(error.contains(word), "{text}{error}");
    }
}

#[test]
fn a_step_replaces_what_it_names_and_keeps_the_rest() {
    let text = format!(
        "{HEAD}{NODES}services: [{{a: 1}}]\nendpointslices: [{{b: 1}}, {{b: 2}}]\n\
         then: [{{step: one, services: []}}, {{step: two, endpointslices: [{{b: 3}}]}}]\n"
    );
    let case = Case::parse(&text).unwrap();
    let sizes: Vec<_> = case
        .steps()
        .iter()
        .map(|step| {
            let State {
                nodes,
                services,
                endpointslices,
            } = &step.state;
            (
                step.name.to_owned(),
                nodes.len(),
                services.len(),
                endpointslices.len(),
            )
        })
        .collect();
    let expected = [("start", 1, 1, 2), ("one", 1, 0, 2), ("two", 1, 0, 1)];
    assert_eq!(sizes, expected.map(|(name, n, s, e)| (name.to_owned(), n, s, e)));
}
