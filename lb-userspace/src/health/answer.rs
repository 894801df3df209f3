//! The answers to health checks. Pure: the times are passed in.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{apply::Waits, http::Answer, model::ObjectKey};

/// How the data path stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataPlane {
    /// IPv4 and IPv6.
    pub families: [FamilyHealth; 2],
}

/// How a family of it stands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FamilyHealth {
    /// A change has waited too long.
    pub overdue: bool,
    /// When everything was last live; `None`: nothing is live yet.
    pub live: Option<SystemTime>,
}

impl DataPlane {
    /// How it stands `now`, if no change may wait for longer than `timeout`.
    #[must_use]
    pub fn new(waits: &Waits, timeout: Duration, now: Instant) -> Self {
        let families = waits.families.map(|family| FamilyHealth {
            overdue: (family.since).is_some_and(|since| now.duration_since(since) > timeout),
            live: family.live,
        });
        Self { families }
    }

    /// The same while no program is on any device yet: nothing is live, whatever the maps hold.
    #[must_use]
    pub fn without_programs(self) -> Self {
        let families = self.families.map(|family| FamilyHealth { live: None, ..family });
        Self { families }
    }

    /// It serves: everything was live once, and nothing has waited too long since. Idle is healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.families
            .iter()
            .all(|family| family.live.is_some() && !family.overdue)
    }

    /// The agent works: nothing has waited too long. Unlike [`DataPlane::is_healthy`] also while it waits for
    /// the first complete lists, because being started anew would not make the API server answer.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.families.iter().all(|family| !family.overdue)
    }

    fn body(&self, healthy: bool, now: SystemTime) -> Map<String, Value> {
        let updated = |family: &FamilyHealth| match family {
            FamilyHealth {
                overdue: false,
                live: Some(_),
            } => Some(now),
            FamilyHealth { live, .. } => *live,
        };
        let status = |family: &FamilyHealth| {
            let healthy = family.live.is_some() && !family.overdue;
            json!({"lastUpdated": time(updated(family)), "healthy": healthy})
        };
        // The family that is furthest behind tells how far the node is.
        let oldest = self.families.iter().map(updated).min().flatten();
        let Value::Object(body) = json!({
            "lastUpdated": time(oldest),
            "currentTime": time(Some(now)),
            "healthy": healthy,
            "status": {"IPv4": status(&self.families[0]), "IPv6": status(&self.families[1])},
        }) else {
            return Map::new();
        };
        body
    }
}

/// Whether the node can take traffic: for load balancers that send to any node. `eligible`: the node is not
/// about to go.
#[must_use]
pub fn healthz(plane: &DataPlane, eligible: bool, now: SystemTime) -> Answer {
    let healthy = plane.is_healthy();
    let mut body = plane.body(healthy, now);
    body.insert("nodeEligible".into(), eligible.into());
    json_answer(healthy && eligible, Vec::new(), Value::Object(body))
}

/// Whether the agent works: for liveness probes, which must not restart it because its node is about to go.
#[must_use]
pub fn livez(plane: &DataPlane, now: SystemTime) -> Answer {
    let alive = plane.is_alive();
    json_answer(alive, Vec::new(), Value::Object(plane.body(alive, now)))
}

/// Whether this node has endpoints of a Service: for load balancers that send where they are. `ready_here` are
/// those that are live in the data path.
#[must_use]
pub fn service(key: &ObjectKey, ready_here: usize, healthy: bool) -> Answer {
    let weight = vec![("x-load-balancing-endpoint-weight", ready_here.to_string())];
    let body = json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": ready_here,
        "serviceProxyHealthy": healthy,
    });
    json_answer(ready_here > 0 && healthy, weight, body)
}

