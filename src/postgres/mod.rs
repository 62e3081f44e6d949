//! The private Postgres: a cluster below the data folder, run from whatever server binaries the machine has, so that
//! Driftless starts without anybody setting up a database.
//!
//! Invariants: the cluster listens on a unix socket that only its own account reaches; a first start that is killed leaves
//! no half cluster (`data.init` becomes `data` by one rename); of the processes that share a data folder the last one to
//! leave stops the cluster, and a killed one stops nothing: its successor adopts what still runs.
//! Left out: what is in the database (`driftless_domain` migrates it) and any use of a server that somebody else runs.

mod account;
mod binaries;

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, Signal, geteuid, kill_process, test_kill_process},
};

/// A crash recovery replays the log of a busy server; that may take minutes.
const START_LIMIT: Duration = Duration::from_secs(300);
/// After a kill the old backends hold the shared memory for a moment.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// `/.s.PGSQL.5432` follows; the whole must fit into sun_path, 104 bytes on macOS, 108 on Linux.
const SOCKET_DIR_LIMIT: usize = 88;
const LOG_LIMIT: u64 = 16 << 20;

use self::account::{RunAs, choose_account, command_as, owner_of};
pub use self::binaries::npm_binaries;

/// What a caller asks for.
pub struct Options<'a> {
    /// The data folder of Driftless. The cluster is in its `postgres/`.
    pub data_dir: &'a Path,
    /// Use the server binaries in this folder and no others (DRIFTLESS_PG_BIN).
    pub bin: Option<&'a Path>,
    /// Folders to look into when the machine has no installed server: PATH, and what npm brought (`npm_binaries`).
    pub search: &'a [PathBuf],
    /// Nothing need outlive a crash: no fsync. For tests.
    pub throw_away: bool,
}

/// A share in the running cluster. Dropping the last one of all processes stops it.
pub struct PrivatePostgres {
    /// Where to connect: `postgres://driftless@<socket folder, percent-encoded>/postgres`.
    pub url: String,
    cluster: Cluster,
    /// Held shared while we use the cluster.
    users: File,
    /// The postmaster, when this process started it: it must be reaped.
    child: Option<Child>,
}

/// Makes the cluster if there is none, starts it if it does not run, and takes a share in it.
pub fn open(options: &Options) -> Result<PrivatePostgres> {
    let data_dir = make_data_dir(options.data_dir)?;
    // Starting and stopping exclude each other, so nobody adopts a cluster that is about to stop.
    let _turn = locked(&data_dir.join("postgres.lock"), FlockOperation::LockExclusive)?;
    let cluster = Cluster::locate(&data_dir, options)?;
    let (postmaster, child) = match cluster.postmaster() {
        Some(running) => (cluster.wait_until_ready(running.pid, None)?, None),
        None => cluster.start()?,
    };
    let users = locked(&data_dir.join("postgres.users"), FlockOperation::LockShared)?;
    let url = format!("postgres://driftless@{}/postgres", percent_encoded(&postmaster.socket_dir));
    Ok(PrivatePostgres { url, cluster, users, child })
}

impl PrivatePostgres {
    /// Starts the cluster again if it died under us, as the out-of-memory killer would have it. Answers whether it had to.
    #[allow(dead_code, reason = "xtask shares this module; its cluster need not outlive a crash")]
    pub fn revive(&mut self) -> Result<bool> {
        if self.cluster.postmaster().is_some() {
            return Ok(false);
        }
        let _turn = locked(&self.cluster.lock_path(), FlockOperation::LockExclusive)?;
        if self.cluster.postmaster().is_some() {
            return Ok(false);
        }
        let (_, child) = self.cluster.start()?;
        if let Some(mut dead) = std::mem::replace(&mut self.child, child) {
            let _ = dead.wait();
        }
        Ok(true)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // Whoever can't take its turn leaves the cluster running; the next start adopts it.
        let Ok(_turn) = locked(&self.cluster.lock_path(), FlockOperation::LockExclusive) else {
            return;
        };
        if flock(&self.users, FlockOperation::NonBlockingLockExclusive).is_ok() {
            self.cluster.stop();
            if let Some(child) = &mut self.child {
                let _ = child.wait();
            }
        }
    }
}

struct Cluster {
    /// `<data>/postgres`: the cluster, its log and, when the path is short enough, its socket.
    home: PathBuf,
    bin: PathBuf,
    run_as: RunAs,
    throw_away: bool,
}

