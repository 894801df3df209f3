//! One place of a lab (a node, a pod, a client, the fabric) and what can be done there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    addr::{Dual, Family, Proto},
    client::{self, Options, Outcome},
    netns::Netns,
    server::Server,
    shares::Shares,
};

/// A network namespace with its name in the lab and its addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    addr: Dual,
    netns: Arc<Netns>,
}

impl Place {
    pub(crate) fn new(name: &str, addr: Dual, netns: Netns) -> Self {
        Self {
            name: name.into(),
            addr,
            netns: Arc::new(netns),
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

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Serves on all its addresses, under its name, until the value is dropped.
    pub fn serve(&self, proto: Proto, port: u16) -> Result<Server> {
        Server::start(&self.netns, &self.name, proto, &self.addr.both(), port)
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

    /// Runs a program there to its end; returns what it printed.
    pub fn output(&self, argv: &[&str]) -> Result<String> {
        self.netns.output(argv)
    }
}
