//! Connections that carry much, or last long: every byte is compared with what it must be.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    client::{self, Options, Outcome, Timed},
    netns::Netns,
    server::{receive_pattern, send_pattern},
    wire::{Answer, Request},
};

/// A transfer that came through unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who was at the other end.
    pub by: Answer,
    /// How long it took.
    pub elapsed: Duration,
}

pub(crate) fn download(netns: &Netns, dst: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
    let seed = next_seed();
    transfer(
        netns,
        dst,
        limit,
        &Request::Get { bytes, seed, rate: 0 },
        |_, reader| match receive_pattern(reader, bytes, seed)? {
            Ok(()) => Ok(()),
            Err(at) => bail!("byte {at} is wrong"),
        },
    )
    .with_context(|| format!("download of {bytes} bytes from {dst}"))
}

pub(crate) fn upload(netns: &Netns, dst: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
    let seed = next_seed();
    transfer(
        netns,
        dst,
        limit,
        &Request::Put { bytes, seed },
        |mut stream, reader| {
            send_pattern(&mut stream, bytes, seed, 0)?;
            let mut verdict = String::new();
            reader.read_line(&mut verdict)?;
            ensure!(verdict == "ok\n", "the server says {verdict:?}");
            Ok(())
        },
    )
    .with_context(|| format!("upload of {bytes} bytes to {dst}"))
}

fn transfer(
    netns: &Netns,
    dst: SocketAddr,
    limit: Duration,
    request: &Request,
    body: impl FnOnce(&TcpStream, &mut BufReader<Timed<'_>>) -> Result<()>,
) -> Result<Transfer> {
    let start = Instant::now();
    let stream = open(netns, dst, &Options::within(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut reader = BufReader::with_capacity(64 * 1024, Timed::new(&stream, start + limit));
    let by = answered(client::ask(&mut reader, request)?)?;
    body(&stream, &mut reader)?;
    Ok(Transfer {
        by,
        elapsed: start.elapsed(),
    })
}

/// Opened inside; sockets stay where they were opened, so all else happens on the caller's thread.
fn open(netns: &Netns, dst: SocketAddr, options: &Options) -> Result<TcpStream> {
    match netns.run(|| client::open_tcp(dst, options))? {
        Ok(stream) => Ok(stream),
        Err(outcome) => bail!("{dst}: {outcome}"),
    }
}

fn answered(outcome: Outcome) -> Result<Answer> {
    match outcome {
        Outcome::Answered(answer) => Ok(answer),
        other => bail!("{other}"),
    }
}

/// Different bytes for every transfer, the same ones in every run of a program.
pub(crate) fn next_seed() -> u64 {
    static SEED: AtomicU64 = AtomicU64::new(1);
    SEED.fetch_add(1, Ordering::Relaxed)
}

/// An established connection that sends everything back.
#[derive(Debug)]
pub struct Held {
    stream: TcpStream,
    answer: Answer,
    echoes: u64,
}

impl Held {
    pub(crate) fn open(netns: &Netns, dst: SocketAddr, options: &Options) -> Result<Self> {
        let stream = open(netns, dst, options)?;
        let deadline = Instant::now() + options.timeout;
        let outcome = client::ask(&mut BufReader::new(Timed::new(&stream, deadline)), &Request::Hold);
        let answer = answered(outcome?).with_context(|| format!("connection to {dst}"))?;
        Ok(Self {
            stream,
            answer,
            echoes: 0,
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// This end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Who is at the other end.
    pub fn by(&self) -> &Answer {
        &self.answer
    }

    /// Sends a few bytes and waits for them to come back: an error says how the connection broke.
    pub fn echo(&mut self, limit: Duration) -> io::Result<Duration> {
        let start = Instant::now();
        self.echoes += 1;
        let sent = self.echoes.to_be_bytes();
        self.stream.write_all(&sent)?;
        let mut back = [0; 8];
        Timed::new(&self.stream, start + limit).read_exact(&mut back)?;
        if back != sent {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{sent:?} came back as {back:?}"),
            ));
        }
        Ok(start.elapsed())
    }
}
