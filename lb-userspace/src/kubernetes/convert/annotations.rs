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

/// The annotation by which the load balancer's addresses of a Service are to be left alone altogether.
pub(super) fn passed_by(
    annotations: &Annotations,
    of_service: Option<&BTreeMap<String, String>>,
    external_local: bool,
    report: &mut Report,
) -> Option<String> {
    let mut names = annotations.pass_through.iter();
    let found = names.find_map(|name| Some((name, of_service?.get(name)?)));
    let (name, value) = found.map(|(name, value)| (name, value.trim()))?;
    match value {
        "false" => None,
        "true" => Some(name.clone()),
        "onlyLocal" => external_local.then(|| name.clone()),
        value => {
            report.say(format!(
                "annotation {name}: {value:?} is not true, onlyLocal or false, so it is served as without it; \
                 correct it"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Change, Object, core},
        *,
    };

    #[test]
    fn pass_through_by_annotation_leaves_the_load_balancers_addresses_alone() {
        // 192.0.2.1 and 192.0.2.2 are as API servers fill them in, 192.0.2.3 says otherwise itself.
        let passed = |annotation: &str, policy: &str, names: &[&str]| {
            let text = format!(
                "{{metadata: {{name: web, namespace: shop, annotations: {{{annotation}}}}}, \
                 spec: {{type: LoadBalancer, clusterIP: 172.30.0.1, externalTrafficPolicy: {policy}}}, \
                 status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}, {{ip: 192.0.2.2, ipMode: VIP}}, \
                 {{ip: 192.0.2.3, ipMode: Proxy}}]}}}}}}"
            );
            let object: core::Service = serde_norway::from_str(&text).expect("the test is right");
            let converted = object.convert(&Annotations {
                pass_through: names.iter().map(ToString::to_string).collect(),
            });
            let Change::ServiceApplied(service) = converted.change else {
                panic!("{annotation}: not served")
            };
            let passed: Vec<_> = service.ingress.iter().map(|entry| entry.proxied).collect();
            (passed, converted.problems)
        };
        let name = Annotations::PASS_THROUGH;
        let (left, served) = ([true, true, true], [false, false, true]);
        for (value, policy, expected) in [
            ("'true'", "Cluster", left),
            ("'true'", "Local", left),
            ("' true '", "Local", left),
            ("onlyLocal", "Cluster", served),
            ("onlyLocal", "''", served),
            ("onlyLocal", "Local", left),
            ("'false'", "Local", served),
        ] {
            let annotation = format!("{name}: {value}");
            let what = format!("{annotation}, {policy}");
            assert_eq!(
                passed(&annotation, policy, &[name]),
                (expected.into(), vec![]),
                "{what}"
            );
        }
        let both = format!("{name}: 'true', example.com/past: onlyLocal");
        for (names, expected) in [
            (&[][..], served),
            (&["example.com/other"], served),
            (&["example.com/past"], served),
            (&["example.com/past", name], served),
            (&["example.com/other", name], left),
        ] {
            assert_eq!(
                passed(&both, "Cluster", names),
                (expected.into(), vec![]),
                "{names:?}"
            );
        }
        for value in ["'yes'", "'True'", "only-local", "''"] {
            let (found, said) = passed(&format!("{name}: {value}"), "Local", &[name]);
            assert_eq!(found, served, "{value}");
            assert!(
                said.len() == 1
                    && said[0].object == "Service shop/web"
                    && said[0].message.starts_with(&format!("annotation {name}: ")),
                "{said:?}"
            );
            assert!(said[0].message.ends_with("correct it"), "{said:?}");
        }
    }
}
