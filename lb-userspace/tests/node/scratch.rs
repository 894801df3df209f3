//! A network namespace for one test, and a directory of pins; both are removed with the value.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use lb_userspace::load::{
    self, Capacities, ConnectHooks, Options, PinDirectory, SocketOptions, TcAttach, UplinkHook,
};
use nix::sched::{CloneFlags, setns};

pub(crate) const BPFFS: &str = "/sys/fs/bpf";

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Scratch {
    name: String,
}

impl Scratch {
    /// `None`, loudly, where the test cannot run.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !lb_lab::require_root(test) {
            return None;
        }
        let name = format!(
            "nd-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        command(&["ip", "netns", "add", &name]);
        let scratch = Self { name };
        scratch.ip("link set lo up");
        Some(scratch)
    }

    /// As [`Scratch::new`], for tests of the embedded object.
    pub(crate) fn with_object(test: &str) -> Option<Self> {
        if load::embedded().is_err() {
            lb_lab::skip(&format!("{test}: built without the eBPF object (LB_EBPF_OBJECT)"));
            return None;
        }
        Self::new(test)
    }

    /// The namespace's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside, with these words.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut argv = vec!["ip", "-n", &self.name];
        argv.extend(words.split(' '));
        command(&argv)
    }

    /// Runs a future inside, on a thread of its own with a runtime of its own.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A kernel setting inside.
    pub(crate) fn setting(&self, name: &str) -> String {
        let path = PathBuf::from("/proc/sys/net").join(name);
        // At once: of a list the kernel gives the rest to nobody.
        let read = async || {
            let mut text = vec![0; 1 << 16];
            let length = std::fs::File::open(path).and_then(|mut file| file.read(&mut text));
            text.truncate(length.unwrap());
            String::from_utf8(text).unwrap().trim().to_owned()
        };
        self.run(read)
    }

    /// Changes one.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys/net").join(name);
        self.run(async || std::fs::write(path, value).unwrap());
    }

    /// Index of a device inside.
    pub(crate) fn index(&self, device: &str) -> u32 {
        let text = self.ip(&format!("-o link show dev {device}"));
        text.split(':').next().unwrap().parse().unwrap()
    }

    /// Where this test pins: named like the namespace.
    pub(crate) fn directory(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.name)
    }

    /// What to load: small maps, for tests run side by side.
    pub(crate) fn options(&self, tc_attach: TcAttach) -> Options {
        let pins = PinDirectory::new(Path::new(BPFFS), &self.name).unwrap();
        Options {
            pins,
            capacities: Capacities::default().with_flows(2048),
            tc_attach,
            hook: UplinkHook::Tc,
            sockets: SocketOptions {
                cgroup: None,
                connect: ConnectHooks::Off,
            },
            service_counters: false,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.directory());
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn command(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", argv.join(" "));
    String::from_utf8(output.stdout).unwrap()
}
