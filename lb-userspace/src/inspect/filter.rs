//! Which lines are wanted: of a namespace, of a Service, about an address.

use std::net::IpAddr;

use thiserror::Error;

use super::names::{Names, ServiceName};

/// How many names an error lists.
const LISTED: usize = 12;

/// What is wanted; nothing: everything.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this Service: `NAME`, or `NAMESPACE/NAME`.
    pub service: Option<String>,
    /// About this address: the frontend's, a backend's or a client's.
    pub address: Option<IpAddr>,
}

/// A name that no Service has.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum UnknownName {
    /// No agent has said what names there are.
    #[error(
        "names of Services are not known here, since no agent of this instance has left a status: leave out --namespace and \
         --service, or use --address"
    )]
    NoNames,
    /// No Service is in that namespace.
    #[error("no Service of namespace `{0}` is served on this node; there are Services in: {1}")]
    Namespace(String, String),
    /// There is no such Service.
    #[error("no Service `{0}` is served on this node; there are: {1}")]
    Service(String, String),
}

impl Filter {
    /// Whether the names in it are names of something.
    ///
    /// # Errors
    /// With what there is instead.
    pub fn check(&self, names: &Names) -> Result<(), UnknownName> {
        if (self.namespace.is_some() || self.service.is_some()) && !names.known() {
            return Err(UnknownName::NoNames);
        }
        let namespaces = names.namespaces();
        if let Some(namespace) = &self.namespace
            && !namespaces.contains(namespace.as_str())
        {
            let there = listed(namespaces.iter().map(ToString::to_string).collect());
            return Err(UnknownName::Namespace(namespace.clone(), there));
        }
        let of_namespace = names.services(self.namespace.as_deref());
        if let Some(service) = &self.service
            && !of_namespace
                .iter()
                .any(|(namespace, name)| is_named(service, namespace, name))
        {
            let there = of_namespace
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"));
            return Err(UnknownName::Service(service.clone(), listed(there.collect())));
        }
        Ok(())
    }

    /// Whether a line of this Service, about these addresses, is wanted.
    pub(super) fn admits(&self, service: Option<&ServiceName>, addresses: &[IpAddr]) -> bool {
        let Self {
            namespace,
            service: wanted,
            address,
        } = self;
        let of_service = match service {
            Some(ServiceName {
                namespace: of, name, ..
            }) => {
                namespace.as_ref().is_none_or(|namespace| namespace == of)
                    && wanted.as_ref().is_none_or(|wanted| is_named(wanted, of, name))
            }
            None => namespace.is_none() && wanted.is_none(),
        };
        of_service && address.is_none_or(|address| addresses.contains(&address))
    }

    /// Whether something said about an object, `Kind namespace/name`, is wanted.
    #[must_use]
    pub fn admits_object(&self, object: &str) -> bool {
        let name = object.rsplit(' ').next().unwrap_or_default();
        match name.split_once('/') {
            Some((namespace, name)) => self.admits(
                Some(&ServiceName {
                    namespace: namespace.into(),
                    name: name.into(),
                    port: String::new(),
                }),
                self.address.as_slice(),
            ),
            None => self.admits(None, self.address.as_slice()),
        }
    }
}

fn is_named(wanted: &str, namespace: &str, name: &str) -> bool {
    match wanted.split_once('/') {
        Some((of, wanted)) => of == namespace && wanted == name,
        None => wanted == name,
    }
}

fn listed(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(LISTED);
    let mut text = names.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        text.push_str("none");
    }
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}
