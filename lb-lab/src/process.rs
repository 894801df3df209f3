//! Processes in a lab's namespaces: started, watched by their log, ended with the lab.
//!
//! A process is entered into its network namespace only: mounts, bpffs among them, stay visible. Should this
//! process die without cleaning up, the kernel ends the child.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::Netns, wait::wait_for};

/// A process that ends when the value is dropped, or with its lab; in a lab that is kept it lives on.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    outlive: bool,
    process: Mutex<std::process::Child>,
}

impl Child {
    /// Starts `argv` in `netns`; what it prints goes to the file `log`. With `outlive`, it is not ended by the
    /// kernel when this process dies.
    pub(crate) fn start(
        netns: &Netns,
        argv: &[impl AsRef<OsStr>],
        env: &[(&str, &str)],
        log: &Path,
        outlive: bool,
    ) -> Result<Self> {
        let program = argv.first().context("no program given")?.as_ref();
        let name = Path::new(program)
            .file_name()
            .unwrap_or(program)
            .to_string_lossy()
            .into_owned();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut words: Vec<OsString> = Vec::new();
        if !outlive {
            words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from));
        }
        words.extend([
            "nsenter".into(),
            format!("--net={}", netns.path().display()).into(),
            "--".into(),
        ]);
        words.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = spawn(command).with_context(|| format!("cannot start {name} in {}", netns.name()))?;
        Ok(Self {
            name,
            log: log.into(),
            outlive,
            process: Mutex::new(process),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(process.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        wait_for(limit, &format!("{} to end", self.name), || !self.is_running())?;
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process
            .wait()
            .with_context(|| format!("cannot learn how {} ended", self.name))
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // Not yet waited for: the id cannot have been given to another process.
        if let (Ok(None), Ok(pid)) = (process.try_wait(), i32::try_from(process.id())) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end, and ends it when `grace` is over.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let asked = wait_for(grace, &format!("{} to end after SIGTERM", self.name), || {
            !self.is_running()
        });
        self.kill();
        asked
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of its output.
    pub fn tail(&self, lines: usize) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until its output contains `text`; fails at once if it ends before that.
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> Result<()> {
        let printed = || self.tail(usize::MAX).contains(text);
        let waited = wait_for(limit, &format!("{} to print {text:?}", self.name), || {
            printed() || !self.is_running()
        });
        if printed() {
            return Ok(());
        }
        match waited {
            Ok(()) => bail!(
                "{} ended without printing {text:?}; it printed:\n{}",
                self.name,
                self.tail(20)
            ),
            Err(error) => Err(error.context(self.tail(20))),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.outlive {
            self.kill();
        }
    }
}

/// Starts a process from a thread that lives as long as this process: the kernel's "parent has died" means the
/// parent's thread, and callers' threads come and go.
fn spawn(command: Command) -> io::Result<std::process::Child> {
    type Order = (Command, mpsc::Sender<io::Result<std::process::Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, result) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .map_err(|_| gone(()))?;
    result.recv().map_err(|_| gone(()))?
}
