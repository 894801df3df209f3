//! The source for a cluster: Services, EndpointSlices and Nodes of an API server.
//!
//! Of each object only the values of the model are made, at once; nothing else of it is kept. The source
//! itself remembers names: what a new list does not mention any more is told as deleted.

use std::{
    collections::{HashMap, HashSet},
    env,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{info, warn};

use super::{
    Event, Failure, SourceStatus, Unheard,
    remembered::{Followed, Remembered},
    servers::{Addresses, Servers, parse_address},
    watch::{Notice, follow},
};
use crate::{
    kubernetes::{Annotations, Converted, Object},
    model::{Change, ObjectKey, Problem},
};

/// Addresses of API servers, where [`KubeOptions::servers`] has none; with commas between them.
const SERVERS: &str = "LB_API_SERVERS";
/// The name to verify, where [`KubeOptions::server_name`] has none.
const SERVER_NAME: &str = "LB_API_SERVER_NAME";

/// How to find the API server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KubeOptions {
    /// Kubeconfig file. Without it: `$KUBECONFIG`, `~/.kube/config`, then the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; its current one if not given.
    pub context: Option<String>,
    /// Addresses of API servers in the order to try them, instead of the one configured. Inside a pod that one is a
    /// Service address, which somebody has to serve first: us. Without any: those of `$LB_API_SERVERS`.
    pub servers: Vec<String>,
    /// What their certificates are for, instead of the host of each address. Without it: `$LB_API_SERVER_NAME`.
    pub server_name: Option<String>,
    /// Where the endpoints of `default/kubernetes` are remembered across restarts; without it they are not.
    pub memory: Option<PathBuf>,
}

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file is missing, unreadable or incomplete.
    #[error("kubeconfig {file}: {reason}; give a valid one with --kubeconfig (and --context)")]
    Kubeconfig {
        /// The file.
        file: String,
        /// What is wrong with it. No source: it repeats its own, and is part of the sentence already.
        reason: kube::config::KubeconfigError,
    },
    /// Neither a kubeconfig nor a ServiceAccount was found.
    #[error("no way to an API server is configured; give --kubeconfig, or run in a pod")]
    Infer(#[from] kube::config::InferConfigError),
    /// The server's address is not a URL.
    #[error("{server:?} is not the address of an API server; use https://HOST:PORT or HOST:PORT")]
    Server {
        /// What was given.
        server: String,
    },
    /// Certificates or keys cannot be used.
    #[error("cannot set up the connection to the API server; check certificates and keys")]
    Client(#[from] kube::Error),
}

/// The way to the API servers.
#[derive(Clone)]
pub struct Connection {
    servers: Arc<Servers>,
    memory: Option<PathBuf>,
    remembered: Remembered,
}

impl KubeOptions {
    /// A client for those servers. Does not talk to them yet.
    ///
    /// # Errors
    /// As of [`Self::connect`].
    pub async fn client(&self) -> Result<kube::Client, ConnectError> {
        Ok(self.connect().await?.client())
    }

    /// The way to those servers. Does not talk to them yet.
    ///
    /// # Errors
    /// If the configuration is missing or unusable. A server that does not answer is no error.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let (mut config, in_pod) = self.config().await?;
        // Failures are to be seen, and waited for here.
        config.default_retry = false;
        let from_environment = |name| env::var(name).ok().filter(|text| !text.trim().is_empty());
        let given = match self.servers.is_empty() {
            false => self.servers.clone(),
            true => from_environment(SERVERS)
                .map(|text| text.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        let parse = |server: &String| {
            parse_address(server).ok_or_else(|| ConnectError::Server {
                server: server.clone(),
            })
        };
        let given = given.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let addresses = Addresses {
            // The Service's address works once somebody serves it: endpoints need nobody.
            endpoints_first: in_pod && given.is_empty(),
            given: match given.is_empty() {
                true => vec![config.cluster_url.clone()],
                false => given,
            },
            server_name: self.server_name.clone().or_else(|| from_environment(SERVER_NAME)),
        };
        let servers = Arc::new(Servers::new(config, addresses));
        servers.check()?;
        let remembered = self.remembered();
        servers.learn(&remembered.endpoints.iter().copied().collect::<Vec<_>>());
        Ok(Connection {
            servers,
            memory: self.memory.clone(),
            remembered,
        })
    }

    /// What is configured, and whether it is what every pod is given.
    async fn config(&self) -> Result<(kube::Config, bool), ConnectError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let named = |reason| ConnectError::Kubeconfig {
                    file: path.display().to_string(),
                    reason,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(named)?;
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
                Ok((config.map_err(named)?, false))
            }
            (None, Some(_)) => match kube::Config::from_kubeconfig(&options).await {
                Ok(config) => Ok((config, false)),
                Err(reason) => Err(ConnectError::Kubeconfig {
                    file: "(default)".into(),
                    reason,
                }),
            },
            (None, None) => match kube::Config::from_kubeconfig(&options).await {
                Ok(config) => Ok((config, false)),
                Err(_) => Ok((kube::Config::infer().await?, true)),
            },
        }
    }

    /// What is remembered of endpoints; nothing if the file cannot be used.
    fn remembered(&self) -> Remembered {
        let Some(file) = &self.memory else {
            return Remembered::default();
        };
        Remembered::read(file).map_or_else(
            |error| {
                warn!(
                    file = %file.display(), %error,
                    "the remembered endpoints of default/kubernetes are not used; the file is written anew"
                );
                Remembered::default()
            },
            Option::unwrap_or_default,
        )
    }
}

