//! Requests to an API server, by curl: objects go as they are, whatever a typed client would make of them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Who asks.
pub(super) struct Client {
    base: String,
    token: String,
}

/// What a request brought.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    body: String,
}

impl Client {
    /// A client of the server on this port of loopback.
    pub(super) fn new(port: u16, kubeconfig: &str) -> Result<Self> {
        let token = kubeconfig
            .lines()
            .find_map(|line| line.trim().strip_prefix("token: "));
        Ok(Self {
            base: format!("https://127.0.0.1:{port}"),
            token: token
                .context("the kubeconfig has no token")?
                .trim_matches('"')
                .into(),
        })
    }

    pub(super) fn post(&self, path: &str, object: &Value) -> Result<Answer> {
        self.ask("POST", path, "application/json", &object.to_string())
    }

    pub(super) fn put(&self, path: &str, object: &Value) -> Result<Answer> {
        self.ask("PUT", path, "application/json", &object.to_string())
    }

    pub(super) fn patch(&self, path: &str, patch: &Value) -> Result<Answer> {
        self.ask("PATCH", path, "application/merge-patch+json", &patch.to_string())
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer> {
        self.ask("DELETE", path, "application/json", "")
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Answer> {
        let mut curl = Command::new("curl");
        curl.args([
            "-sk",
            "-m",
            "20",
            "-X",
            method,
            "--data-binary",
            "@-",
            "-w",
            "\n%{http_code}",
        ])
        .args(["-H", &format!("Authorization: Bearer {}", self.token)])
        .args(["-H", &format!("Content-Type: {kind}")])
        .arg(format!("{}{path}", self.base))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
        let mut child = curl.spawn().context("cannot start curl: is it installed?")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A curl that does not read says so by its result.
            let _ = stdin.write_all(body.as_bytes());
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl printed nothing")?;
        Ok(Answer {
            status: status.trim().parse().unwrap_or_default(),
            body: body.into(),
        })
    }
}

impl Answer {
    /// Whether the server does not take the object as it is.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status, 400 | 409 | 422)
    }

    /// Nothing, or what the server has against it.
    pub(super) fn good(self) -> Result<()> {
        if (200..300).contains(&self.status) {
            return Ok(());
        }
        let answer: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or(&self.body);
        bail!("the API server refuses it ({}): {message}", self.status)
    }
}
