//! The dashboard and the alerts of `deploy/monitoring`, asked of a real Prometheus that reads a real agent under traffic.

#[path = "../common/dashboard.rs"]
mod dashboard;

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, sync::Arc};

use lb_lab::{Child, Family, Place, Proto, Shares, Topology, wait_for};
use serde_json::Value;

use crate::{
    cluster::{Cluster, SETTLED, possible},
    load::Connections,
    reach::Address,
    service::{PORT, Service},
    tools,
};

const NODE_PORT: u16 = 30_080;
/// The smallest flow table there is: entries of a family.
const FLOWS: u32 = 1024;
/// Established connections that nearly fill it: each has two entries.
const HELD: usize = 430;
/// Connections that come on top, more than fit.
const MORE: u32 = 150;
/// Where Prometheus answers.
const PROMETHEUS: &str = "127.0.0.1:9090";

/// Panels that may stay empty, each with the reason.
const MAY_BE_EMPTY: [(&str, &str); 4] = [
    (
        "Left to TC by reason",
        "the lab's agents have programs neither at XDP nor at sockets",
    ),
    ("Packets by Service", "is counted only where it is asked for"),
    ("Bytes by Service", "is counted only where it is asked for"),
    (
        "New connections by Service",
        "is counted only where it is asked for",
    ),
];

/// A Prometheus on a node of the lab.
struct Prometheus {
    place: Place,
    _process: Arc<Child>,
}

