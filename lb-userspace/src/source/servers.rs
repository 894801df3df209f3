//! Which API server is asked: one client that goes from a server that does not answer to the next.
//!
//! Order: the one that answered last; the others as they were given; those that failed a short while ago. A server
//! that failed rests, each time twice as long up to [`LONGEST_REST`], and is tried before only if nobody else
//! answers. What breaks in the middle (a watch) is noticed by whoever reads it, and asked for anew.
//!
//! *Not here*: what is asked for, and how long to wait when nobody answers (`watch`).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{Request, Response, StatusCode, Uri, header::RETRY_AFTER};
use kube::{Client, Config, client::Body};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::watch::causes;

/// A connection that is not there after so long will not be: two lost packets.
const CONNECT: Duration = Duration::from_secs(5);
/// The same where another server can be asked instead: one lost packet, and whoever asks waits 3 s at most.
const CONNECT_OR_NEXT: Duration = Duration::from_millis(1200);
/// An answer that has not begun after so long will not come, where another server can be asked.
const ANSWER_OR_NEXT: Duration = Duration::from_secs(15);
/// How long a server rests after its first failure.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// How long it rests at most.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// For how long a server may tell us to ask for nothing: whoever waits for an answer gives up after a minute.
const LONGEST_QUIET: Duration = Duration::from_secs(30);
/// The name that every API server's certificate has, whatever address it is reached at.
const COMMON_NAME: &str = "kubernetes.default.svc";

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no API server answers: {}", tried.join("; "))]
struct NobodyAnswers {
    /// Each address, and how it failed.
    tried: Vec<String>,
}

/// Where the addresses of servers come from.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    /// In this order.
    pub(super) given: Vec<Uri>,
    /// The name to verify instead of the host of an address.
    pub(super) server_name: Option<String>,
    /// Endpoints of `default/kubernetes` come before those given, not behind.
    pub(super) endpoints_first: bool,
}

/// The servers, and how they fare.
pub(super) struct Servers {
    config: Config,
    addresses: Addresses,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: Vec<Server>,
    /// The address that answered last.
    current: Option<Uri>,
    /// Until when we were told to ask for nothing (429).
    quiet: Option<Instant>,
}

struct Server {
    address: Uri,
    /// Made when it is first needed.
    client: Option<Client>,
    is_endpoint: bool,
    /// When it may be asked again in its turn, and how long it was to rest.
    resting: Option<(Instant, Duration)>,
}

impl Server {
    fn new(address: Uri, is_endpoint: bool) -> Self {
        Self {
            address,
            client: None,
            is_endpoint,
            resting: None,
        }
    }
}

impl Servers {
    /// These servers, as `config` says it of one.
    pub(super) fn new(config: Config, addresses: Addresses) -> Self {
        let given = addresses.given.iter().cloned();
        let servers = given.map(|address| Server::new(address, false)).collect();
        Self {
            config,
            addresses,
            state: Mutex::new(State {
                servers,
                current: None,
                quiet: None,
            }),
        }
    }

    /// The client that asks them.
    pub(super) fn client(self: &Arc<Self>) -> Client {
        let servers = self.clone();
        let service = tower::service_fn(move |request| servers.clone().ask(request));
        Client::new(service, self.config.default_namespace.clone())
    }

    /// Asks a first server at once, to know whether the configuration can be used.
    pub(super) fn check(&self) -> kube::Result<()> {
        self.client_of(&self.addresses.given[0], false).map(drop)
    }

    /// Takes these endpoints of `default/kubernetes` for more servers, instead of those it had.
    ///
    /// They get our credentials only if they can show that they are the API server.
    pub(super) fn learn(&self, endpoints: &[SocketAddr]) {
        let is_verified =
            self.config.cluster_url.scheme_str() == Some("https") && !self.config.accept_invalid_certs;
        if !is_verified {
            return;
        }
        let address = |endpoint: &SocketAddr| format!("https://{endpoint}/").parse::<Uri>().ok();
        let endpoints: Vec<_> = endpoints.iter().filter_map(address).collect();
        let mut state = self.state();
        let (mut known, mut servers): (Vec<_>, Vec<_>) =
            state.servers.drain(..).partition(|server| server.is_endpoint);
        let mut learnt: Vec<_> = endpoints
            .into_iter()
            .map(
                |address| match known.iter().position(|server| server.address == address) {
                    Some(index) => known.swap_remove(index),
                    None => Server::new(address, true),
                },
            )
            .collect();
        if self.addresses.endpoints_first {
            std::mem::swap(&mut learnt, &mut servers);
        }
        servers.append(&mut learnt);
        state.servers = servers;
    }

