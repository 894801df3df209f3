//! The dashboard in `deploy/monitoring`, as far as tests look at it.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

/// The file's text.
pub(crate) fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The whole of it.
pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/monitoring/dashboard.json")).expect("the dashboard is JSON")
}

/// All panels but the headings of rows, each with its queries as they are written, with Grafana's variables.
pub(crate) fn panels(dashboard: &Value) -> Vec<(&Value, Vec<&str>)> {
    let all = dashboard["panels"].as_array().expect("a list").iter();
    all.filter(|panel| panel["type"] != "row")
        .map(|panel| {
            let targets = panel["targets"].as_array().expect("a list").iter();
            let queries = targets.map(|target| target["expr"].as_str().expect("a query"));
            (panel, queries.collect())
        })
        .collect()
}

/// Names of metrics in a query; those that Prometheus makes itself are not among them.
pub(crate) fn metrics(query: &str) -> BTreeSet<String> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["lb_", "kubeproxy_", "process_"]
                .iter()
                .any(|begin| word.starts_with(begin))
        })
        .map(str::to_owned)
        .collect()
}

/// Alerts as they are written: name and rule.
pub(crate) fn alerts() -> Vec<(String, Value)> {
    let rules: Value =
        serde_norway::from_str(&read("deploy/monitoring/alerts.yaml")).expect("the rules are YAML");
    let groups = rules["groups"].as_array().expect("a list").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("a list"));
    rules
        .map(|rule| (rule["alert"].as_str().expect("a name").to_owned(), rule.clone()))
        .collect()
}
