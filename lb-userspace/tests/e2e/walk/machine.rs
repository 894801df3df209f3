//! Part 1 of the page, on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use lb_lab::wait_for;

use super::page::{self, Step};
use crate::cluster::{agent_path, possible};

/// The page's name for everything that it makes: namespaces, the instance, the folder. Here it has our number behind it.
const NAME: &str = "lbwalk";
/// Begins the line before what a step prints.
const MARK: &str = "=== step ";
/// For a debug build on a busy machine; by hand it takes a minute.
const LONGEST: Duration = Duration::from_secs(420);

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/walk.md")
}

/// What the walk leaves on the machine, if it does not come to its end.
struct Traces {
    name: String,
}

impl Traces {
    /// Of this process; those of processes that were killed go.
    fn new() -> Self {
        for namespace in lines(&["ip", "netns", "list"]) {
            let owner = namespace
                .strip_prefix(NAME)
                .and_then(|rest| rest.split_once("-node"))
                .and_then(|(pid, _)| pid.parse::<u32>().ok());
            if let Some(pid) = owner.filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Self {
                    name: format!("{NAME}{pid}"),
                });
            }
        }
        Self {
            name: format!("{NAME}{}", process::id()),
        }
    }

    fn namespaces(&self) -> Vec<String> {
        let own = format!("{}-", self.name);
        let names = lines(&["ip", "netns", "list"]).into_iter();
        let names = names.filter_map(|line| line.split(' ').next().map(str::to_owned));
        names.filter(|name| name.starts_with(&own)).collect()
    }

    fn folder(&self) -> PathBuf {
        Path::new("/tmp").join(&self.name)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let namespaces = self.namespaces();
        for namespace in &namespaces {
            for pid in lines(&["ip", "netns", "pids", namespace]) {
                lines(&["kill", "-KILL", &pid]);
            }
        }
        let node = format!("/run/netns/{}-node", self.name);
        if Path::new(&node).exists() {
            let agent = agent_path().to_string_lossy();
            let net = format!("--net={node}");
            lines(&["nsenter", &net, &agent, "detach", "--instance", &self.name]);
        }
        for namespace in &namespaces {
            lines(&["ip", "netns", "delete", namespace]);
        }
        let _ = fs::remove_dir_all(self.folder());
    }
}

/// What a command prints.
fn lines(argv: &[&str]) -> Vec<String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Runs all steps in one shell that ends with the first command that fails. What each printed, and whether it got to the end.
fn walk(traces: &Traces, steps: &[Step]) -> (Vec<String>, Result<(), String>) {
    let mut script = String::from("set -euo pipefail\n");
    for (number, step) in steps.iter().enumerate() {
        script += &format!(
            "echo '{MARK}{number}'\n{}",
            step.script.replace(NAME, &traces.name)
        );
    }
    let base = env::temp_dir().join(format!("{}-script", traces.name));
    let [file, log] = ["sh", "log"].map(|kind| base.with_extension(kind));
    fs::write(&file, script).expect("the folder for temporary files can be written");
    let output = fs::File::create(&log).expect("the folder for temporary files can be written");
    let errors = output.try_clone().expect("a file has two handles");
    let mut shell = Command::new("bash")
        .arg(&file)
        .envs([("LB", agent_path().as_os_str()), ("LC_ALL", "C".as_ref())])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .expect("bash is there");
    let mut status = None;
    let ended = wait_for(LONGEST, "the walk ends", || {
        status = shell.try_wait().expect("it is our child");
        status.is_some()
    });
    if ended.is_err() {
        let _ = shell.kill();
        let _ = shell.wait();
    }
    let text = fs::read(&log).expect("it was written");
    let text = String::from_utf8_lossy(&text).replace(&traces.name, NAME);
    for file in [file, log] {
        let _ = fs::remove_file(file);
    }
    let parts = text.split(MARK).skip(1);
    let printed = parts.map(|part| part.split_once('\n').map_or("", |(_, text)| text).to_owned());
    let done = match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(status.to_string()),
        None => Err(format!("not done after {} s", LONGEST.as_secs())),
    };
    (printed.collect(), done)
}

#[test]
fn a_walk_through_one_machine_is_as_its_page_shows_as_root() {
    if !possible("a_walk_through_one_machine_is_as_its_page_shows_as_root") {
        return;
    }
    let page = fs::read_to_string(path()).expect("the page is there");
    let end = page.find("\n## Part 2").expect("there are two parts");
    let (builds, steps): (Vec<_>, Vec<_>) = page::steps(&page[..end], 0)
        .into_iter()
        .partition(|step| step.script.contains("cargo xtask build"));
    assert_eq!(builds.len(), 1, "what we run is built already; the rest is run");
    let traces = Traces::new();
    let (printed, done) = walk(&traces, &steps);
    if let Err(why) = done {
        let (step, text) = (steps.get(printed.len().wrapping_sub(1)), printed.last());
        let agent = fs::read_to_string(traces.folder().join("agent.log")).unwrap_or_default();
        let step = step.map_or("", |step| &step.script);
        panic!(
            "docs/walk.md: {why} in\n{step}which printed\n{}\n{agent}",
            text.map_or("", |text| text)
        );
    }
    let of = |command: &str| {
        let number = steps.iter().position(|step| step.script.contains(command));
        &printed[number.unwrap_or_else(|| panic!("no step has `{command}`"))]
    };
    // Whatever the page shows: these it is about.
    let reached = of("for client in").matches(": I am far\n").count();
    assert_eq!(
        reached,
        12,
        "by every address, where kube-proxy refuses: {}",
        of("for client in")
    );
    for (command, words) in [
        ("echo \"curl ended with $?\"\nlb explain", "DROPPED"),
        ("sed -i", "FORWARDED"),
        (
            "kill -0 $DOWNLOAD",
            "their entries are copied\nthe download goes on\nevery byte is right\n",
        ),
        ("lb detach", "curl ended with 7"),
        ("ip netns del", "0\n"),
    ] {
        assert!(
            of(command).contains(words),
            "{command}: {words:?} in {}",
            of(command)
        );
    }
    assert_eq!(traces.namespaces(), [""; 0]);

    let steps: Vec<_> = steps.into_iter().zip(printed).collect();
    if env::var_os("LB_UPDATE_GOLDEN").is_some() {
        fs::write(path(), page::rewritten(&page, &steps)).expect("the page can be written");
        return;
    }
    for (step, printed) in &steps {
        let Step { script, expected, .. } = step;
        assert!(
            page::matches(expected, printed),
            "docs/walk.md is not what is printed by\n{script}which should be\n{expected}and is\n{printed}"
        );
    }
}
