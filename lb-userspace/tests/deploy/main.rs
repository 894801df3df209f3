//! The two ways to install are one: `helm template` and `kubectl kustomize` give the same objects, and nothing in them
//! is unknown to Kubernetes' types.

mod monitoring;
#[path = "../common/tools.rs"]
mod tools;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// By kind and name.
type Objects = BTreeMap<(String, String), Value>;

/// Both; says loudly which one is missing.
fn tools(test: &str) -> Option<[PathBuf; 2]> {
    let found = ["helm", "kubectl"].map(|name| tools::or_skip(test, name));
    match found {
        [Some(helm), Some(kubectl)] => Some([helm, kubectl]),
        _ => None,
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(deploy())
        .output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn objects(yaml: &str) -> Objects {
    let values = serde_norway::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).expect("it is YAML"))
        .filter(|value| !value.is_null());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    values
        .map(|value| ((word(&value["kind"]), word(&value["metadata"]["name"])), value))
        .collect()
}

fn kustomized(kubectl: &Path) -> Objects {
    objects(&run(kubectl, &["kustomize", "kustomize"]).unwrap_or_else(|error| panic!("{error}")))
}

fn templated(helm: &Path, settings: &[&str]) -> Result<Objects, String> {
    let template = ["template", "lb", "helm/lb", "--namespace", "kube-system"];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let arguments: Vec<_> = template.into_iter().chain(settings).collect();
    run(helm, &arguments).map(|yaml| objects(&yaml))
}

/// The same value, having gone through its type.
fn through<T: DeserializeOwned + Serialize>(value: &Value) -> Value {
    let object: T = serde_json::from_value(value.clone()).expect("it is of its type");
    serde_json::to_value(object).expect("it can be written")
}

fn round_trip(value: &Value) -> Value {
    match value["kind"].as_str().unwrap_or_default() {
        "DaemonSet" => through::<DaemonSet>(value),
        "ConfigMap" => through::<ConfigMap>(value),
        "ServiceAccount" => through::<ServiceAccount>(value),
        "ClusterRole" => through::<ClusterRole>(value),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(value),
        other => panic!("a kind that nobody expects: {other}"),
    }
}

#[test]
fn helm_and_kustomize_give_the_same_objects() {
    let Some([helm, kubectl]) = tools("helm_and_kustomize_give_the_same_objects") else {
        return;
    };
    let (by_helm, by_kustomize) = (templated(&helm, &[]).expect("it renders"), kustomized(&kubectl));
    assert_eq!(by_helm, by_kustomize);
    let kinds: Vec<_> = by_helm.keys().map(|(kind, _)| &**kind).collect();
    let wanted = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "ServiceAccount",
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn no_key_is_unknown_to_kubernetes() {
    let Some([helm, kubectl]) = tools("no_key_is_unknown_to_kubernetes") else {
        return;
    };
    let many = [
        "imagePullSecrets={pull}",
        "apiServer.addresses={192.0.2.1:6443}",
        "serviceCidrs={10.96.0.0/12,fd00:96::/112}",
        "nodeportAddresses={192.0.2.0/24}",
        "externalIPRanges={198.51.100.0/24}",
        "hook=xdp",
        "connectHooks=host",
        "serviceCounters=true",
        "extraArgs={--masquerade-all}",
        "nodeSelector=null",
        "maxUnavailable=1",
    ];
    let all = [
        kustomized(&kubectl),
        templated(&helm, &[]).expect("it renders"),
        templated(&helm, &many).expect("it renders"),
    ];
    // A key with a slip of the pen is dropped by the type, and so missing afterwards.
    for value in all.iter().flat_map(Objects::values) {
        assert_eq!(round_trip(value), *value);
    }
}

#[test]
fn values_of_the_chart_become_options_of_the_agent() {
    let Some([helm, _]) = tools("values_of_the_chart_become_options_of_the_agent") else {
        return;
    };
    let set = |settings: &[&str]| {
        let objects = templated(&helm, settings).expect("it renders");
        let daemons = &objects[&("DaemonSet".to_owned(), "lb-agent".to_owned())];
        let config = &objects[&("ConfigMap".to_owned(), "lb-agent".to_owned())];
        let args = daemons["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        (
            serde_json::from_value::<Vec<String>>(args).expect("words"),
            config["data"].clone(),
        )
    };
    assert_eq!(set(&[]).0, ["run"]);
    let everything = [
        "serviceCidrs={10.96.0.0/12,fd00:96::/112}",
        "nodeportAddresses={192.0.2.0/24}",
        "externalIPRanges={198.51.100.0/24}",
        "hook=xdp",
        "connectHooks=off",
        "serviceCounters=true",
        "extraArgs={--masquerade-all}",
        "apiServer.addresses={192.0.2.1:6443,https://192.0.2.2:6443}",
        "apiServer.serverName=kubernetes.default.svc",
    ];
    let (args, data) = set(&everything);
    let wanted = [
        "run",
        "--service-cidr=10.96.0.0/12,fd00:96::/112",
        "--nodeport-addresses=192.0.2.0/24",
        "--external-ip-ranges=198.51.100.0/24",
        "--hook=xdp",
        "--connect-hooks=off",
        "--service-counters",
        "--masquerade-all",
    ];
    assert_eq!(args, wanted);
    assert_eq!(data["LB_API_SERVERS"], "192.0.2.1:6443,https://192.0.2.2:6443");
    assert_eq!(data["LB_API_SERVER_NAME"], "kubernetes.default.svc");
    // The agent takes them.
    let help = Command::new(env!("CARGO_BIN_EXE_lb-agent"))
        .args(["run", "--help"])
        .output();
    let help = String::from_utf8_lossy(&help.expect("it runs").stdout).into_owned();
    for option in wanted[1..]
        .iter()
        .map(|word| word.split('=').next().unwrap_or_default())
    {
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
            "{option}"
        );
    }
    for wrong in [
        "hook=fast",
        "serviceCounters=yes",
        "serviceCidrs={10.96.0.0}",
        "image.tag=",
        "host.bpffs=bpf",
        "typo=1",
    ] {
        assert!(templated(&helm, &[wrong]).is_err(), "{wrong} should be refused");
    }
}

#[test]
fn variables_of_the_manifest_are_known_to_the_agent() {
    let text = fs::read_to_string(deploy().join("kustomize/daemonset.yaml")).expect("it is there");
    let set = objects(&text).into_values().next().expect("one object");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let mounts: Vec<_> = container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let help = Command::new(env!("CARGO_BIN_EXE_lb-agent"))
        .args(["run", "--help"])
        .output();
    let help = String::from_utf8_lossy(&help.expect("it runs").stdout).into_owned();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        assert!(help.contains(&format!("[env: {name}")), "{name}: {help}");
        let Some(value) = variable["value"].as_str() else {
            continue;
        };
        assert!(
            mounts.iter().any(|mount| mount["mountPath"] == value),
            "{name}: {value} is no mount"
        );
    }
}