    /// The address that answered last.
    pub(super) fn current(&self) -> Option<String> {
        self.state().current.as_ref().map(written)
    }

    async fn ask(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let quiet = self.state().quiet;
        if let Some(until) = quiet {
            sleep_until(until).await;
        }
        let order = self.order();
        let (mut tried, mut unavailable) = (Vec::new(), None);
        for (address, is_endpoint) in &order {
            let client = match self.client_of(address, *is_endpoint) {
                Ok(client) => client,
                Err(error) if order.len() == 1 => return Err(error),
                Err(error) => {
                    tried.push(self.failed(address, causes(&error)));
                    continue;
                }
            };
            // Asked twice does no harm: we only read, and events have names.
            let request = Request::from_parts(head.clone(), Body::from(body.clone()));
            if order.len() == 1 {
                let answer = client.send(request).await;
                if let Ok(response) = &answer {
                    self.answered(address, response);
                }
                return answer;
            }
            match timeout(ANSWER_OR_NEXT, client.send(request)).await {
                Ok(Ok(response)) if is_unavailable(response.status()) => {
                    tried.push(self.failed(address, format!("it answers {}", response.status())));
                    unavailable = Some(response);
                }
                Ok(Ok(response)) => {
                    self.answered(address, &response);
                    return Ok(response);
                }
                Ok(Err(error)) => tried.push(self.failed(address, causes(&error))),
                Err(_) => {
                    let error = format!("no answer for {} s", ANSWER_OR_NEXT.as_secs());
                    tried.push(self.failed(address, error));
                }
            }
        }
        match unavailable {
            Some(response) => Ok(response),
            None => Err(kube::Error::Service(Box::new(NobodyAnswers { tried }))),
        }
    }

    /// Whom to ask, one after the other.
    fn order(&self) -> Vec<(Uri, bool)> {
        let (state, now) = (self.state(), Instant::now());
        let mut order: Vec<_> = state.servers.iter().collect();
        // Stable: those alike stay as they were given.
        order.sort_by_key(|server| match server.resting {
            _ if state.current.as_ref() == Some(&server.address) => (0, None),
            Some((until, _)) if until > now => (2, Some(until)),
            _ => (1, None),
        });
        order
            .into_iter()
            .map(|server| (server.address.clone(), server.is_endpoint))
            .collect()
    }

    fn client_of(&self, address: &Uri, is_endpoint: bool) -> kube::Result<Client> {
        let mut state = self.state();
        let has_others = state.servers.len() > 1;
        let made = |address: &Uri| {
            let mut config = self.config.clone();
            config.cluster_url = address.clone();
            config.connect_timeout = Some(if has_others { CONNECT_OR_NEXT } else { CONNECT });
            config.tls_server_name = self
                .addresses
                .server_name
                .clone()
                .or(config.tls_server_name)
                .or_else(|| is_endpoint.then(|| COMMON_NAME.to_owned()));
            Client::try_from(config)
        };
        match state.servers.iter_mut().find(|server| server.address == *address) {
            Some(Server {
                client: Some(client), ..
            }) => Ok(client.clone()),
            Some(server) => Ok(server.client.insert(made(address)?).clone()),
            // Not an endpoint any more: asked this once.
            None => made(address),
        }
    }

    fn answered<B>(&self, address: &Uri, response: &Response<B>) {
        let mut state = self.state();
        state.quiet = quiet(response).map(|pause| Instant::now() + pause);
        if let Some(server) = state.servers.iter_mut().find(|server| server.address == *address) {
            server.resting = None;
        }
        if state.current.as_ref() != Some(address) {
            state.current = Some(address.clone());
            drop(state);
            info!(server = written(address), "this API server answers");
        }
    }

    /// Notes a failure; gives it in words.
    fn failed(&self, address: &Uri, error: String) -> String {
        let mut state = self.state();
        if state.current.as_ref() == Some(address) {
            state.current = None;
        }
        if let Some(server) = state.servers.iter_mut().find(|server| server.address == *address) {
            let rest = match server.resting {
                Some((_, rest)) => (rest * 2).min(LONGEST_REST),
                None => SHORTEST_REST,
            };
            let is_news = server.resting.is_none();
            server.resting = Some((Instant::now() + rest, rest));
            drop(state);
            if is_news {
                warn!(
                    server = written(address),
                    error, "this API server does not answer; the next one is asked"
                );
            }
        }
        format!("{}: {error}", written(address))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the list would still be one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long a server wants to be left alone.
fn quiet<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    (response.status() == StatusCode::TOO_MANY_REQUESTS)
        .then(|| Duration::from_secs(seconds).min(LONGEST_QUIET))
}

/// An answer by somebody who has no API server to offer: a load balancer, or one that is about to end.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
}

