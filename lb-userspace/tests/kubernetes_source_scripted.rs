//! The Kubernetes source against a scripted server: answers that a healthy API server does not give.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use lb_userspace::{
    kubernetes::Annotations,
    model::{Change, Index, NodeIdentity, ObjectKey},
    source::{
        Event, SourceStatus,
        kubernetes::{KubeOptions, spawn},
        named::{self, NamedError},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// What the server answers to a request whose path contains all of these words: status and body.
type Script = &'static [(&'static [&'static str], u16, &'static str)];

/// Ends a streamed list.
const END: &str = r#"{"type":"BOOKMARK","object":{"kind":"Node","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

/// Starts the server; returns its URL. It ends with the runtime of the test.
async fn serve(script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer(connection, script));
        }
    });
    format!("http://127.0.0.1:{port}")
}

async fn answer(mut connection: TcpStream, script: Script) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else {
            return;
        };
        request.push(byte);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let matching = script
        .iter()
        .find(|(words, ..)| words.iter().all(|word| path.contains(word)));
    let (code, body) = matching.map_or((200, END), |(_, code, body)| (*code, *body));
    let is_stream = path.contains("watch=true") && code == 200;
    let length = if is_stream {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head =
        format!("HTTP/1.1 {code} X\r\ncontent-type: application/json\r\n{length}connection: close\r\n\r\n");
    let _ = connection
        .write_all((head + body + if is_stream { "\n" } else { "" }).as_bytes())
        .await;
    if is_stream {
        // As a watch in which nothing happens.
        let _ = connection.read_u8().await;
    }
}

/// What was heard until the first lists were complete and `enough`.
async fn hear(
    script: Script,
    enough: impl Fn(&Index, &SourceStatus) -> bool,
) -> (Index, SourceStatus, HashMap<String, u32>) {
    let kubeconfig = Kubeconfig::of("heard", &serve(script).await);
    hear_of(kubeconfig.options(), enough).await
}

/// The same of the servers that these options find.
async fn hear_of(
    options: KubeOptions,
    enough: impl Fn(&Index, &SourceStatus) -> bool,
) -> (Index, SourceStatus, HashMap<String, u32>) {
    let connection = options.connect().await.expect("the kubeconfig is valid");
    let (sender, mut events) = mpsc::channel(16);
    spawn(connection, Annotations::default(), sender);
    let mut index = Index::new(NodeIdentity::new("node-a"));
    let (mut status, mut synced, mut applied) = (SourceStatus::default(), false, HashMap::new());
    let listen = async {
        while !(synced && enough(&index, &status)) {
            match events.recv().await.expect("the source goes on for ever") {
                Event::Change(change) => {
                    if let Change::ServiceApplied(service) = &change {
                        *applied.entry(service.key.name.clone()).or_default() += 1;
                    }
                    index.apply(change);
                }
                Event::Synced => synced = true,
                Event::Status(news) => status = news,
                Event::Remembered => {}
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(10), listen).await;
    assert!(heard.is_ok(), "{index:#?} {status:#?}");
    (index, status, applied)
}

fn is_served(index: &Index, name: &str) -> bool {
    !index.desired_service(&ObjectKey::new("shop", name)).is_empty()
}

#[tokio::test]
async fn a_malformed_object_is_named_and_counted_and_the_others_are_served() {
    const SERVICES: &str = r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"bad","namespace":"shop","resourceVersion":"1"},"spec":{"ports":"eighty"}}}
{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":7}}
{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","resourceVersion":"2"},"spec":{"clusterIP":"172.30.0.1","ports":[{"port":80}]}}}
{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    let (index, status, _) = hear(&[(&["/services", "sendInitialEvents"], 200, SERVICES)], |_, _| {
        true
    })
    .await;
    assert!(is_served(&index, "web"));
    assert_eq!((status.malformed, status.errors), (2, 0));
    let problems = index.problems();
    assert_eq!(
        (problems.len(), problems[0].object.as_str()),
        (1, "Service shop/bad"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_list_in_pages_is_complete_only_with_its_last_page() {
    const REFUSED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid","message":"sendInitialEvents is forbidden"}"#;
    const SECOND: &str = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"two","namespace":"shop"},"spec":{"clusterIP":"172.30.0.2","ports":[{"port":80}]}}]}"#;
    const FIRST: &str = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"more"},"items":[{"metadata":{"name":"one","namespace":"shop"},"spec":{"clusterIP":"172.30.0.1","ports":[{"port":80}]}}]}"#;
    const QUIET: &str = "";
    let (index, status, applied) = hear(
        &[
            (&["/services", "sendInitialEvents"], 422, REFUSED),
            (&["/services", "continue=more"], 200, SECOND),
            (&["/services", "watch=true"], 200, QUIET),
            (&["/services"], 200, FIRST),
        ],
        |_, _| true,
    )
    .await;
    assert!(is_served(&index, "one") && is_served(&index, "two"));
    assert_eq!((status.errors, applied["one"], applied["two"]), (0, 1, 1));
}

