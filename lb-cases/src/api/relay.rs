//! Makes a port of this machine's loopback one of a namespace's loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use lb_lab::Netns;

/// It ends, with all its connections, when it is dropped.
pub(super) struct Relay {
    shared: Arc<Shared>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Passes on what comes to `port` inside `netns` to the same port here.
    pub(super) fn start(netns: &Netns, port: u16) -> Result<Self> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = netns.run(|| Ok(TcpListener::bind(at)?));
        let listener = listener.with_context(|| format!("cannot listen on port {port} of the node"))?;
        let (accepting, shared) = (listener.try_clone()?, Arc::new(Shared::default()));
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while let Ok((near, _)) = accepting.accept() {
                if own.stop.load(Ordering::Relaxed) {
                    return;
                }
                // The client sees a closed connection, as it would without a server.
                let _ = own.join(near, at);
            }
        });
        Ok(Self {
            shared,
            listener,
            thread: Some(thread),
        })
    }
}

impl Shared {
    fn join(&self, near: TcpStream, at: SocketAddr) -> io::Result<()> {
        let far = TcpStream::connect(at)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            thread::spawn(move || copy(from, to));
        }
        open.extend([near, far]);
        Ok(())
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(open);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
