//! `docs/reachability.md`: where clients inside a cluster fail with other proxies, and what the matrix has seen of ours.

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::report::Check;

/// A row of a cloud vendor's table (July 2025): the Service, the client, and what it says of four set-ups.
struct Row {
    service: &'static str,
    client: &'static str,
    others: [&'static str; 4],
    /// What the names of our cells have: the client, whether backends are near, and the targets, of which any counts.
    cells: (&'static str, &'static str, &'static [&'static str]),
}

const NODE_PORTS: &[&str] = &["NodePortOwn", "NodePortWith", "NodePortWithout"];
const BALANCER: &[&str] = &["LoadBalancer", "ExternalIp"];
const NO: [&str; 4] = ["no", "no", "no", "no"];
const MIXED: [&str; 4] = ["own/other", "own/other", "own/other", "own/other"];

const ROWS: [Row; 12] = [
    row(
        "NodePort",
        "node with a backend",
        MIXED,
        ("Node", "With", NODE_PORTS),
    ),
    row(
        "NodePort",
        "node without a backend",
        ["own/other", "own/other", "own/other", "ok"],
        ("Node", "Without", NODE_PORTS),
    ),
    row(
        "NodePort",
        "other pod on a node with a backend",
        ["own/other", "no", "own/other", "no"],
        ("Pod", "With", NODE_PORTS),
    ),
    row(
        "NodePort",
        "other pod on a node without a backend",
        MIXED,
        ("Pod", "Without", NODE_PORTS),
    ),
    row(
        "LoadBalancer, dedicated balancer",
        "node with a backend",
        NO,
        ("Node", "With", BALANCER),
    ),
    row(
        "LoadBalancer, dedicated balancer",
        "other pod on a node with a backend",
        NO,
        ("Pod", "With", BALANCER),
    ),
    row(
        "DNAT gateway",
        "node with a backend",
        NO,
        ("Node", "With", BALANCER),
    ),
    row(
        "DNAT gateway",
        "node without a backend",
        NO,
        ("Node", "Without", BALANCER),
    ),
    row(
        "DNAT gateway",
        "other pod, node with a backend",
        NO,
        ("Pod", "With", BALANCER),
    ),
    row(
        "DNAT gateway",
        "other pod, node without a backend",
        NO,
        ("Pod", "Without", BALANCER),
    ),
    row(
        "ingress controller behind a dedicated balancer",
        "node of the controller's pod",
        NO,
        ("Node", "With", BALANCER),
    ),
    row(
        "ingress controller behind a dedicated balancer",
        "other pod on that node",
        NO,
        ("Pod", "With", BALANCER),
    ),
];

const fn row(
    service: &'static str,
    client: &'static str,
    others: [&'static str; 4],
    cells: (&'static str, &'static str, &'static [&'static str]),
) -> Row {
    Row {
        service,
        client,
        others,
        cells,
    }
}

const NETWORKS: [&str; 3] = ["Routed", "Tunnel", "Bridge"];

/// The page. Fails if a row has no cell: then nothing was seen that could be written.
pub(super) fn page(checks: &[Check]) -> Result<String> {
    let mut page = String::from(
        "# Who reaches what\n\n\
         Written by `cargo xtask matrix --update-docs`, from real packets.\n\n\
         Clients inside a cluster to a Service with `externalTrafficPolicy: Local`: what a cloud vendor's documentation says\n\
         of kube-proxy in four set-ups (July 2025), and how many of our cells were as they must be - all backends answer, and\n\
         see the client's own address. \"own/other\": the NodePort of a node with a backend works, that of another node does\n\
         not. A cell is a combination of address, internal policy, kind of backend, family, protocol and hook, tried by 20\n\
         connections for each backend. The address of a DNAT gateway or of a balancer is one in the Service's status: both are\n\
         translated on the client's own node, and share their cells.\n\n\
         | Service | client | tunnel, IPVS | routed, IPVS | tunnel, iptables | routed, iptables | ours: routed | ours: tunnel | ours: bridge |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in &ROWS {
        let (client, near, targets) = row.cells;
        write!(
            page,
            "| {} | {} | {} |",
            row.service,
            row.client,
            row.others.join(" | ")
        )?;
        for network in NETWORKS {
            let of_it = |check: &&Check| {
                let parts: Vec<_> = check.id.split('/').collect();
                parts.first() == Some(&network)
                    && parts.contains(&"external=Local")
                    && parts.contains(&client)
                    && parts.contains(&format!("near={near}").as_str())
                    && targets.iter().any(|target| parts.contains(target))
            };
            let cells: Vec<_> = checks.iter().filter(of_it).collect();
            ensure!(
                !cells.is_empty(),
                "nothing was seen of {}, {}, in the {network} network",
                row.service,
                row.client
            );
            let good = cells.iter().filter(|check| check.ok).count();
            let word = if good == cells.len() { "ok" } else { "no" };
            write!(page, " {word} ({good}/{}) |", cells.len())?;
        }
        page.push('\n');
    }
    let good = checks.iter().filter(|check| check.ok).count();
    write!(
        page,
        "\nOf all {} cells of the matrix, those with other policies and with clients outside included, {good} were as\n\
         `tests/matrix/expected.yaml` says, which is written by hand, and as `lb-agent explain` decides: who answers, and the very\n\
         address that each backend sees. The decision is made before packets are sent, over the maps of the node that decides and\n\
         over maps in memory made of the same manifests; where any two of table, decisions and packets differ, the cell has failed.\n",
        checks.len()
    )?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_cell_is_an_error_and_one_with_a_miss_is_no() {
        assert!(page(&[]).is_err());
        let mut checks = Vec::new();
        for network in NETWORKS {
            for client in ["Node", "Pod"] {
                for near in ["With", "Without"] {
                    for target in ["NodePortOwn", "LoadBalancer"] {
                        checks.push(Check {
                            id: format!("{network}/tc/external=Local/internal=Local/Pods/{client}/near={near}/{target}/V4/Tcp"),
                            expected: String::new(),
                            seen: String::new(),
                            ok: true,
                        });
                    }
                }
            }
        }
        assert!(!page(&checks).expect("a page").contains(" no ("));
        checks[0].ok = false;
        assert!(page(&checks).expect("a page").contains(" no (0/1)"));
    }
}
