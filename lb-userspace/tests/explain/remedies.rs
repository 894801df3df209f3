//! Remedies hold: their commands are carried out on the manifests, and the question is asked again.

use std::{fs, path::Path};

use serde_json::Value;
use serde_norway::Value as Yaml;

use super::asked::{ask, manifests, text};

/// A copy of the manifests that is gone when it is dropped.
struct Copy(std::path::PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lb-explain-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the directory for temporary files can be written");
        for entry in fs::read_dir(manifests()).expect("the manifests are there") {
            let path = entry.expect("the folder can be read").path();
            let file = path.file_name().expect("a file has a name");
            fs::copy(&path, folder.join(file)).expect("the copy can be written");
        }
        Self(folder)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Carries out `kubectl patch service NAME ... -p 'PATCH'` on a file of manifests.
fn patch(folder: &Path, command: &str) {
    let name = command.split(' ').nth(3).expect("the command names a Service");
    let (_, quoted) = command.split_once("-p '").expect("the command has a patch");
    let patch: Value = serde_json::from_str(quoted.trim_end_matches('\'')).expect("the patch is JSON");
    let path = folder.join(format!("{name}.yaml"));
    let file = fs::read_to_string(&path).expect("each Service has a file of its name");
    let (service, rest) = file.split_once("---\n").expect("slices follow the Service");
    let mut object: Value = serde_norway::from_str(service).expect("it is YAML");
    match &patch {
        Value::Array(steps) => {
            for step in steps {
                let path = text(step, "path");
                let (parent, field) = path.rsplit_once('/').expect("a path has parts");
                let parent = object.pointer_mut(parent).expect("the path leads somewhere");
                parent[field] = step["value"].clone();
            }
        }
        patch => {
            for (field, value) in patch["spec"].as_object().expect("it changes the spec") {
                object["spec"][field] = value.clone();
            }
        }
    }
    let service: Yaml = serde_norway::to_value(&object).expect("JSON is YAML");
    let service = serde_norway::to_string(&service).expect("it can be written");
    fs::write(&path, format!("{service}---\n{rest}")).expect("the copy can be written");
}

#[test]
fn explain_offers_patches_that_turn_the_answer_once_they_are_applied() {
    let mut applied = 0;
    for (number, (from, to, via, verdict)) in [
        ("203.0.113.7", "192.0.2.11:80", Some("node3"), "forwarded"),
        (
            "2001:db8:5ca1::7",
            "[2001:db8:1ba::11]:53/udp",
            Some("node3"),
            "forwarded",
        ),
        ("203.0.113.7", "192.168.0.3:30110", None, "forwarded"),
        ("pod/shop/tool3", "172.30.0.12:80", None, "forwarded"),
        ("node/node3", "[fd00:172:30::12]:80", None, "forwarded"),
        ("pod/shop/tool1", "192.0.2.16:80", None, "forwarded"),
        ("pod/shop/tool3", "192.0.2.14:80", None, "passed"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = ask(&manifests(), from, to, via);
        assert_ne!(text(&before[0], "verdict"), "forwarded", "{from} to {to}");
        let found = before[0]["remedies"]["found"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let patches = found.iter().map(|remedy| text(remedy, "command"));
        for command in patches.filter(|command| command.starts_with("kubectl patch service")) {
            let copy = Copy::new(&number.to_string());
            patch(&copy.0, command);
            let after = ask(&copy.0, from, to, via);
            assert_eq!(
                text(&after[0], "verdict"),
                verdict,
                "{from} to {to}, after {command}"
            );
            applied += 1;
        }
    }
    assert_eq!(applied, 7);
}

#[test]
fn explain_orders_remedies_by_what_they_cost() {
    let answers = ask(&manifests(), "pod/shop/tool3", "192.0.2.14:80", None);
    let kinds = |answer: &Value| -> Vec<String> {
        let found = answer["remedies"]["found"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let words = found.iter().map(|remedy| {
            text(remedy, "what")
                .split([' ', ':'])
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        });
        words.collect()
    };
    assert_eq!(kinds(&answers[0]), ["use the", "pass through"]);
    let answers = ask(&manifests(), "203.0.113.7", "192.0.2.11:80", Some("node3"));
    assert_eq!(
        kinds(&answers[0]),
        ["set externalTrafficPolicy", "move or", "come by"]
    );
    let answers = ask(&manifests(), "pod/shop/web-1", "192.0.2.11:80", Some("node3"));
    let last = kinds(&answers[0]).pop();
    assert_eq!(
        last.as_deref(),
        Some("run the"),
        "an agent on the client's own node"
    );
}

#[test]
fn explain_offers_nothing_where_nothing_is_wrong() {
    let answers = ask(&manifests(), "pod/shop/tool3", "192.0.2.11:80", None);
    let remedies = &answers[0]["remedies"];
    assert_eq!(
        (remedies["found"].as_array().map(Vec::len), &remedies["none"]),
        (Some(0), &Value::Null)
    );
}

#[test]
fn explain_takes_an_annotation_off_where_that_passes_traffic_through() {
    let copy = Copy::new("annotation");
    let path = copy.0.join("through.yaml");
    let file = fs::read_to_string(&path).expect("the Service has a file");
    let annotated = file.replace(", ipMode: Proxy", "").replacen(
        "namespace: shop}",
        "namespace: shop, annotations: {kubernetes.io/elb.pass-through: 'true'}}",
        1,
    );
    fs::write(&path, &annotated).expect("the copy can be written");
    let ask = || ask(&copy.0, "pod/shop/web-1", "192.0.2.16:80", None);
    let answers = ask();
    assert_eq!(text(&answers[0], "verdict"), "passed", "{answers:#?}");
    let remedies = answers[0]["remedies"]["found"].as_array().expect("a list");
    let mut commands = remedies.iter().map(|remedy| text(remedy, "command"));
    let command = "kubectl annotate service through -n shop kubernetes.io/elb.pass-through-";
    assert!(commands.any(|offered| offered == command), "{remedies:#?}");
    // Carried out.
    fs::write(
        &path,
        annotated.replace("elb.pass-through: 'true'", "elb.other: 'true'"),
    )
    .expect("the copy can be written");
    assert_eq!(text(&ask()[0], "verdict"), "forwarded");
}
