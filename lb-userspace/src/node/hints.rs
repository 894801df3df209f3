//! What is known of this node from elsewhere: its Node object, and the operator's flags.

use std::{fmt, net::IpAddr, str::FromStr};

use lb_common::abi::DeviceKind;

use super::Prefix;

/// What the kernel cannot tell. Everything may be empty.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    /// Addresses of the Node object, the primary one of each family first.
    pub node_addresses: Vec<IpAddr>,
    /// `podCIDRs` of the Node object.
    pub pod_cidrs: Vec<Prefix>,
    /// `podCIDRs` of the other Node objects.
    pub other_pod_cidrs: Vec<Prefix>,
    /// Names that pods' host-side devices have on this pod network.
    pub pod_devices: Vec<Pattern>,
    /// What the operator says of single devices.
    pub devices: Vec<DeviceOverride>,
    /// Addresses that NodePorts are served on are in one of these (or of a family that none of them is of);
    /// empty: the primary ones.
    pub nodeport_addresses: Vec<Prefix>,
}

/// A name with `*` for any characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

/// `NAME` or `NAME=KIND`: what a device is, whatever its routes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOverride {
    /// Which devices.
    pub name: Pattern,
    /// What they are; `None`: none of our business.
    pub kind: Option<DeviceKind>,
}

/// A kind of device that cannot be given.
#[derive(Debug, thiserror::Error)]
#[error("device `{0}`: write NAME or NAME=KIND; KIND is uplink, tunnel, pod, bridge-port, bridge or ignore")]
pub struct UnknownKind(String);

impl Hints {
    /// Name patterns of the pod networks in wide use.
    pub const POD_DEVICES: &str = "veth*,cali*,lxc*,eni*,azv*,gke*,tap*,nk*";

    /// Patterns from a list with commas.
    #[must_use]
    pub fn patterns(list: &str) -> Vec<Pattern> {
        list.split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(Pattern::from)
            .collect()
    }
}

impl Pattern {
    /// Whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeviceOverride {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let (name, kind) = text.split_once('=').unwrap_or((text, "uplink"));
        let kind = match kind {
            _ if name.is_empty() => return Err(UnknownKind(text.to_owned())),
            "uplink" => Some(DeviceKind::Uplink),
            "tunnel" => Some(DeviceKind::Tunnel),
            "pod" => Some(DeviceKind::Pod),
            "bridge-port" => Some(DeviceKind::BridgePort),
            "bridge" => Some(DeviceKind::Bridge),
            "ignore" => None,
            _ => return Err(UnknownKind(text.to_owned())),
        };
        Ok(Self {
            name: name.into(),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_matches_whole_names_only() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("veth*", "veth1a2b", true),
            ("veth*", "myveth", false),
            ("*", "", true),
            ("*_h", "pod_h", true),
            ("*_h", "pod_hx", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*b", "ab", false),
            ("", "x", false),
        ] {
            assert_eq!(Pattern::from(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn override_says_what_a_device_is() {
        for (text, kind) in [
            ("eth1", Some(DeviceKind::Uplink)),
            ("wg*=tunnel", Some(DeviceKind::Tunnel)),
            ("docker0=ignore", None),
        ] {
            assert_eq!(text.parse::<DeviceOverride>().unwrap().kind, kind, "{text}");
        }
        for text in ["", "=uplink", "eth0=lan"] {
            assert!(text.parse::<DeviceOverride>().is_err(), "{text}");
        }
    }
}
