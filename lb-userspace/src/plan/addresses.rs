//! One family's addresses: what each is to this node, and for how long.
//!
//! An address can be several things at once; its entry is there while it is anything at all. A Service
//! address is counted by the frontends that have it, and *lingers* after the last one: no new flow is
//! accepted then, but the data path still recognises the address and finds the flows that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::abi::{Address, Family, FrontendKind};

use super::{entries::Entries, layout::Surroundings};

/// The addresses that concern this node.
#[derive(Debug)]
pub(super) struct Addresses<F: Family> {
    pub(super) entries: Entries<F::Addr, Address>,
    /// Addresses that are ClusterIPs at present.
    pub(super) marks: Entries<F::Addr, ()>,
    /// How many frontends each Service address has.
    vips: BTreeMap<F::Addr, Frontends>,
    /// Service addresses without frontends.
    lingering: BTreeMap<F::Addr, Lingering>,
    surroundings: Surroundings<F>,
}

/// How many frontends an address has, by what it is to their Services.
#[derive(Clone, Copy, Default, Debug)]
struct Frontends {
    cluster_ip: u32,
    external: u32,
}

/// An address that has lost its last frontend.
#[derive(Clone, Copy, Debug)]
struct Lingering {
    /// Until when it is still recognised.
    until: Duration,
    /// What it was to its Services at last.
    flags: u32,
}

/// What is new about the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Moved<F: Family> {
    /// Addresses of nodes that came, went or changed hands: a backend with one of them is a host-network pod, or was.
    pub(super) hosts: BTreeSet<F::Addr>,
    /// The node's main addresses have changed, which source ranges may or may not let in.
    pub(super) main: bool,
}

impl<F: Family> Default for Addresses<F> {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            marks: Entries::default(),
            vips: BTreeMap::new(),
            lingering: BTreeMap::new(),
            surroundings: Surroundings::default(),
        }
    }
}

impl<F: Family> Addresses<F> {
    /// One more frontend has this address.
    pub(super) fn claim(&mut self, address: F::Addr, kind: FrontendKind) {
        *self.vips.entry(address).or_default().of(kind) += 1;
        self.lingering.remove(&address);
        self.refresh(address);
    }

    /// One frontend less has this address; if it was the last one, the address stays until `due`.
    pub(super) fn unclaim(&mut self, address: F::Addr, kind: FrontendKind, due: Duration) {
        let frontends = self.vips.get_mut(&address).expect("a claimed address is counted");
        *frontends.of(kind) -= 1;
        if frontends.cluster_ip == 0 && frontends.external == 0 {
            self.vips.remove(&address);
            let flags = match kind {
                FrontendKind::ClusterIp => Address::CLUSTER_IP,
                _ => Address::EXTERNAL,
            };
            self.lingering.insert(address, Lingering { until: due, flags });
        }
        self.refresh(address);
    }

    /// Replaces what is known of the nodes.
    pub(super) fn surround(&mut self, surroundings: Surroundings<F>) -> Moved<F> {
        let addresses = &self.surroundings.addresses() | &surroundings.addresses();
        let before = std::mem::replace(&mut self.surroundings, surroundings);
        addresses.into_iter().for_each(|address| self.refresh(address));
        let (old, new) = (&before.hosts, &self.surroundings.hosts);
        let known = old.keys().chain(new.keys());
        let changed = |address: &&F::Addr| old.get(*address) != new.get(*address);
        Moved {
            hosts: known.filter(changed).copied().collect(),
            main: before.main != self.surroundings.main,
        }
    }

    /// What is known of the nodes.
    pub(super) fn surroundings(&self) -> &Surroundings<F> {
        &self.surroundings
    }

    /// Ends the lingering of addresses whose time has come.
    pub(super) fn expire(&mut self, now: Duration) {
        for (address, _) in self
            .lingering
            .extract_if(.., |_, lingering| lingering.until <= now)
            .collect::<Vec<_>>()
        {
            self.refresh(address);
        }
    }

