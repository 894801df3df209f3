//! Follows one kind of object on an API server: list, watch, and back again after every failure.
//!
//! Output: [`Notice`]s, without end. *Invariant*: between [`Notice::Listing`] and [`Notice::Listed`] every
//! object of the kind is told, so that what was not told is gone.
//!
//! Unlike `kube::runtime::watcher` this tells when a connection is up again (a quiet cluster sends no event
//! that would show it), and falls back from streaming to paged lists where the server cannot stream.

use std::{error::Error as _, hash::BuildHasher, pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    api::{ListParams, WatchParams},
    core::{DeserializeGuard, Status, WatchEvent},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::Unheard;
use crate::{
    kubernetes::{Annotations, Converted, Object},
    model::ObjectKey,
};

/// A watch that is silent for so long is dead: the server sends a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(130);
/// A request that has not been answered for so long will not be.
const ANSWER: Duration = Duration::from_secs(60);
/// A watch that lived for so long was not refused: the next one may start at once.
const HEALTHY: Duration = Duration::from_secs(5);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// What became known of a kind of object.
#[derive(Debug)]
pub(super) enum Notice {
    /// A full list begins.
    Listing,
    /// An object is there, or is different.
    Applied(ObjectKey, Box<Converted>),
    /// An object is there and cannot be read; not even its name, perhaps.
    Malformed(Option<ObjectKey>, String),
    /// An object is gone.
    Deleted(ObjectKey),
    /// The list is complete.
    Listed,
    /// The server answers.
    Alive,
    /// It does not, or not as it should.
    Failed(String),
}

/// Why a turn ended.
enum End {
    /// In the usual way: the server closes a watch after some minutes.
    Closed,
    /// With a failure, after which the watch can go on where it was.
    Failed(String),
    /// The server's history does not reach back to where we were: list anew.
    Gone(String),
    /// The server does not stream lists.
    NoStreaming,
    /// With a complete list.
    Listed,
}

/// Follows the kind `K` for as long as `notices` are received.
pub(super) async fn follow<K: Object>(
    client: kube::Client,
    annotations: Annotations,
    kind: usize,
    notices: mpsc::Sender<(usize, Notice)>,
) {
    let mut follower = Follower::<K> {
        api: Api::all(client),
        annotations,
        kind,
        notices,
        position: None,
        streaming: true,
        backoff: Backoff::default(),
    };
    while follower.turn().await.is_ok() {}
}

struct Follower<K> {
    api: Api<DeserializeGuard<K>>,
    annotations: Annotations,
    kind: usize,
    notices: mpsc::Sender<(usize, Notice)>,
    /// The resource version up to which everything was told; `None`: a list is due.
    position: Option<String>,
    /// The next list is to be streamed.
    streaming: bool,
    backoff: Backoff,
}

impl<K: Object> Follower<K> {
    /// One list or one watch, and the wait that its end calls for.
    async fn turn(&mut self) -> Result<(), Unheard> {
        let started = Instant::now();
        let end = match (&self.position, self.streaming) {
            (None, false) => self.list().await,
            _ => self.watch().await,
        };
        match end? {
            End::Closed if started.elapsed() > HEALTHY => return Ok(()),
            End::Closed => {}
            End::Listed => {
                self.streaming = true;
                return Ok(());
            }
            End::NoStreaming => {
                self.streaming = false;
                return Ok(());
            }
            End::Failed(message) => self.tell(Notice::Failed(message)).await?,
            End::Gone(message) => {
                self.position = None;
                self.tell(Notice::Failed(message)).await?;
            }
        }
        sleep(self.backoff.next()).await;
        Ok(())
    }

    async fn tell(&self, notice: Notice) -> Result<(), Unheard> {
        self.notices.send((self.kind, notice)).await.map_err(|_| Unheard)
    }

    /// A list in pages. A page that fails makes the whole list start again.
    async fn list(&mut self) -> Result<End, Unheard> {
        let mut params = ListParams {
            limit: Some(PAGE),
            ..ListParams::default()
        };
        params.label_selector = K::SELECTOR.map(String::from);
        self.tell(Notice::Listing).await?;
        loop {
            let page = match timeout(ANSWER, self.api.list(&params)).await {
                Err(_) => return Ok(End::Failed(self.unanswered())),
                Ok(Err(error)) => return Ok(self.end_of(&error)),
                Ok(Ok(page)) => page,
            };
            for object in page.items {
                self.apply(object).await?;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    self.listed(version).await?;
                    return Ok(End::Listed);
                }
            }
        }
    }

    /// A watch from where we are; or, if we are nowhere, a list that goes over into a watch.
    async fn watch(&mut self) -> Result<End, Unheard> {
        let mut listing = self.position.is_none();
        let params = WatchParams {
            label_selector: K::SELECTOR.map(String::from),
            send_initial_events: listing,
            ..WatchParams::default()
        };
        // No version: the most recent state, from whichever server answers.
        let version = self.position.clone().unwrap_or_default();
        let stream = match timeout(ANSWER, self.api.watch(&params, &version)).await {
            Err(_) => return Ok(End::Failed(self.unanswered())),
            Ok(Err(kube::Error::Api(status))) if listing && cannot_stream(&status) => {
                return Ok(End::NoStreaming);
            }
            Ok(Err(error)) => return Ok(self.end_of(&error)),
            Ok(Ok(stream)) => stream,
        };
        self.tell(if listing { Notice::Listing } else { Notice::Alive })
            .await?;
        let mut stream = pin!(stream);
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE, stream.next()) => event,
                () = self.notices.closed() => return Err(Unheard),
            };
            match event {
                Err(_) | Ok(None) => return Ok(End::Closed),
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    self.advance(listing, object.meta());
                    self.apply(object).await?;
                }
                Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                    self.advance(listing, object.meta());
                    self.tell(Notice::Deleted(key_of(object.meta()))).await?;
                }
                Ok(Some(Ok(WatchEvent::Bookmark(bookmark)))) => {
                    let version = bookmark.metadata.resource_version;
                    if !listing {
                        self.position = Some(version);
                    } else if bookmark
                        .metadata
                        .annotations
                        .contains_key("k8s.io/initial-events-end")
                    {
                        listing = false;
                        self.listed(version).await?;
                    }
                }
                Ok(Some(Ok(WatchEvent::Error(status)))) if listing && cannot_stream(&status) => {
                    return Ok(End::NoStreaming);
                }
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    return Ok(self.end_of(&kube::Error::Api(status)));
                }
                // One unreadable line. The next may be fine, and asking again would bring the same one. kube
                // takes any JSON for a Status if it is no event: one without a code is none.
                Ok(Some(Err(kube::Error::Api(status)))) if status.code == 0 => {
                    self.tell(Notice::Malformed(None, "an event is not of its kind".into()))
                        .await?;
                }
                Ok(Some(Err(kube::Error::SerdeError(error)))) => {
                    self.tell(Notice::Malformed(None, error.to_string())).await?;
                }
                Ok(Some(Err(error))) => return Ok(self.end_of(&error)),
            }
        }
    }

    async fn listed(&mut self, version: String) -> Result<(), Unheard> {
        self.position = Some(version).filter(|version| !version.is_empty());
        self.backoff = Backoff::default();
        self.tell(Notice::Listed).await?;
        self.tell(Notice::Alive).await
    }

    fn advance(&mut self, listing: bool, meta: &ObjectMeta) {
        if !listing && let Some(version) = &meta.resource_version {
            self.position = Some(version.clone());
            self.backoff = Backoff::default();
        }
    }

    async fn apply(&self, object: DeserializeGuard<K>) -> Result<(), Unheard> {
        self.tell(match object.0 {
            Ok(object) => Notice::Applied(object.key(), Box::new(object.convert(&self.annotations))),
            Err(invalid) => Notice::Malformed(Some(key_of(&invalid.metadata)), invalid.error),
        })
        .await
    }

    fn unanswered(&self) -> String {
        format!("the API server has not answered for {} s", ANSWER.as_secs())
    }

    /// What a failed request means, in words that say what to do.
    fn end_of(&self, error: &kube::Error) -> End {
        let plural = K::plural(&());
        let kube::Error::Api(status) = error else {
            return End::Failed(format!("cannot reach the API server: {}", causes(error)));
        };
        let message = &status.message;
        match status.code {
            410 => End::Gone(format!(
                "the API server has forgotten where we were (410), listing anew: {message}"
            )),
            // The server's data is older than what we saw: restored from a backup, perhaps.
            504 if message.contains("Too large resource version") => End::Gone(format!(
                "the API server's state lies behind ours, listing anew: {message}"
            )),
            401 => End::Failed(format!(
                "the API server does not accept our credentials (401): {message}; renew the token or the \
                 certificate that the kubeconfig names"
            )),
            403 => End::Failed(format!(
                "the API server denies us {plural} (403): {message}; grant this user get, list and watch on \
                 {plural}"
            )),
            code => End::Failed(format!("the API server answers {code}: {message}")),
        }
    }
}

fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// Whether an error may be about the way in which we asked for a list: the feature gate `WatchList` is off,
/// the server is older than it, or its etcd is. Not so where asking in another way would change nothing.
fn cannot_stream(status: &Status) -> bool {
    !matches!(status.code, 401 | 403 | 410 | 429)
}

/// An error with all its causes; kube's own text names only the outermost.
pub(super) fn causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Waiting times that double, with chance in them: when a server comes back, a thousand nodes come with it.
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: Duration::from_millis(100),
        }
    }
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(10);

    /// Between half and the whole of the current waiting time.
    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(Self::LONGEST);
        let chance = std::hash::RandomState::new().hash_one(()) as u32;
        whole / 2 + (whole / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let (whole, waited) = (Duration::from_millis(expected), backoff.next());
            assert!(whole / 2 <= waited && waited <= whole, "{waited:?} for {whole:?}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes_once_each() {
        let inner = std::io::Error::other("tcp connect error: connection refused");
        let error = kube::Error::Service(Box::new(inner));
        assert_eq!(
            causes(&error),
            "ServiceError: tcp connect error: connection refused"
        );
    }
}
