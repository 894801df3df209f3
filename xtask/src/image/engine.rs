//! Builds `deploy/Dockerfile` by docker, podman or buildah.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::spec::Spec;
use super::{judge, size};
use crate::child::{self, say};
use crate::machine::Machine;
use crate::report::{Check, Report};
use crate::workspace::Workspace;

/// In the order in which they are looked for.
const ENGINES: [&str; 3] = ["docker", "podman", "buildah"];

/// One that works.
#[derive(Debug)]
pub(crate) struct Engine {
    name: &'static str,
    program: PathBuf,
}

impl Engine {
    /// The first that is installed and answers: a docker without its daemon cannot build.
    pub(crate) fn find(workspace: &Workspace) -> Result<Option<Self>> {
        let machine = Machine::from_env()?;
        for name in ENGINES {
            let Some(program) = machine.find(name) else {
                continue;
            };
            let mut info = child::command(&program, workspace);
            info.arg("info").stdout(Stdio::null()).stderr(Stdio::null());
            if info.status().is_ok_and(|status| status.success()) {
                return Ok(Some(Self { name, program }));
            }
            say(format!(
                "{name} is installed but does not answer `{name} info`: not used"
            ));
        }
        Ok(None)
    }

    /// Builds the image, and runs it where the engine can.
    pub(crate) fn build(
        &self,
        workspace: &Workspace,
        spec: &Spec,
        agent: &Path,
        report: &mut Report,
    ) -> Result<()> {
        let context = context(workspace, agent)?;
        let reference = spec.reference();
        let mut build = child::command(&self.program, workspace);
        build
            .args(["build", "--file", "deploy/Dockerfile", "--tag", &reference])
            .args(["--build-arg", &format!("VERSION={}", spec.version)])
            .args(["--build-arg", &format!("REVISION={}", spec.revision)])
            .arg(&context);
        let built = child::run(&mut build);
        judge(
            report,
            "build",
            &format!("{} builds {reference}", self.name),
            built.as_ref().err().map(|error| format!("{error:#}")),
        );
        let bytes = fs::metadata(agent)?.len();
        size(report, bytes, bytes);
        // buildah builds only.
        if built.is_ok() && self.name != "buildah" {
            let mut run = child::command(&self.program, workspace);
            run.args(["run", "--rm", &reference, "--version"])
                .stdout(Stdio::piped());
            let output = run
                .output()
                .with_context(|| format!("cannot start `{}`", child::line(&run)))?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let expected = format!("lb-agent {}", spec.version);
            report.check(Check {
                id: "image/version".into(),
                ok: said == expected,
                expected,
                seen: said,
            });
        }
        Ok(())
    }
}

/// A folder with the binary and nothing else: an engine reads all of it.
fn context(workspace: &Workspace, agent: &Path) -> Result<PathBuf> {
    let folder = workspace.target().join("image/context");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copy = folder.join("lb-agent");
    fs::copy(agent, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(folder)
}
