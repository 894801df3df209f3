//! Runs `lb-agent explain`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The manifests of these tests.
pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain/manifests")
}

/// The root of the repository, from which the commands in documents are run.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the repository")
}

/// Runs the command with these arguments, in the root of the repository.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb-agent"))
        .arg("explain")
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("the agent is built with its tests")
}

/// The answers to a question about the manifests in `folder`.
pub(crate) fn ask(folder: &Path, from: &str, to: &str, via: Option<&str>) -> Vec<Value> {
    let folder = folder.to_string_lossy();
    let mut arguments = vec!["--manifests", &folder, "-o", "json", "--from", from, "--to", to];
    arguments.extend(via.iter().flat_map(|via| ["--via", via]));
    let output = run(&arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{from} to {to}: {error}");
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(answers)) => answers,
        other => panic!("{from} to {to}: {other:?}"),
    }
}

/// A field that is a text.
pub(crate) fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_default()
}
