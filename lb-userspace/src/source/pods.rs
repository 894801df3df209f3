//! Pods in a directory of manifests: who they are, for those who ask by name.
//!
//! *Input*: Pod manifests, and the `targetRef` of endpoints where there is none. The agent itself needs neither: it
//! follows endpoints. *Not here*: Services, EndpointSlices and Nodes as such, see `manifest`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::Path,
};

use serde::Deserialize as _;
use serde_norway::Value;

use super::directory::files;
use crate::model::{ObjectKey, parse_address};

/// A pod.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pod {
    /// Its addresses, sorted.
    pub addresses: BTreeSet<IpAddr>,
    /// Name of its node; `None`: nobody says.
    pub node: Option<String>,
    /// It shares its node's network: its address is the node's.
    pub host_network: bool,
    /// What makes it, as kubectl calls it: `deployment/web`.
    pub owner: Option<String>,
}

/// Pods, and who selects them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pods {
    /// Pods by name.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// `spec.selector` of Services.
    pub selectors: BTreeMap<ObjectKey, BTreeMap<String, String>>,
}

/// All pods of a directory.
///
/// # Errors
/// If the directory cannot be read. What is wrong with a file is told by the source itself.
pub fn read(folder: &Path) -> io::Result<Pods> {
    let mut pods = Pods::default();
    for file in files(folder)? {
        if let Ok(text) = fs::read_to_string(&file) {
            parse(&text, &mut pods);
        }
    }
    Ok(pods)
}

/// Adds the pods of one file.
fn parse(text: &str, pods: &mut Pods) {
    for document in serde_norway::Deserializer::from_str(text) {
        let Ok(value) = Value::deserialize(document) else {
            return;
        };
        match value.get("items").and_then(Value::as_sequence) {
            Some(items) => items.iter().for_each(|item| add(item, pods)),
            None => add(&value, pods),
        }
    }
}

fn add(object: &Value, pods: &mut Pods) {
    match text(object, &["kind"]) {
        Some("Pod") => add_pod(object, pods),
        Some("EndpointSlice") => add_endpoints(object, pods),
        Some("Service") => add_selector(object, pods),
        _ => {}
    }
}

fn add_pod(object: &Value, pods: &mut Pods) {
    let Some(name) = text(object, &["metadata", "name"]) else {
        return;
    };
    let namespace = text(object, &["metadata", "namespace"]).unwrap_or("default");
    let pod = pods.pods.entry(ObjectKey::new(namespace, name)).or_default();
    pod.host_network |= at(object, &["spec", "hostNetwork"])
        .and_then(Value::as_bool)
        .unwrap_or(false);
    if let Some(node) = text(object, &["spec", "nodeName"]) {
        pod.node = Some(node.to_owned());
    }
    pod.owner = owner(object).or(pod.owner.take());
    let several = at(object, &["status", "podIPs"])
        .and_then(Value::as_sequence)
        .into_iter()
        .flatten()
        .filter_map(|entry| text(entry, &["ip"]));
    let all = several.chain(text(object, &["status", "podIP"]));
    pod.addresses.extend(all.filter_map(parse_address));
}

fn add_endpoints(slice: &Value, pods: &mut Pods) {
    let namespace = text(slice, &["metadata", "namespace"]).unwrap_or("default");
    let endpoints = slice.get("endpoints").and_then(Value::as_sequence);
    for endpoint in endpoints.into_iter().flatten() {
        let (Some("Pod"), Some(name)) = (
            text(endpoint, &["targetRef", "kind"]),
            text(endpoint, &["targetRef", "name"]),
        ) else {
            continue;
        };
        let namespace = text(endpoint, &["targetRef", "namespace"]).unwrap_or(namespace);
        let pod = pods.pods.entry(ObjectKey::new(namespace, name)).or_default();
        if pod.node.is_none() {
            pod.node = text(endpoint, &["nodeName"]).map(str::to_owned);
        }
        let first = endpoint
            .get("addresses")
            .and_then(Value::as_sequence)
            .and_then(|all| all.first()?.as_str());
        pod.addresses.extend(first.and_then(parse_address));
    }
}

fn add_selector(service: &Value, pods: &mut Pods) {
    let Some(name) = text(service, &["metadata", "name"]) else {
        return;
    };
    let namespace = text(service, &["metadata", "namespace"]).unwrap_or("default");
    let selector = at(service, &["spec", "selector"]).and_then(Value::as_mapping);
    let pairs = selector.into_iter().flatten();
    let pairs =
        pairs.filter_map(|(label, value)| Some((label.as_str()?.to_owned(), value.as_str()?.to_owned())));
    pods.selectors
        .insert(ObjectKey::new(namespace, name), pairs.collect());
}

/// A ReplicaSet is a Deployment's, and called like it but for a hash.
fn owner(pod: &Value) -> Option<String> {
    let owners = at(pod, &["metadata", "ownerReferences"])?.as_sequence()?;
    let owner = owners.first()?;
    let (kind, name) = (text(owner, &["kind"])?, text(owner, &["name"])?);
    Some(match (kind, name.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, _))) => format!("deployment/{deployment}"),
        _ => format!("{}/{name}", kind.to_ascii_lowercase()),
    })
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, field| value.get(field))
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_known_by_their_manifests_and_by_the_endpoints_that_name_them() {
        let mut pods = Pods::default();
        parse(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: shop}
endpoints:
- {addresses: [10.1.0.5], nodeName: node1, targetRef: {kind: Pod, name: web-0}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web-0, namespace: shop, ownerReferences: [{kind: ReplicaSet, name: web-77f9}]}
  status: {podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}, {ip: 'fd00:1::5'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: tool}
  spec: {nodeName: node2, hostNetwork: true}
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}}}
",
            &mut pods,
        );
        let ip = |text: &str| text.parse().unwrap();
        let web = Pod {
            addresses: [ip("10.1.0.5"), ip("fd00:1::5")].into(),
            node: Some("node1".into()),
            host_network: false,
            owner: Some("deployment/web".into()),
        };
        let tool = Pod {
            node: Some("node2".into()),
            host_network: true,
            ..Pod::default()
        };
        let expected = [
            (ObjectKey::new("default", "tool"), tool),
            (ObjectKey::new("shop", "web-0"), web),
        ];
        let selector = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert_eq!(pods.pods, expected.into());
        assert_eq!(pods.selectors, [(ObjectKey::new("shop", "web"), selector)].into());
    }
}