#[tokio::test]
async fn a_watch_that_ends_with_410_is_followed_by_a_new_list() {
    const LIST: &str = r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","resourceVersion":"2"},"spec":{"clusterIP":"172.30.0.1","ports":[{"port":80}]}}}
{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}
{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired","message":"too old resource version"}}"#;
    let script: Script = &[(&["/services", "sendInitialEvents"], 200, LIST)];
    let (_, status, applied) = hear(script, |_, status| status.errors >= 2).await;
    assert!(applied["web"] >= 2, "{applied:?}");
    assert!(status.failures[0].message.contains("(410)"), "{status:?}");
    assert_eq!(status.failures[0].what, "Services");
}

/// A kubeconfig for a server, removed with the value.
struct Kubeconfig(std::path::PathBuf);

impl Kubeconfig {
    fn of(name: &str, server: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lb-scripted-{}-{number}-{name}", std::process::id()));
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: x, contexts: [{{name: x, context: {{cluster: x, user: x}}}}], \
             clusters: [{{name: x, cluster: {{server: '{server}'}}}}], users: [{{name: x, user: {{}}}}]}}"
        );
        std::fs::write(&path, text).expect("there is a folder for such files");
        Self(path)
    }

    fn options(&self) -> KubeOptions {
        KubeOptions {
            kubeconfig: Some(self.0.clone()),
            ..KubeOptions::default()
        }
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn one_object_is_told_by_its_name_or_why_it_is_not() {
    const POD: &str = r#"{"metadata":{"name":"web-0","namespace":"shop"},"spec":{"containers":[],"nodeName":"node-a"},"status":{"podIPs":[{"ip":"10.1.0.5"}]}}"#;
    const NODE: &str = r#"{"metadata":{"name":"node-b"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.2"}]}}"#;
    const DENIED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no, not you","reason":"Forbidden","code":403}"#;
    const ABSENT: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","reason":"NotFound","code":404}"#;
    let server = serve(&[
        (&["/namespaces/shop/pods/web-0"], 200, POD),
        (&["/namespaces/shop/pods/secret"], 403, DENIED),
        (&["/nodes/node-b"], 200, NODE),
        (&["/"], 404, ABSENT),
    ])
    .await;
    let kubeconfig = Kubeconfig::of("told", &server);
    let options = kubeconfig.options();
    let pod = async |name: &str| named::pod(&options, &ObjectKey::new("shop", name)).await;
    let web = pod("web-0").await.expect("it is there");
    assert_eq!(web.addresses, ["10.1.0.5".parse().expect("an address")].into());
    assert_eq!(web.node.as_deref(), Some("node-a"));
    let node = named::node(&options, "node-b").await.expect("it is there");
    assert_eq!(
        node.addresses,
        ["192.0.2.2".parse::<std::net::IpAddr>().expect("an address")]
    );
    let says = |error: NamedError, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    says(
        pod("secret").await.unwrap_err(),
        &[
            "Pod shop/secret",
            "`get` pods",
            "no, not you",
            "--kubeconfig",
            "address",
        ],
    );
    says(
        pod("none").await.unwrap_err(),
        &["no Pod shop/none", "kubectl get pods"],
    );
    says(
        named::node(&options, "none").await.unwrap_err(),
        &["no Node none", "kubectl get nodes"],
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports");
    let server = format!("http://{}", silent.local_addr().expect("it is bound"));
    let kubeconfig = Kubeconfig::of("silent", &server);
    let start = std::time::Instant::now();
    let error = named::pod(&kubeconfig.options(), &ObjectKey::new("shop", "web-0"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("Pod shop/web-0") && text.contains("not answered") && text.contains("--manifests"),
        "{text}"
    );
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());

    let nobody = Kubeconfig::of("nobody", "http://127.0.0.1:1");
    let error = named::node(&nobody.options(), "node-b").await.unwrap_err();
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(
        text.contains("Node node-b") && text.contains("--manifests") && text.contains("refused"),
        "{text}"
    );
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}

const ONE: &str = r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"one","namespace":"shop","resourceVersion":"2"},"spec":{"clusterIP":"172.30.0.1","ports":[{"port":80}]}}}
{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
const TWO: &str = r#"{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"two","namespace":"shop","resourceVersion":"2"},"spec":{"clusterIP":"172.30.0.2","ports":[{"port":80}]}}}
{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

#[tokio::test]
async fn the_first_server_that_answers_is_asked_and_the_others_are_not() {
    const LEAVING: &str = "no server is available";
    let servers = [
        nobody().await,
        serve(&[(&["/"], 503, LEAVING)]).await,
        serve(&[(&["/services", "sendInitialEvents"], 200, ONE)]).await,
        serve(&[(&["/services", "sendInitialEvents"], 200, TWO)]).await,
    ];
    let kubeconfig = Kubeconfig::of("order", &nobody().await);
    let options = KubeOptions {
        servers: servers.to_vec(),
        ..kubeconfig.options()
    };
    let (index, status, _) = hear_of(options, |_, status| status.server.is_some()).await;
    assert!(is_served(&index, "one") && !is_served(&index, "two"));
    assert_eq!((status.server.as_deref(), status.errors), (Some(&*servers[2]), 0));
}

#[tokio::test]
async fn nobody_who_answers_is_told_with_all_who_were_asked() {
    let servers = [nobody().await, nobody().await];
    let kubeconfig = Kubeconfig::of("nobody", &nobody().await);
    let options = KubeOptions {
        servers: servers.to_vec(),
        ..kubeconfig.options()
    };
    let error = named::node(&options, "node-a").await.expect_err("nobody answers");
    let text = format!("{error} {:?}", std::error::Error::source(&error));
    assert!(servers.iter().all(|server| text.contains(server)), "{text}");
}

#[tokio::test]
async fn while_nobody_answers_the_remembered_service_is_told_and_does_not_count_as_complete() {
    let memory = std::env::temp_dir().join(format!("lb-scripted-{}-memory.json", std::process::id()));
    for (text, expected) in [
        (
            r#"{"cluster_ips":["10.96.0.1"],"port":443,"endpoints":["192.0.2.1:6443"]}"#,
            true,
        ),
        (
            r#"{"cluster_ips":["10.96.0.1"],"port":443,"endpoints":["0.0.0.0:0"]}"#,
            false,
        ),
    ] {
        std::fs::write(&memory, text).expect("there is a folder for such files");
        // By plain HTTP nobody can show who he is: what is remembered is served, and not asked.
        let kubeconfig = Kubeconfig::of("memory", &nobody().await);
        let options = KubeOptions {
            memory: Some(memory.clone()),
            ..kubeconfig.options()
        };
        let connection = options.connect().await.expect("the kubeconfig is valid");
        let (sender, mut events) = mpsc::channel(16);
        spawn(connection, Annotations::default(), sender);
        let mut index = Index::new(NodeIdentity::new("node-a"));
        let mut remembered = 0;
        let listen = async {
            let mut errors = 0;
            while errors < 6 {
                match events.recv().await.expect("the source goes on for ever") {
                    Event::Change(change) => index.apply(change),
                    Event::Remembered => remembered += 1,
                    Event::Synced => panic!("nobody has told anything"),
                    Event::Status(status) => {
                        errors = status.errors;
                        assert_eq!((status.remembered, status.heard), (expected, None));
                    }
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), listen).await;
        assert!(heard.is_ok(), "{index:#?}");
        assert_eq!(remembered, u32::from(expected), "{text}");
        let served = index.desired_service(&ObjectKey::new("default", "kubernetes"));
        let backends: usize = served.iter().map(|port| port.backends.len()).sum();
        assert_eq!(backends, usize::from(expected), "{served:#?}");
    }
    std::fs::remove_file(memory).expect("it was written");
}
