//! A scenario's lab, with everybody who listens in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use lb_lab::{Lab, Place, Proto, Server};

use crate::{
    format::{Case, Protocol},
    layout::{Layout, Listener, SELF, UPLINK, pod_device},
    sctp::Responder,
};

/// A lab that exists.
pub(crate) struct Site {
    #[allow(dead_code)] // Held. Dropped before the lab, whose namespaces they listen in.
    listening: Listening,
    pub(crate) lab: Lab,
    pub(crate) layout: Layout,
}

/// Somebody listens as long as this lives.
#[derive(Default)]
#[allow(dead_code)] // held, not read
pub(crate) struct Listening {
    servers: Vec<Server>,
    responders: Vec<Responder>,
}

impl Site {
    /// Builds it.
    pub(crate) fn build(case: &Case, tag: &str) -> Result<Self> {
        let layout = Layout::of(case, tag)?;
        let lab = Lab::wire(&layout.wiring)?;
        let listening = listen(&lab, layout.listeners.iter())?;
        Ok(Self {
            listening,
            lab,
            layout,
        })
    }

    /// Lets somebody else listen too, unless somebody does already.
    pub(crate) fn listen(&self, listener: &Listener) -> Result<Listening> {
        if self.layout.listeners.contains(listener) {
            return Ok(Listening::default());
        }
        listen(&self.lab, [listener].into_iter())
    }

    /// The devices of `self` that the agent must have put programs on.
    pub(crate) fn devices(&self) -> Vec<String> {
        let pods = (0..self.layout.pods.len()).map(pod_device);
        pods.chain([UPLINK.into(), "lo".into()]).collect()
    }

    /// The node with the agent.
    pub(crate) fn own(&self) -> Result<&Place> {
        self.lab.at(SELF)
    }

    /// The addresses that node has now.
    pub(crate) fn own_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        self.own()?.netns().run(|| {
            let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|at| IpAddr::from(at.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|at| at.ip().into()))
            });
            Ok(addresses.collect())
        })
    }
}

fn listen<'a>(lab: &Lab, listeners: impl Iterator<Item = &'a Listener>) -> Result<Listening> {
    let mut listening = Listening::default();
    let mut sctp: BTreeMap<(&str, IpAddr), BTreeSet<u16>> = BTreeMap::new();
    for Listener { place, proto, at } in listeners {
        let proto = match proto {
            Protocol::Tcp => Proto::Tcp,
            Protocol::Udp => Proto::Udp,
            Protocol::Sctp => {
                sctp.entry((place, at.ip())).or_default().insert(at.port());
                continue;
            }
        };
        let server = lab.at(place)?.netns();
        let server = Server::start(server, place, proto, &[at.ip()], at.port())?;
        listening.servers.push(server);
    }
    for ((place, ip), ports) in sctp {
        let responder = Responder::start(lab.at(place)?.netns(), ip, ports)?;
        listening.responders.push(responder);
    }
    Ok(listening)
}
