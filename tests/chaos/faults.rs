//! What goes wrong, in an order that the seed decides: workers killed each 2 s, stopped past their lease and continued,
//! connections ended in storms, Postgres stopped in immediate mode each 5 to 20 s.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rand::{Rng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};

/// Worker processes at any moment.
const WORKERS: usize = 3;
const KILL_EACH: Duration = Duration::from_secs(2);
/// A stopped worker sleeps past its lease of 8 s.
const FREEZE: Duration = Duration::from_secs(11);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Killed,
    Frozen,
    Thawed,
    Storm,
    PostgresStopped,
    Nothing,
}

/// The faults to come and the processes they befall.
pub struct Faults {
    rng: StdRng,
    data_dir: PathBuf,
    url: String,
    workers: Vec<Child>,
    frozen: Option<(usize, Instant)>,
    end: Instant,
    kill_at: Instant,
    freeze_at: Instant,
    storm_at: Instant,
    restart_at: Instant,
    pub kills: usize,
    pub restarts: usize,
}

impl Faults {
    pub fn new(mut rng: StdRng, data_dir: &Path, url: &str, length: Duration) -> Self {
        let now = Instant::now();
        let mut within = |low: u64, high: u64| now + Duration::from_millis(rng.random_range(low..=high));
        let (freeze_at, storm_at, restart_at) = (within(4_000, 8_000), within(2_000, 6_000), within(5_000, 20_000));
        let (data_dir, url) = (data_dir.to_owned(), url.to_owned());
        let mut faults = Faults {
            rng,
            data_dir,
            url,
            workers: Vec::new(),
            frozen: None,
            end: now + length,
            kill_at: now + KILL_EACH,
            freeze_at,
            storm_at,
            restart_at,
            kills: 0,
            restarts: 0,
        };
        for _ in 0..WORKERS {
            let worker = faults.start_worker();
            faults.workers.push(worker);
        }
        faults
    }

    pub fn go_on(&self) -> bool {
        Instant::now() < self.end
    }

    fn start_worker(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_driftless"))
            .arg("work")
            .env_clear()
            .env("DRIFTLESS_DATA_DIR", &self.data_dir)
            .env("DRIFTLESS_DATABASE_URL", &self.url)
            .env("DRIFTLESS_LOG", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary was built before this test")
    }

    fn after(&mut self, low: u64, high: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.random_range(low..=high))
    }

    /// Waits for the next fault, at most 100 ms, and lets it happen.
    pub async fn next(&mut self) -> Result<Happened> {
        let now = Instant::now();
        if let Some((victim, since)) = self.frozen
            && now >= since + FREEZE
        {
            self.signal(victim, Signal::CONT)?;
            self.frozen = None;
            return Ok(Happened::Thawed);
        }
        if now >= self.kill_at {
            self.kill_at = now + KILL_EACH;
            self.kill_one()?;
            return Ok(Happened::Killed);
        }
        if now >= self.restart_at {
            self.restart_at = self.after(5_000, 20_000);
            self.stop_postgres().await?;
            return Ok(Happened::PostgresStopped);
        }
        if now >= self.storm_at {
            self.storm_at = self.after(3_000, 9_000);
            self.cut_connections().await;
            return Ok(Happened::Storm);
        }
        if now >= self.freeze_at && self.frozen.is_none() {
            self.freeze_at = self.after(13_000, 25_000);
            let victim = self.rng.random_range(0..WORKERS);
            self.signal(victim, Signal::STOP)?;
            self.frozen = Some((victim, now));
            return Ok(Happened::Frozen);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Happened::Nothing)
    }

    fn signal(&self, worker: usize, signal: Signal) -> Result<()> {
        let id = Pid::from_child(&self.workers[worker]);
        kill_process(id, signal).with_context(|| format!("worker {worker} can't be signalled; has it ended by itself?"))
    }

    /// SIGKILL to a worker that is not asleep; another takes its place.
    fn kill_one(&mut self) -> Result<()> {
        let mut victim = self.rng.random_range(0..WORKERS);
        if self.frozen.is_some_and(|(asleep, _)| asleep == victim) {
            victim = (victim + 1) % WORKERS;
        }
        if let Some(status) = self.workers[victim].try_wait()? {
            bail!("a worker ended by itself: {status}");
        }
        self.workers[victim].kill()?;
        self.workers[victim].wait()?;
        self.workers[victim] = self.start_worker();
        self.kills += 1;
        Ok(())
    }

    /// Ends about half of all connections at once, the listeners' among them.
    async fn cut_connections(&mut self) {
        let odd: i32 = self.rng.random_range(0..2);
        let cut = async {
            let mut conn = PgConnection::connect(&self.url).await?;
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where backend_type = 'client backend' and pid <> pg_backend_pid() and pid % 2 = $1",
            )
            .bind(odd)
            .execute(&mut conn)
            .await
        };
        // The database may be away just now: then nothing is left to cut.
        let _ = cut.await;
    }

    /// SIGQUIT to the postmaster is an immediate stop: no checkpoint, recovery at the next start.
    async fn stop_postgres(&mut self) -> Result<()> {
        let file = self.data_dir.join("postgres/data/postmaster.pid");
        let text = std::fs::read_to_string(&file).context("Postgres should run")?;
        let pid = text.lines().next().and_then(|l| l.parse().ok()).and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::QUIT).context("Postgres can't be stopped")?;
        let end = Instant::now() + Duration::from_secs(30);
        while file.exists() {
            if Instant::now() > end {
                bail!("Postgres did not stop");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The faults are over: nobody sleeps any more.
    pub fn heal(&mut self) -> Result<()> {
        if let Some((victim, _)) = self.frozen.take() {
            self.signal(victim, Signal::CONT)?;
        }
        Ok(())
    }

    /// Ends the workers as an operator does; each must drain and say that all is well.
    pub fn end(mut self) -> Result<()> {
        for worker in 0..WORKERS {
            self.signal(worker, Signal::TERM)?;
        }
        for mut worker in std::mem::take(&mut self.workers) {
            let status = worker.wait()?;
            if !status.success() {
                bail!("a worker did not drain: {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
