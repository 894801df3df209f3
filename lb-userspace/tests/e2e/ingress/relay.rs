//! What an ingress controller does to a connection: ends it, and makes one of its own.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lb_lab::Place;

/// How often it looks for connections, and whether it is to end.
const LOOK: Duration = Duration::from_millis(2);

/// A relay in a pod; ends with the value.
pub(super) struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    clients: Mutex<BTreeSet<IpAddr>>,
}

impl Relay {
    /// Relays what comes to `at` of a place to `upstream`.
    pub(super) fn start(place: &Place, at: SocketAddr, upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        // Threads are where the thread was that made them.
        let thread = place.netns().run(move || {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Ok(thread::spawn(move || own.accept(&listener, upstream)))
        });
        Self {
            shared,
            thread: Some(thread.expect("the port is free")),
        }
    }

    /// Whom it saw.
    pub(super) fn clients(&self) -> BTreeSet<IpAddr> {
        let clients = self.shared.clients.lock();
        clients.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(&self, listener: &TcpListener, upstream: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((client, from)) = listener.accept() else {
                thread::sleep(LOOK);
                continue;
            };
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            clients.insert(from.ip());
            // Not joined: ends with the client. What fails, the client sees.
            thread::spawn(move || relay(&client, upstream));
        }
    }
}

fn relay(client: &TcpStream, upstream: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(upstream)?;
    thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client)
    })
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    to.shutdown(Shutdown::Write)?;
    copied.map(drop)
}
