//! Reads one file of manifests: YAML or JSON, several documents, Lists.
//!
//! Pure: from text to values. Fills in what the API server would: the namespace `default`, the empty name of
//! an unnamed port. Addresses it does not allocate; see `kubernetes::convert` for what becomes of that.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde::{Deserialize, Deserializer};
use serde_norway::{Error, Value};

use crate::{
    kubernetes::{Annotations, Converted, Object},
    model::{Change, ObjectKey, Problem},
};

/// A kind of object, and which one it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    kind: Kind,
    key: ObjectKey,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Service,
    EndpointSlice,
    Node,
}

/// What is in a file.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Manifest {
    /// Its objects.
    pub(super) objects: BTreeMap<Id, Arc<Converted>>,
    /// Objects that it has, but that cannot be read: what was known of them stands.
    pub(super) broken: Vec<Id>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// Objects of other kinds.
    pub(super) ignored: u64,
}

impl Id {
    /// How it is called in a [`Problem`].
    pub(super) fn subject(&self) -> String {
        match self.kind {
            Kind::Service => Service::subject(&self.key),
            Kind::EndpointSlice => EndpointSlice::subject(&self.key),
            Kind::Node => Node::subject(&self.key),
        }
    }

    /// Its end.
    pub(super) fn deleted(self) -> Change {
        match self.kind {
            Kind::Service => Service::deleted(self.key),
            Kind::EndpointSlice => EndpointSlice::deleted(self.key),
            Kind::Node => Node::deleted(self.key),
        }
    }
}

/// Reads the text of `file`. A document that is no YAML, or no object, spoils the whole file: who knows what
/// else is missing. An object of ours that is malformed spoils only itself.
///
/// # Errors
/// The problem, with the line, if the file is spoilt.
pub(super) fn parse(file: &str, text: &str, annotations: &Annotations) -> Result<Manifest, Problem> {
    let spoilt = |error: &dyn std::fmt::Display| Problem {
        object: file.to_owned(),
        message: format!("{error}; correct it (what the file said before stands until then)"),
    };
    let mut reader = Reader {
        file,
        annotations,
        manifest: Manifest::default(),
    };
    // Twice over: what an object is must be known before it can be read with line numbers in its errors.
    let documents = serde_norway::Deserializer::from_str(text);
    for (document, again) in documents.zip(serde_norway::Deserializer::from_str(text)) {
        let value = Value::deserialize(document).map_err(|error| spoilt(&error))?;
        let Some(header) = Header::of(&value) else {
            if value.is_null() {
                continue; // nothing between two separators
            }
            return Err(spoilt(
                &"a document is no Kubernetes object: kind or apiVersion is missing",
            ));
        };
        match header.item_kind() {
            Some(item_kind) => {
                let items = value
                    .get("items")
                    .and_then(Value::as_sequence)
                    .map_or(&[][..], Vec::as_slice);
                for item in items {
                    let header = Header::of(item).unwrap_or(Header {
                        kind: item_kind,
                        ..header
                    });
                    reader.take(header, item, item);
                }
            }
            None => reader.take(header, &value, again),
        }
    }
    Ok(reader.manifest)
}

/// What an object says it is.
#[derive(Clone, Copy)]
struct Header<'a> {
    version: &'a str,
    kind: &'a str,
}

impl<'a> Header<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        Some(Self {
            version: text("apiVersion")?,
            kind: text("kind")?,
        })
    }

    /// Of a `List` (or `ServiceList`): the kind of items that do not say themselves what they are.
    fn item_kind(self) -> Option<&'a str> {
        match (self.version, self.kind) {
            ("v1", "List" | "ServiceList" | "NodeList") | ("discovery.k8s.io/v1", "EndpointSliceList") => {
                self.kind.strip_suffix("List")
            }
            _ => None,
        }
    }
}

struct Reader<'a> {
    file: &'a str,
    annotations: &'a Annotations,
    manifest: Manifest,
}

