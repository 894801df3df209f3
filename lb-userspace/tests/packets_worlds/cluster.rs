//! Kubernetes objects, what happens to them, and what there is after it has happened.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use lb_userspace::{
    kubernetes::{Annotations, Object as _},
    model::{Change, ObjectKey},
};
use serde::Serialize;

/// An object.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Object {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<Node>),
}

/// A kind of object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Service,
    Slice,
    Node,
}

/// Which object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Something that happens to one object.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Put(Object),
    Delete(Key),
}

/// The objects that there are.
#[derive(Clone, Default, Debug)]
pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<Key, Object>,
}

impl Object {
    pub(crate) fn key(&self) -> Key {
        let (kind, meta) = match self {
            Self::Service(service) => (Kind::Service, &service.metadata),
            Self::Slice(slice) => (Kind::Slice, &slice.metadata),
            Self::Node(node) => (Kind::Node, &node.metadata),
        };
        Key {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// As `kubectl` would show it.
    pub(crate) fn manifest(&self) -> String {
        fn text(kind: &str, version: &str, object: &impl Serialize) -> String {
            // The types' own serialisation names kind and version.
            serde_norway::to_string(object)
                .unwrap_or_else(|error| format!("{version} {kind}, which cannot be shown: {error}\n"))
        }
        match self {
            Self::Service(service) => text("Service", "v1", service),
            Self::Slice(slice) => text("EndpointSlice", "discovery.k8s.io/v1", slice),
            Self::Node(node) => text("Node", "v1", node),
        }
    }
}

impl Event {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Put(object) => object.key(),
            Self::Delete(key) => key.clone(),
        }
    }

    /// What the agent makes of it.
    pub(crate) fn change(&self) -> Change {
        match self {
            Self::Put(Object::Service(service)) => service.convert(&Annotations::default()).change,
            Self::Put(Object::Slice(slice)) => slice.convert(&Annotations::default()).change,
            Self::Put(Object::Node(node)) => node.convert(&Annotations::default()).change,
            Self::Delete(key) => {
                let of = ObjectKey::new(&key.namespace, &key.name);
                match key.kind {
                    Kind::Service => Service::deleted(of),
                    Kind::Slice => EndpointSlice::deleted(of),
                    Kind::Node => Node::deleted(of),
                }
            }
        }
    }
}

impl Cluster {
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Put(object) => {
                self.objects.insert(object.key(), object.clone());
            }
            Event::Delete(key) => {
                self.objects.remove(key);
            }
        }
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.objects.values().filter_map(|object| match object {
            Object::Service(service) => Some(&**service),
            _ => None,
        })
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.objects.values().filter_map(|object| match object {
            Object::Slice(slice) => Some(&**slice),
            _ => None,
        })
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects.values().filter_map(|object| match object {
            Object::Node(node) => Some(&**node),
            _ => None,
        })
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes()
            .find(|node| node.metadata.name.as_deref() == Some(name))
    }
}
