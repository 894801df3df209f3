//! What happens in the demo's cluster, as edits of its manifests: what a controller or a person would do.
//!
//! Pure: documents in, documents out. *Not here*: files (`cluster`).

use std::fmt;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_norway::{Mapping, Value};

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Change {
    /// A pod that is ready joins a Service's endpoints.
    Scale {
        /// The Service.
        service: String,
        /// The pod; it is an endpoint of another Service already, which is where its addresses are from.
        pod: String,
    },
    /// All endpoints on a node are terminating, and still serve.
    Drain {
        /// The node.
        node: String,
    },
    /// All endpoints on a node go.
    Remove {
        /// The node.
        node: String,
    },
    /// What `lb-agent explain` names first as a remedy for a client that nobody answers. It becomes a patch when it is
    /// asked.
    Remedy(Cell),
    /// A Service is changed by a merge patch (RFC 7386) of members that are no lists and that stay.
    #[serde(skip)]
    Patch {
        /// The Service.
        service: String,
        /// The patch.
        patch: Value,
    },
}

/// Who asks what, and where the question arrives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cell {
    /// The client, outside.
    pub(super) from: String,
    /// The node that Service addresses lead to for it.
    pub(super) via: String,
    /// Name of the address.
    pub(super) to: String,
}

impl Change {
    /// Edits the documents of a cluster; says for each whether it was changed. No change at all is an error.
    pub(super) fn apply(&self, documents: &mut [Value]) -> Result<Vec<bool>> {
        let pods_slices: Vec<_> = documents.to_vec();
        let changed: Vec<_> = documents
            .iter_mut()
            .map(|document| self.edit(document, &pods_slices))
            .collect();
        ensure!(
            changed.contains(&true),
            "{self}: the manifests offer nothing to change"
        );
        Ok(changed)
    }

