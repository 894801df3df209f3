//! What an explanation says, and whether packets agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_lab::{Family, Shares};
use serde_json::Value;

use super::BACKENDS;
use crate::cluster::Cluster;

/// What an explanation says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) verdict: String,
    pub(super) reason: String,
    /// Addresses of backends, and the address that each sees.
    pub(super) backends: BTreeMap<IpAddr, IpAddr>,
    /// Whether the program agrees, if it was asked.
    pub(super) verified: Option<bool>,
    /// The command of the first remedy.
    pub(super) remedy: Option<String>,
    /// Why there is none.
    pub(super) none: Option<String>,
}

impl Told {
    /// The one answer in what was printed.
    pub(super) fn of((text, success): &(String, bool)) -> Result<Self, String> {
        let answers: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let answer = &answers[0];
        if !success || answers.as_array().map(Vec::len) != Some(1) {
            return Err(format!("no single answer: {text}"));
        }
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let backend = |backend: &Value| {
            let address: SocketAddr = backend["backend"].as_str()?.parse().ok()?;
            Some((address.ip(), backend["source"].as_str()?.parse().ok()?))
        };
        let backends = answer["backends"].as_array().into_iter().flatten();
        Ok(Self {
            verdict: word(&answer["verdict"]).unwrap_or_default(),
            reason: word(&answer["reason"]).unwrap_or_default(),
            backends: backends.filter_map(backend).collect(),
            verified: answer["verified"]["agrees"].as_bool(),
            remedy: word(&answer["remedies"]["found"][0]["command"]),
            none: word(&answer["remedies"]["none"]),
        })
    }

    /// What it says of packets.
    pub(super) fn says(&self) -> String {
        let Self {
            verdict,
            reason,
            backends,
            ..
        } = self;
        format!("{verdict} ({reason}) {backends:?}")
    }

    /// Whether packets agree.
    pub(super) fn agrees(&self, cluster: &Cluster, family: Family, shares: &Shares) -> bool {
        let names = BACKENDS.map(|name| (cluster.lab.at(name).expect("it is there").ip(family), name));
        let names = BTreeMap::from(names);
        let expected: BTreeMap<_, _> = (self.backends.iter())
            .map(|(backend, source)| (names[backend].to_owned(), BTreeSet::from([*source])))
            .collect();
        match self.verdict.as_str() {
            "forwarded" => shares.all_answered() && shares.sources == expected,
            "rejected" => shares.all_refused(),
            "dropped" => shares.all_silent(),
            _ => shares.answers() == 0,
        }
    }
}
