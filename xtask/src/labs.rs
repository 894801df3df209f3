//! Runs tests of `lb-userspace/tests/e2e` that write down checks, for the commands that show them.

use std::fs;
use std::io::stderr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::{Check, Report, Skips};
use crate::setup;
use crate::workspace::Workspace;

/// Tests of one command.
#[derive(Debug)]
pub(crate) struct Labs<'a> {
    /// The command's name.
    pub(crate) name: &'a str,
    /// What their names begin with.
    pub(crate) tests: &'a str,
    /// The variable that tells them the folder to write checks into, a file each.
    pub(crate) report: &'a str,
    /// What else they are told.
    pub(crate) variables: &'a [(&'a str, String)],
}

impl Labs<'_> {
    /// Runs them, one after the other, what they print on stderr. Gives their checks: none if they cannot be tried here,
    /// which the report then says.
    ///
    /// # Errors
    /// If one of them came to no end: what others have written proves nothing then.
    pub(crate) fn run(&self, workspace: &Workspace, report: &mut Report) -> Result<Vec<Check>> {
        setup::runtime(workspace)?;
        let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
        let name = self.name;
        let folder = workspace
            .target()
            .join("xtask")
            .join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut cargo = child::cargo(workspace);
        cargo
            .env(OBJECT_VARIABLE, object)
            .env(self.report, &folder)
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .args(["test", "--locked", "--package", "lb-userspace", "--test", "e2e"])
            .args(["--", "--nocapture", "--test-threads", "1", self.tests])
            .stdout(stderr());
        let start = Instant::now();
        let status = cargo
            .status()
            .with_context(|| format!("cannot start `{}`", child::line(&cargo)))?;
        let mut files: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        let mut checks: Vec<Check> = Vec::new();
        for file in &files {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let of_file: Vec<Check> = serde_json::from_str(&text)
                .with_context(|| format!("{} is not what it should be", file.display()))?;
            checks.extend(of_file);
        }
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        ensure!(
            status.success() || checks.iter().any(|check| !check.ok),
            "not all tests of {name} build, run and come to an end; what was printed is above"
        );
        if files.is_empty() {
            report.skip(name, "cannot be tried here, see above", Skips::from_env());
        }
        say(format!(
            "{name}: {} checks in {:.0} s",
            checks.len(),
            start.elapsed().as_secs_f32()
        ));
        Ok(checks)
    }
}
