//! What a container runtime makes of the manifest, for the agent's sake: a read-only root that has nothing but mounts,
//! `/proc/sys` read-only, `/proc/timer_list` masked, a read-only `/sys`, the node's directories that are asked for, the
//! capabilities that are asked for.
//!
//! *Not here*: seccomp, AppArmor, SELinux: their profiles are the runtime's.

use std::{path::Path, process::Command, sync::Arc};

use lb_lab::{Child, Lab};

use super::manifest::Pod;
use crate::cluster::agent_path;

/// Arguments: the root; lines `HOST PATH ro|rw` of mounts; capabilities for setpriv; then the program.
const SCRIPT: &str = r#"
set -e
root=$1 mounts=$2 capabilities=$3
shift 3
mount -t tmpfs tmpfs "$root"
# The agent of a test is linked to the machine's libraries, and setpriv is called inside.
for folder in usr lib lib64 bin; do
    [ -e "/$folder" ] || continue
    mkdir "$root/$folder"
    mount --bind "/$folder" "$root/$folder"
    mount -o remount,ro,bind "$root/$folder"
done
mkdir "$root/proc" "$root/sys"
mount --rbind /proc "$root/proc"
mount --bind /proc/sys "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount --bind /dev/null "$root/proc/timer_list"
mount -t sysfs -o ro sysfs "$root/sys"
echo "$mounts" | while read -r host path mode; do
    if [ -d "$host" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; touch "$root$path"; fi
    mount --bind "$host" "$root$path"
    [ "$mode" = rw ] || mount -o remount,ro,bind "$root$path"
done
mount -o remount,ro "$root"
exec chroot "$root" setpriv --no-new-privs --inh-caps -all --bounding-set "$capabilities" -- "$@"
"#;

/// One node's agent in its container.
pub(super) struct Sandbox<'a> {
    lab: &'a Lab,
    node: &'a str,
    pod: Pod,
}

impl<'a> Sandbox<'a> {
    pub(super) fn new(lab: &'a Lab, node: &'a str) -> Self {
        let pod = Pod::read();
        let sandbox = Self { lab, node, pod };
        for folder in ["root", "run"] {
            std::fs::create_dir_all(lab.folder().join(folder)).expect("the lab's folder can be written");
        }
        sandbox
    }

    pub(super) fn capabilities(&self) -> Vec<String> {
        self.pod.capabilities()
    }

    /// The command line that starts `words` in the container, with these capabilities.
    fn argv(&self, capabilities: &[String], words: &[String]) -> Vec<String> {
        let folder = self.lab.folder();
        let cgroup = self.lab.cgroup(self.node).expect("the node has a cgroup");
        let mut mounts = vec![format!("{} /lb-agent ro", agent_path().display())];
        for mount in self.pod.mounts() {
            // Several nodes share this machine: what is one per machine is the lab's.
            let host = match &*mount.host {
                "/sys/fs/cgroup" => cgroup.clone(),
                "/run/lb" => folder.join("run"),
                host => Path::new(host).to_owned(),
            };
            let mode = if mount.read_only { "ro" } else { "rw" };
            mounts.push(format!("{} {} {mode}", host.display(), mount.path));
        }
        mounts.push(format!("{} /manifests ro", folder.join("manifests").display()));
        let all: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let start = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ];
        let mut argv: Vec<String> = start.map(str::to_owned).into();
        argv.push(folder.join("root").to_string_lossy().into_owned());
        argv.push(mounts.join("\n"));
        argv.push(format!("-all{all}"));
        argv.push("/lb-agent".into());
        argv.extend_from_slice(words);
        argv.extend(["--instance".into(), self.instance()]);
        argv
    }

    fn instance(&self) -> String {
        format!("{}{}", self.lab.prefix(), self.node)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut environment: Vec<_> = self.pod.environment(self.node).into_iter().collect();
        environment.push(("RUST_BACKTRACE".into(), "0".into()));
        environment
    }

    /// Starts the container with these arguments more.
    pub(super) fn start(&self, capabilities: &[String], more: &[String]) -> Arc<Child> {
        let words = [&self.pod.arguments(), more].concat();
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(|(k, v)| (&**k, &**v)).collect();
        let child = self
            .lab
            .spawn(self.node, &self.argv(capabilities, &words), &environment);
        child.expect("unshare is there")
    }

    /// Runs another command of the agent in such a container: what it says, and whether it succeeds.
    pub(super) fn execute(&self, words: &[&str]) -> (String, bool) {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let place = self.lab.at(self.node).expect("the node is there");
        let output = Command::new("nsenter")
            .arg(format!("--net={}", place.netns().path().display()))
            .arg("--")
            .args(self.argv(&self.capabilities(), &words))
            .envs(self.environment())
            .output()
            .expect("nsenter is there");
        let said = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&said).into_owned(),
            output.status.success(),
        )
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // A test that fails leaves nothing in the kernel either.
        let place = self.lab.at(self.node).expect("the node is there");
        let _ = Command::new("nsenter")
            .arg(format!("--net={}", place.netns().path().display()))
            .arg(agent_path())
            .args(["detach", "--instance", &self.instance(), "--run-dir"])
            .arg(self.lab.folder().join("run"))
            .output();
    }
}
