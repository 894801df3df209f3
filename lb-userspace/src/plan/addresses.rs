//! One family's addresses: what each is to this node, and for how long.
//!
//! An address can be several things at once; its entry is there while it is anything at all. A Service
//! address is counted by the frontends that have it, and *lingers* after the last one: no new flow is
//! accepted then, but the data path still recognises the address and finds the flows that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::abi::{Address, Family};

use super::{entries::Entries, layout::Surroundings};

/// The addresses that concern this node.
#[derive(Debug)]
pub(super) struct Addresses<F: Family> {
    pub(super) entries: Entries<F::Addr, Address>,
    /// How many frontends each Service address has.
    vips: BTreeMap<F::Addr, u32>,
    /// Service addresses without frontends, and until when they are still recognised.
    lingering: BTreeMap<F::Addr, Duration>,
    surroundings: Surroundings<F>,
    /// Addresses of nodes, this one and the others, with what a backend there is.
    hosts: BTreeMap<F::Addr, u16>,
}

impl<F: Family> Default for Addresses<F> {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            vips: BTreeMap::new(),
            lingering: BTreeMap::new(),
            surroundings: Surroundings::default(),
            hosts: BTreeMap::new(),
        }
    }
}

impl<F: Family> Addresses<F> {
    /// One more frontend has this address.
    pub(super) fn claim(&mut self, address: F::Addr) {
        *self.vips.entry(address).or_default() += 1;
        self.lingering.remove(&address);
        self.refresh(address);
    }

    /// One frontend less has this address; if it was the last one, the address stays until `due`.
    pub(super) fn unclaim(&mut self, address: F::Addr, due: Duration) {
        let count = self.vips.get_mut(&address).expect("a claimed address is counted");
        *count -= 1;
        if *count == 0 {
            self.vips.remove(&address);
            self.lingering.insert(address, due);
        }
    }

    /// Replaces what is known of the nodes. Returns the node addresses that came, went or changed hands.
    pub(super) fn surround(&mut self, surroundings: Surroundings<F>) -> BTreeSet<F::Addr> {
        let addresses = &self.surroundings.addresses() | &surroundings.addresses();
        self.surroundings = surroundings;
        addresses.into_iter().for_each(|address| self.refresh(address));
        let before = std::mem::replace(&mut self.hosts, self.surroundings.hosts());
        let known = before.keys().chain(self.hosts.keys());
        let changed = known.filter(|address| before.get(address) != self.hosts.get(address));
        changed.copied().collect()
    }

    /// Addresses of nodes: a backend with one of these is a host-network pod.
    pub(super) fn hosts(&self) -> &BTreeMap<F::Addr, u16> {
        &self.hosts
    }

    /// Ends the lingering of addresses whose time has come.
    pub(super) fn expire(&mut self, now: Duration) {
        for (address, _) in self
            .lingering
            .extract_if(.., |_, due| *due <= now)
            .collect::<Vec<_>>()
        {
            self.refresh(address);
        }
    }

    /// When the next address stops lingering.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.lingering.values().min().copied()
    }

    fn refresh(&mut self, address: F::Addr) {
        let is_vip = self.vips.contains_key(&address) || self.lingering.contains_key(&address);
        let flags = self.surroundings.flags(&address) | if is_vip { Address::VIP } else { 0 };
        self.entries
            .want(address, (flags != 0).then_some(Address { flags }));
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr4, V4};

    use super::{super::entries::Change, *};
    use crate::model::NodeFacts;

    const VIP: Addr4 = Addr4 {
        bytes: [10, 96, 0, 1],
    };

    fn flags(addresses: &Addresses<V4>) -> Option<u32> {
        addresses.entries.wanted().get(&VIP).map(|address| address.flags)
    }

    #[test]
    fn an_address_lingers_after_its_last_frontend_and_comes_back_with_a_new_one() {
        let mut addresses = Addresses::<V4>::default();
        addresses.claim(VIP);
        addresses.claim(VIP);
        addresses.unclaim(VIP, Duration::from_secs(5));
        assert_eq!(addresses.next_due(), None, "one frontend is left");
        addresses.unclaim(VIP, Duration::from_secs(6));
        addresses.expire(Duration::from_secs(5));
        assert_eq!(
            (flags(&addresses), addresses.next_due()),
            (Some(Address::VIP), Some(Duration::from_secs(6)))
        );
        addresses.claim(VIP);
        addresses.expire(Duration::from_secs(6));
        assert_eq!(
            (flags(&addresses), addresses.next_due()),
            (Some(Address::VIP), None)
        );
        addresses.unclaim(VIP, Duration::from_secs(7));
        addresses.expire(Duration::from_secs(7));
        assert_eq!(flags(&addresses), None);
    }

    #[test]
    fn an_address_stays_while_it_is_anything_at_all() {
        let mut addresses = Addresses::<V4>::default();
        addresses.claim(VIP);
        let own = NodeFacts {
            own: vec![VIP.into()],
            node_ports: vec![VIP.into()],
            ..Default::default()
        };
        assert_eq!(
            addresses.surround(Surroundings::new(&own, &[])),
            BTreeSet::from([VIP])
        );
        assert_eq!(
            flags(&addresses),
            Some(Address::VIP | Address::OWN | Address::NODE_PORTS)
        );
        addresses.unclaim(VIP, Duration::ZERO);
        addresses.expire(Duration::ZERO);
        assert_eq!(flags(&addresses), Some(Address::OWN | Address::NODE_PORTS));
        addresses.surround(Surroundings::new(&NodeFacts::default(), &[VIP.into()]));
        assert_eq!(flags(&addresses), Some(Address::OTHER_NODE));
        addresses.surround(Surroundings::default());
        assert_eq!(
            addresses.entries.changes().next(),
            None::<(Addr4, Change<Address>)>
        );
    }
}
