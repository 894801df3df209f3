//! What cannot be answered is said with what would help.

use super::asked::{manifests, run};

#[test]
fn explain_says_what_is_missing_and_what_would_help() {
    let folder = manifests();
    let folder = folder.to_string_lossy();
    for (from, to, via, words) in [
        (
            "pod/shop/none",
            "172.30.0.10:80",
            None,
            "Pod shop/none is not known|--via",
        ),
        (
            "node/node9",
            "172.30.0.10:80",
            None,
            "Node node9 is not known|node1, node2, node3",
        ),
        (
            "203.0.113.7",
            "192.0.2.10:80",
            Some("node9"),
            "Node node9 is not known",
        ),
        (
            "node/node1",
            "service/shop/headless",
            None,
            "Service shop/headless is not served|headless|DNS",
        ),
        (
            "node/node1",
            "service/shop/none",
            None,
            "Service shop/none is not known",
        ),
        (
            "node/node1",
            "service/shop/wide:99",
            None,
            "no port `99`|http (80/TCP), dns (53/UDP)",
        ),
        (
            "203.0.113.7",
            "[2001:db8:1ba::10]:80",
            None,
            "has no IPv6 address",
        ),
        (
            "pod/wide",
            "172.30.0.10:80",
            None,
            "`pod/wide` is no client|pod/NAMESPACE/NAME",
        ),
        (
            "node/node1",
            "172.30.0.10",
            None,
            "`172.30.0.10` is no destination|ADDRESS:PORT",
        ),
    ] {
        let mut arguments = vec!["--manifests", &folder, "--from", from, "--to", to];
        arguments.extend(via.iter().flat_map(|via| ["--via", via]));
        let output = run(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{from} to {to}");
        assert!(
            words.split('|').all(|word| error.contains(word)),
            "{from} to {to}: {error}"
        );
    }
}

#[test]
fn explain_names_a_directory_that_cannot_be_read() {
    let output = run(&[
        "--manifests",
        "/nowhere",
        "--from",
        "node/n",
        "--to",
        "10.0.0.1:80",
    ]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("/nowhere"), "{error}");
}
