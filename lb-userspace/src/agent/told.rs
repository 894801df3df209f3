//! What a question about a live node needs of its status, and nothing else of it.
//!
//! *Invariant*: a long status is read once, and its texts are not copied before they are understood: with ten thousand
//! Services that is most of what an answer costs.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{FrontendKind, Protocol};
use serde::Deserialize;

use super::report::{ProblemReport, SocketsReport, SourceReport};
use crate::{
    explain::Served,
    model::{FrontendAddress, ObjectKey, Problem},
};

/// What an agent told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Name of the node.
    pub node: String,
    /// Where its objects come from.
    pub source: String,
    /// Programs at sockets.
    pub sockets: Vec<String>,
    /// What is served there.
    pub services: Vec<Served>,
    /// What is wrong with objects.
    pub problems: Vec<Problem>,
}

/// The fields of [`super::report::Report`] that matter.
#[derive(Deserialize)]
struct Fields<'a> {
    node: String,
    source: SourceReport,
    sockets: SocketsReport,
    #[serde(borrow)]
    services: Vec<Line<'a>>,
    problems: Vec<ProblemReport>,
}

/// A [`super::report::ServiceReport`].
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    service: Text<'a>,
    #[serde(borrow)]
    port_name: Text<'a>,
    #[serde(borrow)]
    protocol: Text<'a>,
    #[serde(borrow)]
    frontends: Vec<Text<'a>>,
}

/// A text of the status, as it stands there wherever it can.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Told {
    /// Out of the status file's contents.
    ///
    /// # Errors
    /// If it is not what an agent of this version writes.
    pub fn parse(status: &[u8]) -> serde_json::Result<Self> {
        let fields: Fields<'_> = serde_json::from_slice(status)?;
        let problems = fields.problems.into_iter();
        Ok(Self {
            node: fields.node,
            source: fields.source.name,
            sockets: fields.sockets.programs,
            services: fields.services.iter().filter_map(served).collect(),
            problems: problems
                .map(|problem| Problem {
                    object: problem.object,
                    message: problem.message,
                })
                .collect(),
        })
    }
}

/// A line of the status; `None`: it is of a later version.
fn served(line: &Line<'_>) -> Option<Served> {
    let (namespace, name) = line.service.0.split_once('/')?;
    Some(Served {
        key: ObjectKey::new(namespace, name),
        port_name: line.port_name.0.clone().into_owned(),
        protocol: match &*line.protocol.0 {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        },
        frontends: line
            .frontends
            .iter()
            .filter_map(|text| frontend(&text.0))
            .collect(),
    })
}

fn frontend(text: &str) -> Option<FrontendAddress> {
    let (kind, place) = text.split_once(' ')?;
    let kind = match kind {
        "ClusterIp" => FrontendKind::ClusterIp,
        "NodePort" => FrontendKind::NodePort,
        "LoadBalancer" => FrontendKind::LoadBalancer,
        "ExternalIp" => FrontendKind::ExternalIp,
        _ => return None,
    };
    let (address, port): (Option<IpAddr>, u16) = match place.strip_prefix("*:") {
        Some(port) => (None, port.parse().ok()?),
        None => {
            let place: SocketAddr = place.parse().ok()?;
            (Some(place.ip()), place.port())
        }
    };
    Some(FrontendAddress { address, port, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::report::{Report, ServiceReport};

    #[test]
    fn what_the_agent_writes_is_understood() {
        let report = Report {
            node: "node1".into(),
            source: SourceReport {
                name: "kubernetes".into(),
                ..SourceReport::default()
            },
            services: vec![ServiceReport {
                service: "shop/web".into(),
                port_name: "a \"b\"".into(),
                protocol: "UDP".into(),
                frontends: vec![
                    "ClusterIp [fd00::1]:80".into(),
                    "NodePort *:30080".into(),
                    "Later 1".into(),
                ],
                backends_cluster: 1,
                backends_local: 0,
            }],
            problems: vec![ProblemReport {
                object: "Service shop/web".into(),
                message: "wrong".into(),
            }],
            ..Report::default()
        };
        let told = Told::parse(&serde_json::to_vec(&report).unwrap()).unwrap();
        let frontend = |address: Option<&str>, port, kind| FrontendAddress {
            address: address.map(|text| text.parse().unwrap()),
            port,
            kind,
        };
        let expected = Told {
            node: "node1".into(),
            source: "kubernetes".into(),
            sockets: Vec::new(),
            services: vec![Served {
                key: ObjectKey::new("shop", "web"),
                port_name: "a \"b\"".into(),
                protocol: Protocol::Udp,
                frontends: vec![
                    frontend(Some("fd00::1"), 80, FrontendKind::ClusterIp),
                    frontend(None, 30_080, FrontendKind::NodePort),
                ],
            }],
            problems: vec![Problem {
                object: "Service shop/web".into(),
                message: "wrong".into(),
            }],
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn every_kind_of_frontend_is_understood() {
        for kind in [
            FrontendKind::ClusterIp,
            FrontendKind::NodePort,
            FrontendKind::LoadBalancer,
            FrontendKind::ExternalIp,
        ] {
            let read = frontend(&format!("{kind:?} 192.0.2.1:80"));
            assert_eq!(read.map(|frontend| frontend.kind), Some(kind));
        }
    }
}