    /// When the next address stops lingering.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.lingering.values().map(|lingering| lingering.until).min()
    }

    fn refresh(&mut self, address: F::Addr) {
        let flag = |set, flag| if set { flag } else { 0 };
        let frontends = self.vips.get(&address).copied().unwrap_or_default();
        let kinds = flag(frontends.cluster_ip > 0, Address::CLUSTER_IP)
            | flag(frontends.external > 0, Address::EXTERNAL)
            | self
                .lingering
                .get(&address)
                .map_or(0, |lingering| lingering.flags);
        let flags = self.surroundings.flags(&address) | flag(kinds != 0, Address::VIP) | kinds;
        self.marks.want(address, (frontends.cluster_ip > 0).then_some(()));
        self.entries
            .want(address, (flags != 0).then_some(Address { flags }));
    }
}

impl Frontends {
    fn of(&mut self, kind: FrontendKind) -> &mut u32 {
        match kind {
            FrontendKind::ClusterIp => &mut self.cluster_ip,
            _ => &mut self.external,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr4, V4};

    use super::{super::entries::Change, *};
    use crate::{model::NodeFacts, plan::PlanSettings};

    const VIP: Addr4 = Addr4 {
        bytes: [10, 96, 0, 1],
    };

    fn flags(addresses: &Addresses<V4>) -> Option<u32> {
        addresses.entries.wanted().get(&VIP).map(|address| address.flags)
    }

    #[test]
    fn an_address_lingers_after_its_last_frontend_and_comes_back_with_a_new_one() {
        let mut addresses = Addresses::<V4>::default();
        addresses.claim(VIP, FrontendKind::ClusterIp);
        addresses.claim(VIP, FrontendKind::ClusterIp);
        addresses.unclaim(VIP, FrontendKind::ClusterIp, Duration::from_secs(5));
        assert_eq!(addresses.next_due(), None, "one frontend is left");
        addresses.unclaim(VIP, FrontendKind::ClusterIp, Duration::from_secs(6));
        addresses.expire(Duration::from_secs(5));
        assert_eq!(
            (flags(&addresses), addresses.next_due()),
            (
                Some(Address::VIP | Address::CLUSTER_IP),
                Some(Duration::from_secs(6))
            )
        );
        addresses.claim(VIP, FrontendKind::ClusterIp);
        addresses.expire(Duration::from_secs(6));
        assert_eq!(
            (flags(&addresses), addresses.next_due()),
            (Some(Address::VIP | Address::CLUSTER_IP), None)
        );
        addresses.unclaim(VIP, FrontendKind::ClusterIp, Duration::from_secs(7));
        addresses.expire(Duration::from_secs(7));
        assert_eq!(flags(&addresses), None);
    }

    #[test]
    fn an_address_stays_while_it_is_anything_at_all() {
        let mut addresses = Addresses::<V4>::default();
        addresses.claim(VIP, FrontendKind::ClusterIp);
        let own = NodeFacts {
            own: vec![VIP.into()],
            node_ports: vec![VIP.into()],
            ..Default::default()
        };
        assert_eq!(
            addresses.surround(Surroundings::new(&own, &[], &PlanSettings::default())),
            Moved {
                hosts: BTreeSet::from([VIP]),
                main: false
            }
        );
        assert_eq!(
            flags(&addresses),
            Some(Address::VIP | Address::CLUSTER_IP | Address::OWN | Address::NODE_PORTS)
        );
        addresses.unclaim(VIP, FrontendKind::ClusterIp, Duration::ZERO);
        addresses.expire(Duration::ZERO);
        assert_eq!(flags(&addresses), Some(Address::OWN | Address::NODE_PORTS));
        addresses.surround(Surroundings::new(
            &NodeFacts::default(),
            &[VIP.into()],
            &PlanSettings::default(),
        ));
        assert_eq!(flags(&addresses), Some(Address::OTHER_NODE));
        addresses.surround(Surroundings::default());
        assert_eq!(
            addresses.entries.changes().next(),
            None::<(Addr4, Change<Address>)>
        );
    }
}
