//! Who asks for what, as it is written on the command line.

use std::{fmt, net::IpAddr, net::SocketAddr, str::FromStr};

use lb_common::abi::Protocol;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::model::{ObjectKey, parse_address};

/// Who connects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Client {
    /// A pod.
    Pod(ObjectKey),
    /// A process of a node.
    Node(String),
    /// Whoever has this address.
    Address(IpAddr),
}

/// What is connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A Service by its ClusterIPs: one of its ports, by name or number, or all.
    Service(ObjectKey, Option<String>),
    /// An address and a port.
    Address(SocketAddr, Protocol),
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Who connects.
    pub from: Client,
    /// Destination what.
    pub to: Destination,
    /// The node that the packet arrives on, if it is not the client's own.
    pub via: Option<String>,
}

/// What cannot be understood.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum QuestionError {
    /// The client.
    #[error("`{0}` is no client: write pod/NAMESPACE/NAME, node/NAME or an address")]
    Client(String),
    /// The destination.
    #[error(
        "`{0}` is no destination: write service/NAMESPACE/NAME, service/NAMESPACE/NAME:PORT, ADDRESS:PORT or \
         ADDRESS:PORT/udp (an IPv6 address in brackets: [fd00::1]:80)"
    )]
    Destination(String),
}

impl FromStr for Client {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let wrong = || QuestionError::Client(text.to_owned());
        match text.split('/').collect::<Vec<_>>()[..] {
            ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Pod(ObjectKey::new(namespace, name)))
            }
            ["node", name] if !name.is_empty() => Ok(Self::Node(name.to_owned())),
            [address] => parse_address(address).map(Self::Address).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Destination {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let wrong = || QuestionError::Destination(text.to_owned());
        if let Some(service) = text
            .strip_prefix("service/")
            .or_else(|| text.strip_prefix("svc/"))
        {
            let (namespace, rest) = service.split_once('/').ok_or_else(wrong)?;
            let (name, port) = match rest.split_once(':') {
                Some((name, port)) => (name, Some(port.to_owned())),
                None => (rest, None),
            };
            if namespace.is_empty() || name.is_empty() || port.as_deref() == Some("") {
                return Err(wrong());
            }
            return Ok(Self::Service(ObjectKey::new(namespace, name), port));
        }
        let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(wrong()),
        };
        let address: SocketAddr = address.parse().map_err(|_| wrong())?;
        if address.port() == 0 {
            return Err(wrong());
        }
        Ok(Self::Address(address, protocol))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for Client {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_destinations_are_read_as_they_are_written() {
        let shop = ObjectKey::new("ns", "shop");
        assert_eq!("pod/ns/shop".parse(), Ok(Client::Pod(shop.clone())));
        assert_eq!("node/n1".parse(), Ok(Client::Node("n1".into())));
        assert_eq!("fd00::1".parse(), Ok(Client::Address("fd00::1".parse().unwrap())));
        assert_eq!(
            "service/ns/shop".parse(),
            Ok(Destination::Service(shop.clone(), None))
        );
        assert_eq!(
            "svc/ns/shop:http".parse(),
            Ok(Destination::Service(shop, Some("http".into())))
        );
        let to = |text: &str, protocol| Ok(Destination::Address(text.parse().unwrap(), protocol));
        assert_eq!("10.0.0.1:80".parse(), to("10.0.0.1:80", Protocol::Tcp));
        assert_eq!("[fd00::1]:53/UDP".parse(), to("[fd00::1]:53", Protocol::Udp));
        assert_eq!("10.0.0.1:80/sctp".parse(), to("10.0.0.1:80", Protocol::Sctp));
    }

    #[test]
    fn what_is_neither_is_named_with_what_to_write() {
        for text in [
            "pod/x",
            "pod//x",
            "node/",
            "10.0.0",
            "service/a/b",
            "",
            "pod/a/b/c",
        ] {
            let error = text.parse::<Client>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("node/NAME"),
                "{error}"
            );
        }
        for text in [
            "10.0.0.1",
            "10.0.0.1:0",
            "fd00::1:80/x",
            "service/a",
            "service/a/b:",
            "10.0.0.1:80/icmp",
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("ADDRESS:PORT"),
                "{error}"
            );
        }
    }
}