/// What a running server says of itself in postmaster.pid.
struct Postmaster {
    pid: Pid,
    socket_dir: PathBuf,
    ready: bool,
}

impl Cluster {
    /// Finds binaries that fit and an account that may run them; makes the cluster if it is missing.
    fn locate(data_dir: &Path, options: &Options) -> Result<Self> {
        let home = data_dir.join("postgres");
        let data = home.join("data");
        let made_by = match fs::read_to_string(data.join("PG_VERSION")) {
            Ok(text) => Some(
                binaries::leading_number(&text)
                    .with_context(|| format!("{}/PG_VERSION names no version", data.display()))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}/PG_VERSION", data.display()));
            }
        };
        let bin = binaries::find(options, made_by, &data)?;
        if made_by.is_none() && !home.exists() {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&home)
                .with_context(|| format!("cannot make {}", home.display()))?;
        }
        let run_as = match made_by {
            Some(_) => owner_of(&data)?,
            None => choose_account(&bin, &home, options.throw_away)?,
        };
        let cluster = Self { home, bin, run_as, throw_away: options.throw_away };
        if made_by.is_none() {
            cluster.make()?;
        }
        Ok(cluster)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn lock_path(&self) -> PathBuf {
        self.home.with_file_name("postgres.lock")
    }

    fn make(&self) -> Result<()> {
        let half = self.home.join("data.init");
        match fs::remove_dir_all(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the unfinished {}", half.display()));
            }
            _ => {}
        }
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&half).args([
            "-U",
            "driftless",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-instructions",
        ]);
        if self.throw_away {
            initdb.arg("--no-sync");
        }
        let output = initdb.output().with_context(|| format!("cannot run {}", self.bin.join("initdb").display()))?;
        ensure!(
            output.status.success(),
            "initdb could not make the private Postgres in {}: {}{}",
            self.home.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(&half, self.data()).context("cannot move the new cluster into its place")?;
        File::open(&self.home).and_then(|folder| folder.sync_all()).context("cannot sync the cluster's folder")
    }

    /// Starts the server directly: `pg_ctl` would pass the paths through a shell.
    fn start(&self) -> Result<(Postmaster, Option<Child>)> {
        let socket_dir = self.socket_dir()?;
        let begun = Instant::now();
        loop {
            self.remove_stale_pid_file();
            let mut child = self.spawn(&socket_dir)?;
            let pid = Pid::from_child(&child);
            let Err(error) = self.wait_until_ready(pid, Some(&mut child)) else {
                let postmaster = self.postmaster().context("the private Postgres stopped right after its start")?;
                return Ok((postmaster, Some(child)));
            };
            if begun.elapsed() > LEFTOVER_LIMIT || !self.log_tail().contains("shared memory block") {
                return Err(error);
            }
            thread::sleep(POLL * 5);
        }
    }

    fn spawn(&self, socket_dir: &Path) -> Result<Child> {
        let log_path = self.log_path();
        if fs::metadata(&log_path).is_ok_and(|log| log.len() > LOG_LIMIT) {
            fs::rename(&log_path, self.home.join("postgres.log.1")).context("cannot set the old postgres.log aside")?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .with_context(|| format!("cannot open {}", log_path.display()))?;
        let mut server = self.command("postgres");
        server
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-k"])
            .arg(socket_dir);
        if self.throw_away {
            server.args([
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "max_connections=300",
            ]);
        }
        server
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for us; we stop the server when we are done with it
            .spawn()
            .with_context(|| format!("cannot run {}", self.bin.join("postgres").display()))
    }

    fn wait_until_ready(&self, pid: Pid, mut child: Option<&mut Child>) -> Result<Postmaster> {
        let begun = Instant::now();
        loop {
            match self.postmaster() {
                Some(postmaster) if postmaster.pid == pid && postmaster.ready => {
                    return Ok(postmaster);
                }
                None if child.is_none() => {
                    bail!("the private Postgres in {} stopped while it started: try again", self.home.display())
                }
                _ => {}
            }
            if let Some(child) = child.as_deref_mut()
                && let Some(status) = child.try_wait().context("cannot wait for the private Postgres")?
            {
                return Err(self.start_failure(status));
            }
            ensure!(
                begun.elapsed() < START_LIMIT,
                "the private Postgres did not get ready within 5 minutes; its log is {}",
                self.log_path().display()
            );
            thread::sleep(POLL);
        }
    }

    fn start_failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!(
            "the private Postgres in {} did not start ({status}); the end of its log:\n{}",
            self.home.display(),
            self.log_tail()
        )
    }

    /// Ends all sessions and waits for the shutdown checkpoint.
    fn stop(&self) {
        let Some(postmaster) = self.postmaster() else {
            return;
        };
        let begun = Instant::now();
        if kill_process(postmaster.pid, Signal::INT).is_ok() {
            while begun.elapsed() < STOP_LIMIT && self.postmaster().is_some_and(|still| still.pid == postmaster.pid) {
                thread::sleep(POLL);
            }
        }
    }

    /// The server of this cluster, if it runs: a process id alone proves nothing after a crash or in a new container.
    fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let pid = Pid::from_raw(lines.first()?.trim().parse().ok()?)?;
        let ours = match test_kill_process(pid) {
            Ok(()) | Err(Errno::PERM) => works_in(pid, &self.data()),
            Err(_) => false,
        };
        ours.then(|| Postmaster {
            pid,
            socket_dir: PathBuf::from(lines.get(4).copied().unwrap_or_default()),
            ready: lines.get(7).is_some_and(|status| status.trim() == "ready"),
        })
    }

    /// Postgres itself clears up after a crash unless the number in postmaster.pid belongs to some other process by now,
    /// as it does in a container that counts from 1 at each start. Backends that still live keep the file.
    fn remove_stale_pid_file(&self) {
        if self.postmaster().is_some() || !cfg!(target_os = "linux") || lives_in(&self.data()) {
            return;
        }
        let path = self.data().join("postmaster.pid");
        if let Ok(text) = fs::read_to_string(&path) {
            if let Some(socket_dir) = text.lines().nth(4) {
                let _ = fs::remove_file(Path::new(socket_dir).join(".s.PGSQL.5432.lock"));
            }
            let _ = fs::remove_file(path);
        }
    }

    /// Its own folder, or one below /tmp when the path is too long for a socket or has characters that Postgres would read
    /// as syntax.
    fn socket_dir(&self) -> Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if self.home.to_str().is_some_and(|path| path.len() <= SOCKET_DIR_LIMIT && path.bytes().all(plain)) {
            return Ok(self.home.clone());
        }
        let owner = fs::metadata(self.data()).with_context(|| format!("cannot look at {}", self.data().display()))?;
        let short = PathBuf::from(format!("/tmp/driftless-{:x}-{:x}", owner.dev(), owner.ino()));
        match fs::DirBuilder::new().mode(0o700).create(&short) {
            Ok(()) => chown(&short, Some(owner.uid()), Some(owner.gid()))
                .with_context(|| format!("cannot hand over {}", short.display()))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", short.display()));
            }
        }
        // Anybody may have made it before us.
        let found = fs::symlink_metadata(&short).with_context(|| format!("cannot look at {}", short.display()))?;
        ensure!(
            found.is_dir() && found.uid() == owner.uid() && found.mode() & 0o077 == 0,
            "{} must be a folder of the account that runs Postgres and closed to all others: remove it, or choose a shorter DRIFTLESS_DATA_DIR",
            short.display()
        );
        Ok(short)
    }

    fn command(&self, program: &str) -> Command {
        command_as(self.run_as, &self.bin.join(program))
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// True unless it is plain that the process works elsewhere: a Postgres process works in its data folder.
fn works_in(pid: Pid, data: &Path) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    match fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
        Ok(place) => data.canonicalize().is_ok_and(|data| place == data),
        Err(error) => error.kind() != io::ErrorKind::NotFound, // not found: a zombie
    }
}

/// Whether any process works in the data folder (Linux).
fn lives_in(data: &Path) -> bool {
    let Ok(data) = data.canonicalize() else {
        return true;
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|place| place == data))
}

/// The data folder, made if it is missing. The account that runs Postgres for root must be able to pass through it.
fn make_data_dir(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the data folder {} (DRIFTLESS_DATA_DIR)", path.display()))?;
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot close {}", path.display()))?;
    }
    path.canonicalize().with_context(|| format!("cannot reach the data folder {} (DRIFTLESS_DATA_DIR)", path.display()))
}

fn locked(path: &Path, operation: FlockOperation) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn percent_encoded(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |mut url, &byte| {
        if byte.is_ascii_alphanumeric() {
            url.push(byte.into());
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
        url
    })
}
