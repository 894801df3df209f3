//! What makes a scenario senseless although each of its keys is known.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::{Case, Flow, Outcome};

/// The only format known.
const FORMAT: &str = "lbcase/v1";

impl Case {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.format == FORMAT,
            "its format is {:?}; this runner knows {FORMAT}",
            self.format
        );
        for step in self.steps() {
            let own = step.state.nodes.iter().filter(|node| node.is_self).count();
            ensure!(own == 1, "step {:?}: {own} nodes have `self: true`", step.name);
        }
        let mut earlier: BTreeMap<&str, &Flow> = BTreeMap::new();
        for step in self.steps() {
            for flow in step.flows {
                let wrong = || format!("step {:?}, flow {:?}", step.name, flow.name);
                flow.check(&earlier).with_context(wrong)?;
                earlier.insert(&flow.name, flow);
            }
            for http in step.http {
                let answer = &http.expect;
                ensure!(
                    answer.refused != answer.status.is_some()
                        && (!answer.refused || (answer.json.is_none() && answer.headers.is_empty())),
                    "step {:?}, http {:?}: either `refused` or a `status` is expected",
                    step.name,
                    http.name
                );
            }
        }
        Ok(())
    }
}

impl Flow {
    fn check(&self, earlier: &BTreeMap<&str, &Flow>) -> Result<()> {
        let expect = &self.expect;
        ensure!(
            expect.outcome != Outcome::Forward || !expect.backends.is_empty(),
            "`forward` without `backends`"
        );
        ensure!(
            expect.outcome == Outcome::Forward
                || expect.backends.is_empty()
                || expect.also_ok.contains(&Outcome::Forward),
            "`backends` with `{}`",
            expect.outcome
        );
        if let Some(min) = expect.min_distinct_backends {
            ensure!(
                min <= expect.backends.len(),
                "`min_distinct_backends: {min}` of {} backends",
                expect.backends.len()
            );
        }
        if let Some(name) = &expect.same_backend_as {
            ensure!(earlier.contains_key(name.as_str()), "no earlier flow is {name:?}");
        }
        if let Some(name) = &self.continues {
            let first = earlier
                .get(name.as_str())
                .with_context(|| format!("`continues` names no earlier flow: {name:?}"))?;
            ensure!(
                first.client.ip == self.client.ip && first.dst == self.dst,
                "it continues {name:?}, which has another client or destination"
            );
            ensure!(
                self.repeat.is_none(),
                "`continues` and `repeat` exclude each other"
            );
        }
        Ok(())
    }
}
