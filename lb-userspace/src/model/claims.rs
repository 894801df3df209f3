//! Who owns an address and port that several Services claim.
//!
//! The older Service wins (then the first by namespace and name), so that a newcomer cannot take traffic
//! away from a Service that works. When the winner goes, the next in line takes over.
//!
//! Input: Services entering and leaving. Output: owners, and the Services that each change concerns.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::abi::Protocol;

use super::{FrontendAddress, ObjectKey, Port, Problem, Service};

/// What can be claimed: a place in the map of frontends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Claim {
    /// `None`: a NodePort.
    address: Option<IpAddr>,
    /// The family: a NodePort is claimed in each family by itself.
    ipv6: bool,
    port: u16,
    protocol: Protocol,
}

/// Position in line. Services of unknown age come behind those of known age.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claimant {
    age_unknown: bool,
    created: i64,
    key: ObjectKey,
}

/// All claims of all Services.
#[derive(Default, Debug)]
pub(super) struct Claims {
    /// In line: sorted. Hardly ever more than one, for which a tree would be ten times its size.
    claimants: HashMap<Claim, Vec<Claimant>>,
    contested: BTreeSet<Claim>,
}

impl Claim {
    pub(super) fn new(frontend: FrontendAddress, port: &Port, ipv6: bool) -> Self {
        Self {
            address: frontend.address,
            ipv6,
            port: frontend.port,
            protocol: port.protocol,
        }
    }

    fn of(service: &Service) -> impl Iterator<Item = Self> {
        let both = |port| [(port, false), (port, true)];
        service.ports.iter().flat_map(both).flat_map(move |(port, ipv6)| {
            let frontends = service.frontends(port, ipv6).into_iter();
            frontends.map(move |frontend| Self::new(frontend, port, ipv6))
        })
    }

    fn describe(&self) -> String {
        match self.address {
            Some(address) => format!("{address} port {}/{}", self.port, self.protocol),
            None => format!("node port {}/{}", self.port, self.protocol),
        }
    }
}

impl Claimant {
    fn of(service: &Service) -> Self {
        Self {
            age_unknown: service.created.is_none(),
            created: service.created.unwrap_or_default(),
            key: service.key.clone(),
        }
    }
}

impl Claims {
    /// Takes up a Service's claims. Adds to `concerned` the other Services that claim the same.
    pub(super) fn enter(&mut self, service: &Service, concerned: &mut BTreeSet<ObjectKey>) {
        let claimant = Claimant::of(service);
        for claim in Claim::of(service) {
            let line = self.claimants.entry(claim).or_default();
            concerned.extend(line.iter().map(|other| other.key.clone()));
            if let Err(place) = line.binary_search(&claimant) {
                line.reserve_exact(1);
                line.insert(place, claimant.clone());
            }
            if line.len() > 1 {
                self.contested.insert(claim);
            }
        }
    }

    /// Drops a Service's claims. Adds to `concerned` the other Services that claim the same.
    pub(super) fn leave(&mut self, service: &Service, concerned: &mut BTreeSet<ObjectKey>) {
        let claimant = Claimant::of(service);
        for claim in Claim::of(service) {
            let Some(line) = self.claimants.get_mut(&claim) else {
                continue;
            };
            if let Ok(place) = line.binary_search(&claimant) {
                line.remove(place);
            }
            concerned.extend(line.iter().map(|other| other.key.clone()));
            if line.len() < 2 {
                self.contested.remove(&claim);
            }
            if line.is_empty() {
                self.claimants.remove(&claim);
            }
        }
    }

    /// Whether `key` is first in line.
    pub(super) fn owns(&self, key: &ObjectKey, claim: &Claim) -> bool {
        self.claimants
            .get(claim)
            .and_then(|line| line.first())
            .is_some_and(|owner| owner.key == *key)
    }

    /// Whether any claim is contested.
    pub(super) fn are_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    /// One problem for each Service that has to wait in line.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.contested.iter().flat_map(|claim| {
            let mut line = self.claimants[claim].iter();
            let owner = line.next();
            line.filter_map(move |loser| {
                let (what, owner) = (claim.describe(), &owner?.key);
                Some(Problem {
                    object: format!("Service {}", loser.key),
                    message: format!(
                        "{what} is not served for it, because Service {owner} has it and is older (at equal \
                         age: first by name); change the address or the port in one of the two, or delete one"
                    ),
                })
            })
        })
    }
}