impl Connection {
    /// A client that asks those servers.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.servers.client()
    }
}

/// Follows the cluster until `events` is closed. Never gives up: see [`SourceStatus`] for how it fares.
pub fn spawn(
    connection: Connection,
    annotations: Annotations,
    events: mpsc::Sender<Event>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (notices, received) = mpsc::channel(256);
        let client = connection.client();
        let mut hub = Hub {
            kinds: [
                Known::of::<Service>(),
                Known::of::<EndpointSlice>(),
                Known::of::<Node>(),
            ],
            complained: HashSet::new(),
            failures: HashMap::new(),
            failing: None,
            heard: None,
            connection,
            followed: Followed::default(),
            status: SourceStatus::default(),
            synced: false,
            events,
        };
        // The followers end with the hub, whose end of the channel closes.
        tokio::join!(
            follow::<Service>(client.clone(), annotations.clone(), 0, notices.clone()),
            follow::<EndpointSlice>(client.clone(), annotations.clone(), 1, notices.clone()),
            follow::<Node>(client, annotations, 2, notices),
            async { hub.run(received).await }
        );
    })
}

/// Joins the three streams into one.
struct Hub {
    kinds: [Known; 3],
    /// Objects of which a problem was last told.
    complained: HashSet<String>,
    failures: HashMap<usize, Failure>,
    /// Since when there are failures, by the clock that nobody sets.
    failing: Option<Instant>,
    /// When the server was last heard.
    heard: Option<SystemTime>,
    connection: Connection,
    followed: Followed,
    status: SourceStatus,
    synced: bool,
    events: mpsc::Sender<Event>,
}

/// What is known of one kind.
struct Known {
    plural: String,
    subject: fn(&ObjectKey) -> String,
    deleted: fn(ObjectKey) -> Change,
    objects: HashSet<ObjectKey>,
    /// Objects of the list under way.
    listing: Option<HashSet<ObjectKey>>,
    /// A list was complete.
    synced: bool,
}

impl Known {
    fn of<K: Object>() -> Self {
        Self {
            plural: format!("{}s", K::KIND),
            subject: K::subject,
            deleted: K::deleted,
            objects: HashSet::new(),
            listing: None,
            synced: false,
        }
    }

    fn note(&mut self, key: ObjectKey) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.objects.insert(key);
    }
}

