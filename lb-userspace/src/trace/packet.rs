//! The steps of one packet through one program.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use lb_common::abi::{Hook, Record, Step};
use serde::Serialize;

use super::step::{Told, step};

/// What numbers are called on this node.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Interfaces by index.
    pub devices: BTreeMap<u32, String>,
    /// When the node has started, by the clock that records have.
    pub started: Option<SystemTime>,
}

/// A packet in one program, or a connection at its socket.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Packet {
    /// When it came (RFC 3339).
    pub time: String,
    /// Where it is.
    pub hook: &'static str,
    /// The device; null at a socket.
    pub device: Option<String>,
    /// The CPU.
    pub cpu: u16,
    /// Its number, counted by the CPU.
    pub packet: u64,
    /// Records that the CPU lost before these, for want of room.
    pub lost: u16,
    /// What was looked up, what was done, in order.
    pub steps: Vec<Told>,
}

/// Puts records together: those of several CPUs come mixed.
#[derive(Debug)]
pub struct Packets {
    names: Names,
    /// By CPU, and whether at a socket.
    open: BTreeMap<(u16, bool), Packet>,
}

impl Packets {
    /// With these names.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self {
            names,
            open: BTreeMap::new(),
        }
    }

    /// Takes a record. Gives what is complete now: with the last step of a packet, or the first of the next.
    pub fn take(&mut self, record: &Record) -> Option<Packet> {
        let at_socket = record.device == 0;
        let of = (record.cpu, at_socket);
        if record.step == Step::Enter as u8 {
            let next = self.begin(record);
            return self.open.insert(of, next);
        }
        let last = if at_socket { Step::Outcome } else { Step::Verdict };
        // (Of a packet whose beginning was lost nothing is told.)
        let packet = self
            .open
            .get_mut(&of)
            .filter(|packet| packet.packet == record.packet)?;
        packet.steps.extend(step(record));
        packet.lost = packet.lost.saturating_add(record.lost);
        if record.step == last as u8 {
            return self.open.remove(&of);
        }
        None
    }

    /// What has begun and did not end.
    pub fn rest(&mut self) -> impl Iterator<Item = Packet> {
        std::mem::take(&mut self.open).into_values()
    }

    fn begin(&self, record: &Record) -> Packet {
        let device = self.names.devices.get(&record.device);
        Packet {
            time: self.time(record.time),
            hook: Hook::from_number(record.hook.into()).map_or("unknown", Hook::name),
            device: (record.device != 0).then(|| {
                device
                    .cloned()
                    .unwrap_or_else(|| format!("interface {}", record.device))
            }),
            cpu: record.cpu,
            packet: record.packet,
            lost: record.lost,
            steps: step(record).into_iter().collect(),
        }
    }

    fn time(&self, since_start: u64) -> String {
        let since = Duration::from_nanos(since_start);
        let time = self.names.started.and_then(|started| started.checked_add(since));
        let time = time.and_then(|time| Timestamp::try_from(time).ok());
        time.map_or_else(|| format!("{since:?}"), |time| format!("{time:.6}"))
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.time, self.hook)?;
        if let Some(device) = &self.device {
            write!(f, " on {device}")?;
        }
        writeln!(f, "  (CPU {}, packet {})", self.cpu, self.packet)?;
        if self.lost > 0 {
            writeln!(
                f,
                "  ... {} steps before it were lost: too many to be read in time",
                self.lost
            )?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

#[cfg(test)]
mod tests;