impl Prometheus {
    /// Reads the agent of `node` every second. Alerts do not wait here: how long they do is tried by promtool.
    fn start(cluster: &Cluster, program: &Path, node: &str) -> Self {
        let folder = cluster.lab.folder();
        let rules: String = dashboard::read("deploy/monitoring/alerts.yaml")
            .lines()
            .filter(|line| !line.trim_start().starts_with("for: "))
            .map(|line| format!("{line}\n"))
            .collect();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("the lab's folder can be written");
            path.display().to_string()
        };
        let rules = write("alerts.yaml", &rules);
        let config = write(
            "prometheus.yaml",
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\nscrape_configs:\n\
                 - {{job_name: lb-agent, static_configs: [{{targets: ['127.0.0.1:10249']}}]}}\n"
            ),
        );
        let argv = [
            program.display().to_string(),
            format!("--config.file={config}"),
            format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
            format!("--web.listen-address={PROMETHEUS}"),
        ];
        let process = cluster.lab.spawn(node, &argv, &[]).expect("Prometheus starts");
        let place = cluster.lab.at(node).expect("it is there").clone();
        let ready = wait_for(SETTLED, "Prometheus answers", || {
            let url = format!("http://{PROMETHEUS}/-/ready");
            place.output(&["curl", "-sf", &url]).is_ok() || !process.is_running()
        });
        assert!(ready.is_ok() && process.is_running(), "{}", process.tail(20));
        Self {
            place,
            _process: process,
        }
    }

    /// An answer of the HTTP API: `data`, or what is wrong with the question.
    fn get(&self, path: &str, arguments: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("http://{PROMETHEUS}/api/v1/{path}");
        let arguments: Vec<_> = arguments
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut argv = vec!["curl", "-sG", "--max-time", "30", &url];
        argv.extend(
            arguments
                .iter()
                .flat_map(|argument| ["--data-urlencode", argument.as_str()]),
        );
        let text = self.place.output(&argv).map_err(|error| format!("{error:#}"))?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        match answer["status"] == "success" {
            true => Ok(answer["data"].clone()),
            false => Err(answer["error"].to_string()),
        }
    }

    /// The series that a query gives now.
    fn series(&self, query: &str) -> Result<Vec<Value>, String> {
        let data = self.get("query", &[("query", query)])?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// Alerts that fire now.
    fn firing(&self) -> Vec<Value> {
        let data = self.get("alerts", &[]).expect("alerts can be asked for");
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .into_iter()
            .filter(|alert| alert["state"] == "firing")
            .collect()
    }

    fn names(&self) -> BTreeSet<String> {
        let alerts = self.firing().into_iter();
        alerts
            .map(|alert| {
                alert["labels"]["alertname"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    }

    /// Waits until these alerts fire.
    fn wait_for_alerts(&self, wanted: &[&str], cluster: &Cluster) {
        let result = wait_for(SETTLED, "the alerts fire", || {
            let names = self.names();
            wanted.iter().all(|name| names.contains(*name))
        });
        assert!(
            result.is_ok(),
            "{wanted:?}, but {:?} fire\n{}",
            self.names(),
            cluster.diagnosis()
        );
    }
}

/// A query of the dashboard, as Grafana would send it with all nodes chosen.
fn with_variables(query: &str) -> String {
    query
        .replace("$__rate_interval", "1m")
        .replace("$job", ".+")
        .replace("$instance", ".+")
}

#[test]
fn dashboard_and_alerts_work_with_a_real_prometheus_as_root() {
    let test = "dashboard_and_alerts_work_with_a_real_prometheus_as_root";
    if !possible(test) {
        return;
    }
    let Some(program) = tools::or_skip(test, "prometheus") else {
        return;
    };
    let fault = std::env::temp_dir().join(format!("lb-e2e-monitoring-{}", std::process::id()));
    let arguments = [
        "--max-flows",
        &FLOWS.to_string(),
        "--test-fail-writes",
        &fault.to_string_lossy(),
    ];
    let cluster = Cluster::with(Topology::cluster(2, 2), &arguments);
    let shop = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&shop);
    cluster.apply(&Service::new(&cluster.lab, "empty", 11));
    let prometheus = Prometheus::start(&cluster, &program, "node1");
    let ways: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| {
            let at = |address: Address| address.socket(&cluster, *family, 10, NODE_PORT);
            [
                ("client", at(Address::NodePort("node1"))),
                ("pod1-2", at(Address::ClusterIp)),
            ]
        })
        .collect();
    for proto in Proto::BOTH {
        for (from, to) in &ways {
            cluster.eventually(from, proto, *to, 10, Shares::all_answered);
        }
    }

    // All is well: nobody is called.
    let counted = |query: &str| -> f64 {
        let series = prometheus.series(query).unwrap_or_default();
        let value = series.first().and_then(|series| series["value"][1].as_str());
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    let read = wait_for(SETTLED, "Prometheus has read the traffic", || {
        counted("sum(lb_packets_total{outcome=\"forwarded-new\"})") >= 80.0
    });
    assert!(read.is_ok(), "{}", cluster.diagnosis());
    let quiet = wait_for(SETTLED, "no alert fires", || prometheus.names().is_empty());
    assert!(quiet.is_ok(), "{:#?}", prometheus.firing());

    // More flows than fit.
    let (from, to) = ways[0];
    let mut held = Connections::open(&cluster, &[(from, to)], HELD);
    prometheus.wait_for_alerts(&["LbFlowTableNearlyFull"], &cluster);
    cluster.probe(from, Proto::Tcp, to, MORE);
    prometheus.wait_for_alerts(&["LbFlowsRefused"], &cluster);
    held.assert_alive(&cluster, "while new flows are refused");
    drop(held);

    // A Service without endpoints refuses, and a change that cannot be written waits.
    let empty = SocketAddr::new(cluster.lab.topology().plan.services.nth(11).of(Family::V4), PORT);
    cluster.probe("pod1-2", Proto::Tcp, empty, 3);
    fs::write(&fault, "").expect("the temporary directory is writable");
    cluster.write(&shop.clone().with(&cluster.lab, &["pod1-1", "pod1-2"]));
    prometheus.wait_for_alerts(&["LbChangesWaiting", "LbMapErrors", "LbAgentCannot"], &cluster);

    every_panel_shows_something(&cluster, &prometheus);
    every_alert_can_be_asked_and_reads_well(&prometheus);

    // What is over is silent again.
    fs::remove_file(&fault).expect("it is there");
    let over = wait_for(SETTLED, "alerts about what is over end", || {
        let names = prometheus.names();
        !["LbChangesWaiting", "LbAgentCannot"]
            .iter()
            .any(|name| names.contains(*name))
    });
    assert!(over.is_ok(), "{:#?}", prometheus.firing());
}

fn every_panel_shows_something(cluster: &Cluster, prometheus: &Prometheus) {
    let page = prometheus
        .place
        .output(&["curl", "-sf", "http://127.0.0.1:10249/metrics"])
        .expect("the agent has metrics");
    let told: BTreeSet<_> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut asked = 0;
    for (panel, queries) in dashboard::panels(&dashboard::dashboard()) {
        let title = panel["title"].as_str().expect("a title");
        let may_be_empty = MAY_BE_EMPTY.iter().any(|(empty, _)| *empty == title);
        for query in queries {
            asked += 1;
            let series = prometheus
                .series(&with_variables(query))
                .unwrap_or_else(|error| panic!("{title}: {query}: {error}"));
            if may_be_empty {
                continue;
            }
            assert!(
                !series.is_empty(),
                "{title} is empty: {query}\n{}",
                cluster.diagnosis()
            );
            for name in dashboard::metrics(query) {
                assert!(told.contains(&*name), "{title}: the agent has no {name}");
            }
        }
    }
    assert!(asked > 50, "{asked} queries");
    // And it is the truth: what two panels show is what the agent says.
    let node_says = cluster.status(0);
    let ports = prometheus
        .series(&with_variables(
            "max(lb_service_ports{job=~\"$job\",instance=~\"$instance\"})",
        ))
        .expect("it can be asked");
    assert_eq!(
        ports[0]["value"][1].as_str(),
        Some(&*node_says["services_live"].to_string()),
        "{node_says:#}"
    );
}

fn every_alert_can_be_asked_and_reads_well(prometheus: &Prometheus) {
    let page = prometheus
        .place
        .output(&["curl", "-sf", "http://127.0.0.1:10249/metrics"])
        .expect("the agent has metrics");
    for (name, rule) in dashboard::alerts() {
        let query = rule["expr"].as_str().expect("a query");
        if let Err(error) = prometheus.series(query) {
            panic!("{name}: {query}: {error}");
        }
        for metric in dashboard::metrics(query) {
            assert!(
                page.contains(&format!("\n{metric}")),
                "{name}: the agent has no {metric}"
            );
        }
    }
    let firing = prometheus.firing();
    for alert in &firing {
        for part in ["summary", "description"] {
            let text = alert["annotations"][part].as_str().unwrap_or_default();
            assert!(
                !text.is_empty() && !text.contains("<no value>") && !text.contains("error expanding"),
                "{alert:#}"
            );
        }
    }
}
