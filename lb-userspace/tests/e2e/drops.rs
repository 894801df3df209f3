//! What the kernel itself threw away: a loss that a test sees is a program's, or it is one of these.
//!
//! A busy machine overflows queues. Each of them is counted by the kernel, so that a datagram that is missing can be
//! told from one that a program of ours has lost. Packets that programs drop are in none of these counts.

use std::{fmt, fs};

use crate::cluster::Cluster;

/// Packets, since the machine was started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Drops {
    /// The processors' queues were full.
    queues: u64,
    /// Sockets' buffers were full.
    sockets: u64,
    /// Devices' rings were full.
    devices: u64,
}

impl Drops {
    /// Up to now, in all namespaces of a cluster.
    pub(crate) fn now(cluster: &Cluster) -> Self {
        let mut drops = Self {
            queues: queues(&read("/proc/net/softnet_stat")),
            ..Self::default()
        };
        for place in cluster.lab.places() {
            let (sockets, devices) = place
                .netns()
                .run(|| {
                    let sockets = sockets(&read("/proc/thread-self/net/snmp"))
                        + sockets6(&read("/proc/thread-self/net/snmp6"));
                    Ok((sockets, devices(&read("/proc/thread-self/net/dev"))))
                })
                .expect("statistics can be read");
            drops.sockets += sockets;
            drops.devices += devices;
        }
        drops
    }

    /// From then to now.
    pub(crate) fn since(self, cluster: &Cluster) -> Self {
        let now = Self::now(cluster);
        Self {
            queues: now.queues - self.queues,
            sockets: now.sockets - self.sockets,
            devices: now.devices - self.devices,
        }
    }

    /// All of them.
    pub(crate) fn total(self) -> u64 {
        self.queues + self.sockets + self.devices
    }
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            queues,
            sockets,
            devices,
        } = self;
        write!(
            f,
            "{queues} at processors' queues (of the whole machine), {sockets} at sockets, {devices} at devices"
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The second column, in hexadecimal, of every processor.
fn queues(softnet: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    softnet.lines().filter_map(dropped).sum()
}

/// `Udp: RcvbufErrors`: a line of names, then one of numbers.
fn sockets(snmp: &str) -> u64 {
    let mut udp = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (Some(names), Some(numbers)) = (udp.next(), udp.next()) else {
        return 0;
    };
    let at = names.split_whitespace().position(|name| name == "RcvbufErrors");
    at.and_then(|at| numbers.split_whitespace().nth(at)?.parse().ok())
        .unwrap_or_default()
}

fn sockets6(snmp6: &str) -> u64 {
    let line = snmp6.lines().find(|line| line.starts_with("Udp6RcvbufErrors"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_default()
}

/// What devices could not send on.
fn devices(dev: &str) -> u64 {
    let dropped = |line: &str| {
        line.split_once(':')?
            .1
            .split_whitespace()
            .nth(11)?
            .parse::<u64>()
            .ok()
    };
    dev.lines().filter_map(dropped).sum()
}

#[test]
fn the_kernels_tables_are_understood() {
    assert_eq!(queues("0000 0000000a 0\n0001 00000001 0\n"), 11);
    let snmp =
        "Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 9 8 7 6 5\n";
    assert_eq!(sockets(snmp), 5);
    assert_eq!(sockets6("Udp6InErrors 4\nUdp6RcvbufErrors \t3\n"), 3);
    let dev = "Inter-| Receive | Transmit\n face |bytes\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
    assert_eq!(devices(dev), 12);
}
