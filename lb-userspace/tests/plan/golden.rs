//! From manifests to maps, as text that a person can review: the files in `golden/`.
//!
//! A file has steps: `-- objects: TITLE --` begins the manifests that are there from now on, `-- maps --`
//! what the maps of node n1 then mean. Each step is taken in both orders of arrival, and once more with one
//! write in ten failing. `LB_UPDATE_GOLDEN=1 cargo test` writes the texts anew; the diff is then the review.

use std::{env, fs, path::Path, path::PathBuf};

use lb_userspace::{
    kubernetes::Annotations,
    model::{Change, Index, NodeIdentity},
    source::{Event, directory},
};
use tokio::sync::mpsc;

use crate::support::{Bench, LINGER, node, settings};

struct Step {
    title: String,
    objects: String,
    maps: String,
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_maps = false;
    for line in text.lines() {
        if let Some(title) = line
            .strip_prefix("-- objects: ")
            .and_then(|rest| rest.strip_suffix(" --"))
        {
            steps.push(Step {
                title: title.into(),
                objects: String::new(),
                maps: String::new(),
            });
            in_maps = false;
        } else if line == "-- maps --" {
            in_maps = true;
        } else if let Some(step) = steps.last_mut() {
            let part = if in_maps {
                &mut step.maps
            } else {
                &mut step.objects
            };
            part.push_str(line);
            part.push('\n');
        }
    }
    assert!(
        !steps.is_empty(),
        "a golden file begins with `-- objects: TITLE --`"
    );
    steps
}

/// The manifests as the agent reads them.
async fn read(objects: &str, scratch: &Path) -> Vec<Change> {
    fs::create_dir_all(scratch).expect("the temporary directory is writable");
    fs::write(scratch.join("objects.yaml"), objects).expect("the temporary directory is writable");
    let (sender, mut events) = mpsc::channel(64);
    let source = directory::spawn(scratch.to_owned(), Annotations::default(), sender);
    let mut changes = Vec::new();
    loop {
        match events.recv().await.expect("the source goes on") {
            Event::Change(change) => changes.push(change),
            Event::Synced => break,
            Event::Status(_) | Event::Remembered => {}
        }
    }
    drop(events);
    source.await.expect("the source does not panic");
    fs::remove_dir_all(scratch).expect("it was just made");
    for change in &changes {
        if let Change::Reported { subject, problems } = change {
            assert!(problems.is_empty(), "{subject}: {problems:?}");
        }
    }
    changes
}

fn index() -> Index {
    Index::new(NodeIdentity::new("n1"))
}

/// Takes the steps; what the maps mean after each.
fn walk(steps: &[Vec<Change>], backwards: bool, one_in: u64) -> Vec<String> {
    let mut bench = Bench::new(settings());
    bench.fake.fail(one_in, 4711);
    bench.facts(&node());
    let mut texts = Vec::new();
    for (number, changes) in steps.iter().enumerate() {
        let mut changes = changes.clone();
        if backwards {
            changes.reverse();
        }
        let mut index = index();
        for change in changes {
            index.apply(change);
            // The first objects arrive one by one; later steps replace all of them.
            if number == 0 {
                bench.desired(&index.desired());
                bench.settle();
            }
        }
        bench.desired(&index.desired());
        bench.settle();
        bench.now += LINGER;
        bench.settle();
        texts.push(bench.text());
    }
    bench.assert_no_violations();
    texts
}

async fn check(file: &Path) {
    let steps = parse(&fs::read_to_string(file).expect("a golden file is readable"));
    let scratch = env::temp_dir().join(format!("lb-golden-{}", std::process::id()));
    let mut changes = Vec::new();
    for step in &steps {
        changes.push(read(&step.objects, &scratch).await);
    }
    let texts = walk(&changes, false, 0);
    assert_eq!(
        texts,
        walk(&changes, true, 0),
        "{}: the order of arrival matters",
        file.display()
    );
    assert_eq!(
        texts,
        walk(&changes, false, 10),
        "{}: failures leave a trace",
        file.display()
    );
    if env::var_os("LB_UPDATE_GOLDEN").is_some() {
        let parts = steps.iter().zip(&texts);
        let text: String = parts
            .map(|(step, maps)| {
                format!(
                    "-- objects: {} --\n{}-- maps --\n{maps}",
                    step.title, step.objects
                )
            })
            .collect();
        fs::write(file, text).expect("a golden file is writable");
        return;
    }
    for (step, text) in steps.iter().zip(&texts) {
        assert_eq!(
            &step.maps,
            text,
            "{}: {} (left: the file, right: the maps)",
            file.display(),
            step.title
        );
    }
}

#[tokio::test]
async fn maps_mean_what_the_files_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/plan/golden");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        check(&file).await;
    }
}
