//! A TCP relay that a test can cut and mend: a server that goes away for one client only.

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A relay on a loopback port. It ends when dropped.
pub(crate) struct Relay {
    port: u16,
    target: u16,
    running: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to a port of this machine.
    pub(crate) async fn to(target: u16) -> Self {
        let mut relay = Self {
            port: 0,
            target,
            running: None,
        };
        relay.mend().await;
        relay
    }

    /// How clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends all connections, and refuses new ones.
    pub(crate) fn cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    /// Works (again).
    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port))
            .await
            .expect("the port is ours");
        self.port = listener.local_addr().expect("it is bound").port();
        let target = self.target;
        self.running = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        }));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}
