//! The engine on a small crate, with cargo and all.

use super::*;
use crate::child;
use crate::scratch::Scratch;

const LIB: &str = "\
pub fn add(a: u32, b: u32) -> u32 { a + b }
pub fn double(a: u32) -> u32 { a * 2 }
#[test]
fn sums_add_up() { assert_eq!(super_add(), 5); }
#[cfg(test)]
fn super_add() -> u32 { add(2, 3) }
";

const LIST: &str = "
- {id: sum, file: src/lib.rs, find: 'a + b', replace: 'a - b.min(a)', tests: --package small}
- {id: untested, file: src/lib.rs, find: 'a * 2', replace: 'a * 3', tests: --package small}
- {id: no-code, file: src/lib.rs, find: 'a * 2', replace: 'a * two', tests: --package small}
- {id: not-there, file: src/lib.rs, find: 'a / 2', replace: 'a', tests: --package small}
- {id: no-file, file: src/main.rs, find: 'a', replace: 'b', tests: --package small}
- {id: endless, file: src/lib.rs, find: 'a + b', replace: 'std::process::abort()', tests: --package small}
";

fn small_crate(scratch: &Scratch) -> Workspace {
    scratch.write(
        "tree/Cargo.toml",
        "[package]\nname = \"small\"\nedition = \"2024\"\n[workspace]\n",
    );
    scratch.write(
        "tree/Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"small\"\nversion = \"0.0.0\"\n",
    );
    scratch.write("tree/src/lib.rs", LIB);
    scratch.write("tree/xtask/mutants.yaml", LIST);
    let workspace = Workspace::at(scratch.path().join("tree"), scratch.path().join("target"));
    child::run(child::command("git", &workspace).args(["init", "--quiet"])).unwrap();
    workspace
}

#[test]
fn mutations_are_judged_and_the_tree_is_left_alone() {
    let scratch = Scratch::new();
    let workspace = small_crate(&scratch);
    let mutations = mutation::read(&workspace.root().join("xtask/mutants.yaml")).unwrap();
    let benches = [Bench::set_up(&workspace, 0).unwrap()];
    let baselines = measure(&benches[0], &mutations).unwrap();
    let report = try_all(&benches, &baselines, mutations).unwrap();

    let document = serde_json::to_value(&report).unwrap();
    let seen = |id: &str| {
        let checks = document["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["id"] == id).unwrap();
        (
            check["ok"].as_bool().unwrap(),
            check["seen"].as_str().unwrap().to_owned(),
        )
    };
    for (id, ok, words) in [
        ("sum", true, "noticed: sums_add_up failed"),
        ("untested", false, "SURVIVED"),
        ("no-code", false, "bad mutation: it does not compile"),
        ("not-there", false, "bad mutation: its text is 0 times"),
        ("no-file", false, "bad mutation: there is no src/main.rs"),
        ("endless", true, "noticed: the test program died"),
    ] {
        let (judged, text) = seen(id);
        assert_eq!(judged, ok, "{id}: {text}");
        assert!(text.starts_with(words), "{id}: {text}");
    }
    for tree in [
        workspace.root().to_owned(),
        scratch.path().join("target/mutants/0/tree"),
    ] {
        assert_eq!(std::fs::read_to_string(tree.join("src/lib.rs")).unwrap(), LIB);
    }
}

#[test]
fn a_filter_that_runs_no_test_is_not_a_baseline() {
    let scratch = Scratch::new();
    let workspace = small_crate(&scratch);
    let bench = Bench::set_up(&workspace, 0).unwrap();
    let tests = Tests {
        arguments: ["--package", "small", "no_such_test"].map(str::to_owned).into(),
        programs: false,
    };
    let error = bench.baseline(&tests).unwrap_err().to_string();
    assert!(error.contains("runs no test"), "{error}");
}