impl Reader<'_> {
    fn take<'de>(
        &mut self,
        header: Header<'_>,
        value: &Value,
        source: impl Deserializer<'de, Error = Error>,
    ) {
        match (header.version, header.kind) {
            ("v1", "Service") => self.add::<Service>(Kind::Service, value, source, |_| {}),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.add::<EndpointSlice>(Kind::EndpointSlice, value, source, name_ports);
            }
            ("v1", "Node") => self.add::<Node>(Kind::Node, value, source, |_| {}),
            _ => self.manifest.ignored += 1,
        }
    }

    fn add<'de, K: Object>(
        &mut self,
        kind: Kind,
        value: &Value,
        source: impl Deserializer<'de, Error = Error>,
        complete: impl FnOnce(&mut K),
    ) {
        let meta = |field: &str| {
            value
                .get("metadata")?
                .get(field)?
                .as_str()
                .filter(|text| !text.is_empty())
        };
        let Some(name) = meta("name") else {
            return self.say(format!("a {} has no metadata.name; give it one", K::KIND));
        };
        let namespace = if kind == Kind::Node {
            ""
        } else {
            meta("namespace").unwrap_or("default")
        };
        let id = Id {
            kind,
            key: ObjectKey::new(namespace, name),
        };
        match K::deserialize(source) {
            Ok(mut object) => {
                object.meta_mut().namespace = Some(namespace.to_owned()).filter(|text| !text.is_empty());
                complete(&mut object);
                if self.manifest.objects.contains_key(&id) {
                    return self.say(format!(
                        "{} is in it twice, the first counts; remove one",
                        id.subject()
                    ));
                }
                let converted = object.convert(self.annotations);
                self.manifest.objects.insert(id, Arc::new(converted));
            }
            Err(error) => {
                self.say(format!(
                    "{}: {error}; correct it (what was known of it stands)",
                    id.subject()
                ));
                self.manifest.broken.push(id);
            }
        }
    }

    fn say(&mut self, message: String) {
        self.manifest.problems.push(Problem {
            object: self.file.to_owned(),
            message,
        });
    }
}

fn name_ports(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str, text: &str) -> Result<Manifest, Problem> {
        super::parse(file, text, &Annotations::default())
    }

    fn subjects(manifest: &Manifest) -> Vec<String> {
        manifest.objects.keys().map(Id::subject).collect()
    }

    #[test]
    fn documents_lists_comments_and_strangers_are_told_apart() {
        let manifest = parse(
            "shop.yaml",
            "# A shop.
---
apiVersion: v1
kind: Service
metadata: {name: web}   # in the default namespace
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
---
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: not-ours}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: node-a, namespace: nonsense}}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080}]
  endpoints: [{addresses: [10.180.0.1]}]
- {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}
---
apiVersion: v1
kind: ServiceList
items: [{metadata: {name: api, namespace: shop}, spec: {clusterIP: None}}]
",
        )
        .expect("it is well-formed");
        assert_eq!(
            subjects(&manifest),
            [
                "Service default/web",
                "Service shop/api",
                "EndpointSlice shop/web-1",
                "Node node-a"
            ]
        );
        assert_eq!((manifest.ignored, &manifest.problems), (3, &Vec::new()));
        let slice = manifest.objects.values().find_map(|object| match &object.change {
            Change::SliceApplied(slice) => Some(slice),
            _ => None,
        });
        let port = &slice.expect("it is there").ports[0];
        assert_eq!(
            (port.name.as_str(), port.port),
            ("", 8080),
            "an unnamed port gets the empty name"
        );
    }

    #[test]
    fn json_is_read_like_yaml() {
        let text = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}"#;
        assert_eq!(
            subjects(&parse("n.json", text).expect("it is well-formed")),
            ["Node node-a"]
        );
    }

    #[test]
    fn a_spoilt_file_is_named_with_line_and_remedy() {
        for (text, said) in [
            ("apiVersion: v1\nkind: Node\nmetadata: {name: a\n", "line"),
            ("apiVersion: v1\nkind: Node\n---\n\tx: y\n", "line 4"),
            ("just a text\n", "no Kubernetes object"),
            ("kind: Service\n", "kind or apiVersion is missing"),
        ] {
            let problem = parse("shop.yaml", text).expect_err("it is spoilt");
            assert_eq!(problem.object, "shop.yaml");
            let message = problem.message;
            assert!(
                message.contains(said) && message.contains("correct it"),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    fn a_malformed_object_spoils_only_itself_and_is_named_with_its_line() {
        let manifest = parse(
            "shop.yaml",
            "apiVersion: v1
kind: Service
metadata: {name: bad, namespace: shop}
spec:
  ports: eighty
---
{apiVersion: v1, kind: Node, metadata: {name: node-a}}
---
{apiVersion: v1, kind: Node, metadata: {}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-a}}
",
        )
        .expect("the file can be read");
        assert_eq!(subjects(&manifest), ["Node node-a"]);
        assert_eq!(
            manifest.broken.iter().map(Id::subject).collect::<Vec<_>>(),
            ["Service shop/bad"]
        );
        let expected = [
            ["Service shop/bad", "line 5"],
            ["no metadata.name", "Node"],
            ["Node node-a", "twice"],
        ];
        assert_eq!(manifest.problems.len(), expected.len(), "{:?}", manifest.problems);
        for (problem, words) in manifest.problems.iter().zip(expected) {
            assert!(
                words.iter().all(|word| problem.message.contains(word)),
                "{problem:?}"
            );
        }
    }

    #[test]
    fn an_empty_file_is_no_problem() {
        for text in ["", "\n", "# nothing\n", "---\n", "---\n---\n"] {
            assert_eq!(parse("empty.yaml", text), Ok(Manifest::default()), "{text:?}");
        }
    }
}
