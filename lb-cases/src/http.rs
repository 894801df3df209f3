//! HTTP checks and metrics: a small client, and the judgement of its answers.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_lab::Place;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::format::{HttpExpected, Metric};

/// Time for one answer.
const LIMIT: Duration = Duration::from_secs(3);

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers, names in small letters.
        headers: BTreeMap<String, String>,
        /// Its body.
        body: String,
    },
    /// Nobody listens.
    Refused,
    /// Anything else, in words.
    Other(String),
}

/// Asks from a place; `from` is the client's address.
pub(crate) fn get(place: &Place, from: Option<IpAddr>, to: SocketAddr, path: &str) -> Result<Reply> {
    let answer = place.netns().run(|| Ok(ask(from, to, path)))?;
    Ok(match answer {
        Ok(text) => parse(&text).unwrap_or_else(|| Reply::Other(format!("no HTTP: {text:?}"))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Reply::Refused,
        Err(error) => Reply::Other(error.to_string()),
    })
}

fn ask(from: Option<IpAddr>, to: SocketAddr, path: &str) -> io::Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), LIMIT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding == "chunked");
    let body = if chunked {
        unchunked(body)?
    } else {
        body.to_owned()
    };
    Some(Reply::Answer {
        status: status.parse().ok()?,
        headers,
        body,
    })
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, more) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(more.get(..length)?);
        rest = more.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// What is wrong with a reply, in words.
pub(crate) fn judge(expect: &HttpExpected, reply: &Reply) -> Result<(), String> {
    let (status, headers, body) = match reply {
        Reply::Refused if expect.refused => return Ok(()),
        Reply::Refused => return Err("refused".into()),
        Reply::Other(what) => return Err(what.clone()),
        Reply::Answer { status, .. } if expect.refused => return Err(format!("answered with {status}")),
        Reply::Answer {
            status,
            headers,
            body,
        } => (status, headers, body),
    };
    if expect.status.is_some_and(|wanted| wanted != *status) {
        return Err(format!("status {status}, {body}"));
    }
    for (name, wanted) in &expect.headers {
        let wanted = plain(wanted);
        let value = headers.get(&name.to_ascii_lowercase());
        // A media type may have parameters behind it.
        let same = value.is_some_and(|value| {
            *value == wanted || value.split(';').next().is_some_and(|kind| kind.trim() == wanted)
        });
        if !same {
            return Err(format!("header {name} is {value:?}, not {wanted:?}"));
        }
    }
    if let Some(wanted) = &expect.json {
        let value: Value =
            serde_json::from_str(body).map_err(|error| format!("{body:?} is no JSON: {error}"))?;
        if !has(&value, wanted) {
            return Err(format!("the body is {value}, which lacks {wanted}"));
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// Whether `value` has all that `wanted` has; of objects, other members may be there.
fn has(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| value.get(key).is_some_and(|value| has(value, wanted))),
        _ => value == wanted,
    }
}

/// What is wrong with a metric in a list as Prometheus reads it, in words.
pub(crate) fn judge_metric(metric: &Metric, text: &str) -> Result<(), String> {
    let name = metric.id.name();
    let (mut sum, mut found) = (0.0, false);
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else {
            continue;
        };
        let (labels, value) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((labels, value)) => (labels, value),
            None if rest.starts_with(' ') => ("", rest),
            None => continue,
        };
        let wanted = |(key, value): (&String, &String)| {
            labels
                .split(',')
                .any(|l| l.trim() == format!("{key}=\"{value}\""))
        };
        if metric.labels.iter().all(wanted) {
            let number = value
                .split_whitespace()
                .next()
                .and_then(|n| n.parse::<f64>().ok());
            sum += number.ok_or_else(|| format!("no number in {line:?}"))?;
            found = true;
        }
    }
    if !found {
        return Err(format!(
            "{name} with {:?} is not among the metrics",
            metric.labels
        ));
    }
    if (sum - metric.value).abs() > f64::EPSILON {
        return Err(format!("{name} with {:?} is {sum}", metric.labels));
    }
    Ok(())
}

/// The body of a good answer.
pub(crate) fn body(reply: Reply) -> Result<String> {
    match reply {
        Reply::Answer {
            status: 200, body, ..
        } => Ok(body),
        other => Err(anyhow::anyhow!("{other:?}")).context("the agent's metrics cannot be read"),
    }
}

#[cfg(test)]
mod tests;
