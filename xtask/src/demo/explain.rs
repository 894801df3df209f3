//! Asks `lb-agent explain` why nobody answers a client, and gives what its first remedy changes: the command that is
//! printed for the operator is what is carried out.

use anyhow::{Context, Result, bail};
use lb_lab::{Family, Proto};
use serde_json::Value;

use super::change::{Cell, Change};
use super::cluster::Cluster;
use super::expected::Expected;
use crate::report::{Check, Report};

/// What a remedy's command begins with if it changes a Service.
const PATCH: &str = "kubectl patch service ";

/// Explains the cell, for people and for the report, and gives its first remedy.
pub(super) fn remedy(
    cluster: &Cluster,
    expected: &Expected,
    cell: &Cell,
    report: &mut Report,
    print: &mut dyn FnMut(String),
) -> Result<Change> {
    let Cell { from, via, to } = cell;
    let address = expected.address(to);
    let client = cluster.lab.at(from)?.ip(Family::V4).to_string();
    let proto = match address.proto {
        Proto::Tcp => "",
        Proto::Udp => "/udp",
    };
    let to = format!("{}{proto}", address.v4);
    let question = ["--from", &client, "--via", via, "--to", &to];
    let agent = cluster.agents.first().context("there is no agent")?;
    let folder = cluster.manifests();
    let text = agent.explain(&folder, &question)?;
    let indented: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
    print(format!(
        "\nWhy does nobody answer {from}, by way of {via}?  lb-agent explain {}\n\n{}",
        question.join(" "),
        indented.join("\n")
    ));
    let json = agent.explain(&folder, &[&question[..], &["--output", "json"]].concat())?;
    let answers: Value = serde_json::from_str(&json).context("its answer cannot be understood")?;
    let verdict = answers[0]["verdict"].as_str().unwrap_or("none");
    report.check(Check {
        id: "explain/verdict".into(),
        expected: "dropped".into(),
        ok: verdict == "dropped",
        seen: verdict.into(),
    });
    let command = answers[0]["remedies"]["found"][0]["command"].as_str();
    let change = command.map(change).transpose()?;
    report.check(Check {
        id: "explain/first-remedy".into(),
        expected: "a change of the Service".into(),
        ok: change.is_some(),
        seen: command.unwrap_or("none").into(),
    });
    change.context("it names no remedy")
}

/// What `kubectl patch service NAME -n NAMESPACE --type=merge -p 'PATCH'` changes.
fn change(command: &str) -> Result<Change> {
    let parts = command.strip_prefix(PATCH).and_then(|rest| {
        let (service, options) = rest.split_once(' ')?;
        let (_, patch) = options.split_once("--type=merge -p '")?;
        Some((service, patch.strip_suffix('\'')?))
    });
    let Some((service, patch)) = parts else {
        bail!("the remedy is no merge patch of a Service: {command}");
    };
    Ok(Change::Patch {
        service: service.into(),
        patch: serde_norway::from_str(patch).context("the remedy's patch cannot be read")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_becomes_a_change_and_what_is_none_an_error() {
        let command = r#"kubectl patch service shop -n default --type=merge -p '{"spec":{"a":"B"}}'"#;
        let Change::Patch { service, patch } = change(command).unwrap() else {
            panic!("no patch")
        };
        assert_eq!((service.as_str(), &patch["spec"]["a"]), ("shop", &"B".into()));
        assert!(change("connect to cart.default, which is 172.30.0.10:80").is_err());
    }
}
