//! Prometheus and promtool, which the tests of `deploy/monitoring` call: Debian's, unpacked rather than installed.
//!
//! To install the package would start a service, add a user and pull in a dozen packages for its pages; the two programs
//! in it need nothing but the C library.
//!
//! *Output*: both beside helm and kubectl, where those tests look first.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{apt_get, deploy_tools};
use crate::child::{self, say};
use crate::machine::Machine;
use crate::workspace::Workspace;

const PACKAGE: &str = "prometheus";
const TOOLS: [&str; 2] = ["prometheus", "promtool"];

/// Fetches what is missing. Where that is not possible the tests that need them are skipped, and say so.
pub(super) fn ensure(workspace: &Workspace, machine: &Machine) -> Result<()> {
    let folder = deploy_tools::folder()?;
    let is_there = |tool: &str| folder.join(tool).is_file() || machine.find(tool).is_some();
    if TOOLS.iter().all(|tool| is_there(tool)) {
        return Ok(());
    }
    let (Some(apt), true) = (machine.find("apt-get"), machine.find("dpkg-deb").is_some()) else {
        say("no apt-get and dpkg-deb to fetch Prometheus with; tests that need it will be skipped");
        return Ok(());
    };
    say(format!(
        "fetching Prometheus into {} (Debian's package, unpacked)",
        folder.display()
    ));
    if let Err(error) = fetch(workspace, machine, &apt, &folder) {
        say(format!("{error:#}; tests that need Prometheus will be skipped"));
    }
    Ok(())
}

fn fetch(workspace: &Workspace, machine: &Machine, apt: &Path, folder: &Path) -> Result<()> {
    // Beside the result, so that a rename puts whole programs in place.
    let work = folder.join(format!("new-prometheus-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let done = unpack(workspace, machine, apt, &work).and_then(|()| {
        TOOLS.iter().try_for_each(|tool| {
            fs::rename(work.join("usr/bin").join(tool), folder.join(tool))
                .with_context(|| format!("the package {PACKAGE} has no {tool}"))
        })
    });
    let _ = fs::remove_dir_all(&work);
    done
}

fn unpack(workspace: &Workspace, machine: &Machine, apt: &Path, work: &Path) -> Result<()> {
    let download = || apt_get(apt, workspace, work, &["download", PACKAGE]);
    // A fresh machine has no package lists; only root can fetch them.
    match (download(), machine.is_root()) {
        (Err(_), true) => {
            apt_get(apt, workspace, work, &["update"])?;
            download()?;
        }
        (result, _) => result?,
    }
    let package = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get has fetched nothing")?;
    let mut extract = child::command("dpkg-deb", workspace);
    child::run(extract.arg("-x").arg(package).arg(work))
}
