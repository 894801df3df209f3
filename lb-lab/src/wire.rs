//! What the lab's servers and clients say to each other.
//!
//! A client opens with one line; the server's first line is always an [`Answer`] in JSON. Then, over TCP:
//!
//! ```text
//! WHO token            nothing more, the server closes
//! GET bytes seed rate  that many bytes of the pattern, at so many a second (0: no limit), the server closes
//! PUT bytes seed       the client sends the pattern, the server says `ok` or `wrong at N`
//! HOLD                 everything is sent back until the client closes
//! GET / HTTP/1.1       the answer is the body of an HTTP response: for people with curl
//! ```
//!
//! Over UDP each datagram is a request: `WHO token length`, answered by a datagram of at least that length.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Who answered, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the pod or node that answered.
    pub name: String,
    /// The client, as the server saw it.
    pub peer: SocketAddr,
    /// The server's own end.
    pub local: SocketAddr,
    /// The request's token: tells answers of different requests apart.
    #[serde(default)]
    pub token: String,
    /// How many bytes the request's datagram had.
    #[serde(default)]
    pub length: usize,
}

impl Answer {
    /// The line that goes over the wire.
    pub(crate) fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("an answer has nothing JSON cannot express");
        line.push('\n');
        line
    }

    /// An answer from the first line of `bytes`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let line = bytes.split(|&b| b == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }
}

/// A client's opening line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Who { token: String, length: usize },
    Get { bytes: u64, seed: u64, rate: u64 },
    Put { bytes: u64, seed: u64 },
    Hold,
    Http,
}

impl Request {
    /// Anything unknown is a question for the server's name, so that it can be asked by hand.
    pub(crate) fn from_line(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().ok();
        let known = match words[..] {
            [_, _, version] if version.starts_with("HTTP/") => Some(Request::Http),
            ["GET", bytes, seed, rate] => (|| {
                Some(Request::Get {
                    bytes: number(bytes)?,
                    seed: number(seed)?,
                    rate: number(rate)?,
                })
            })(),
            ["PUT", bytes, seed] => (|| {
                Some(Request::Put {
                    bytes: number(bytes)?,
                    seed: number(seed)?,
                })
            })(),
            ["HOLD"] => Some(Request::Hold),
            ["WHO", token, length] => Some(Request::Who {
                token: token.into(),
                length: length.parse().unwrap_or_default(),
            }),
            _ => None,
        };
        known.unwrap_or(Request::Who {
            token: String::new(),
            length: 0,
        })
    }

    pub(crate) fn to_line(&self) -> String {
        match self {
            Request::Who { token, length } => format!("WHO {token} {length}\n"),
            Request::Get { bytes, seed, rate } => format!("GET {bytes} {seed} {rate}\n"),
            Request::Put { bytes, seed } => format!("PUT {bytes} {seed}\n"),
            Request::Hold => "HOLD\n".into(),
            Request::Http => "GET / HTTP/1.0\r\n\r\n".into(),
        }
    }

    pub(crate) fn token(&self) -> &str {
        match self {
            Request::Who { token, .. } => token,
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        for request in [
            Request::Who {
                token: "t1".into(),
                length: 3000,
            },
            Request::Get {
                bytes: 50_000_000,
                seed: 9,
                rate: 0,
            },
            Request::Put { bytes: 1, seed: 0 },
            Request::Hold,
        ] {
            assert_eq!(Request::from_line(&request.to_line()), request);
        }
        assert_eq!(Request::from_line("GET / HTTP/1.1\r\n"), Request::Http);
        assert_eq!(
            Request::from_line("hello"),
            Request::Who {
                token: String::new(),
                length: 0
            }
        );
    }

    #[test]
    fn an_answer_survives_the_wire_with_padding_behind_it() {
        let answer = Answer {
            name: "pod1-1".into(),
            peer: "203.0.113.10:40000".parse().unwrap(),
            local: "[fd00::1]:80".parse().unwrap(),
            token: "t".into(),
            length: 5,
        };
        let bytes = [answer.to_line().as_bytes(), &b"    "[..]].concat();
        assert_eq!(Answer::from_bytes(&bytes), Some(answer));
        assert_eq!(Answer::from_bytes(b"{\"name\":"), None);
    }
}