    fn edit(&self, document: &mut Value, all: &[Value]) -> bool {
        match self {
            Self::Scale { service, pod } => {
                is_slice_of(document, service)
                    && endpoint_of(all, pod, &document["addressType"])
                        .is_some_and(|endpoint| push_endpoint(document, endpoint))
            }
            Self::Drain { node } => on_node(document, node, |endpoint| {
                for (condition, value) in [("ready", false), ("serving", true), ("terminating", true)] {
                    endpoint["conditions"][condition] = value.into();
                }
            }),
            Self::Remove { node } => {
                let Some(endpoints) = endpoints(document) else {
                    return false;
                };
                let before = endpoints.len();
                endpoints.retain(|endpoint| endpoint["nodeName"] != node.as_str());
                endpoints.len() != before
            }
            Self::Remedy(_) => false,
            Self::Patch { service, patch } => {
                let found = document["kind"] == "Service" && document["metadata"]["name"] == service.as_str();
                if found {
                    merge(document, patch);
                }
                found
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale { service, pod } => write!(f, "{pod} joins {service}"),
            Self::Drain { node } => write!(f, "the pods of {node} are terminating"),
            Self::Remove { node } => write!(f, "the pods of {node} are gone"),
            Self::Remedy(cell) => write!(f, "{} is explained why {} is silent", cell.from, cell.to),
            Self::Patch { service, .. } => write!(f, "{service} is patched"),
        }
    }
}

/// Sets what a merge patch names.
fn merge(document: &mut Value, patch: &Value) {
    let Some(members) = patch.as_mapping() else {
        *document = patch.clone();
        return;
    };
    // Indexing makes a missing key, but not a missing mapping.
    if !document.is_mapping() {
        *document = Mapping::new().into();
    }
    for (name, member) in members {
        merge(&mut document[name], member);
    }
}

fn is_slice_of(document: &Value, service: &str) -> bool {
    let label = || &document["metadata"]["labels"]["kubernetes.io/service-name"];
    document["kind"] == "EndpointSlice" && label() == service
}

fn endpoints(document: &mut Value) -> Option<&mut Vec<Value>> {
    document.get_mut("endpoints")?.as_sequence_mut()
}

fn on_node(document: &mut Value, node: &str, edit: impl Fn(&mut Value)) -> bool {
    let mut found = false;
    for endpoint in endpoints(document).into_iter().flatten() {
        if endpoint["nodeName"] == node {
            // Indexing makes a missing key, but not a missing mapping.
            if !endpoint["conditions"].is_mapping() {
                endpoint["conditions"] = Mapping::new().into();
            }
            edit(endpoint);
            found = true;
        }
    }
    found
}

/// A pod's endpoint, from any slice of this address type.
fn endpoint_of(all: &[Value], pod: &str, address_type: &Value) -> Option<Value> {
    all.iter()
        .filter(|document| document["kind"] == "EndpointSlice" && document["addressType"] == *address_type)
        .filter_map(|slice| slice["endpoints"].as_sequence())
        .flatten()
        .find(|endpoint| endpoint["targetRef"]["name"] == pod)
        .cloned()
}

fn push_endpoint(document: &mut Value, endpoint: Value) -> bool {
    let Some(endpoints) = endpoints(document) else {
        return false;
    };
    let new = !endpoints.contains(&endpoint);
    if new {
        endpoints.push(endpoint);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(service: &str, kind: &str, endpoints: &str) -> Value {
        serde_norway::from_str(&format!(
            "{{ kind: EndpointSlice, addressType: {kind}, \
             metadata: {{ labels: {{ kubernetes.io/service-name: {service} }} }}, endpoints: [{endpoints}] }}"
        ))
        .unwrap()
    }

    fn endpoint(pod: &str, node: &str, address: &str) -> String {
        format!("{{ addresses: [{address:?}], nodeName: {node}, targetRef: {{ name: {pod} }} }}")
    }

    #[test]
    fn a_pod_joins_with_the_address_of_each_family() {
        let mut documents = [
            slice("cart", "IPv4", &endpoint("a", "node1", "10.0.0.1")),
            slice("cart", "IPv6", ""),
            slice("other", "IPv4", &endpoint("b", "node2", "10.0.0.2")),
            slice("other", "IPv6", &endpoint("b", "node2", "fd00::2")),
        ];
        let change = Change::Scale {
            service: "cart".into(),
            pod: "b".into(),
        };
        assert_eq!(change.apply(&mut documents).unwrap(), [true, true, false, false]);
        assert_eq!(documents[0]["endpoints"][1]["addresses"][0], "10.0.0.2");
        assert_eq!(documents[1]["endpoints"][0]["addresses"][0], "fd00::2");
        assert!(change.apply(&mut documents).is_err(), "it is there already");
    }

    #[test]
    fn a_drained_node_keeps_its_endpoints_and_a_removed_one_loses_them() {
        let both = [
            endpoint("a", "node1", "10.0.0.1"),
            endpoint("b", "node2", "10.0.0.2"),
        ]
        .join(", ");
        let mut documents = [slice("cart", "IPv4", &both)];
        let drain = Change::Drain { node: "node2".into() };
        drain.apply(&mut documents).unwrap();
        assert_eq!(documents[0]["endpoints"][0].get("conditions"), None);
        let conditions = &documents[0]["endpoints"][1]["conditions"];
        assert_eq!(
            (&conditions["ready"], &conditions["serving"]),
            (&false.into(), &true.into())
        );
        let remove = Change::Remove { node: "node2".into() };
        remove.apply(&mut documents).unwrap();
        assert_eq!(documents[0]["endpoints"].as_sequence().unwrap().len(), 1);
        assert!(remove.apply(&mut documents).is_err(), "nobody is left on it");
    }

    #[test]
    fn a_patch_changes_the_service_only() {
        let service = "{ kind: Service, metadata: { name: shop }, spec: { externalTrafficPolicy: Local } }";
        let mut documents = [
            serde_norway::from_str(service).unwrap(),
            slice("shop", "IPv4", ""),
        ];
        let change = Change::Patch {
            service: "shop".into(),
            patch: serde_norway::from_str("{ spec: { externalTrafficPolicy: Cluster } }").unwrap(),
        };
        assert_eq!(change.apply(&mut documents).unwrap(), [true, false]);
        assert_eq!(documents[0]["spec"]["externalTrafficPolicy"], "Cluster");
    }
}
