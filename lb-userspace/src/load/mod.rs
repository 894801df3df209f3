//! Puts programs and maps into the kernel, keeps them there across restarts, takes them out again.
//!
//! The order that leaves no gap: [`probe::check`] → [`load`] (flow maps adopted, all others fresh) → the caller fills
//! the fresh maps → [`Loaded::into_attachments`] → [`Attachments::sync`] (programs are switched in place, then the
//! pins of the maps). Flow maps that cannot be adopted are copied in `sync`, see `handover`.

mod attach;
mod dry_run;
mod handover;
mod loader;
#[cfg(feature = "log")]
mod log;
mod object;
mod occupants;
mod pin;
mod places;
pub mod probe;
mod sockets;
mod tc;
mod tracer;
mod xdp;

pub use attach::{AttachError, Attachments, Target};
pub use dry_run::DryRun;
pub use loader::{Capacities, LoadError, Loaded, Options, Sweeper, detach, load, verify_one};
pub use object::{MapShape, ObjectError, embedded};
pub use occupants::{Occupant, occupants, program_names};
pub use pin::{PinDirectory, PinDirectoryError};
pub use probe::ProbeError;
pub use sockets::{AtSockets, ConnectHooks, SocketOptions, UnknownConnectHooks, cgroup2};
pub use tc::{Direction, TcAttach, UnknownTcAttach};
pub use tracer::{Tracer, TracerError};
pub use xdp::{OnUplink, UnknownHook, UplinkHook, XdpError, XdpMode};
