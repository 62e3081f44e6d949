//! The processes that faults befall: the shipped binary, and rascals.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};

use crate::rascal;

const STARTED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breed {
    Shipped,
    Rascal,
}

/// Living worker processes. All die with it.
pub struct Workers {
    data_dir: PathBuf,
    lines: PathBuf,
    /// What the shipped binary has to complain of. Beside the data folder, whose disk may be full.
    complaints: PathBuf,
    url: String,
    list: Vec<(Breed, Child)>,
}

impl Workers {
    pub fn new(data_dir: &Path, url: &str) -> Self {
        let lines = data_dir.join("lines");
        let complaints = data_dir.with_file_name("complaints");
        Workers { data_dir: data_dir.to_owned(), lines, complaints, url: url.to_owned(), list: Vec::new() }
    }

    /// Starts one more and says which it is.
    pub fn add(&mut self, breed: Breed) -> usize {
        let child = self.start(breed);
        self.list.push((breed, child));
        self.list.len() - 1
    }

    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn pid(&self, worker: usize) -> i32 {
        self.list[worker].1.id().cast_signed()
    }

    fn start(&self, breed: Breed) -> Child {
        if breed == Breed::Rascal {
            return rascal::start(&self.url, &self.lines);
        }
        let complaints = OpenOptions::new().create(true).append(true).open(&self.complaints);
        Command::new(env!("CARGO_BIN_EXE_driftless"))
            .arg("work")
            .env_clear()
            .env("DRIFTLESS_DATA_DIR", &self.data_dir)
            .env("DRIFTLESS_DATABASE_URL", &self.url)
            .env("DRIFTLESS_LOG", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaints.map_or_else(|_| Stdio::null(), Stdio::from))
            .spawn()
            .expect("the binary was built before this test")
    }

    pub fn signal(&self, worker: usize, signal: Signal) -> Result<()> {
        let id = Pid::from_child(&self.list[worker].1);
        kill_process(id, signal).with_context(|| format!("worker {worker} can't be signalled; has it ended by itself?"))
    }

    /// SIGKILL; another takes its place.
    pub fn replace(&mut self, worker: usize) -> Result<()> {
        self.must_live(worker)?;
        let breed = self.list[worker].0;
        self.list[worker].1.kill()?;
        self.list[worker].1.wait()?;
        self.list[worker].1 = self.start(breed);
        Ok(())
    }

    /// Buries one that was killed; another takes its place.
    pub fn revive(&mut self, worker: usize) -> Result<()> {
        self.list[worker].1.wait()?;
        self.list[worker].1 = self.start(self.list[worker].0);
        Ok(())
    }

    fn must_live(&mut self, worker: usize) -> Result<()> {
        match self.list[worker].1.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let complaints = std::fs::read_to_string(&self.complaints).unwrap_or_default();
                let last = complaints.lines().rfind(|line| line.starts_with("driftless:")).unwrap_or_default();
                bail!("a worker ({:?}) ended by itself: {status}: {last}", self.list[worker].0)
            }
        }
    }

    pub fn all_must_live(&mut self) -> Result<()> {
        (0..self.list.len()).try_for_each(|worker| self.must_live(worker))
    }

    /// Ends the workers as an operator does; each must drain and say that all is well.
    pub async fn end(mut self) -> Result<()> {
        self.until_all_are_up().await?;
        for worker in 0..self.list.len() {
            self.signal(worker, Signal::TERM)?;
        }
        for (breed, mut worker) in std::mem::take(&mut self.list) {
            let status = worker.wait()?;
            if !status.success() {
                bail!("a worker ({breed:?}) did not drain: {status}");
            }
        }
        Ok(())
    }

    /// The last one killed may have been replaced only now, and does not hear a signal before it has started.
    async fn until_all_are_up(&mut self) -> Result<()> {
        let pids: Vec<i32> = (0..self.list.len()).map(|worker| self.pid(worker)).collect();
        let mut conn = PgConnection::connect(&self.url).await?;
        let begun = Instant::now();
        loop {
            self.all_must_live()?;
            let up: Vec<i32> = sqlx::query_scalar("select pid from queue.workers").fetch_all(&mut conn).await?;
            if pids.iter().all(|pid| up.contains(pid)) {
                return Ok(());
            }
            ensure!(begun.elapsed() < STARTED_WITHIN, "a worker did not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where plain jobs leave their lines.
    pub fn lines(&self) -> &Path {
        &self.lines
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (_, worker) in &mut self.list {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
