//! An API server of one test's or scenario's own: on free ports, in a directory of its own, ended with the value.
//!
//! Found by `LB_ENVTEST` (a folder with `run.sh`), else `KUBEBUILDER_ASSETS` (a folder with `etcd` and
//! `kube-apiserver`), else `../shared/envtest` beside the workspace.

mod request;

use std::{
    env, fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub use request::Request;

/// The file with the process ids of what was started.
const PIDS: &str = "pids";
/// The file that keeps the folder when all has ended.
const KEEP: &str = "keep";
/// Its log, where the script starts it.
const LOG: &str = "apiserver.log";
/// Where it listens, unless told otherwise.
const LOOPBACK: &str = "127.0.0.1";
/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// How servers are started here.
#[derive(Clone, Debug)]
enum Kit {
    /// `run.sh DATA_DIR`, see the README of that folder.
    Script(PathBuf),
    /// The folder with the standard binaries.
    Binaries(PathBuf),
}

/// A running server, which ends when this is dropped.
pub struct ApiServer {
    kit: Kit,
    folder: PathBuf,
    gates: String,
    service_cidrs: String,
    bind: &'static str,
    port: u16,
    etcd_port: u16,
    processes: Vec<Child>,
}

/// Why there is none.
pub const NONE_FOUND: &str = "no API server to test against: set LB_ENVTEST to a folder with run.sh, or \
    KUBEBUILDER_ASSETS to one with etcd and kube-apiserver";

impl ApiServer {
    /// A server with an empty store; `None` if there is no kit.
    ///
    /// `gates` are feature gates, as `Name=true|false`.
    ///
    /// # Panics
    /// If there is a kit, and it does not work.
    pub fn start(gates: &str) -> Option<Self> {
        let kit = Kit::find()?;
        Some(Self::start_kit(kit, gates, "", LOOPBACK).unwrap_or_else(|error| panic!("{error:#}")))
    }

    /// A server that has ClusterIPs of these ranges, with commas between them; `None` if there is no kit.
    pub fn with_service_cidrs(ranges: &str) -> Result<Option<Self>> {
        Kit::find()
            .map(|kit| Self::start_kit(kit, "", ranges, LOOPBACK))
            .transpose()
    }

    /// A server that listens on all addresses, where it is started; `None` if there is no kit.
    pub fn on_all_addresses() -> Result<Option<Self>> {
        Kit::find()
            .map(|kit| Self::start_kit(kit, "", "", "0.0.0.0"))
            .transpose()
    }

    fn start_kit(kit: Kit, gates: &str, service_cidrs: &str, bind: &'static str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("lb-apiserver-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let [port, etcd_port] = free_ports()?;
        let mut server = Self {
            kit,
            folder,
            gates: gates.into(),
            service_cidrs: service_cidrs.into(),
            bind,
            port,
            etcd_port,
            processes: Vec::new(),
        };
        server.guard()?;
        server.launch()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// What it was asked, as far as it has answered: a watch counts once it has ended.
    pub fn requests(&self) -> Vec<Request> {
        let log = match self.kit {
            Kit::Script(_) => self.folder.join(LOG),
            Kit::Binaries(_) => self.folder.join("log1"),
        };
        let log = fs::read(log).unwrap_or_default();
        String::from_utf8_lossy(&log)
            .lines()
            .filter_map(Request::from_line)
            .collect()
    }

    /// The same with another token.
    pub fn kubeconfig_with_token(&self, token: &str) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).unwrap_or_default();
        let lines = text.lines().map(|line| match line.split_once("token: ") {
            Some((indent, _)) => format!("{indent}token: {token}"),
            None => line.to_owned(),
        });
        let path = self.folder.join("kubeconfig-other");
        // What cannot be written cannot be read either: the client says so.
        let _ = fs::write(&path, lines.collect::<Vec<_>>().join("\n"));
        path
    }

    /// Ends the API server and its store as a crash would: a polite end waits a minute for open watches.
    pub fn stop(&mut self) {
        let kill = |pid: &str| Command::new("kill").args(["-KILL", pid]).status();
        // The script notices that the processes it started have ended, and ends too.
        let started = fs::read_to_string(self.folder.join(PIDS)).unwrap_or_default();
        for pid in started.split_whitespace().rev() {
            let _ = kill(pid);
        }
        for mut process in self.processes.drain(..).rev() {
            if let Kit::Binaries(_) = self.kit {
                let _ = kill(&process.id().to_string());
            }
            let _ = process.wait();
        }
        let _ = fs::remove_file(self.folder.join(PIDS));
    }

    /// Starts them again, on the same ports and data.
    ///
    /// # Panics
    /// If they do not start.
    pub fn run(&mut self) {
        self.launch().unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn launch(&mut self) -> Result<()> {
        let commands = match &self.kit {
            Kit::Script(script) => vec![self.script(script)],
            Kit::Binaries(folder) => self.standard(folder)?,
        };
        let mut pids = String::new();
        for (number, mut command) in commands.into_iter().enumerate() {
            let log = fs::File::create(self.folder.join(format!("log{number}")))?;
            let same = log.try_clone()?;
            let process = command.stdin(Stdio::null()).stdout(log).stderr(same).spawn();
            let process = process.context("the API server's kit is not complete")?;
            pids.push_str(&format!("{} ", process.id()));
            self.processes.push(process);
        }
        if let Kit::Binaries(_) = self.kit {
            fs::write(self.folder.join(PIDS), pids)?;
        }
        let deadline = Instant::now() + START;
        while !self.is_ready() {
            ensure!(
                Instant::now() < deadline,
                "the API server is not ready; see {}",
                self.folder.display()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the server should this process die without doing so, whatever it dies of.
    fn guard(&self) -> io::Result<()> {
        let watch = "while kill -0 $0 2>/dev/null && [ -d \"$1\" ]; do sleep 1; done; \
                     [ -d \"$1\" ] && kill -KILL $(cat \"$1/pids\") 2>/dev/null; \
                     [ -e \"$1/keep\" ] || rm -rf \"$1\"";
        let mut guard = Command::new("setsid");
        guard.args(["-f", "sh", "-c", watch, &std::process::id().to_string()]);
        guard.arg(&self.folder);
        let null = || Stdio::null();
        guard
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .status()
            .map(drop)
    }

    fn script(&self, script: &Path) -> Command {
        let mut command = Command::new(script);
        command.arg(&self.folder).env("PORT", self.port.to_string());
        command
            .env("BIND", self.bind)
            .env("ETCD_PORT", self.etcd_port.to_string())
            .env_remove("DAEMON");
        // Every request is in the log.
        command.args(["-v", "3"]);
        for (flag, value) in [
            ("-feature-gates", &self.gates),
            ("-service-cidr", &self.service_cidrs),
        ] {
            if !value.is_empty() {
                command.args([flag, value]);
            }
        }
        // The script writes it when the server can be asked.
        let _ = fs::remove_file(self.kubeconfig());
        command
    }

    fn standard(&self, kit: &Path) -> Result<Vec<Command>> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let store = format!("http://127.0.0.1:{}", self.etcd_port);
        let [peer, _] = free_ports()?;
        let mut etcd = Command::new(kit.join("etcd"));
        etcd.args([
            "--unsafe-no-fsync",
            "--data-dir",
            &path("etcd"),
            "--listen-client-urls",
            &store,
        ]);
        etcd.args([
            "--advertise-client-urls",
            &store,
            "--listen-peer-urls",
            &format!("http://127.0.0.1:{peer}"),
        ]);

        let server = format!("https://127.0.0.1:{}", self.port);
        fs::write(path("tokens.csv"), "admin,admin,admin,system:masters\n")?;
        fs::write(self.kubeconfig(), KUBECONFIG.replace("SERVER", &server))?;
        if !self.folder.join("sa.key").exists() {
            let made = Command::new("openssl")
                .args(["genrsa", "-out", &path("sa.key"), "2048"])
                .output();
            ensure!(
                made.is_ok_and(|made| made.status.success()),
                "openssl is needed to make a key for the API server"
            );
        }
        let ranges = match &*self.service_cidrs {
            "" => "10.96.0.0/16",
            ranges => ranges,
        };
        let mut apiserver = Command::new(kit.join("kube-apiserver"));
        for (flag, value) in [
            ("etcd-servers", store),
            ("secure-port", self.port.to_string()),
            ("bind-address", self.bind.into()),
            ("cert-dir", path("pki")),
            ("token-auth-file", path("tokens.csv")),
            ("authorization-mode", "RBAC".into()),
            ("service-cluster-ip-range", ranges.into()),
            ("service-account-issuer", server),
            ("service-account-key-file", path("sa.key")),
            ("service-account-signing-key-file", path("sa.key")),
            ("disable-admission-plugins", "ServiceAccount".into()),
            ("feature-gates", self.gates.clone()),
            ("v", "3".into()),
        ] {
            if !value.is_empty() {
                apiserver.arg(format!("--{flag}={value}"));
            }
        }
        Ok(vec![etcd, apiserver])
    }

    fn is_ready(&self) -> bool {
        let url = format!("https://127.0.0.1:{}/readyz", self.port);
        let answer = Command::new("curl").args(["-ksm", "2", &url]).output();
        self.kubeconfig().exists() && answer.is_ok_and(|answer| answer.stdout == b"ok")
    }
}

impl Kit {
    fn find() -> Option<Self> {
        let script = |folder: PathBuf| {
            Some(folder.join("run.sh"))
                .filter(|path| path.exists())
                .map(Self::Script)
        };
        if let Some(folder) = env::var_os("LB_ENVTEST") {
            return script(folder.into());
        }
        if let Some(folder) = env::var_os("KUBEBUILDER_ASSETS") {
            return Some(PathBuf::from(folder))
                .filter(|path| path.join("etcd").exists())
                .map(Self::Binaries);
        }
        script(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/envtest"))
    }
}

/// Two ports that nobody listens on. Another process might take one before we do; it has not happened yet.
fn free_ports() -> Result<[u16; 2]> {
    let mut ports = [0; 2];
    let mut bound = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("loopback has no free port")?;
        *port = listener.local_addr()?.port();
        bound.push(listener);
    }
    Ok(ports)
}

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: 'SERVER', insecure-skip-tls-verify: true}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
users:
- name: test
  user:
    token: admin
";

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
        let _ = if std::thread::panicking() {
            // Its logs may say why.
            fs::write(self.folder.join(KEEP), "")
        } else {
            fs::remove_dir_all(&self.folder)
        };
    }
}
