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
    /// A Service gets another `externalTrafficPolicy`.
    ExternalPolicy {
        /// The Service.
        service: String,
        /// `Local` or `Cluster`.
        policy: String,
    },
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
            Self::ExternalPolicy { service, policy } => {
                let found = document["kind"] == "Service" && document["metadata"]["name"] == service.as_str();
                if found {
                    document["spec"]["externalTrafficPolicy"] = policy.as_str().into();
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
            Self::ExternalPolicy { service, policy } => {
                write!(f, "{service} gets externalTrafficPolicy {policy}")
            }
        }
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
    fn a_policy_is_changed_in_the_service_only() {
        let service = "{ kind: Service, metadata: { name: shop }, spec: { externalTrafficPolicy: Local } }";
        let mut documents = [
            serde_norway::from_str(service).unwrap(),
            slice("shop", "IPv4", ""),
        ];
        let change: Change =
            serde_norway::from_str("{ do: external-policy, service: shop, policy: Cluster }").unwrap();
        assert_eq!(change.apply(&mut documents).unwrap(), [true, false]);
        assert_eq!(documents[0]["spec"]["externalTrafficPolicy"], "Cluster");
    }
}