fn json_answer(good: bool, mut headers: Vec<(&'static str, String)>, body: Value) -> Answer {
    headers.push(("content-type", "application/json".into()));
    headers.push(("x-content-type-options", "nosniff".into()));
    Answer {
        status: if good { 200 } else { 503 },
        headers,
        body: body.to_string(),
    }
}

/// RFC 3339; empty: never.
fn time(time: Option<SystemTime>) -> String {
    time.and_then(|time| Timestamp::try_from(time).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Waiting;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn family(overdue: bool, live: Option<u64>) -> FamilyHealth {
        FamilyHealth {
            overdue,
            live: live.map(at),
        }
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer
            .headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(&answer.body).expect("it is JSON")
    }

    #[test]
    fn healthz_is_about_data_plane_and_node_and_livez_about_the_data_plane() {
        let good = family(false, Some(100));
        for (what, families, eligible, expected_healthz, expected_livez) in [
            ("all is well", [good, good], true, 200, 200),
            ("the node is about to go", [good, good], false, 503, 200),
            ("IPv4 waits", [family(true, Some(100)), good], true, 503, 503),
            ("IPv6 waits", [good, family(true, Some(100))], true, 503, 503),
            (
                "nothing is live yet",
                [family(false, None), family(false, None)],
                true,
                503,
                200,
            ),
            (
                "the first filling hangs",
                [family(true, None), good],
                true,
                503,
                503,
            ),
        ] {
            let plane = DataPlane { families };
            let (healthz, livez) = (healthz(&plane, eligible, at(200)), livez(&plane, at(200)));
            assert_eq!(
                (healthz.status, livez.status),
                (expected_healthz, expected_livez),
                "{what}"
            );
            assert_eq!(body(&healthz)["nodeEligible"], eligible, "{what}");
            assert_eq!(
                body(&healthz)["healthy"],
                plane.is_healthy(),
                "{what}: without the node"
            );
            assert_eq!(body(&livez)["healthy"], expected_livez == 200, "{what}");
            assert_eq!(body(&livez).get("nodeEligible"), None, "{what}");
            for answer in [&healthz, &livez] {
                assert_eq!(header(answer, "content-type"), Some("application/json"));
                assert_eq!(header(answer, "x-content-type-options"), Some("nosniff"));
            }
        }
    }

    #[test]
    fn last_updated_is_now_while_healthy_and_else_when_all_was_last_live() {
        let plane = DataPlane {
            families: [family(true, Some(100)), family(false, Some(150))],
        };
        let told = body(&healthz(&plane, true, at(200)));
        assert_eq!(told["currentTime"], "1970-01-01T00:03:20Z");
        assert_eq!(told["lastUpdated"], "1970-01-01T00:01:40Z");
        assert_eq!(
            told["status"],
            json!({
                "IPv4": {"healthy": false, "lastUpdated": "1970-01-01T00:01:40Z"},
                "IPv6": {"healthy": true, "lastUpdated": "1970-01-01T00:03:20Z"},
            })
        );
        let good = DataPlane {
            families: [family(false, Some(1)); 2],
        };
        assert_eq!(
            body(&livez(&good, at(200)))["lastUpdated"],
            "1970-01-01T00:03:20Z"
        );
        let never = DataPlane {
            families: [family(false, None), family(false, Some(1))],
        };
        assert_eq!(body(&healthz(&never, true, at(200)))["lastUpdated"], "");
    }

    #[test]
    fn a_change_may_wait_for_the_timeout_and_idle_is_healthy() {
        let now = Instant::now();
        for (waited, overdue) in [(None, false), (Some(60), false), (Some(61), true)] {
            let since = waited.map(|seconds| now - Duration::from_secs(seconds));
            let mut waits = Waits::default();
            waits.families[1] = Waiting {
                since,
                live: Some(at(1)),
                asked: None,
            };
            let plane = DataPlane::new(&waits, TIMEOUT, now);
            assert_eq!(
                plane.families,
                [family(false, None), family(overdue, Some(1))],
                "{waited:?}"
            );
        }
    }

    #[test]
    fn a_service_is_healthy_where_it_has_ready_endpoints_and_the_proxy_is() {
        let key = ObjectKey::new("shop", "web");
        for (ready, healthy, status) in [(3, true, 200), (0, true, 503), (3, false, 503), (0, false, 503)] {
            let answer = service(&key, ready, healthy);
            assert_eq!(answer.status, status);
            let weight = header(&answer, "x-load-balancing-endpoint-weight");
            assert_eq!(weight, Some(ready.to_string().as_str()));
            assert_eq!(
                body(&answer),
                json!({
                    "service": {"namespace": "shop", "name": "web"},
                    "localEndpoints": ready,
                    "serviceProxyHealthy": healthy,
                })
            );
        }
    }
}
