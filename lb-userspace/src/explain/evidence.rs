//! Map entries as evidence: what was looked up, and what was there, in the form in which `bpftool map dump` shows it.

use std::{fmt, net::IpAddr};

use lb_common::abi::{
    Address, Affinity, AffinityKey, Backend, Device, DeviceKind, Frontend, FrontendKey, FrontendKind, Node,
    Protocol, Range, RangeKey, Rows, Service, Set, Source, SourceClass,
};
use serde::Serialize;
use serde_json::{Value, json};

/// A look-up.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Evidence {
    /// Name of the map.
    pub map: &'static str,
    /// The key, as bpftool shows it.
    pub key: Value,
    /// The value, as bpftool shows it; null: there is no entry.
    pub value: Value,
    /// The key for people.
    #[serde(skip)]
    pub asked: String,
    /// What the value means.
    pub means: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10}  {} = {}", self.map, self.asked, self.means)
    }
}

/// A value of a map.
pub(crate) trait Shown {
    /// As bpftool shows it.
    fn value(&self) -> Value;
    /// What it means.
    fn means(&self) -> String;
}

/// The look-up of `key` in `map`.
pub(crate) fn evidence<V: Shown>(
    map: &'static str,
    key: Value,
    asked: String,
    found: Option<&V>,
) -> Evidence {
    Evidence {
        map,
        key,
        value: found.map_or(Value::Null, Shown::value),
        asked,
        means: found.map_or_else(|| "no entry".to_owned(), Shown::means),
    }
}

/// An address as a value of its own.
pub(crate) fn bytes(address: &impl AsRef<[u8]>) -> Value {
    json!({ "bytes": address.as_ref() })
}

/// An address and a port.
pub(crate) fn at(address: impl Into<IpAddr>, port: u16) -> String {
    std::net::SocketAddr::new(address.into(), port).to_string()
}

/// The key of a frontend, for people.
pub(crate) fn frontend_name<A: Copy + Into<IpAddr>>(key: &FrontendKey<A>) -> String {
    let address: IpAddr = key.address.into();
    if key.is_mark() {
        return format!("{address}, any port");
    }
    let protocol =
        Protocol::from_number(key.protocol).map_or_else(|| key.protocol.to_string(), |p| p.to_string());
    if address.is_unspecified() {
        format!("*:{}/{protocol}", key.port)
    } else {
        format!("{}/{protocol}", at(address, key.port))
    }
}

/// The key of a frontend, as bpftool shows it.
pub(crate) fn frontend_key<A: AsRef<[u8]>>(key: &FrontendKey<A>) -> Value {
    json!({ "address": bytes(&key.address), "port": key.port, "protocol": key.protocol, "reserved": key.reserved })
}

/// The key of a range, as bpftool shows it.
pub(crate) fn range_key<A: AsRef<[u8]>>(key: &RangeKey<A>) -> Value {
    json!({ "table": key.table, "address": bytes(&key.address) })
}

/// The key of a look-up by longest prefix, as bpftool shows it.
pub(super) fn prefix_key(bits: u32, data: &Value) -> Value {
    json!({ "prefix_len": bits, "data": data })
}

/// The key of a client's record, as bpftool shows it.
pub(crate) fn affinity_key<A: AsRef<[u8]>>(key: &AffinityKey<A>) -> Value {
    json!({ "service": key.service, "client": bytes(&key.client) })
}

