//! The source for a cluster: Services, EndpointSlices and Nodes of an API server.
//!
//! Of each object only the values of the model are made, at once; nothing else of it is kept. The source
//! itself remembers names: what a new list does not mention any more is told as deleted.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Event, Failure, SourceStatus, Unheard,
    watch::{Notice, follow},
};
use crate::{
    kubernetes::{Annotations, Converted, Object},
    model::{Change, ObjectKey, Problem},
};

/// How to find the API server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KubeOptions {
    /// Kubeconfig file. Without it: `$KUBECONFIG`, `~/.kube/config`, then the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; its current one if not given.
    pub context: Option<String>,
    /// URL of the API server, instead of the one configured. Inside a pod that one is a Service address,
    /// which somebody has to serve first: us.
    pub server: Option<String>,
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
    #[error("{server:?} is not the URL of an API server; use https://HOST:PORT")]
    Server {
        /// What was given.
        server: String,
    },
    /// Certificates or keys cannot be used.
    #[error("cannot set up the connection to the API server; check certificates and keys")]
    Client(#[from] kube::Error),
}

impl KubeOptions {
    /// A client for that server. Does not talk to it yet.
    ///
    /// # Errors
    /// If the configuration is missing or unusable. A server that does not answer is no error.
    pub async fn client(&self) -> Result<kube::Client, ConnectError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config =
            match (&self.kubeconfig, &self.context) {
                (Some(path), _) => {
                    let named = |reason| ConnectError::Kubeconfig {
                        file: path.display().to_string(),
                        reason,
                    };
                    let kubeconfig = Kubeconfig::read_from(path).map_err(named)?;
                    kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                        .await
                        .map_err(named)?
                }
                (None, Some(_)) => kube::Config::from_kubeconfig(&options).await.map_err(|reason| {
                    ConnectError::Kubeconfig {
                        file: "(default)".into(),
                        reason,
                    }
                })?,
                (None, None) => kube::Config::infer().await?,
            };
        if let Some(server) = &self.server {
            config.cluster_url = server.parse().map_err(|_| ConnectError::Server {
                server: server.clone(),
            })?;
        }
        config.connect_timeout = Some(Duration::from_secs(5));
        // Failures are to be seen, and waited for here.
        config.default_retry = false;
        Ok(kube::Client::try_from(config)?)
    }
}

/// Follows the cluster until `events` is closed. Never gives up: see [`SourceStatus`] for how it fares.
pub fn spawn(client: kube::Client, annotations: Annotations, events: mpsc::Sender<Event>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (notices, received) = mpsc::channel(256);
        let mut hub = Hub {
            kinds: [
                Known::of::<Service>(),
                Known::of::<EndpointSlice>(),
                Known::of::<Node>(),
            ],
            complained: HashSet::new(),
            failures: HashMap::new(),
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
        let known = &mut self.kinds[kind];
        match notice {
            Notice::Listing => known.listing = Some(HashSet::new()),
            Notice::Applied(key, converted) => {
                let Converted { change, problems } = *converted;
                let subject = (known.subject)(&key);
                known.note(key);
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
                    self.tell(Event::Synced).await?;
                }
            }
            Notice::Alive => {
                if self.failures.remove(&kind).is_some() {
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
                self.failures.insert(kind, Failure { what, since, message });
                self.tell_status().await?;
            }
        }
        Ok(())
    }

    async fn delete(&mut self, kind: usize, key: ObjectKey) -> Result<(), Unheard> {
        let known = &self.kinds[kind];
        let (subject, change) = ((known.subject)(&key), (known.deleted)(key));
        self.tell(Event::Change(change)).await?;
        self.complain(subject, Vec::new()).await
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
        self.tell(Event::Status(self.status.clone())).await
    }

    async fn tell(&self, event: Event) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}
