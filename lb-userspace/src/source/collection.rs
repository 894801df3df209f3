//! Joins the manifests of several files into one set of objects, and tells what changed in it.
//!
//! Pure. *Invariant*: what the changes add up to depends on what the files last said, not on the order in
//! which they were read.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::manifest::{Id, Manifest};
use crate::{
    kubernetes::Converted,
    model::{Change, Problem},
};

/// The manifests of several files.
#[derive(Default, Debug)]
pub(super) struct Collection {
    files: BTreeMap<String, File>,
    told: Told,
}

/// One file.
#[derive(Default, Debug)]
struct File {
    /// What it said last that could be read.
    manifest: Manifest,
    /// Why it cannot be read now.
    spoilt: Option<Problem>,
}

/// What the changes told so far add up to.
#[derive(Default, Debug)]
struct Told {
    objects: BTreeMap<Id, Arc<Converted>>,
    problems: BTreeMap<String, Vec<Problem>>,
}

impl Collection {
    /// Takes in what a file says now. If it cannot be read, what it said before stands; the same holds for
    /// each of its objects.
    pub(super) fn set(&mut self, file: &str, read: Result<Manifest, Problem>) {
        let known = self.files.entry(file.to_owned()).or_default();
        match read {
            Ok(mut manifest) => {
                for id in &manifest.broken {
                    if let Some(before) = known.manifest.objects.remove(id) {
                        manifest.objects.entry(id.clone()).or_insert(before);
                    }
                }
                *known = File {
                    manifest,
                    spoilt: None,
                };
            }
            Err(problem) => known.spoilt = Some(problem),
        }
    }

    /// The file is gone, and what it said with it.
    pub(super) fn remove(&mut self, file: &str) {
        self.files.remove(file);
    }

    /// Objects of kinds that are no concern of ours.
    pub(super) fn ignored(&self) -> u64 {
        self.files.values().map(|file| file.manifest.ignored).sum()
    }

