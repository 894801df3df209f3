//! Which Service a frontend is of. The maps have numbers; names come from what the agent has written last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use lb_common::abi::Protocol;
use serde::Serialize;

use crate::explain::Served;

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port's name; empty if it has none.
    pub port: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            port,
        } = self;
        write!(f, "{namespace}/{name}")?;
        match port.as_str() {
            "" => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

/// Names of Services by their frontends.
#[derive(Clone, Default, Debug)]
pub struct Names {
    by_place: BTreeMap<(Option<IpAddr>, u16, Protocol), ServiceName>,
    /// Namespaces and names, also of Services that are served nowhere.
    services: BTreeSet<(String, String)>,
    known: bool,
}

impl Names {
    /// The names of what is served. Without this, from [`Names::default`], no name is known.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Served>) -> Self {
        let mut names = Self {
            known: true,
            ..Self::default()
        };
        for served in all {
            let Served {
                key,
                port_name,
                protocol,
                frontends,
            } = served;
            names.services.insert((key.namespace.clone(), key.name.clone()));
            for frontend in frontends {
                // A NodePort has one name in both families.
                names.by_place.insert(
                    (frontend.address, frontend.port, protocol),
                    ServiceName {
                        namespace: key.namespace.clone(),
                        name: key.name.clone(),
                        port: port_name.clone(),
                    },
                );
            }
        }
        names
    }

    /// Whether there are names at all.
    #[must_use]
    pub fn known(&self) -> bool {
        self.known
    }

    /// The Service that is served at exactly this address (`None`: at a NodePort), port and protocol.
    pub(super) fn at(&self, address: Option<IpAddr>, port: u16, protocol: u8) -> Option<ServiceName> {
        let protocol = Protocol::from_number(protocol)?;
        self.by_place.get(&(address, port, protocol)).cloned()
    }

    pub(super) fn namespaces(&self) -> BTreeSet<&str> {
        self.services
            .iter()
            .map(|(namespace, _)| namespace.as_str())
            .collect()
    }

    /// The Services of one namespace, or all, as `namespace/name`.
    pub(super) fn services(&self, of: Option<&str>) -> Vec<(&str, &str)> {
        let all = self
            .services
            .iter()
            .map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        all.filter(|(namespace, _)| of.is_none_or(|of| of == *namespace))
            .collect()
    }
}
