//! A request as an API server logs it (`k8s.io/apiserver`'s httplog, from verbosity 3).

/// Who asked for what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Request {
    /// As roles spell it: `list`, `create`.
    pub verb: String,
    /// The API group; empty for the core's.
    pub group: String,
    /// Plural, with the subresource if there is one.
    pub resource: String,
    /// What the client calls itself.
    pub client: String,
}

impl Request {
    /// From a line of the log; `None` if it is about something else.
    pub(super) fn from_line(line: &str) -> Option<Self> {
        let verb = match field(line, "verb")? {
            "POST" => "create".into(),
            "PUT" => "update".into(),
            verb => verb.to_lowercase(),
        };
        let path = field(line, "URI")?.split('?').next()?;
        let mut words = path.trim_start_matches('/').split('/');
        let group = match words.next()? {
            "api" => "",
            "apis" => words.next()?,
            _ => return None,
        };
        let _version = words.next()?;
        let mut words: Vec<_> = words.collect();
        // An object in a namespace; the namespaces themselves are one of the resources.
        if words.first() == Some(&"namespaces") && words.len() > 2 {
            words.drain(..2);
        }
        let resource = match words[..] {
            [resource, _, part] => format!("{resource}/{part}"),
            [resource, ..] => resource.to_owned(),
            [] => return None,
        };
        Some(Self {
            verb,
            group: group.to_owned(),
            resource,
            client: field(line, "userAgent").unwrap_or_default().to_owned(),
        })
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_roles_are_about() {
        let asked = |verb: &str, uri: &str| {
            let line = format!(
                "I1127 12:58:01.7 11186 httplog.go:134] \"HTTP\" verb=\"{verb}\" URI=\"{uri}\" latency=\"7ms\" \
                 userAgent=\"curl/7\" audit-ID=\"0\" srcIP=\"127.0.0.1:1\" resp=201"
            );
            Request::from_line(&line).map(|request| {
                assert_eq!(request.client, "curl/7");
                (request.verb, request.group, request.resource)
            })
        };
        for (verb, uri, expected) in [
            (
                "LIST",
                "/api/v1/services?limit=500",
                Some(("list", "", "services")),
            ),
            (
                "WATCH",
                "/apis/discovery.k8s.io/v1/endpointslices?watch=true",
                Some(("watch", "discovery.k8s.io", "endpointslices")),
            ),
            (
                "POST",
                "/api/v1/namespaces/shop/events",
                Some(("create", "", "events")),
            ),
            (
                "PATCH",
                "/api/v1/namespaces/shop/events/web.1",
                Some(("patch", "", "events")),
            ),
            (
                "PATCH",
                "/api/v1/nodes/n1/status",
                Some(("patch", "", "nodes/status")),
            ),
            ("GET", "/api/v1/namespaces/shop", Some(("get", "", "namespaces"))),
            ("GET", "/readyz", None),
        ] {
            let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
            assert_eq!(asked(verb, uri), expected, "{verb} {uri}");
        }
        assert_eq!(Request::from_line("I1127 feature_gate.go:362] \"Updated\""), None);
    }
}
