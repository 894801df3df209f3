//! `cargo xtask image`: a container image with nothing in it but a static `lb-agent`, and whether it is one.
//!
//! *Output*: by docker, podman or buildah, where one works, an image in its store; otherwise an OCI image layout in
//! `target/image/layout` and the same as one file, `target/image/lb-agent.tar`. Same sources, same digest.

mod archive;
mod binary;
mod digest;
mod engine;
mod layer;
mod layout;
mod spec;
#[cfg(test)]
mod tests;
mod trial;
mod verify;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use self::engine::Engine;
use self::spec::Spec;
use crate::child::say;
use crate::report::{Report, Skips};
use crate::workspace::Workspace;

/// It was 12 MB compressed; with this much more, something has come in that nobody wanted.
const LARGEST: u64 = 40_000_000;

/// How the image is made.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The binary is linked statically against glibc and built in a folder of its own. docs/image.md says how to bring the image to a node, and \
what it needs there. Where docker, podman or buildah is there and works it builds deploy/Dockerfile; otherwise, or with \
--layout, the image is written without any of them.

  cargo xtask image
  docker load --input target/image/lb-agent.tar       (or podman load, or ctr --namespace k8s.io images import)")]
pub(crate) struct ImageArgs {
    /// Write the OCI image layout, even if docker, podman or buildah could build.
    #[arg(long)]
    layout: bool,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &ImageArgs) -> Result<ExitCode> {
    let mut report = Report::default();
    let path = binary::build(workspace)?;
    let spec = Spec::of(workspace);
    let agent = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let linked = binary::interpreter(&agent)?;
    judge(
        &mut report,
        "static",
        "no program loads it but the kernel",
        linked.map(|loader| format!("it is loaded by {loader}")),
    );
    let engine = if args.layout {
        None
    } else {
        Engine::find(workspace)?
    };
    match engine {
        Some(engine) => engine.build(workspace, &spec, &path, &mut report)?,
        None => write(workspace, &spec, &agent, &mut report)?,
    }
    Ok(report.finish(args.json)?)
}

/// The image without an engine.
fn write(workspace: &Workspace, spec: &Spec, agent: &[u8], report: &mut Report) -> Result<()> {
    let folder = workspace.target().join("image");
    let layout = folder.join("layout");
    let image = layout::Image::new(spec, agent)?;
    let again = layout::Image::new(spec, agent)?;
    judge(
        report,
        "reproducible",
        "the same digest twice",
        (image.digest() != again.digest()).then(|| format!("{} and {}", image.digest(), again.digest())),
    );
    image.write(&layout)?;
    let file = folder.join("lb-agent.tar");
    archive::write(&layout, &file)?;
    let misses = verify::misses(&layout)?;
    judge(
        report,
        "layout",
        "every digest and every size is that of its blob",
        (!misses.is_empty()).then(|| misses.join("; ")),
    );
    let misses = archive::misses(&layout, &file)?;
    judge(
        report,
        "archive",
        "the one file holds the layout",
        (!misses.is_empty()).then(|| misses.join("; ")),
    );
    size(report, image.size(), agent.len() as u64);
    version(workspace, spec, &folder, &image, report)?;
    say(format!("{} is {}", spec.reference(), image.digest()));
    say(format!(
        "layout: {}; as one file: {}",
        layout.display(),
        file.display()
    ));
    Ok(())
}

/// Whether the image's one program says what it is, with nothing around it but what the image holds.
fn version(
    workspace: &Workspace,
    spec: &Spec,
    folder: &std::path::Path,
    image: &layout::Image,
    report: &mut Report,
) -> Result<()> {
    let expected = format!("lb-agent {}", spec.version);
    match trial::version(workspace, folder, image.layer())? {
        trial::Tried::Said(said) => report.check(crate::report::Check {
            id: "image/version".into(),
            ok: said == expected,
            expected,
            seen: said,
        }),
        trial::Tried::NotHere(why) => report.skip("image/version", why, Skips::from_env()),
    }
    Ok(())
}

fn size(report: &mut Report, image: u64, binary: u64) {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    report.check(crate::report::Check {
        id: "image/size".into(),
        expected: format!("less than {}", megabytes(LARGEST)),
        seen: format!("{} (the binary: {})", megabytes(image), megabytes(binary)),
        ok: image < LARGEST,
    });
}

/// A judgement with what is wrong, if anything is.
fn judge(report: &mut Report, id: &str, expected: &str, wrong: Option<String>) {
    let id = format!("image/{id}");
    match wrong {
        None => report.pass(id, expected),
        Some(wrong) => report.fail(id, expected, wrong),
    }
}
