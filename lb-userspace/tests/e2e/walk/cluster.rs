//! Part 2 of the page, with kubectl and helm against an API server.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_cases::apiserver::{ApiServer, NONE_FOUND};

use super::page;
use crate::{cluster::agent_path, tools};

/// What is there before, as on any cluster.
const BEFORE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node1}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
";
/// What kubeadm installs, as far as it is patched.
const KUBE_PROXY: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-proxy, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-proxy}}
  template:
    metadata: {labels: {k8s-app: kube-proxy}}
    spec: {nodeSelector: {kubernetes.io/os: linux}, containers: [{name: kube-proxy, image: kube-proxy}]}
";

/// How a command of the page is run where there is only an API server, and one without DaemonSets.
#[derive(Debug, PartialEq, Eq)]
enum How {
    /// As it is.
    Plain,
    /// Otherwise; what it prints has these words.
    Instead(String, &'static str),
    /// Not at all: it needs a kubelet, or a whole cluster.
    Never,
}

fn how(command: &str) -> How {
    let never = [" rollout ", " exec ", " debug ", " delete -k ", "helm uninstall "];
    let daemon_set = "deploy/kustomize/daemonset.yaml --local -o yaml";
    if never.iter().any(|word| command.contains(word)) {
        How::Never
    } else if command.contains(" patch daemonset kube-proxy ") {
        let instead = command.replace(
            "daemonset kube-proxy",
            "-f $PREPARED/kube-proxy.yaml --local -o yaml",
        );
        How::Instead(instead, "example.com/no-kube-proxy: \"true\"")
    } else if command.contains(" set image daemonset/lb-agent ") {
        let instead = command.replace("daemonset/lb-agent", &format!("-f {daemon_set}"));
        How::Instead(instead, "image: registry.example/lb-agent:0.2.0")
    } else if let Some(folder) = command.strip_prefix("kubectl apply -k ") {
        let filter = "awk -v RS='---\\n' '/kind: ConfigMap/'";
        let instead = format!("kubectl kustomize {folder} | {filter} | kubectl apply -f -");
        How::Instead(instead, "configmap/lb-agent created")
    } else if command.starts_with("helm install ") {
        How::Instead(
            command.replace("helm install", "helm template"),
            "image: \"registry.example/lb-agent:0.1.0\"",
        )
    } else if command.starts_with("helm upgrade ") {
        let instead = command.replace("helm upgrade", "helm template");
        How::Instead(instead.replace("--reuse-values ", ""), "lb-agent:0.2.0\"")
    } else {
        How::Plain
    }
}

/// A shell's environment in which kubectl and helm are those that were found, and ask that server.
struct Shell {
    folder: PathBuf,
    variables: BTreeMap<&'static str, String>,
}

impl Shell {
    /// Runs a command; what it prints.
    fn run(&self, command: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", command])
            .current_dir(root)
            .envs(&self.variables)
            .output()
            .expect("bash is there");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{command}: {}: {text}", output.status);
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_walk_through_a_cluster_is_understood_by_an_api_server() {
    const NAME: &str = "a_walk_through_a_cluster_is_understood_by_an_api_server";
    let (Some(kubectl), Some(helm)) = (tools::or_skip(NAME, "kubectl"), tools::or_skip(NAME, "helm")) else {
        return;
    };
    let Some(server) = ApiServer::start("") else {
        lb_lab::skip(&format!("{NAME}: {NONE_FOUND}"));
        return;
    };
    let folder = env::temp_dir().join(format!("lb-walk-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    let tools = [&kubectl, &helm].map(|tool| tool.parent().unwrap_or(Path::new("/")).to_owned());
    let own = agent_path().parent().expect("it is in a folder").to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(tools.into_iter().chain([own]).chain(env::split_paths(&path)));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let variables = BTreeMap::from([
        ("PATH", path.expect("no colons").to_string_lossy().into_owned()),
        ("KUBECONFIG", text(&server.kubeconfig())),
        ("PREPARED", text(&folder)),
    ]);
    let mut shell = Shell { folder, variables };
    for (name, objects) in [("before", BEFORE), ("kube-proxy", KUBE_PROXY)] {
        let file = shell.folder.join(name).with_extension("yaml");
        fs::write(file, objects).expect("the folder can be written");
    }
    shell.run("kubectl create namespace default 2> /dev/null || true");
    shell.run("kubectl apply -f $PREPARED/before.yaml");

    let page = include_str!("../../../../docs/walk.md");
    let begin = page.find("\n## Part 2").expect("there are two parts");
    let steps = page::steps(&page[begin..], begin);
    let mut printed = BTreeMap::new();
    let mut never = 0;
    for line in steps.iter().flat_map(|step| step.script.lines()) {
        let command = line.split("   # ").next().unwrap_or_default();
        // What the page writes to lies in the folder.
        let command = command
            .replace("dump/", "$PREPARED/dump/")
            .replace("-p dump ", "-p $PREPARED/dump ");
        let command = command.replace("--manifests dump ", "--manifests $PREPARED/dump ");
        let text = match how(&command) {
            How::Never => {
                never += 1;
                continue;
            }
            How::Plain => match command.split_once('=').filter(|(name, _)| *name == "NODE") {
                Some(_) => {
                    let node = shell.run(&format!("{command}; echo $NODE"));
                    shell.variables.insert("NODE", node.trim().to_owned());
                    node
                }
                None => shell.run(&command),
            },
            How::Instead(instead, words) => {
                let text = shell.run(&instead);
                assert!(text.contains(words), "{instead}: no {words:?} in {text}");
                text
            }
        };
        printed.insert(line, text);
    }
    assert_eq!(never, 9, "what needs a kubelet is listed at the end of the page");
    let of = |words: &str| {
        let found = printed.iter().find(|(command, _)| command.contains(words));
        found.unwrap_or_else(|| panic!("the page has no `{words}`")).1
    };
    let shown = of("get service shop");
    assert!(shown.contains("shop"), "{shown}");
    let explained = of("lb-agent explain --manifests");
    for words in [
        "REJECTED  (rejected-no-endpoints)",
        "(Service default/shop port 80-8080)",
        "no remedy",
    ] {
        assert!(explained.contains(words), "{words:?}: {explained}");
    }
    assert!(
        of("delete service").contains("deleted"),
        "{}",
        of("delete service")
    );
}
