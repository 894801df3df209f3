//! `lb-agent top` on a terminal: it draws, listens to keys, and gives the terminal back however it ends.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use lb_lab::wait_for;
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};

use crate::cluster::{Cluster, SETTLED, agent_path};

/// A terminal uses another screen, and the usual one again.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// What is being drawn on.
struct Drawn {
    child: Child,
    keys: File,
    slave: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Drawn {
    fn begin(cluster: &Cluster) -> Self {
        let size = Winsize {
            ws_row: 40,
            ws_col: 160,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("there are terminals");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor can be had"));
        let child = Command::new(agent_path())
            .args(["top", "--interval", "0.5"])
            .args(cluster.instance(0))
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("it starts");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keys = File::from(pty.master);
        let (mut shown, all) = (
            keys.try_clone().expect("a descriptor can be had"),
            Arc::clone(&seen),
        );
        // It ends with the terminal.
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = shown.read(&mut part) {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend_from_slice(&part[..length]);
            }
        });
        Self {
            child,
            keys,
            slave: pty.slave,
            seen,
        }
    }

    fn seen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }

    fn wait(&self, text: &str) {
        let found = wait_for(SETTLED, text, || self.seen().contains(text));
        assert!(found.is_ok(), "{text:?} is not in {:?}", self.seen());
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it takes keys");
    }

    /// Whether lines are edited, and what is typed is shown.
    fn is_usual(&self) -> bool {
        let settings = tcgetattr(&self.slave).expect("it is a terminal");
        settings
            .local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits for the end, after which the terminal is as it was.
    fn ends(mut self) {
        let mut status = None;
        let ended = wait_for(Duration::from_secs(60), "it ends", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        if ended.is_err() {
            let _ = self.child.kill();
        }
        assert!(
            status.is_some_and(|status| status.success()),
            "{status:?}: {:?}",
            self.seen()
        );
        self.wait(LEAVE);
        assert!(self.is_usual(), "lines are edited again");
    }
}

/// What it draws of a node that serves `shop/shop`, where Services are counted or not.
pub(crate) fn check(cluster: &Cluster, is_counted: bool) {
    let (text, done) = cluster.agent(0, &["top"]);
    assert!(!done && text.contains("--once"), "no terminal: {text}");
    let (text, done) = cluster.agent(0, &["top", "--once", "-s", "shop/shop"]);
    assert!(
        done && text.contains("shop/shop:tcp") && text.contains("node1: "),
        "{text}"
    );
    assert_eq!(!text.contains("--service-counters"), is_counted, "{text}");
    let (text, done) = cluster.agent(0, &["top", "--once", "-s", "nobody"]);
    assert!(!done && text.contains("no Service `nobody`"), "{text}");

    let mut drawn = Drawn::begin(cluster);
    drawn.wait(ENTER);
    drawn.wait("shop/shop:tcp");
    assert!(!drawn.is_usual(), "keys are read one by one");
    drawn.wait("backends of ");
    // Only what changes is drawn anew: here what Services are sorted by.
    let names = |drawn: &Drawn| drawn.seen().matches("name").count();
    let before = names(&drawn);
    drawn.press("n");
    let sorted = wait_for(SETTLED, "it is sorted by name", || names(&drawn) > before);
    assert!(sorted.is_ok(), "{:?}", drawn.seen());
    drawn.press("\x1b[Bq");
    drawn.ends();

    let drawn = Drawn::begin(cluster);
    drawn.wait("shop/shop:tcp");
    let pid = Pid::from_raw(drawn.child.id() as i32);
    kill(pid, Signal::SIGTERM).expect("it runs");
    drawn.ends();
}
