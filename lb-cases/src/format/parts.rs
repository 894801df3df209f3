//! The parts of a scenario: flows, HTTP checks, metrics, and what is expected of each.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::address;

/// An address, in any spelling that old objects have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub IpAddr);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ip = address::lenient(&text);
        ip.map(Self)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not an address")))
    }
}

/// Something a client does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Unique in the scenario where others refer to it.
    pub name: String,
    /// Where the expectation comes from, for readers.
    #[serde(default)]
    pub origin: String,
    /// For readers.
    #[serde(default)]
    pub note: String,
    /// Who.
    pub client: Client,
    /// Whereto.
    pub dst: Destination,
    /// The earlier flow that goes on, which is still in use.
    #[serde(default)]
    pub continues: Option<String>,
    /// Single connections with idle time before each.
    #[serde(default)]
    pub repeat: Option<Repeat>,
    /// What must come of it.
    pub expect: Expected,
}

/// Who opens a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// What it is.
    pub kind: ClientKind,
    /// The node it is on, or is.
    #[serde(default)]
    pub node: Option<String>,
    /// Its address.
    pub ip: Address,
    /// Its port, where that matters.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// A pod.
    Pod,
    /// A process of a node.
    Node,
    /// Somebody outside.
    External,
}

/// Whereto a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The address.
    pub ip: Address,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub proto: Protocol,
}

impl Destination {
    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip.0, self.port)
    }
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// So many single connections, each after so much idle time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How many.
    pub count: u32,
    /// Idle seconds before each.
    pub gap_seconds: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It reaches a backend.
    Forward,
    /// The client is told at once.
    Reject,
    /// Silence.
    Drop,
    /// Nobody of ours touches it.
    Pass,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Pass => "pass",
        })
    }
}

/// What must come of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The outcome.
    pub outcome: Outcome,
    /// Those who may be, and must be, reached.
    #[serde(default)]
    pub backends: Vec<SocketAddr>,
    /// What they see as the client's address.
    #[serde(default)]
    pub source: Option<Source>,
    /// What they may see besides.
    #[serde(default)]
    pub source_also_ok: Option<SourceAt>,
    /// Outcomes that are accepted besides.
    #[serde(default)]
    pub also_ok: Vec<Outcome>,
    /// All connections reach one backend.
    #[serde(default)]
    pub sticky: bool,
    /// At least so many different backends are reached.
    #[serde(default)]
    pub min_distinct_backends: Option<usize>,
    /// All connections reach the backend that this earlier flow reached.
    #[serde(default)]
    pub same_backend_as: Option<String>,
}

/// What backends see as the client's address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// The same for all.
    Everywhere(SourceAt),
    /// By backend, `default` for the others.
    Each(BTreeMap<String, SourceAt>),
}

/// What one backend sees as the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceAt {
    /// The client's own.
    Preserved,
    /// One of the node's.
    Masqueraded,
}

impl fmt::Display for SourceAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preserved => "preserved",
            Self::Masqueraded => "masqueraded",
        })
    }
}

impl Source {
    /// What this backend must see; nothing if the scenario does not say.
    pub fn at(&self, backend: SocketAddr) -> Option<SourceAt> {
        match self {
            Self::Everywhere(source) => Some(*source),
            Self::Each(sources) => {
                let named =
                    |(name, source): (&String, &SourceAt)| (name.parse() == Ok(backend)).then_some(*source);
                let own = sources.iter().find_map(named);
                own.or_else(|| sources.get("default").copied())
            }
        }
    }
}

/// A question over HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// How it is called in reports.
    pub name: String,
    /// Where the expectation comes from, for readers.
    #[serde(default)]
    pub origin: String,
    /// For readers.
    #[serde(default)]
    pub note: String,
    /// Who asks.
    pub client: Client,
    /// What.
    pub get: Get,
    /// The answer.
    pub expect: HttpExpected,
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// The server's address.
    pub ip: Address,
    /// Its port.
    pub port: u16,
    /// The path.
    pub path: String,
}

/// The answer to a question over HTTP.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpExpected {
    /// The status.
    pub status: Option<u16>,
    /// Headers that must be there with these values.
    pub headers: BTreeMap<String, Value>,
    /// Members that the body must have; others may be there.
    pub json: Option<Value>,
    /// Nobody listens.
    pub refused: bool,
}

/// Something the agent must count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Which.
    pub id: MetricId,
    /// Labels it is looked up by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
    /// For readers.
    #[serde(default)]
    pub note: String,
    /// Where the expectation comes from, for readers.
    #[serde(default)]
    pub origin: String,
}

/// The metrics that scenarios name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricId {
    /// Service ports with policy Local and endpoints, but none here.
    NoLocalEndpoints,
}

impl MetricId {
    /// Its name in the agent's list.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoLocalEndpoints => "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        }
    }
}

/// Whether the agent can write its maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Its writes fail.
    Stalled,
    /// They succeed again.
    Synced,
}
