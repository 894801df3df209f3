//! What is remembered of the Service `default/kubernetes` across restarts: its addresses and its last endpoints.
//!
//! Only addresses and ports, never a credential: whoever can write the file can send the agent to a wrong address, where no
//! certificate will be the API server's. A file that is not as it should be is not used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use lb_common::abi::Protocol;
use serde::{Deserialize, Serialize};

use crate::model::{Change, Endpoint, EndpointPort, EndpointSlice, ObjectKey, Port, Service, SourceRanges};

/// Bytes of a file that are read: more than any that is written.
const LONGEST: u64 = 64 * 1024;
/// Endpoints that are remembered, and believed.
const MOST: usize = 64;
/// Name of the Service, in the namespace `default`.
const NAME: &str = "kubernetes";
/// Name of its port.
const PORT: &str = "https";

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is not what an agent writes.
    #[error("it is not what an agent has written: {0}")]
    Garbled(#[from] serde_json::Error),
    /// It is what an agent writes, but for a value.
    #[error("{0}")]
    Value(String),
}

/// Addresses of the Service and of those behind it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remembered {
    /// ClusterIPs of the Service.
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    /// Its port.
    pub(super) port: u16,
    /// Where API servers listen.
    pub(super) endpoints: BTreeSet<SocketAddr>,
}

impl Remembered {
    /// What the file says; `None`: there is none.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, UnusableError> {
        let mut text = Vec::new();
        match fs::File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?.take(LONGEST + 1).read_to_end(&mut text)?,
        };
        if text.len() as u64 > LONGEST {
            return Err(UnusableError::Value(format!("it has more than {LONGEST} bytes")));
        }
        let remembered: Self = serde_json::from_slice(&text)?;
        remembered.check().map_err(UnusableError::Value)?;
        Ok(Some(remembered))
    }

    fn check(&self) -> Result<(), String> {
        if self.endpoints.len() > MOST || self.cluster_ips.len() > 2 {
            return Err(format!(
                "it has more than {MOST} endpoints, or more than two addresses"
            ));
        }
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.ip(), endpoint.port()));
        let addresses = self.cluster_ips.iter().map(|ip| (*ip, self.port));
        match endpoints
            .chain(addresses)
            .find(|(ip, port)| !is_plausible(*ip) || *port == 0)
        {
            Some((ip, port)) => Err(format!("{} cannot be an API server's", SocketAddr::new(ip, port))),
            None => Ok(()),
        }
    }

    /// Puts the file in place as a whole: whoever reads has the one before or this one.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let beside = file.with_extension("json.new");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(beside, file)
    }

    /// The objects that it was made of, as far as it goes.
    pub(super) fn objects(&self) -> Vec<Change> {
        if self.cluster_ips.is_empty() || self.endpoints.is_empty() {
            return Vec::new();
        }
        let service = Change::ServiceApplied(Service {
            key: key(),
            created: None,
            cluster_ips: self.cluster_ips.iter().copied().collect(),
            external_ips: Vec::new(),
            ingress: Vec::new(),
            passed_by: None,
            ports: vec![Port {
                name: PORT.into(),
                protocol: Protocol::Tcp,
                port: self.port,
                node_port: None,
            }],
            internal_local: false,
            external_local: false,
            affinity: None,
            source_ranges: SourceRanges::default(),
            health_check_port: None,
        });
        // Those of a slice share their port.
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            let alike = slices.entry((endpoint.is_ipv6(), endpoint.port())).or_default();
            alike.push(Endpoint {
                address: endpoint.ip(),
                node: None,
                ready: true,
                serving: true,
                terminating: false,
                for_zones: Box::default(),
                for_nodes: Box::default(),
            });
        }
        let slices = slices.into_iter().map(|((ipv6, port), endpoints)| {
            Change::SliceApplied(EndpointSlice {
                // No object can have such a name: it cannot be mistaken for one of the cluster.
                key: ObjectKey::new("default", &format!("{NAME}/remembered/{port}/{ipv6}")),
                service: NAME.into(),
                ipv6,
                ports: vec![EndpointPort {
                    name: PORT.into(),
                    protocol: Protocol::Tcp,
                    port,
                }],
                endpoints: endpoints.into(),
                triggered: None,
            })
        });
        [service].into_iter().chain(slices).collect()
    }
}

