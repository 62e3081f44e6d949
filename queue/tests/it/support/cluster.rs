//! Throw-away Postgres clusters from the installed binaries.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Weak},
};

use tempfile::TempDir;

/// A server of this test's own. Stops with its last handle.
pub struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    account: Option<(u32, u32)>,
}

/// URL of the server that tests share; the cluster, if it is ours, lives until the process ends.
pub fn shared() -> String {
    static OURS: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    static KEEP: Mutex<Option<Guard>> = Mutex::new(None);
    if let Ok(url) = std::env::var("DRIFTLESS_TEST_DATABASE_URL") {
        return url;
    }
    let mut ours = OURS.lock().unwrap();
    if let Some(cluster) = ours.upgrade() {
        return cluster.url();
    }
    let cluster = Arc::new(Cluster::start());
    *ours = Arc::downgrade(&cluster);
    let url = cluster.url();
    *KEEP.lock().unwrap() = Some(Guard::new(&cluster));
    std::mem::forget(cluster);
    url
}

/// Statics are never dropped: a shell waits for the end of this process and stops the cluster then.
struct Guard {
    _shell: Child,
}

impl Guard {
    fn new(cluster: &Cluster) -> Self {
        let script =
            "while ps -p \"$1\" >/dev/null; do sleep 0.2; done; \"$2\" -D \"$3\" -m immediate stop; rm -rf \"$4\"";
        let shell = cluster
            .command("/bin/sh")
            .args(["-c", script, "sh", &std::process::id().to_string()])
            .arg(cluster.bin.join("pg_ctl"))
            .arg(cluster.data())
            .arg(cluster.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { _shell: shell }
    }
}

impl Cluster {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("queue-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let cluster = Self { bin: newest_bin(), account: account(), folder };
        if let Some((uid, gid)) = cluster.account {
            std::os::unix::fs::chown(cluster.folder.path(), Some(uid), Some(gid)).unwrap();
        }
        cluster.run("initdb", &["-U", "app", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        cluster.up();
        cluster
    }

    pub fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://app@{folder}/postgres")
    }

    pub fn up(&self) {
        let socket = self.folder.path().display();
        // Durable as in life: outages are part of the tests.
        let options = format!("-c listen_addresses='' -c max_connections=200 -k '{socket}'");
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["-t", "300", "-o", &options, "-l", log.to_str().unwrap(), "start"]);
    }

    /// As a crash: no checkpoint, no goodbye.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-t", "300", "-m", "immediate", "stop"]);
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.command(self.bin.join(program).to_str().unwrap());
        command.arg("-D").arg(self.data()).args(arguments);
        // A server inherits what pg_ctl had: pipes would never close.
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(done.success(), "{program} {arguments:?} failed");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = self.command(self.bin.join("pg_ctl").to_str().unwrap());
        let _ = stop.arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).stdout(Stdio::null()).status();
    }
}

fn newest_bin() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> =
        found.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin")))).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).find(|bin| bin.join("initdb").is_file());
    found.pop().map(|(_, bin)| bin).or_else(on_path).expect("install Postgres, or name its folder on PATH")
}

/// Postgres refuses to run as root: then as `postgres`, else as `nobody`.
fn account() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata(Path::new("/proc/self")).unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = passwd.lines().find(|l| l.starts_with(&format!("{name}:")))?;
        let fields: Vec<_> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}
