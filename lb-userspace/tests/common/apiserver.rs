//! An API server of one test's own: on free ports, in a directory of its own, ended with the test.
//!
//! Found by `LB_ENVTEST` (a folder with `run.sh`), else `KUBEBUILDER_ASSETS` (a folder with `etcd` and
//! `kube-apiserver`), else `../shared/envtest` beside the workspace.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How servers are started here.
#[derive(Clone, Debug)]
enum Kit {
    /// `run.sh DATA_DIR`, see the README of that folder.
    Script(PathBuf),
    /// The folder with the standard binaries.
    Binaries(PathBuf),
}

/// A running server, which ends when this is dropped.
pub(crate) struct ApiServer {
    kit: Kit,
    folder: PathBuf,
    gates: String,
    port: u16,
    etcd_port: u16,
    processes: Vec<Child>,
}

/// Why there is none.
pub(crate) const NONE_FOUND: &str = "no API server to test against: set LB_ENVTEST to a folder with run.sh, or \
    KUBEBUILDER_ASSETS to one with etcd and kube-apiserver";

impl ApiServer {
    /// A server with an empty store; `None` if there is no kit.
    ///
    /// `gates` are feature gates, as `Name=true|false`.
    pub(crate) fn start(gates: &str) -> Option<Self> {
        let kit = Kit::find()?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("lb-apiserver-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the temporary directory is writable");
        let [port, etcd_port] = free_ports();
        let mut server = Self {
            kit,
            folder,
            gates: gates.into(),
            port,
            etcd_port,
            processes: Vec::new(),
        };
        server.run();
        Some(server)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The same with another token.
    pub(crate) fn kubeconfig_with_token(&self, token: &str) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).expect("the server has written it");
        let lines = text.lines().map(|line| match line.split_once("token: ") {
            Some((indent, _)) => format!("{indent}token: {token}"),
            None => line.to_owned(),
        });
        let path = self.folder.join("kubeconfig-other");
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).expect("the folder is writable");
        path
    }

    /// Ends the API server and its store as a crash would: a polite end waits a minute for open watches.
    pub(crate) fn stop(&mut self) {
        let kill = |pid: &str| Command::new("kill").args(["-KILL", pid]).status();
        // The script notices that the processes it started have ended, and ends too.
        let started = fs::read_to_string(self.folder.join("pids")).unwrap_or_default();
        for pid in started.split_whitespace().rev() {
            let _ = kill(pid);
        }
        for mut process in self.processes.drain(..).rev() {
            if let Kit::Binaries(_) = self.kit {
                let _ = kill(&process.id().to_string());
            }
            process.wait().expect("it is our child");
        }
        let _ = fs::remove_file(self.folder.join("pids"));
    }

    /// Starts them again, on the same ports and data.
    pub(crate) fn run(&mut self) {
        let commands = match &self.kit {
            Kit::Script(script) => vec![self.script(script)],
            Kit::Binaries(folder) => self.standard(folder),
        };
        for (number, mut command) in commands.into_iter().enumerate() {
            let log =
                fs::File::create(self.folder.join(format!("log{number}"))).expect("the folder is writable");
            let same = log.try_clone().expect("files can be cloned");
            let process = command.stdin(Stdio::null()).stdout(log).stderr(same).spawn();
            self.processes.push(process.expect("the kit is complete"));
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_ready() {
            assert!(
                Instant::now() < deadline,
                "the API server is not ready; see {}",
                self.folder.display()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn script(&self, script: &Path) -> Command {
        let mut command = Command::new(script);
        command.arg(&self.folder).env("PORT", self.port.to_string());
        command
            .env("ETCD_PORT", self.etcd_port.to_string())
            .env_remove("DAEMON");
        if !self.gates.is_empty() {
            command.args(["-feature-gates", &self.gates]);
        }
        // The script writes it when the server can be asked.
        let _ = fs::remove_file(self.kubeconfig());
        command
    }

    fn standard(&self, kit: &Path) -> Vec<Command> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let store = format!("http://127.0.0.1:{}", self.etcd_port);
        let [peer, _] = free_ports();
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
        fs::write(path("tokens.csv"), "admin,admin,admin,system:masters\n").expect("the folder is writable");
        fs::write(self.kubeconfig(), KUBECONFIG.replace("SERVER", &server)).expect("the folder is writable");
        if !self.folder.join("sa.key").exists() {
            let made = Command::new("openssl")
                .args(["genrsa", "-out", &path("sa.key"), "2048"])
                .output();
            assert!(
                made.is_ok_and(|made| made.status.success()),
                "openssl makes a key"
            );
        }
        let mut apiserver = Command::new(kit.join("kube-apiserver"));
        for (flag, value) in [
            ("etcd-servers", store),
            ("secure-port", self.port.to_string()),
            ("bind-address", "127.0.0.1".into()),
            ("cert-dir", path("pki")),
            ("token-auth-file", path("tokens.csv")),
            ("authorization-mode", "RBAC".into()),
            ("service-cluster-ip-range", "10.96.0.0/16".into()),
            ("service-account-issuer", server),
            ("service-account-key-file", path("sa.key")),
            ("service-account-signing-key-file", path("sa.key")),
            ("disable-admission-plugins", "ServiceAccount".into()),
            ("feature-gates", self.gates.clone()),
        ] {
            if !value.is_empty() {
                apiserver.arg(format!("--{flag}={value}"));
            }
        }
        vec![etcd, apiserver]
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
fn free_ports() -> [u16; 2] {
    let bound = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"));
    bound.map(|listener| listener.local_addr().expect("it is bound").port())
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
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
