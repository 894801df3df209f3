//! Tells the cluster what cannot be served: a Warning event on the object, for `kubectl describe`.
//!
//! *Invariants*: nothing waits for an event; there are few of them, whatever happens; the same thing is said
//! at most once an hour, which is how long API servers keep events.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Event, EventSource, Node, ObjectReference, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::kubernetes::Object;

/// How long something is not said again.
const REST: Duration = Duration::from_secs(3600);
/// Events at once.
const BURST: u32 = 20;
/// Time after which there may be one more.
const REFILL: Duration = Duration::from_secs(6);
/// Time between two looks while something is left to say.
const PAUSE: Duration = Duration::from_secs(10);

/// Something to tell of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Warning {
    /// One word: what kind of thing happened.
    pub reason: &'static str,
    /// The object, as `Kind namespace/name`. What is of no kind that the cluster knows is left out.
    pub object: String,
    /// What is wrong and what would mend it.
    pub message: String,
}

/// Tells of the warnings that there are, as they come, for as long as somebody has some. `node` is this node's
/// name: each node tells for itself.
pub async fn follow(client: Client, node: String, mut warnings: watch::Receiver<Vec<Warning>>) {
    let mut memory = Memory::new(Instant::now());
    loop {
        let current = warnings.borrow_and_update().clone();
        while let Some(warning) = memory.next(&current, Instant::now()) {
            match tell(&client, &node, warning).await {
                Ok(()) => debug!(object = warning.object, "an event is written"),
                // It is tried again with the next look: the rate is limited for failures too.
                Err(error) => {
                    memory.forget(warning);
                    warn!(object = warning.object, %error, "cannot write an event; may this user create events?");
                    break;
                }
            }
        }
        tokio::select! {
            changed = warnings.changed() => if changed.is_err() { return },
            () = sleep(PAUSE) => {}
        }
    }
}

/// What was said when, and how much may be said.
struct Memory {
    told: HashMap<Warning, Instant>,
    left: u32,
    refilled: Instant,
}

impl Memory {
    fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            left: BURST,
            refilled: now,
        }
    }

    /// The next thing to say, which counts as said.
    fn next<'a>(&mut self, warnings: &'a [Warning], now: Instant) -> Option<&'a Warning> {
        self.told.retain(|_, at| now.duration_since(*at) < REST);
        while now.duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.left = BURST.min(self.left + 1);
        }
        let next = (warnings.iter()).find(|warning| !self.told.contains_key(*warning))?;
        self.left = self.left.checked_sub(1)?;
        self.told.insert(next.clone(), now);
        Some(next)
    }

    fn forget(&mut self, warning: &Warning) {
        self.told.remove(warning);
    }
}

async fn tell(client: &Client, node: &str, warning: &Warning) -> kube::Result<()> {
    let Some((kind, rest)) = warning.object.split_once(' ') else {
        return Ok(());
    };
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    let subject = match kind {
        Service::KIND => reference(Api::<Service>::namespaced(client.clone(), namespace), name).await?,
        EndpointSlice::KIND => {
            reference(Api::<EndpointSlice>::namespaced(client.clone(), namespace), name).await?
        }
        Node::KIND => reference(Api::<Node>::all(client.clone()), name).await?,
        _ => None,
    };
    // An object that is gone needs no event.
    let Some(subject) = subject else { return Ok(()) };
    write(client, event(subject, node, warning, Timestamp::now())).await
}

/// The object with its identity, without which `kubectl describe` does not find its events.
async fn reference<K>(api: Api<K>, name: &str) -> kube::Result<Option<ObjectReference>>
where
    K: Object,
{
    let Some(object) = api.get_metadata_opt(name).await? else {
        return Ok(None);
    };
    Ok(Some(ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: object.metadata.name,
        namespace: object.metadata.namespace,
        uid: object.metadata.uid,
        ..ObjectReference::default()
    }))
}