impl Hub {
    async fn run(&mut self, mut notices: mpsc::Receiver<(usize, Notice)>) {
        while let Some((kind, notice)) = tokio::select! {
            notice = notices.recv() => notice,
            () = self.events.closed() => None,
        } {
            if self.take(kind, notice).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, kind: usize, notice: Notice) -> Result<(), Unheard> {
        // A list begins before anybody has answered.
        if !matches!(notice, Notice::Failed(_) | Notice::Listing) {
            self.heard = Some(SystemTime::now());
        }
        let known = &mut self.kinds[kind];
        match notice {
            Notice::Listing => known.listing = Some(HashSet::new()),
            Notice::Applied(key, converted) => {
                let Converted { change, problems } = *converted;
                let subject = (known.subject)(&key);
                known.note(key);
                if self.followed.take(&change) {
                    self.remember();
                }
                self.tell(Event::Change(change)).await?;
                self.complain(subject, problems).await?;
            }
            Notice::Malformed(key, error) => {
                self.status.malformed += 1;
                if let Some(key) = key {
                    let object = (known.subject)(&key);
                    known.note(key);
                    let message =
                        format!("it cannot be read, so what was known of it stands: {error}; correct it");
                    self.complain(object.clone(), vec![Problem { object, message }])
                        .await?;
                } else {
                    tracing::warn!(kind = known.plural, %error, "an object of unknown name cannot be read");
                }
                self.tell_status().await?;
            }
            Notice::Deleted(key) => {
                known.objects.remove(&key);
                self.delete(kind, key).await?;
            }
            Notice::Listed => {
                let listed = known.listing.take().unwrap_or_default();
                known.synced = true;
                let vanished: Vec<_> = known.objects.difference(&listed).cloned().collect();
                known.objects = listed;
                for key in vanished {
                    self.delete(kind, key).await?;
                }
                if !self.synced && self.kinds.iter().all(|known| known.synced) {
                    self.synced = true;
                    self.status.remembered = false;
                    self.remember();
                    self.tell(Event::Synced).await?;
                    self.tell_status().await?;
                }
            }
            Notice::Alive => {
                let is_over = self.failures.remove(&kind).is_some();
                if is_over
                    && self.failures.is_empty()
                    && let Some(since) = self.failing.take()
                {
                    info!(after = ?since.elapsed(), "the cluster can be followed again");
                }
                if is_over || self.status.server != self.connection.servers.current() {
                    self.tell_status().await?;
                }
            }
            Notice::Failed(message) => {
                self.status.errors += 1;
                let what = known.plural.clone();
                let since = self
                    .failures
                    .get(&kind)
                    .map_or_else(SystemTime::now, |failure| failure.since);
                if self.failing.is_none() {
                    self.failing = Some(Instant::now());
                    warn!(
                        what,
                        error = message,
                        "the cluster cannot be followed; what it told last stands, and asking goes on"
                    );
                }
                self.failures.insert(kind, Failure { what, since, message });
                self.serve_remembered().await?;
                self.tell_status().await?;
            }
        }
        Ok(())
    }

    async fn delete(&mut self, kind: usize, key: ObjectKey) -> Result<(), Unheard> {
        let known = &self.kinds[kind];
        let (subject, change) = ((known.subject)(&key), (known.deleted)(key));
        self.followed.take(&change);
        self.tell(Event::Change(change)).await?;
        self.complain(subject, Vec::new()).await
    }

    /// Notes where API servers are, for this process and the next.
    fn remember(&mut self) {
        // Lists that are not complete name a part of them only.
        let Some(known) = self.followed.known().filter(|_| self.synced) else {
            return;
        };
        if known == self.connection.remembered {
            return;
        }
        let endpoints: Vec<_> = known.endpoints.iter().copied().collect();
        self.connection.servers.learn(&endpoints);
        self.connection.remembered = known;
        if let Some(file) = &self.connection.memory
            && let Err(error) = self.connection.remembered.write(file)
        {
            warn!(file = %file.display(), %error, "cannot remember the endpoints of default/kubernetes");
        }
    }

    /// Nobody answers, and nothing is known yet: tells the Service of the API servers as it was, once.
    async fn serve_remembered(&mut self) -> Result<(), Unheard> {
        let is_known = self.synced || self.kinds.iter().any(|known| !known.objects.is_empty());
        let objects = self.connection.remembered.objects();
        if is_known || self.status.remembered || objects.is_empty() {
            return Ok(());
        }
        for change in objects {
            // So that the first list takes them away again.
            match &change {
                Change::ServiceApplied(service) => self.kinds[0].objects.insert(service.key.clone()),
                Change::SliceApplied(slice) => self.kinds[1].objects.insert(slice.key.clone()),
                _ => false,
            };
            self.tell(Event::Change(change)).await?;
        }
        self.status.remembered = true;
        self.tell(Event::Remembered).await
    }

    /// Tells of problems, or that there are none any more. Of an object that never had one: nothing.
    async fn complain(&mut self, subject: String, problems: Vec<Problem>) -> Result<(), Unheard> {
        let news = match problems.is_empty() {
            true => self.complained.remove(&subject),
            false => {
                self.complained.insert(subject.clone());
                true
            }
        };
        match news {
            true => {
                self.tell(Event::Change(Change::Reported { subject, problems }))
                    .await
            }
            false => Ok(()),
        }
    }

    async fn tell_status(&mut self) -> Result<(), Unheard> {
        self.status.failures = self.failures.values().cloned().collect();
        self.status.failures.sort_unstable_by(|a, b| a.what.cmp(&b.what));
        self.status.server = self.connection.servers.current();
        self.status.heard = self.heard.filter(|_| !self.failures.is_empty());
        self.tell(Event::Status(self.status.clone())).await
    }

    async fn tell(&self, event: Event) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}
