//! Whether the agents' books balance: what their hooks received, by the kernel's count, is what they say became of it.

use anyhow::Result;
use lb_cases::books::{Balance, Books};

use super::agent::Agent;
use super::cluster::Cluster;
use crate::report::{Check, Report};

/// The books of agents that serve, in the order of their nodes.
pub(super) fn open(agents: &[Agent]) -> Result<Vec<Books>> {
    agents.iter().map(|agent| Books::open(&agent.pins())).collect()
}

/// One check for each node; gives each node's books.
pub(super) fn check(
    cluster: &Cluster,
    report: &mut Report,
    print: &mut dyn FnMut(String),
) -> Result<Vec<(String, Balance)>> {
    print(String::new());
    let mut balances = Vec::new();
    for (agent, books) in cluster.agents.iter().zip(&cluster.books) {
        let node = agent.node();
        let balance = books.balance(|| agent.counters_document())?;
        let (received, hooks) = (balance.received(), balance.hooks.len());
        let accounted = if balance.adds_up() {
            "every one accounted for"
        } else {
            "NOT all accounted for"
        };
        print(format!(
            "  {node}: {received} packets and calls received on {hooks} hooks, {accounted}"
        ));
        report.check(Check::from(balance.summary(format!("books/{node}"))));
        balances.push((node.to_owned(), balance));
    }
    Ok(balances)
}