/// The names of the bits that are set.
fn flags(value: u32, names: &[(u32, &'static str)]) -> String {
    let set: Vec<_> = names
        .iter()
        .filter(|(bit, _)| value & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "-".to_owned()
    } else {
        set.join(" | ")
    }
}

impl Shown for Address {
    fn value(&self) -> Value {
        json!({ "flags": self.flags })
    }

    fn means(&self) -> String {
        let names = [
            (Self::VIP, "VIP"),
            (Self::OWN, "OWN"),
            (Self::NODE_PORTS, "NODE_PORTS"),
            (Self::OTHER_NODE, "OTHER_NODE"),
            (Self::CLUSTER_IP, "CLUSTER_IP"),
            (Self::EXTERNAL, "EXTERNAL"),
            (Self::LOCALHOST, "LOCALHOST"),
        ];
        flags(self.flags, &names)
    }
}

impl Shown for Source {
    fn value(&self) -> Value {
        json!({ "class": self.class })
    }

    fn means(&self) -> String {
        match SourceClass::from_number(self.class) {
            SourceClass::Pod => "a pod of this node",
            SourceClass::Node => "this node",
            SourceClass::Outside => "outside",
        }
        .to_owned()
    }
}

impl Shown for Frontend {
    fn value(&self) -> Value {
        json!({ "service": self.service, "kind": self.kind, "reserved": self.reserved })
    }

    fn means(&self) -> String {
        if *self == Self::MARK {
            return "a ClusterIP".to_owned();
        }
        format!(
            "service {}, {:?}",
            self.service,
            FrontendKind::from_number(self.kind)
        )
    }
}

impl Shown for Service {
    fn value(&self) -> Value {
        json!({ "word": self.word })
    }

    fn means(&self) -> String {
        self.set()
            .map_or_else(|| "no service".to_owned(), |set| format!("set {set}"))
    }
}

impl Shown for Set {
    fn value(&self) -> Value {
        json!({
            "backends": self.backends, "total": self.total, "local": self.local,
            "cluster_from": self.cluster_from, "flags": self.flags,
            "local_table": self.local_table, "local_rows": self.local_rows,
            "cluster_table": self.cluster_table, "cluster_rows": self.cluster_rows,
            "affinity_timeout": self.affinity_timeout, "service": self.service,
            "identity": self.identity, "ranges": self.ranges,
        })
    }

    fn means(&self) -> String {
        let names = [
            (Self::INTERNAL_LOCAL, "INTERNAL_LOCAL"),
            (Self::EXTERNAL_LOCAL, "EXTERNAL_LOCAL"),
            (Self::ENDPOINTS_EXIST, "ENDPOINTS_EXIST"),
            (Self::AFFINITY, "AFFINITY"),
            (Self::RANGES, "RANGES"),
            (Self::RANGES_WITH_NODE, "RANGES_WITH_NODE"),
        ];
        format!(
            "{}; {} backends, Local rows {}, Cluster rows {}",
            flags(
                self.flags.into(),
                &names.map(|(bit, name)| (u32::from(bit), name))
            ),
            self.total,
            self.local_rows,
            self.cluster_rows
        )
    }
}

impl<A: Copy + Into<IpAddr> + AsRef<[u8]>> Shown for Backend<A> {
    fn value(&self) -> Value {
        json!({ "address": bytes(&self.address), "port": self.port, "flags": self.flags })
    }

    fn means(&self) -> String {
        let names = [(Self::LOCAL.into(), "LOCAL"), (Self::HOST.into(), "HOST")];
        format!(
            "{}; {}",
            at(self.address, self.port),
            flags(self.flags.into(), &names)
        )
    }
}

impl<A: Copy + Into<IpAddr> + AsRef<[u8]>> Shown for Affinity<A> {
    fn value(&self) -> Value {
        json!({
            "backend": bytes(&self.backend), "port": self.port, "reserved": self.reserved,
            "seen": self.seen, "timeout": self.timeout,
        })
    }

    fn means(&self) -> String {
        format!("had {}", at(self.backend, self.port))
    }
}

impl Shown for Device {
    fn value(&self) -> Value {
        json!({
            "kind": self.kind, "reserved": self.reserved, "mac": self.mac, "bridge_mac": self.bridge_mac,
            "reserved2": self.reserved2, "mtu": self.mtu,
            "snat4": bytes(&self.snat4.bytes), "snat6": bytes(&self.snat6.bytes),
        })
    }

    fn means(&self) -> String {
        let snat = [IpAddr::from(self.snat4), IpAddr::from(self.snat6)];
        let snat: Vec<_> = snat
            .iter()
            .filter(|ip| !ip.is_unspecified())
            .map(ToString::to_string)
            .collect();
        let kind = DeviceKind::from_number(self.kind);
        if snat.is_empty() {
            format!("{kind:?}")
        } else {
            format!("{kind:?}, SNAT to {}", snat.join(", "))
        }
    }
}

impl Shown for Node {
    fn value(&self) -> Value {
        json!({
            "netns": self.netns, "lb0": self.lb0, "loopback": self.loopback, "snat_first": self.snat_first,
            "snat_last": self.snat_last, "seed": self.seed, "embryo_mask": self.embryo_mask,
            "flags": self.flags, "tick_shift": self.tick_shift, "xdp_out": self.xdp_out,
            "reserved": self.reserved,
        })
    }

    fn means(&self) -> String {
        let names = [
            (Self::MASQUERADE_ALL, "MASQUERADE_ALL"),
            (Self::PODS_UNKNOWN, "PODS_UNKNOWN"),
            (Self::CONNECT_PODS, "CONNECT_PODS"),
            (Self::LEAVES_TRACKED, "LEAVES_TRACKED"),
        ];
        format!(
            "{}; SNAT ports {}-{}",
            flags(self.flags, &names),
            self.snat_first,
            self.snat_last
        )
    }
}

impl Shown for Range {
    fn value(&self) -> Value {
        json!({ "accepted": self.accepted })
    }

    fn means(&self) -> String {
        "let in".to_owned()
    }
}

/// An element of the lookup tables, of which one row counts.
pub(super) struct Row(pub(super) Rows, pub(super) usize);

impl Row {
    /// The position that it gives.
    pub(super) fn position(&self) -> Option<u16> {
        self.0.rows.get(self.1).copied()
    }
}

impl Shown for Row {
    fn value(&self) -> Value {
        json!({ "rows": self.0.rows.as_slice() })
    }

    fn means(&self) -> String {
        self.position().map_or_else(
            || "no such row".to_owned(),
            |position| format!("position {position}"),
        )
    }
}
