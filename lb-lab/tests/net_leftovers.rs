//! What becomes of a lab when its process is ended by a signal, is killed, or keeps it on purpose.
//!
//! Each case runs this same test program once more as the process that owns the lab, told apart by an
//! environment variable.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use lb_lab::{Lab, Signal, Topology, require_root, wait_for};
use nix::{sys::signal::kill, unistd::Pid};

const LIMIT: Duration = Duration::from_secs(20);
const OWNER: &str = "LB_LAB_TEST_OWNER";

/// The process that owns a lab, and what it made.
struct Owner {
    process: Child,
    note: PathBuf,
    paths: Vec<PathBuf>,
}

impl Owner {
    /// Starts the test `name` as an owner in `mode`; its lab's tag is the mode too.
    fn start(name: &str, mode: &str) -> Self {
        let note = env::temp_dir().join(format!("lb-lab-test-{}-{mode}", std::process::id()));
        let value = format!("{mode} {}", note.display());
        let process = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(OWNER, value)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(LIMIT, "the owner's note", || note.exists()).unwrap();
        let paths = fs::read_to_string(&note)
            .unwrap()
            .lines()
            .map(PathBuf::from)
            .collect();
        Self { process, note, paths }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn there(&self) -> Vec<bool> {
        self.paths.iter().map(|path| path.exists()).collect()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.note);
    }
}

/// The owner's part, if this is it: makes a lab, notes the paths of a namespace, a pin folder and a process.
fn is_owner() -> bool {
    let Ok(value) = env::var(OWNER) else { return false };
    let (mode, note) = value.split_once(' ').unwrap();
    lb_lab::on_signal().unwrap();
    let lab = Lab::build(&Topology {
        tag: mode.into(),
        ..Topology::cluster(1, 1)
    })
    .unwrap();
    if mode == "lblabkeep" {
        lab.keep();
    }
    let child = lab.spawn("node1", &["sleep", "600"], &[]).unwrap();
    let process = Path::new("/proc").join(child.pid().to_string());
    let paths = [
        lab.at("node1").unwrap().netns().path(),
        lab.pin_dir("node1").unwrap(),
        process,
    ];
    let text: String = paths.iter().map(|p| format!("{}\n", p.display())).collect();
    let draft = format!("{note}.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, note).unwrap();
    if mode == "lblabkeep" {
        std::process::exit(0);
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn root_a_signal_removes_the_lab() {
    if is_owner() || !require_root("root_a_signal_removes_the_lab") {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut owner = Owner::start("root_a_signal_removes_the_lab", "lblabsignal");
        assert_eq!(owner.there(), [true; 3]);
        owner.signal(signal);
        let status = owner.process.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert_eq!(owner.there(), [false; 3], "{:?}", owner.paths);
    }
}

#[test]
fn root_what_a_killed_process_left_can_be_removed() {
    if is_owner() || !require_root("root_what_a_killed_process_left_can_be_removed") {
        return;
    }
    let mut owner = Owner::start("root_what_a_killed_process_left_can_be_removed", "lblabkilled");
    assert_eq!(Lab::destroy_leftovers("lblabkilled"), 0, "the owner lives");
    owner.signal(Signal::SIGKILL);
    owner.process.wait().unwrap();
    wait_for(LIMIT, "the owner's child to end with it", || {
        owner.there() == [true, true, false]
    })
    .unwrap();
    assert_eq!(Lab::destroy_leftovers("lblabkilled"), 1);
    assert_eq!(owner.there(), [false; 3], "{:?}", owner.paths);
    assert_eq!(Lab::destroy_leftovers("lblabkilled"), 0);
}

#[test]
fn root_a_kept_lab_outlives_its_process_until_it_is_removed() {
    if is_owner() || !require_root("root_a_kept_lab_outlives_its_process_until_it_is_removed") {
        return;
    }
    let mut owner = Owner::start(
        "root_a_kept_lab_outlives_its_process_until_it_is_removed",
        "lblabkeep",
    );
    assert_eq!(owner.process.wait().unwrap().code(), Some(0));
    assert_eq!(owner.there(), [true; 3]);
    assert_eq!(Lab::destroy_leftovers("lblabkeep"), 1);
    wait_for(LIMIT, "everything to be gone", || owner.there() == [false; 3]).unwrap();
}
