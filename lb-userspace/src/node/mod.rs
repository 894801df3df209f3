//! What this node is, followed live, and the little that is set up on it.

mod clock;
pub mod facts;
mod hints;
pub mod host;
mod namespace;
mod netlink;
mod ports;
mod prefix;
mod snapshot;
pub mod sockets;
mod sysctl;
mod tracked;
mod watch;
mod xdp_features;

pub use clock::{hertz, jiffies};
pub use hints::{DeviceOverride, Hints, Pattern};
pub use namespace::netns_cookie;
pub use netlink::{NetlinkError, snapshot};
pub use ports::PortSet;
pub use prefix::Prefix;
pub use snapshot::{Address, Link, LinkKind, Route, Snapshot};
pub use sysctl::Sysctls;
pub use tracked::Tracked;
pub use watch::watch;
pub use xdp_features::xdp_features;