/// Follows the objects of the Service.
#[derive(Default, Debug)]
pub(super) struct Followed {
    service: Option<(BTreeSet<IpAddr>, u16)>,
    slices: BTreeMap<ObjectKey, BTreeSet<SocketAddr>>,
}

impl Followed {
    /// Takes in a change; whether it concerns the Service.
    pub(super) fn take(&mut self, change: &Change) -> bool {
        match change {
            Change::ServiceApplied(service) if service.key == key() => {
                let port = service.ports.iter().find(|port| port.name == PORT);
                self.service = port.map(|port| (service.cluster_ips.iter().copied().collect(), port.port));
            }
            Change::SliceApplied(slice) if slice.service == NAME && slice.key.namespace == "default" => {
                let ports: Vec<_> = slice.ports.iter().filter(|port| port.name == PORT).collect();
                let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
                let endpoints = ready
                    .flat_map(|endpoint| {
                        ports
                            .iter()
                            .map(|port| SocketAddr::new(endpoint.address, port.port))
                    })
                    .filter(|endpoint| is_plausible(endpoint.ip()))
                    .collect();
                self.slices.insert(slice.key.clone(), endpoints);
            }
            Change::SliceApplied(EndpointSlice { key, .. }) | Change::SliceDeleted(key) => {
                return self.slices.remove(key).is_some();
            }
            _ => return false,
        }
        true
    }

    /// What is worth remembering. `None` while there is nobody behind the Service, as when the last API server
    /// takes its leave: whoever was there is the best that is known.
    pub(super) fn known(&self) -> Option<Remembered> {
        let (cluster_ips, port) = self.service.clone()?;
        let endpoints: BTreeSet<_> = self.slices.values().flatten().copied().take(MOST).collect();
        (!endpoints.is_empty()).then_some(Remembered {
            cluster_ips,
            port,
            endpoints,
        })
    }
}

fn key() -> ObjectKey {
    ObjectKey::new("default", NAME)
}

fn is_plausible(ip: IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Remembered {
        Remembered {
            cluster_ips: ["10.96.0.1".parse().unwrap()].into(),
            port: 443,
            endpoints: ["192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::1]:6443"]
                .map(|text| text.parse().unwrap())
                .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_made_of_the_objects_that_it_makes() {
        let file = std::env::temp_dir().join(format!("lb-remembered-{}.json", std::process::id()));
        assert_eq!(Remembered::read(&file).unwrap(), None);
        example().write(&file).unwrap();
        assert_eq!(Remembered::read(&file).unwrap(), Some(example()));
        fs::remove_file(&file).unwrap();

        let mut followed = Followed::default();
        assert!(example().objects().iter().all(|change| followed.take(change)));
        assert_eq!(followed.known(), Some(example()));
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_is_refused() {
        let file = std::env::temp_dir().join(format!("lb-garbled-{}.json", std::process::id()));
        let long = format!("{}{{}}", " ".repeat(LONGEST as usize));
        for (text, word) in [
            ("", "has written"),
            ("\0\u{1}\u{2}", "has written"),
            (r#"{"cluster_ips":[],"port":443}"#, "endpoints"),
            (
                r#"{"cluster_ips":[],"port":443,"endpoints":["api:6443"]}"#,
                "has written",
            ),
            (
                r#"{"cluster_ips":[],"port":443,"endpoints":[],"token":"x"}"#,
                "token",
            ),
            (r#"{"cluster_ips":[],"port":70000,"endpoints":[]}"#, "70000"),
            (
                r#"{"cluster_ips":["10.96.0.1"],"port":0,"endpoints":[]}"#,
                "10.96.0.1:0",
            ),
            (
                r#"{"cluster_ips":[],"port":443,"endpoints":["127.0.0.1:1"]}"#,
                "127.0.0.1:1",
            ),
            (
                r#"{"cluster_ips":[],"port":443,"endpoints":["[ff02::1]:1"]}"#,
                "ff02::1",
            ),
            (&long, "bytes"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Remembered::read(&file).unwrap_err().to_string();
            assert!(error.contains(word), "{text:.80}: {error}");
        }
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn the_last_endpoints_are_not_forgotten_when_the_last_server_leaves() {
        let mut followed = Followed::default();
        let objects = example().objects();
        assert!(objects.iter().all(|change| followed.take(change)));
        for change in &objects {
            if let Change::SliceApplied(slice) = change {
                assert!(followed.take(&Change::SliceDeleted(slice.key.clone())));
            }
        }
        assert_eq!(followed.known(), None);
    }
}
