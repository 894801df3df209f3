//! The contents of the maps as text for people: places left out, so that equal meaning is equal text.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::abi::{
    Address, Backend, Device, DeviceKind, Family, FrontendKey, FrontendKind, Node, Protocol, RangeKey, Set,
    SourceClass,
};

use super::{Dump, FamilyDump};

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for node in self.node.values() {
            write_node(f, node)?;
        }
        for (index, device) in &self.devices {
            write_device(f, *index, device)?;
        }
        write_family(f, &self.v4, self)?;
        write_family(f, &self.v6, self)
    }
}

fn write_node(f: &mut Formatter<'_>, node: &Node) -> fmt::Result {
    let Node {
        netns,
        lb0,
        loopback,
        snat_first,
        snat_last,
        seed,
        embryo_mask,
        flags,
        tick_shift,
        xdp_out,
        reserved: _,
    } = node;
    write!(
        f,
        "node: lb0 {lb0}, loopback {loopback}, SNAT ports {snat_first}-{snat_last}, seed {seed}"
    )?;
    write!(
        f,
        ", embryo mask {embryo_mask:#x}, flags {flags}, tick 2^{tick_shift} jiffies, network namespace {netns}"
    )?;
    for device in xdp_out.iter().filter(|device| **device != 0) {
        write!(f, ", XDP out of {device}")?;
    }
    writeln!(f)
}

fn write_device(f: &mut Formatter<'_>, index: u32, device: &Device) -> fmt::Result {
    let Device {
        kind,
        mac,
        bridge_mac,
        mtu,
        snat4,
        snat6,
        reserved: _,
        reserved2: _,
    } = device;
    write!(
        f,
        "device {index}: {:?}, {}, mtu {mtu}",
        DeviceKind::from_number(*kind),
        Mac(mac)
    )?;
    if *bridge_mac != [0; 6] {
        write!(f, ", port of bridge {}", Mac(bridge_mac))?;
    }
    for snat in [IpAddr::from(*snat4), IpAddr::from(*snat6)] {
        if !snat.is_unspecified() {
            write!(f, ", SNAT to {snat}")?;
        }
    }
    writeln!(f)
}

fn write_family<F: Family>(f: &mut Formatter<'_>, family: &FamilyDump<F>, dump: &Dump) -> fmt::Result {
    for (address, value) in &family.addresses {
        writeln!(f, "address {address:?}: {}", Flags(value.flags, ADDRESS_FLAGS))?;
    }
    for ((address, length), source) in &family.sources {
        writeln!(
            f,
            "source {address:?}/{length}: {:?}",
            SourceClass::from_number(source.class)
        )?;
    }
    let mut frontends: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (key, frontend) in &family.frontends {
        if key.is_mark() {
            writeln!(f, "ClusterIP {:?}", key.address)?;
            continue;
        }
        frontends
            .entry(frontend.service)
            .or_default()
            .push((*key, frontend.kind));
    }
    // Sorted by frontends, then by meaning: places must not show, not even in the order.
    let mut services = Vec::new();
    for (service, _, set) in family.live_sets() {
        let Some(set) = set else { continue };
        let keys = frontends.remove(&service).unwrap_or_default();
        let mut text = String::from("service");
        for (place, (key, kind)) in keys.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(
                text,
                "{comma} {:?} {}",
                FrontendKind::from_number(*kind),
                Key(key)
            )?;
        }
        writeln!(text, ": {}", Flags(u32::from(set.flags), SET_FLAGS))?;
        write_set(&mut text, family, dump, set)?;
        services.push((keys.first().copied(), text));
    }
    services.sort_unstable();
    services.iter().try_for_each(|(_, text)| f.write_str(text))
}