fn event(subject: ObjectReference, node: &str, warning: &Warning, now: Timestamp) -> Event {
    let namespace = subject.namespace.clone().unwrap_or_else(|| "default".into());
    let name = subject.name.clone().unwrap_or_default();
    // The same thing has the same name, also after a restart: it is one event with a count.
    let mut hasher = DefaultHasher::new();
    (node, warning, &subject.uid).hash(&mut hasher);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", hasher.finish())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: subject,
        reason: Some(warning.reason.into()),
        message: Some(clipped(&warning.message)),
        type_: Some("Warning".into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some("lb-agent".into()),
            host: Some(node.into()),
        }),
        reporting_component: Some("lb-agent".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}

/// API servers refuse messages of more than 1024 bytes.
fn clipped(message: &str) -> String {
    let end = (0..=message.len().min(1024))
        .rev()
        .find(|end| message.is_char_boundary(*end));
    message[..end.unwrap_or_default()].into()
}

async fn write(client: &Client, event: Event) -> kube::Result<()> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let count = events
                .get_opt(&name)
                .await?
                .and_then(|known| known.count)
                .unwrap_or_default();
            let again = Patch::Merge(json!({"count": count + 1, "lastTimestamp": event.last_timestamp}));
            events
                .patch(&name, &PatchParams::default(), &again)
                .await
                .map(drop)
        }
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(object: &str) -> Warning {
        Warning {
            reason: "CannotServe",
            object: object.into(),
            message: "it is wrong".into(),
        }
    }

    #[test]
    fn each_thing_is_said_once_an_hour_however_often_it_comes_and_goes() {
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let (a, b) = (vec![warning("a")], vec![warning("b")]);
        assert_eq!(memory.next(&a, start), Some(&a[0]));
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(memory.next(&[], now), None);
            assert_eq!(memory.next(&a, now), None, "{second}");
        }
        assert_eq!(memory.next(&b, start), Some(&b[0]));
        assert_eq!(
            memory.next(&a, start + REST),
            Some(&a[0]),
            "the API server has forgotten it"
        );
        memory.forget(&a[0]);
        assert_eq!(memory.next(&a, start + REST), Some(&a[0]), "it was not written");
    }

    #[test]
    fn there_are_few_events_whatever_happens() {
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let many: Vec<_> = (0..10_000).map(|n| warning(&n.to_string())).collect();
        let mut said = |now| std::iter::from_fn(|| memory.next(&many, now)).count();
        assert_eq!(said(start), 20);
        assert_eq!(said(start), 0);
        assert_eq!(said(start + Duration::from_secs(60)), 10);
        assert_eq!(
            said(start + Duration::from_secs(3000)),
            20,
            "what was not said is not saved up"
        );
    }

    #[test]
    fn an_event_is_about_its_object_and_has_a_name_of_its_own_for_each_thing_and_node() {
        let subject = ObjectReference {
            kind: Some("Service".into()),
            name: Some("web".into()),
            namespace: Some("shop".into()),
            uid: Some("1-2-3".into()),
            ..ObjectReference::default()
        };
        let long = Warning {
            message: "é".repeat(1000),
            ..warning("Service shop/web")
        };
        let make = |node, warning: &Warning| event(subject.clone(), node, warning, Timestamp::UNIX_EPOCH);
        let one = make("n1", &warning("Service shop/web"));
        assert_eq!(one.involved_object, subject);
        assert_eq!(
            (one.metadata.namespace.as_deref(), one.type_.as_deref()),
            (Some("shop"), Some("Warning"))
        );
        assert_eq!(one, make("n1", &warning("Service shop/web")));
        let name = |event: Event| event.metadata.name;
        assert_ne!(name(one.clone()), name(make("n2", &warning("Service shop/web"))));
        assert_ne!(name(one), name(make("n1", &long)));
        assert_eq!(make("n1", &long).message.map(|message| message.len()), Some(1024));
    }
}