fn written(address: &Uri) -> String {
    address.to_string().trim_end_matches('/').to_owned()
}

/// An address as somebody gives it: `https://HOST:PORT`, or without the scheme.
pub(super) fn parse_address(text: &str) -> Option<Uri> {
    let text = text.trim();
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let address: Uri = with_scheme.parse().ok()?;
    let is_server = matches!(address.scheme_str(), Some("https" | "http"))
        && address.host().is_some_and(|host| !host.is_empty())
        && !address.authority().is_some_and(|all| all.as_str().contains('@'));
    is_server.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(given: &[&str], endpoints_first: bool) -> Servers {
        let given: Vec<_> = given.iter().map(|text| parse_address(text).unwrap()).collect();
        let config = Config::new(given[0].clone());
        Servers::new(
            config,
            Addresses {
                given,
                server_name: None,
                endpoints_first,
            },
        )
    }

    fn order(servers: &Servers) -> Vec<String> {
        servers
            .order()
            .iter()
            .map(|(address, _)| written(address))
            .collect()
    }

    #[test]
    fn an_address_needs_no_scheme_but_a_host() {
        for (text, expected) in [
            ("192.0.2.1:6443", Some("https://192.0.2.1:6443/")),
            ("https://api.example:6443", Some("https://api.example:6443/")),
            ("[2001:db8::1]:6443", Some("https://[2001:db8::1]:6443/")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080/")),
            ("not a server", None),
            ("", None),
            ("ftp://192.0.2.1", None),
            ("https://user:word@192.0.2.1", None),
        ] {
            let parsed = parse_address(text).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_one_that_answered_comes_first_and_those_that_failed_last() {
        let servers = servers(&["a:1", "b:1", "c:1"], false);
        assert_eq!(order(&servers), ["https://a:1", "https://b:1", "https://c:1"]);
        let address = |text: &str| parse_address(text).unwrap();
        servers.failed(&address("a:1"), "refused".into());
        servers.answered(&address("c:1"), &Response::new(()));
        assert_eq!(order(&servers), ["https://c:1", "https://b:1", "https://a:1"]);
        assert_eq!(servers.current().as_deref(), Some("https://c:1"));
        servers.failed(&address("c:1"), "refused".into());
        assert_eq!(order(&servers), ["https://b:1", "https://a:1", "https://c:1"]);
        assert_eq!(servers.current(), None);
    }

    #[test]
    fn endpoints_are_behind_what_was_given_and_before_the_service_address() {
        let endpoints = [
            "192.0.2.1:6443".parse().unwrap(),
            "[2001:db8::1]:6443".parse().unwrap(),
        ];
        for (first, expected) in [
            (
                false,
                [
                    "https://a:1",
                    "https://192.0.2.1:6443",
                    "https://[2001:db8::1]:6443",
                ],
            ),
            (
                true,
                [
                    "https://192.0.2.1:6443",
                    "https://[2001:db8::1]:6443",
                    "https://a:1",
                ],
            ),
        ] {
            let servers = servers(&["a:1"], first);
            servers.learn(&endpoints);
            assert_eq!(order(&servers), expected);
            servers.learn(&endpoints[..1]);
            assert_eq!(order(&servers).len(), 2, "replaced, not added");
        }
        let plain = servers(&["http://a:1"], false);
        plain.learn(&endpoints);
        assert_eq!(order(&plain), ["http://a:1"], "nobody could tell who they are");
    }

    #[test]
    fn a_server_that_is_too_busy_says_for_how_long() {
        for (code, after, expected) in [
            (429, "2", Some(2)),
            (429, "100000", Some(30)),
            (429, "soon", None),
            (200, "2", None),
        ] {
            let response = Response::builder()
                .status(code)
                .header(RETRY_AFTER, after)
                .body(())
                .unwrap();
            assert_eq!(
                quiet(&response),
                expected.map(Duration::from_secs),
                "{code} {after}"
            );
        }
    }

    #[test]
    fn a_server_that_goes_on_failing_rests_longer_up_to_a_limit() {
        let servers = servers(&["a:1"], false);
        let address = parse_address("a:1").unwrap();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            servers.failed(&address, "refused".into());
            let rest = servers.state().servers[0].resting.map(|(_, rest)| rest);
            assert_eq!(rest, Some(Duration::from_secs(expected)));
        }
        servers.answered(&address, &Response::new(()));
        assert_eq!(servers.state().servers[0].resting, None);
    }
}