fn write_set<F: Family>(f: &mut String, family: &FamilyDump<F>, dump: &Dump, set: &Set) -> fmt::Result {
    if set.has(Set::AFFINITY) {
        writeln!(f, "    affinity for {} ticks", set.affinity_timeout)?;
    }
    if set.has(Set::RANGES) {
        let ranges = family.ranges.keys().filter(|(key, _)| key.table == set.ranges);
        let ranges: Vec<_> = ranges
            .map(|(key, length)| {
                let length = u32::from(*length).saturating_sub(RangeKey::<F::Addr>::TABLE_BITS);
                format!("{:?}/{length}", key.address)
            })
            .collect();
        writeln!(f, "    source ranges: {}", ranges.join(", "))?;
    }
    let backend = |position: u16| family.backends.get(&(set.backends + u32::from(position)));
    let name = |position: u16| match backend(position) {
        Some(Backend { address, port, .. }) => Endpoint((*address).into(), *port).to_string(),
        None => format!("(absent {position})"),
    };
    for position in 0..set.total {
        let flags = backend(position).map_or(0, |backend| backend.flags);
        let scope = match (position < set.local, position >= set.cluster_from) {
            (true, true) => "Local and Cluster",
            (true, false) => "Local",
            (false, true) => "Cluster",
            (false, false) => "no scope",
        };
        writeln!(
            f,
            "    backend {}: {scope}; {}",
            name(position),
            Flags(u32::from(flags), BACKEND_FLAGS)
        )?;
    }
    for (scope, table, rows) in [
        ("Local", set.local_table, set.local_rows),
        ("Cluster", set.cluster_table, set.cluster_rows),
    ] {
        if rows == 0 {
            continue;
        }
        let mut shares: BTreeMap<String, u32> = BTreeMap::new();
        let mut digest = Digest::default();
        for row in dump.rows(table, rows) {
            let name = row.map_or_else(|| "(absent)".to_owned(), name);
            digest.add(&name);
            *shares.entry(name).or_default() += 1;
        }
        let shares: Vec<_> = shares
            .iter()
            .map(|(name, rows)| format!("{name} {rows}"))
            .collect();
        writeln!(
            f,
            "    {scope} rows {rows}: {}; digest {:08x}",
            shares.join(", "),
            digest.0
        )?;
    }
    Ok(())
}

const ADDRESS_FLAGS: &[(u32, &str)] = &[
    (Address::VIP, "VIP"),
    (Address::OWN, "OWN"),
    (Address::NODE_PORTS, "NODE_PORTS"),
    (Address::OTHER_NODE, "OTHER_NODE"),
    (Address::CLUSTER_IP, "CLUSTER_IP"),
    (Address::EXTERNAL, "EXTERNAL"),
    (Address::LOCALHOST, "LOCALHOST"),
];

const SET_FLAGS: &[(u32, &str)] = &[
    (Set::INTERNAL_LOCAL as u32, "INTERNAL_LOCAL"),
    (Set::EXTERNAL_LOCAL as u32, "EXTERNAL_LOCAL"),
    (Set::ENDPOINTS_EXIST as u32, "ENDPOINTS_EXIST"),
    (Set::AFFINITY as u32, "AFFINITY"),
    (Set::RANGES as u32, "RANGES"),
    (Set::RANGES_WITH_NODE as u32, "RANGES_WITH_NODE"),
];

const BACKEND_FLAGS: &[(u32, &str)] = &[
    (Backend::<()>::LOCAL as u32, "LOCAL"),
    (Backend::<()>::HOST as u32, "HOST"),
];

/// The names of the bits that are set.
struct Flags(u32, &'static [(u32, &'static str)]);

impl Display for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .1
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(if names.is_empty() { "-" } else { "" })?;
        f.write_str(&names.join(" | "))
    }
}

struct Endpoint(IpAddr, u16);

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0, self.1).fmt(f)
    }
}

struct Key<'a, A>(&'a FrontendKey<A>);

impl<A: Copy + Into<IpAddr>> Display for Key<'_, A> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address: IpAddr = self.0.address.into();
        if address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            write!(f, "*:{}", self.0.port)?;
        } else {
            Endpoint(address, self.0.port).fmt(f)?;
        }
        match Protocol::from_number(self.0.protocol) {
            Some(protocol) => write!(f, "/{protocol}"),
            None => write!(f, "/{}", self.0.protocol),
        }
    }
}

struct Mac<'a>(&'a [u8; 6]);

impl Display for Mac<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// FNV-1a, 32 bits: tells two tables apart in a line.
struct Digest(u32);

impl Default for Digest {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Digest {
    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
}
