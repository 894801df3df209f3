//! What is at a device's hooks, whoever has put it there. Nothing is touched.

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};

use super::xdp::query;

/// A program at a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupant {
    /// Which hook.
    pub hook: String,
    /// The program's name, as far as the kernel keeps it.
    pub name: String,
    /// Its number, as in `bpftool prog show id N`.
    pub id: u32,
}

/// The programs at the tcx and XDP hooks of a device; those that the kernel does not tell are left out.
#[must_use]
pub fn occupants(device: &str, index: u32) -> Vec<Occupant> {
    let directions = [
        ("tcx ingress", TcAttachType::Ingress),
        ("tcx egress", TcAttachType::Egress),
    ];
    let mut found = Vec::new();
    for (hook, attach_type) in directions {
        let Ok((_, programs)) = SchedClassifier::query_tcx(device, attach_type) else {
            continue;
        };
        found.extend(programs.iter().map(|program| Occupant {
            hook: hook.to_owned(),
            name: program.name_as_str().unwrap_or("?").to_owned(),
            id: program.id(),
        }));
    }
    if let Ok(Some(seen)) = query::on_device(index) {
        let program = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == seen.program);
        let name = program.and_then(|program| Some(program.name_as_str()?.to_owned()));
        found.push(Occupant {
            hook: format!("XDP ({})", seen.place),
            name: name.unwrap_or_else(|| "?".to_owned()),
            id: seen.program,
        });
    }
    found
}

/// The names of all programs in the kernel, as far as it keeps them.
pub fn program_names() -> impl Iterator<Item = String> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|program| program.name_as_str().map(str::to_owned))
}
