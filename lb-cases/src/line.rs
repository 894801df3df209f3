//! A flow that stays in use: its socket lives as long as the value.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_lab::{Answer, Held, Options, Place};
use socket2::{Domain, Socket, Type};

use crate::{format::Protocol, sctp, seen::Seen};

/// Between two datagrams that ask the same.
const AGAIN: Duration = Duration::from_millis(400);

/// A socket in use.
pub(crate) enum Line {
    /// A connection, and who is at its other end; without one, it is still to be made.
    Tcp(Option<Held>),
    /// A socket.
    Udp(UdpSocket),
    /// Raw sockets keep nothing.
    Sctp,
}

/// Whose line it is.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) place: Place,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Line {
    /// A line that nothing was sent on.
    pub(crate) fn open(proto: Protocol, ends: &Ends) -> Result<Self> {
        Ok(match proto {
            Protocol::Tcp => Self::Tcp(None),
            Protocol::Sctp => Self::Sctp,
            Protocol::Udp => Self::Udp(ends.place.netns().run(|| {
                let socket = Socket::new(Domain::for_address(ends.to), Type::DGRAM, None)?;
                socket.set_reuse_address(true)?;
                let bound = socket.bind(&ends.from.into());
                bound.with_context(|| format!("cannot use {} as source address", ends.from))?;
                socket.connect(&ends.to.into())?;
                Ok(socket.into())
            })?),
        })
    }

    /// Uses it once.
    pub(crate) fn exchange(&mut self, ends: &Ends, limit: Duration) -> Result<Seen> {
        match self {
            Self::Sctp => {
                let port = [ends.from.port()];
                let seen = sctp::connect_each(ends.place.netns(), ends.from.ip(), &port, ends.to, limit)?;
                seen.into_iter().next().context("one INIT has one end")
            }
            Self::Udp(socket) => Ok(ask(socket, limit).unwrap_or_else(|error| failed(&error))),
            Self::Tcp(Some(held)) => Ok(match held.echo(limit) {
                Ok(_) => answered(held.by()),
                Err(error) => Seen::Other(format!("the connection broke: {error}")),
            }),
            Self::Tcp(line) => {
                let options = Options {
                    timeout: limit,
                    ..Options::from(ends.from)
                };
                match ends.place.hold(ends.to, &options) {
                    Ok(held) => {
                        let seen = answered(held.by());
                        *line = Some(held);
                        Ok(seen)
                    }
                    // Not established: an ordinary attempt says how.
                    Err(_) => {
                        let outcome = ends.place.connect(lb_lab::Proto::Tcp, ends.to, &options)?;
                        Ok(outcome.into())
                    }
                }
            }
        }
    }
}

/// Asks until it is answered: a single datagram may be lost, and the next one is as good.
fn ask(socket: &UdpSocket, limit: Duration) -> io::Result<Seen> {
    // What an earlier datagram met is not this one's.
    let _ = socket.take_error()?;
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        socket.send(b"WHO line 0\n")?;
        socket.set_read_timeout(Some(AGAIN))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let line = buffer[..length].split(|b| *b == b'\n').next().unwrap_or_default();
                return Ok(match serde_json::from_slice::<Answer>(line) {
                    Ok(answer) => answered(&answer),
                    Err(error) => Seen::Other(format!("an answer that makes no sense: {error}")),
                });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Seen::Silent)
}

fn failed(error: &io::Error) -> Seen {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Seen::Refused,
        _ => Seen::Other(format!("unreachable: {error}")),
    }
}

fn answered(answer: &Answer) -> Seen {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    Seen::Answered {
        by: canonical(answer.local),
        source: answer.peer.ip().to_canonical(),
    }
}

impl From<lb_lab::Outcome> for Seen {
    fn from(outcome: lb_lab::Outcome) -> Self {
        match outcome {
            lb_lab::Outcome::Answered(answer) => answered(&answer),
            lb_lab::Outcome::Refused => Self::Refused,
            lb_lab::Outcome::Silent => Self::Silent,
            other => Self::Other(other.to_string()),
        }
    }
}
