//! One place of a lab (a node, a pod, a client, the fabric) and what can be done there.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;

use crate::{
    addr::{Cidr, Dual, Family, Proto},
    capture::{self, Capture},
    client::{self, Options, Outcome},
    crowd::Numbered,
    links,
    netns::{Netns, ip_batch},
    ready,
    server::Server,
    shares::Shares,
    stream::Stream,
    transfer::{self, Held, Transfer},
};

/// A network namespace with its name in the lab and its addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    addr: Dual,
    netns: Arc<Netns>,
    folder: Arc<Path>,
}

impl Place {
    pub(crate) fn new(name: &str, addr: Dual, netns: Netns, folder: Arc<Path>) -> Self {
        let name = name.into();
        Self {
            name,
            addr,
            netns: Arc::new(netns),
            folder,
        }
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address of one family.
    pub fn ip(&self, family: Family) -> IpAddr {
        self.addr.of(family)
    }

    /// Its address of one family, with a port.
    pub fn socket(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// The lab's folder for logs and captures.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Serves on all its addresses, under its name, until the value is dropped.
    pub fn serve(&self, proto: Proto, port: u16) -> Result<Server> {
        Server::start(&self.netns, &self.name, proto, &self.addr.both(), port)
    }

    /// As [`Place::serve`], on these addresses.
    pub fn serve_on(&self, proto: Proto, addresses: &[IpAddr], port: u16) -> Result<Server> {
        Server::start(&self.netns, &self.name, proto, addresses, port)
    }

    /// One connection, or one datagram and its answer.
    pub fn connect(&self, proto: Proto, dst: SocketAddr, options: &Options) -> Result<Outcome> {
        client::connect(&self.netns, proto, dst, options)
    }

    /// `n` connections from fresh source ports, several at a time.
    pub fn probe(&self, proto: Proto, dst: SocketAddr, n: u32) -> Result<Shares> {
        self.probe_with(proto, dst, n, &Options::default())
    }

    /// As [`Place::probe`], with options.
    pub fn probe_with(&self, proto: Proto, dst: SocketAddr, n: u32, options: &Options) -> Result<Shares> {
        client::probe(&self.netns, proto, dst, n, options)
    }

    /// One attempt for each of these options, several at a time; the outcomes are in the same order.
    pub fn connect_each(&self, proto: Proto, dst: SocketAddr, attempts: &[Options]) -> Result<Vec<Outcome>> {
        client::connect_each(&self.netns, proto, dst, attempts)
    }

    /// Downloads `bytes` bytes within `limit` and checks every one of them.
    pub fn download(&self, dst: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
        transfer::download(&self.netns, dst, bytes, limit)
    }

    /// Uploads `bytes` bytes within `limit`; the server checks every one of them.
    pub fn upload(&self, dst: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
        transfer::upload(&self.netns, dst, bytes, limit)
    }

    /// Opens a connection that stays, to look at it again and again.
    pub fn hold(&self, dst: SocketAddr, options: &Options) -> Result<Held> {
        Held::open(&self.netns, dst, options)
    }

    /// Starts a download in the background, at `rate` bytes a second, that ends with the value.
    pub fn stream(&self, dst: SocketAddr, rate: u64) -> Result<Stream> {
        Stream::tcp(&self.netns, dst, rate)
    }

    /// Starts numbered datagrams from one socket in the background, `rate` a second, until the value is dropped.
    pub fn stream_datagrams(&self, dst: SocketAddr, rate: u32) -> Result<Stream> {
        Stream::udp(&self.netns, dst, rate)
    }

    /// A socket for numbered datagrams, to be one of a crowd.
    pub fn numbered(&self, dst: SocketAddr) -> Result<Numbered> {
        Numbered::open(&self.netns, dst)
    }

    /// Starts recording the packets on `device` that `filter` wants (it gets whole Ethernet frames).
    pub fn capture(&self, device: &str, filter: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Capture> {
        Capture::start(self, device, filter)
    }

    /// Sends an Ethernet frame out of `device`.
    pub fn send_raw(&self, device: &str, frame: &[u8]) -> Result<()> {
        capture::send(&self.netns, device, frame)
    }

    /// Sends many Ethernet frames out of `device`, as fast as it takes them; returns how many.
    pub fn send_all(&self, device: &str, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<u32> {
        capture::send_all(&self.netns, device, frames)
    }

    /// Gives `device` one more address, usable at once. (The place's own addresses stay what they were.)
    pub fn add_address(&self, ip: IpAddr, device: &str) -> Result<()> {
        let nodad = links::nodad(Family::of(ip));
        let command = format!("addr add {} dev {device}{nodad}", Cidr::host(ip));
        ip_batch(&["-n", self.netns.name()], &command)?;
        ready::wait_for_address(&self.netns, ip)
    }

    /// Takes an address of [`Place::add_address`] back.
    pub fn remove_address(&self, ip: IpAddr, device: &str) -> Result<()> {
        ip_batch(
            &["-n", self.netns.name()],
            &format!("addr del {} dev {device}", Cidr::host(ip)),
        )
    }

    /// Gives `device` another MTU.
    pub fn set_mtu(&self, device: &str, mtu: u16) -> Result<()> {
        ip_batch(
            &["-n", self.netns.name()],
            &format!("link set {device} mtu {mtu}"),
        )
    }

    /// Forgets what was learned about paths: how large packets may be on them.
    pub fn forget_paths(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            ip_batch(&[family, "-n", self.netns.name()], "route flush cache")?;
        }
        Ok(())
    }

    /// Runs a program there to its end; returns what it printed.
    pub fn output(&self, argv: &[&str]) -> Result<String> {
        self.netns.output(argv)
    }
}
