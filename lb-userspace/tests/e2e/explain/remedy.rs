//! The first remedy of each cell that has no answer, carried out in the lab: then packets are answered. Or there is none, and
//! it says why.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;

use super::{
    Judged,
    cell::{Cell, SERVICES},
    service,
    told::Told,
};
use crate::cluster::Cluster;

/// Carries out the remedies of `cells`, which have no answer.
pub(super) fn check(cluster: &Cluster, cells: &[(Cell, Told)]) -> Vec<Judged> {
    let mut judged = Vec::new();
    // A change of a Service is made once for all cells that it is for.
    let mut patches: BTreeMap<&str, Vec<&Cell>> = BTreeMap::new();
    for (cell, told) in cells {
        match (&told.remedy, &told.none) {
            (Some(command), _) if command.starts_with("kubectl patch service ") => {
                patches.entry(command).or_default().push(cell);
            }
            (Some(command), _) => judged.push(connect(cluster, cell, command)),
            (None, Some(why)) => {
                judged.push(Judged::new(cell, "remedy", "none, and why", why, !why.is_empty()));
            }
            (None, None) => judged.push(Judged::new(
                cell,
                "remedy",
                "one, or why there is none",
                "neither",
                false,
            )),
        }
    }
    for (command, cells) in patches {
        let (name, patch) = parts(command);
        let number = 10
            + SERVICES
                .iter()
                .position(|known| *known == name)
                .expect("it is one of ours") as u16;
        let before = service(cluster, number);
        let mut changed = before.clone();
        for (field, value) in patch["spec"].as_object().expect("it changes the spec") {
            changed = changed.set(field, value.clone());
        }
        cluster.apply(&changed);
        for cell in cells {
            cell.steer(cluster);
            let shares = cell.probe(cluster, cell.to(cluster), "forwarded");
            let seen = format!("after `{command}`: {shares}");
            judged.push(Judged::new(
                cell,
                "remedy",
                "answered",
                &seen,
                shares.all_answered(),
            ));
        }
        cluster.apply(&before);
    }
    judged
}

/// `connect to ADDRESS`, or `connect to NAME, which is ADDRESS`.
fn connect(cluster: &Cluster, cell: &Cell, command: &str) -> Judged {
    let place = command
        .rsplit(' ')
        .next()
        .and_then(|last| last.parse::<SocketAddr>().ok());
    let Some(to) = place else {
        return Judged::new(cell, "remedy", "an address", command, false);
    };
    cell.steer(cluster);
    let shares = cell.probe(cluster, to, "forwarded");
    let seen = format!("after `{command}`: {shares}");
    Judged::new(cell, "remedy", "answered", &seen, shares.all_answered())
}

/// The Service's name, and the patch, of `kubectl patch service NAME -n NAMESPACE --type=merge -p 'PATCH'`.
fn parts(command: &str) -> (&str, Value) {
    let name = command.split(' ').nth(3).expect("the command names a Service");
    let (_, patch) = command.split_once("-p '").expect("the command has a patch");
    let patch = serde_json::from_str(patch.trim_end_matches('\'')).expect("the patch is JSON");
    (name, patch)
}
