//! Answers HTTP requests: a function from a path to an answer, and listeners that it is asked through.
//!
//! *Invariants*: who does not finish a request, or asks nothing, is cut off; the number of connections is
//! bounded; when a listener ends, its connections end with it.
//! *Not here*: what is answered, see `health` and `metrics`.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

/// Connections of one listener at a time.
const CONNECTIONS: usize = 128;
/// Connections that may wait to be taken.
const QUEUE: i32 = 128;
/// How long a client may take to ask, also for the next request of a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(600);
/// After a failure that is not of one connection (no file descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers beside those that HTTP itself needs.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Finds the answer to a path. May read files and maps.
pub type Respond = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

impl Answer {
    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![
                ("content-type", "text/plain; charset=utf-8".into()),
                ("x-content-type-options", "nosniff".into()),
            ],
            body: body.into(),
        }
    }

    /// What there is to say of a path that nothing is at.
    #[must_use]
    pub fn not_found(known: &str) -> Self {
        Self::text(404, format!("not found; there is {known}\n"))
    }
}

/// Listens on an address. `[::]` is IPv6 alone: whoever wants both families names both.
///
/// # Errors
/// If the address is not this machine's, or the port is in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a listener before this one may linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
    TcpListener::from_std(socket.into())
}

/// Answers whoever connects, until it is dropped.
pub async fn serve(listener: TcpListener, respond: Respond) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, Arc::clone(&respond)))),
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, respond: Respond) {
    let service = service_fn(move |request: Request<Incoming>| {
        let respond = Arc::clone(&respond);
        async move {
            let path = request.uri().path().to_owned();
            let answer = spawn_blocking(move || respond(&path)).await;
            let answer = answer.unwrap_or_else(|_| Answer::text(500, "this is a bug of lb-agent\n"));
            Ok::<_, Infallible>(response(answer))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    // However it ends: nobody is left to be told.
    let _ = timeout(LIFETIME, connection).await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = answer
        .headers
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?)))
        .collect::<HeaderMap>();
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let respond: Respond = Arc::new(|path| match path {
            "/panic" => panic!("a bug"),
            path => Answer::text(503, format!("asked for {path}")),
        });
        (address, tokio::spawn(serve(listener, respond)))
    }

    async fn ask(stream: &mut TcpStream, request: &str, end: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with(end) {
            let mut part = [0; 1024];
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "the connection ended after {answer:?}");
            answer.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        answer
    }

    #[tokio::test]
    async fn a_request_is_answered_with_status_headers_and_body_and_a_connection_can_ask_again() {
        let (address, _task) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for path in ["/healthz", "/other?x=1"] {
            let body = format!("asked for {}", path.split('?').next().unwrap());
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = ask(&mut stream, &request, &body).await;
            assert!(
                answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
                "{answer}"
            );
            assert!(
                answer.contains("\r\nx-content-type-options: nosniff\r\n"),
                "{answer}"
            );
        }
        let head = ask(&mut stream, "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\n").await;
        assert!(head.contains("content-length: 11"), "{head}");
    }

    #[tokio::test]
    async fn a_bug_in_an_answer_is_told_and_ends_nothing() {
        let (address, _task) = start().await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = ask(&mut stream, "GET /panic HTTP/1.0\r\n\r\n", "bug of lb-agent\n").await;
            assert!(answer.starts_with("HTTP/1.0 500 "), "{answer}");
        }
    }

    #[tokio::test]
    async fn connections_end_with_their_listener_and_the_port_is_free() {
        let (address, task) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "asked for /").await;
        task.abort();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "it is closed");
        listen(address).unwrap();
    }
}
