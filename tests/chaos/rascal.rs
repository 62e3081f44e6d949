//! Worker processes with bad handlers: this program again, on a queue of its own. The shipped binary has no handler that panics,
//! blocks its thread, leaks a transaction or never returns; the crate below it must survive them all.
//!
//! The side effect of a job is a row in `chaos_effects`, which has no unique key, written in the transaction that ends the job. What
//! the fence refuses is counted in `chaos_refused`. A `plain` job never speaks to the database: each run is a line in a file.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use driftless_queue::{Context, Error, JobError, NewJob, Process, Registry, Serve, Workers, complete, fence};
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub const QUEUE: &str = "chaos";
/// Poison: no handler of it takes a text.
pub const POISON: &str = "no mischief";

const CONCURRENCY: usize = 50;
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// What goes wrong on the first run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Trouble {
    None,
    Panic,
    Fail,
    Block,
    Leak,
    Never,
}

#[derive(Debug, Serialize, Deserialize)]
struct Mischief {
    wait_ms: u64,
    trouble: Trouble,
}

/// A job as the dice have it; most are well-behaved.
pub fn job(rng: &mut StdRng) -> NewJob {
    let trouble = match rng.random_range(0..400) {
        0 | 1 => Trouble::Panic,
        2..=9 => Trouble::Fail,
        10 => Trouble::Block,
        11 => Trouble::Leak,
        12 | 13 => Trouble::Never,
        _ => Trouble::None,
    };
    let mischief = Mischief { wait_ms: rng.random_range(0..300), trouble };
    NewJob::new(QUEUE, "mischief", &mischief).max_attempts(1000).priority(rng.random_range(0..3))
}

/// A job that can't be decoded.
pub fn poison() -> NewJob {
    NewJob::new(QUEUE, "mischief", &POISON)
}

/// A job that is only counted.
pub fn plain(rng: &mut StdRng) -> NewJob {
    NewJob::new(QUEUE, "plain", &rng.random_range(0..300_u64))
}

/// Starts one; plain jobs leave their lines in `lines`.
pub fn start(url: &str, lines: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program runs"))
        .args(["rascal", url])
        .arg(lines)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program can be run again")
}

/// The worker process's own main.
pub async fn work(url: &str, lines: PathBuf) -> Result<()> {
    // Before it is seen to live: whoever sees it may end it.
    let (stop, mut terminated) = (CancellationToken::new(), signal(SignalKind::terminate())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        terminated.recv().await;
        stopping.cancel();
    });
    let options = url.parse()?;
    let pool =
        PgPoolOptions::new().max_connections(10).acquire_timeout(Duration::from_secs(5)).connect_lazy_with(options);
    let process = loop {
        match Process::start(&pool).await {
            Ok(process) => break process,
            // Started while the database is away.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let url = url.to_owned();
    let registry = Registry::new()
        .kind("mischief", move |context: Context, job: Mischief| mischief(url.clone(), pool.clone(), context, job))
        .kind("plain", move |context: Context, wait_ms: u64| {
            let lines = lines.clone();
            async move {
                let line = format!("{} {}\n", context.claim().id, context.attempt());
                OpenOptions::new().create(true).append(true).open(lines)?.write_all(line.as_bytes())?;
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                Ok(())
            }
        });
    let serve = Serve::new(QUEUE, CONCURRENCY).time_limit(TIME_LIMIT);
    Workers::new(&process).serve(serve, &registry).run(stop).await;
    Ok(())
}

async fn mischief(url: String, pool: PgPool, context: Context, job: Mischief) -> Result<(), JobError> {
    tokio::time::sleep(Duration::from_millis(job.wait_ms)).await;
    let claim = context.claim();
    if context.attempt() == 1 {
        match job.trouble {
            Trouble::None => {}
            Trouble::Panic => panic!("as planned"),
            Trouble::Fail => return Err(JobError::retry_after("as planned", Duration::from_millis(50))),
            Trouble::Block => std::thread::sleep(TIME_LIMIT),
            Trouble::Never => std::future::pending().await,
            Trouble::Leak => {
                // It holds a lock on the job's row until Postgres ends it.
                let mut leaked = PgConnection::connect(&url).await?;
                sqlx::query("begin").execute(&mut leaked).await?;
                fence(&mut leaked, &claim).await?;
                std::mem::forget(leaked);
                return Err(JobError::retry("as planned"));
            }
        }
    }
    let mut tx = pool.begin().await?;
    sqlx::query("insert into chaos_effects values ($1)").bind(claim.id).execute(&mut *tx).await?;
    match complete(&mut tx, &claim).await {
        Ok(()) => Ok(tx.commit().await?),
        Err(Error::LeaseLost) => {
            tx.rollback().await?;
            sqlx::query("insert into chaos_refused values ($1)").bind(claim.id).execute(&pool).await?;
            Err(JobError::retry("refused"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The lines of the plain jobs: how many jobs ran, and how many more than once.
pub fn read_lines(lines: &Path) -> Result<(usize, usize)> {
    let text = std::fs::read_to_string(lines).context("no plain job ever ran")?;
    let mut runs = std::collections::HashMap::<&str, usize>::new();
    for line in text.lines() {
        *runs.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    Ok((runs.len(), runs.values().filter(|runs| **runs > 1).count()))
}
