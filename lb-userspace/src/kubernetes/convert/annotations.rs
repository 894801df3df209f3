//! What annotations of a Service ask for, where the API has no field of its own for it.

use std::collections::BTreeMap;

use super::Report;

/// Names of annotations that are read. Vendors call one thing by different names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Annotations {
    /// Pass-through: of several that a Service has, the first in this list counts.
    pub pass_through: Vec<String>,
}

impl Annotations {
    /// What is read unless other names are given.
    pub const PASS_THROUGH: &str = "kubernetes.io/elb.pass-through";
}

impl Default for Annotations {
    fn default() -> Self {
        Self {
            pass_through: vec![Self::PASS_THROUGH.into()],
        }
    }
}

/// Whether the load balancer's addresses of a Service are to be left alone altogether.
pub(super) fn passes_through(
    annotations: &Annotations,
    of_service: Option<&BTreeMap<String, String>>,
    external_local: bool,
    report: &mut Report,
) -> bool {
    let mut names = annotations.pass_through.iter();
    let found = names.find_map(|name| Some((name, of_service?.get(name)?)));
    match found.map(|(name, value)| (name, value.trim())) {
        None | Some((_, "false")) => false,
        Some((_, "true")) => true,
        Some((_, "onlyLocal")) => external_local,
        Some((name, value)) => {
            report.say(format!(
                "annotation {name}: {value:?} is not true, onlyLocal or false, so it is served as without it; \
                 correct it"
            ));
            false
        }
    }
}
