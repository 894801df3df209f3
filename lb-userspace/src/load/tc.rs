//! Where a program hangs on a device, and by which of the kernel's two mechanisms.

use std::{fmt, str::FromStr};

use aya::programs::{LinkOrder, TcAttachType};
use lb_common::abi::DeviceKind;

/// The direction of the packets that a program sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Received by the device.
    Ingress,
    /// Sent by the device.
    Egress,
}

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TcAttach {
    /// tcx where the kernel has it (6.6 and newer), else clsact.
    #[default]
    Auto,
    /// tcx links: pinned, taken over without a gap.
    Tcx,
    /// Filters on the clsact qdisc, replaced in place at a fixed priority and handle.
    Clsact,
}

/// A value of `--tc-attach` that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a way to attach: use auto, tcx or clsact")]
pub struct UnknownTcAttach(String);

impl FromStr for TcAttach {
    type Err = UnknownTcAttach;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            _ => Err(UnknownTcAttach(text.to_owned())),
        }
    }
}

impl fmt::Display for TcAttach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Its name in pins and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(super) const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// First on the way in, last on the way out: programs of others (policies) then see the translated
    /// addresses both ways, as the stack does.
    pub(super) const fn order(self) -> LinkOrder {
        match self {
            Self::Ingress => LinkOrder::first(),
            Self::Egress => LinkOrder::last(),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The program for packets in `direction` of a device of `kind`, if there is one.
pub(super) const fn program_for(kind: DeviceKind, direction: Direction) -> Option<&'static str> {
    use Direction::{Egress, Ingress};
    match (kind, direction) {
        (DeviceKind::Uplink | DeviceKind::Tunnel, Ingress) => Some("uplink_in"),
        (DeviceKind::Uplink | DeviceKind::Tunnel, Egress) => Some("uplink_out"),
        (DeviceKind::Pod, Ingress) => Some("pod_in"),
        (DeviceKind::BridgePort, Ingress) => Some("bridge_port_in"),
        (DeviceKind::Pod | DeviceKind::BridgePort, Egress) => Some("pod_out"),
        (DeviceKind::Host, Egress) => Some("host_out"),
        (DeviceKind::Loopback, Egress) => Some("loopback_out"),
        (DeviceKind::Host | DeviceKind::Loopback, Ingress) | (DeviceKind::Bridge, _) => None,
    }
}

/// Whose turn it is when programs are attached: who opens a flow comes after those who undo its replies, so that no answer
/// reaches a client under a backend's address.
pub(super) fn turn(program: &str) -> u8 {
    match program {
        "uplink_out" | "pod_out" => 0,
        "uplink_in" => 1,
        "pod_in" | "bridge_port_in" => 2,
        _ => 3,
    }
}

/// All programs that are attached to devices by TC.
pub(super) const PROGRAMS: [&str; 7] = [
    "uplink_in",
    "uplink_out",
    "pod_in",
    "pod_out",
    "bridge_port_in",
    "host_out",
    "loopback_out",
];