    /// What changed since the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let now = self.joined();
        let mut changes = Vec::new();
        for id in self
            .told
            .objects
            .keys()
            .filter(|id| !now.objects.contains_key(id))
        {
            changes.push(id.clone().deleted());
        }
        for (id, object) in &now.objects {
            if self.told.objects.get(id) != Some(object) {
                changes.push(object.change.clone());
            }
        }
        for subject in self
            .told
            .problems
            .keys()
            .filter(|subject| !now.problems.contains_key(*subject))
        {
            changes.push(Change::Reported {
                subject: subject.clone(),
                problems: Vec::new(),
            });
        }
        for (subject, problems) in &now.problems {
            if self.told.problems.get(subject) != Some(problems) {
                changes.push(Change::Reported {
                    subject: subject.clone(),
                    problems: problems.clone(),
                });
            }
        }
        self.told = now;
        changes
    }

    /// Of an object that is in several files, the first file by name counts.
    fn joined(&self) -> Told {
        let mut joined = Told::default();
        let mut origins: BTreeMap<&Id, &str> = BTreeMap::new();
        for (name, file) in &self.files {
            let mut problems: Vec<_> = file
                .manifest
                .problems
                .iter()
                .chain(&file.spoilt)
                .cloned()
                .collect();
            for (id, object) in &file.manifest.objects {
                match origins.entry(id) {
                    Entry::Vacant(origin) => {
                        origin.insert(name);
                        if !object.problems.is_empty() {
                            joined.problems.insert(id.subject(), object.problems.clone());
                        }
                        joined.objects.insert(id.clone(), object.clone());
                    }
                    Entry::Occupied(origin) => problems.push(Problem {
                        object: name.clone(),
                        message: format!(
                            "{} is in {} too, which counts; remove one",
                            id.subject(),
                            origin.get()
                        ),
                    }),
                }
            }
            if !problems.is_empty() {
                joined.problems.insert(name.clone(), problems);
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::{super::manifest::parse, *};
    use crate::{
        kubernetes::Annotations,
        model::{Index, NodeIdentity},
    };

    const NOTHING: [&str; 0] = [];

    fn node(name: &str, zone: &str) -> String {
        let labels = format!("{{topology.kubernetes.io/zone: {zone}}}");
        format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {labels}}}}}\n---\n")
    }

    /// A collection, and what its changes add up to.
    struct Bench {
        collection: Collection,
        index: Index,
    }

    impl Bench {
        fn new() -> Self {
            let index = Index::new(NodeIdentity::new("a"));
            Self {
                collection: Collection::default(),
                index,
            }
        }

        fn set(&mut self, file: &str, text: &str) {
            self.collection
                .set(file, parse(file, text, &Annotations::default()));
            self.tell();
        }

        fn tell(&mut self) {
            for change in self.collection.changes() {
                self.index.apply(change);
            }
            assert_eq!(self.collection.changes(), [], "nothing is told twice");
        }

        fn zone(&self) -> Option<&str> {
            self.index.this_node()?.zone.as_deref()
        }

        fn problems(&self) -> Vec<String> {
            self.index
                .problems()
                .into_iter()
                .map(|p| format!("{}: {}", p.object, p.message))
                .collect()
        }
    }

    #[test]
    fn objects_come_change_and_go_with_their_file() {
        let mut bench = Bench::new();
        bench.set("one.yaml", &node("a", "z1"));
        assert_eq!(bench.zone(), Some("z1"));
        bench.set("one.yaml", &node("a", "z2"));
        assert_eq!(bench.zone(), Some("z2"));
        bench.set("one.yaml", "# nothing left");
        assert_eq!(bench.zone(), None);
        bench.set("one.yaml", &node("a", "z3"));
        bench.collection.remove("one.yaml");
        bench.tell();
        assert_eq!((bench.zone(), bench.problems()), (None, vec![]));
    }

    #[test]
    fn a_spoilt_file_keeps_its_last_good_content_and_complains_until_mended() {
        let mut bench = Bench::new();
        bench.set("one.yaml", &node("a", "z1"));
        bench.set("one.yaml", "{");
        assert_eq!(bench.zone(), Some("z1"));
        assert!(
            matches!(&bench.problems()[..], [one] if one.starts_with("one.yaml: ")),
            "{:?}",
            bench.problems()
        );
        bench.set("one.yaml", &node("a", "z2"));
        assert_eq!((bench.zone(), bench.problems()), (Some("z2"), vec![]));
    }

    #[test]
    fn a_malformed_object_keeps_its_last_good_value_while_its_file_changes() {
        let mut bench = Bench::new();
        bench.set("one.yaml", &node("a", "z1"));
        let malformed = "{apiVersion: v1, kind: Node, metadata: {name: a, labels: 7}}\n---\n";
        for _ in 0..2 {
            bench.set("one.yaml", &(malformed.to_owned() + &node("b", "z1")));
            assert_eq!((bench.zone(), bench.problems().len()), (Some("z1"), 1));
        }
        bench.set("one.yaml", &node("b", "z1"));
        assert_eq!((bench.zone(), bench.problems()), (None, vec![]));
    }

    #[test]
    fn of_an_object_in_two_files_the_first_by_name_counts_in_either_order_of_arrival() {
        for order in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
            let mut bench = Bench::new();
            for file in order {
                bench.set(file, &node("a", &file.replace(".yaml", "")));
            }
            assert_eq!(bench.zone(), Some("a"));
            assert_eq!(
                bench.problems(),
                ["b.yaml: Node a is in a.yaml too, which counts; remove one"]
            );
            bench.collection.remove("a.yaml");
            bench.tell();
            assert_eq!(bench.zone(), Some("b"));
            assert_eq!(bench.problems(), NOTHING);
        }
    }

    #[test]
    fn what_is_wrong_with_an_object_is_told_and_taken_back() {
        let service = |ip: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{port: 80}}]{ip}}}}}"
            )
        };
        let mut bench = Bench::new();
        bench.set("s.yaml", &service(""));
        assert!(
            bench.problems()[0].contains("directories of manifests do not"),
            "{:?}",
            bench.problems()
        );
        bench.set("s.yaml", &service(", clusterIP: 172.30.0.1"));
        assert_eq!(
            (bench.problems(), bench.index.desired().services.len()),
            (vec![], 1)
        );
    }
}
