//! The dashboard and the alerts can be read by those whom they are for: Grafana, Prometheus, and a person at night.

#[path = "../common/dashboard.rs"]
mod dashboard;

use std::{collections::BTreeSet, fs, process::Command};

use crate::{deploy, tools};

const PAGE: &str = "docs/monitoring.md";

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let whole = dashboard::dashboard();
    let variables = whole["templating"]["list"].as_array().expect("a list");
    assert_eq!(variables[0]["type"], "datasource", "it can be imported anywhere");
    let panels = dashboard::panels(&whole);
    let mut ids = BTreeSet::new();
    for panel in whole["panels"].as_array().expect("a list") {
        assert!(ids.insert(panel["id"].as_u64()), "an id occurs twice: {panel}");
    }
    let mut titles = BTreeSet::new();
    for (panel, queries) in &panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(titles.insert(title), "{title} occurs twice");
        let described = panel["description"].as_str().is_some_and(|text| text.len() > 20);
        assert!(described, "{title} is not described");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(unit.is_some_and(|unit| !unit.is_empty()), "{title} has no unit");
        let targets = panel["targets"].as_array().expect("a list").iter();
        for source in targets.chain([*panel]) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
        assert!(!queries.is_empty(), "{title} asks for nothing");
        for query in queries {
            assert!(
                query.contains("job=~\"$job\",instance=~\"$instance\""),
                "{title} does not look at the nodes that were chosen: {query}"
            );
            assert!(
                query.contains("up{") || !dashboard::metrics(query).is_empty(),
                "{title} asks for nothing of ours: {query}"
            );
        }
    }
    // No two panels lie over each other.
    let places: Vec<_> = whole["panels"].as_array().expect("a list").iter().collect();
    for (number, one) in places.iter().enumerate() {
        for other in &places[number + 1..] {
            let at =
                |panel: &serde_json::Value, field: &str| panel["gridPos"][field].as_u64().expect("a place");
            let apart = |position, size| {
                at(one, position) + at(one, size) <= at(other, position)
                    || at(other, position) + at(other, size) <= at(one, position)
            };
            assert!(
                apart("x", "w") || apart("y", "h"),
                "{} and {}",
                one["title"],
                other["title"]
            );
        }
    }
}

#[test]
fn every_alert_says_what_to_do_and_has_its_section() {
    let page = dashboard::read(PAGE);
    let sections: BTreeSet<_> = (page.lines())
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_owned)
        .collect();
    let alerts = dashboard::alerts();
    let names: BTreeSet<_> = alerts.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, sections, "{PAGE} has a section for each alert");
    let tried = dashboard::read("deploy/monitoring/alerts_test.yaml");
    for (name, rule) in &alerts {
        let annotations = &rule["annotations"];
        let severity = rule["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning")),
            "{name}: {severity:?}"
        );
        for part in ["summary", "description"] {
            assert!(
                annotations[part].as_str().is_some_and(|text| text.len() > 20),
                "{name}: {part}"
            );
        }
        let runbook = format!("{PAGE}#{}", name.to_lowercase());
        assert_eq!(annotations["runbook"], runbook, "{name}");
        assert!(
            tried.contains(&format!("alertname=\"{name}\"")),
            "{name} is never tried"
        );
    }
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    let Some(promtool) = tools::or_skip("alerts_fire_when_they_should_and_not_otherwise", "promtool") else {
        return;
    };
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(deploy().join("monitoring"))
            .output()
            .expect("promtool runs");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(
            output.status.success(),
            "promtool {arguments:?}: {}",
            text.concat()
        );
    }
}

#[test]
fn the_scrape_configuration_of_the_page_is_understood() {
    let Some(promtool) = tools::or_skip("the_scrape_configuration_of_the_page_is_understood", "promtool")
    else {
        return;
    };
    let page = dashboard::read(PAGE);
    let block = page
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let block = block.expect("the page has the configuration");
    assert!(
        block.contains("job_name: lb-agent"),
        "alerts go by this name: {block}"
    );
    // Debian's Prometheus is built without what knows Kubernetes.
    let discovery = "kubernetes_sd_configs: [{role: node}]";
    assert!(block.contains(discovery), "{block}");
    let known = block.replace(discovery, "static_configs: [{targets: [node1]}]");
    let file = std::env::temp_dir().join(format!("lb-scrape-{}.yaml", std::process::id()));
    fs::write(&file, known).expect("the temporary directory is writable");
    let output = Command::new(promtool)
        .args(["check", "config", "--syntax-only"])
        .arg(&file)
        .output();
    let _ = fs::remove_file(&file);
    let output = output.expect("promtool runs");
    assert!(
        output.status.success(),
        "{}\n{block}",
        String::from_utf8_lossy(&output.stderr)
    );
}
