//! Real files in a scratch directory, changed as people and programs change them.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::model::{Index, NodeIdentity};

/// A scratch directory, and what is heard of it.
struct Bench {
    folder: PathBuf,
    events: mpsc::Receiver<Event>,
    index: Index,
    status: SourceStatus,
    synced: bool,
}

impl Bench {
    /// The directory with these files; `None`: without the directory.
    fn new(files: Option<&[(&str, &str)]>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lb-directory-{}-{number}", std::process::id()));
        if let Some(files) = files {
            fs::create_dir(&folder).unwrap();
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
            }
        }
        let (sender, events) = mpsc::channel(16);
        spawn(folder.clone(), Annotations::default(), sender);
        let index = Index::new(NodeIdentity::new("a"));
        Self {
            folder,
            events,
            index,
            status: SourceStatus::default(),
            synced: false,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    /// Listens until what was heard satisfies `condition`.
    async fn hear(&mut self, condition: impl Fn(&Self) -> bool) {
        let listen = async {
            while !condition(self) {
                match self.events.recv().await.expect("the source goes on for ever") {
                    Event::Change(change) => self.index.apply(change),
                    Event::Synced => self.synced = true,
                    Event::Status(status) => self.status = status,
                    Event::Remembered => {}
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), listen).await;
        assert!(
            heard.is_ok(),
            "{:?} {:?} {:?}",
            self.index,
            self.status,
            self.synced
        );
    }

    fn zone(&self) -> Option<&str> {
        self.index.this_node()?.zone.as_deref()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn node(zone: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: a, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}"
    )
}

#[tokio::test]
async fn manifests_are_told_and_followed_through_every_kind_of_change() {
    let other = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}";
    let mut bench = Bench::new(Some(&[
        ("node.yaml", &node("z1")),
        (".hidden.yaml", "{"),
        ("notes.txt", "{"),
        ("other.json", other),
    ]));
    bench
        .hear(|bench| bench.synced && bench.status.ignored == 1)
        .await;
    assert_eq!((bench.zone(), bench.status.malformed), (Some("z1"), 0));

    bench.write("node.yaml", &node("z2"));
    bench.hear(|bench| bench.zone() == Some("z2")).await;

    bench.write(".node.new", &node("z3"));
    fs::rename(bench.folder.join(".node.new"), bench.folder.join("node.yaml")).unwrap();
    bench.hear(|bench| bench.zone() == Some("z3")).await;

    bench.write("node.yaml", "{");
    bench.hear(|bench| bench.status.malformed == 1).await;
    assert_eq!((bench.zone(), bench.index.problems().len()), (Some("z3"), 1));

    fs::remove_file(bench.folder.join("node.yaml")).unwrap();
    bench
        .hear(|bench| bench.zone().is_none() && bench.index.problems().is_empty())
        .await;

    std::os::unix::fs::symlink("/dev/null", bench.folder.join("device.yaml")).unwrap();
    std::os::unix::fs::symlink(".target", bench.folder.join("link.yaml")).unwrap();
    bench.write(".target", &node("z4"));
    bench.hear(|bench| bench.zone() == Some("z4")).await;
}

#[tokio::test]
async fn a_directory_that_is_missing_is_named_and_awaited_and_its_loss_takes_nothing_away() {
    let mut bench = Bench::new(None);
    bench.hear(|bench| !bench.status.failures.is_empty()).await;
    let failure = &bench.status.failures[0];
    assert!(
        failure.what.starts_with("directory /") && failure.message.contains("create it"),
        "{failure:?}"
    );
    assert!(!bench.synced);

    fs::create_dir(&bench.folder).unwrap();
    bench.write("node.yaml", &node("z1"));
    bench
        .hear(|bench| bench.zone() == Some("z1") && bench.status.failures.is_empty())
        .await;

    let aside = bench.folder.with_extension("aside");
    fs::rename(&bench.folder, &aside).unwrap();
    bench.hear(|bench| !bench.status.failures.is_empty()).await;
    assert_eq!(
        (bench.zone(), bench.synced, bench.status.errors),
        (Some("z1"), true, 2)
    );
    fs::rename(&aside, &bench.folder).unwrap();
    bench.hear(|bench| bench.status.failures.is_empty()).await;
}

#[test]
fn a_file_counts_as_changed_only_when_two_looks_agree() {
    let marks = |mark: Option<u64>| -> Marks {
        mark.into_iter()
            .map(|size| (PathBuf::from("f"), (0, 0, size, 0, 0)))
            .collect()
    };
    for (description, before, first, second, expected) in [
        ("unchanged", Some(1), Some(1), Some(1), Some(1)),
        ("changed and at rest", Some(1), Some(2), Some(2), Some(2)),
        ("being written", Some(1), Some(2), Some(3), Some(1)),
        ("new and at rest", None, Some(1), Some(1), Some(1)),
        ("new and being written", None, Some(1), Some(2), None),
        ("new, seen once", None, None, Some(1), None),
        ("gone", Some(1), None, None, None),
        (
            "replaced in two steps, seen in between",
            Some(1),
            None,
            Some(2),
            Some(1),
        ),
        ("just gone", Some(1), Some(1), None, Some(1)),
    ] {
        assert_eq!(
            settle(&marks(before), &marks(first), &marks(second)),
            marks(expected),
            "{description}"
        );
    }
}
