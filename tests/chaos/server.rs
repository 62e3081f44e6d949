//! The Postgres that everybody depends on: stopped like a crash, started again, and left without room on its disk.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

use crate::postgres::{self, Options, PrivatePostgres};

/// How long it may take to stop, or to come back when there is room again.
const PATIENCE: Duration = Duration::from_secs(120);

/// The disk that can be filled.
const DISK: &str = "size=2g,mode=0711";

/// A durable cluster in a folder of its own, on a disk of its own where this process may mount one.
pub struct Server {
    pub url: String,
    pub data_dir: PathBuf,
    search: Vec<PathBuf>,
    /// Shares in servers that were stopped under us are kept, so that nobody stops the present one.
    shares: Vec<PrivatePostgres>,
    disk: Result<Disk, String>,
    _folder: TempDir,
}

impl Server {
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("driftless-chaos-")?;
        open_passage(folder.path())?;
        let data_dir = folder.path().join("data");
        fs::create_dir(&data_dir)?;
        open_passage(&data_dir)?;
        let disk = Disk::mount(&data_dir);
        let search = env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .chain([postgres::npm_binaries(env!("CARGO_MANIFEST_DIR").as_ref())])
            .collect();
        let mut server = Server { url: String::new(), data_dir, search, shares: Vec::new(), disk, _folder: folder };
        server.open()?;
        Ok(server)
    }

    /// Starts it if it does not run.
    pub fn open(&mut self) -> Result<()> {
        // Not a throw-away cluster: an immediate stop is a crash, and what was committed must be there afterwards.
        let options = Options { data_dir: &self.data_dir, bin: None, search: &self.search, throw_away: false };
        let share = postgres::open(&options)?;
        self.url.clone_from(&share.url);
        self.shares.push(share);
        Ok(())
    }

    /// SIGQUIT to the postmaster is an immediate stop: no checkpoint, recovery at the next start.
    pub async fn crash(&self) -> Result<()> {
        let file = self.data_dir.join("postgres/data/postmaster.pid");
        let text = fs::read_to_string(&file).context("Postgres should run")?;
        let pid = text.lines().next().and_then(|l| l.parse().ok()).and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::QUIT).context("Postgres can't be stopped")?;
        let end = Instant::now() + PATIENCE;
        while file.exists() {
            if Instant::now() > end {
                bail!("Postgres did not stop");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Why its disk can't be filled; None when it can.
    pub fn disk_refused(&self) -> Option<&str> {
        self.disk.as_ref().err().map(String::as_str)
    }

    /// Takes all room on the disk.
    pub fn fill_disk(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), Disk::fill)
    }

    /// Gives the room back, and starts Postgres again should it have given up.
    pub async fn free_disk(&mut self) -> Result<()> {
        if let Ok(disk) = &self.disk {
            disk.free()?;
        }
        let end = Instant::now() + PATIENCE;
        // It may be on its way down just now.
        while let Err(error) = self.open() {
            if Instant::now() > end {
                return Err(error.context("Postgres did not come back when there was room again"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The last share stops the server, which must be down before its disk goes.
        let _ = self.open();
        self.shares.clear();
    }
}

/// A small tmpfs.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(at: &Path) -> Result<Self, String> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self { at: at.to_owned() }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    fn fill(&self) -> Result<()> {
        let file = File::create(self.ballast())?;
        let mut taken = 0;
        // Others write meanwhile: what is left is taken in ever smaller pieces.
        let mut piece = u64::MAX;
        while piece > 4096 {
            let left = statvfs(&self.at)?;
            piece = piece.min(left.f_bavail * left.f_frsize);
            match fallocate(&file, FallocateFlags::empty(), taken, piece) {
                Ok(()) => taken += piece,
                Err(_) => piece /= 2,
            }
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("the ballast can't be removed")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// A temporary folder is closed to all others, but for root the cluster runs as another account.
fn open_passage(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).context("cannot open the temporary folder")
}
