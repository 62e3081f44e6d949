//! Worker processes to be killed: this program again, with the verb `worker`, its settings on the command line.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use driftless_queue::{Context, JobError, Process, Registry, Serve, Workers, complete};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio_util::sync::CancellationToken;

/// Jobs that one worker process runs at once.
pub const CONCURRENCY: usize = 200;

/// What a job of these benchmarks does: wait, then write its effect and end, in one fenced transaction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Effect {
    /// Milliseconds before the effect.
    pub wait_ms: u64,
    /// What else goes wrong on the first attempt.
    #[serde(default)]
    pub trouble: Trouble,
}

/// Bad handlers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub enum Trouble {
    #[default]
    None,
    /// Panics before its effect.
    Panic,
    /// Fails before its effect.
    Fail,
    /// Blocks its thread for half a second.
    Block,
    /// Leaves a transaction with a lock open.
    Leak,
}

/// A worker process; killed when dropped.
pub struct Worker(pub Child);

impl Worker {
    pub fn start(url: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", url]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    /// KILL, STOP or CONT.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]).status()?;
        ensure!(done.success(), "cannot send {signal}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The worker process's own main.
pub async fn run(url: &str) -> Result<()> {
    let options: PgConnectOptions = url.parse()?;
    let pool =
        PgPoolOptions::new().max_connections(10).acquire_timeout(Duration::from_secs(5)).connect_lazy_with(options);
    let process = loop {
        match Process::start(&pool).await {
            Ok(process) => break process,
            // Started while the database is away.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let registry =
        Registry::new().kind("effect", move |context: Context, job: Effect| handle(pool.clone(), context, job));
    Workers::new(&process).serve(Serve::new("bench", CONCURRENCY), &registry).run(CancellationToken::new()).await;
    Ok(())
}

async fn handle(pool: PgPool, context: Context, job: Effect) -> Result<(), JobError> {
    tokio::time::sleep(Duration::from_millis(job.wait_ms)).await;
    if context.attempt() == 1 {
        match job.trouble {
            Trouble::Panic => panic!("as planned"),
            Trouble::Fail => return Err(JobError::retry_after("as planned", Duration::from_millis(50))),
            Trouble::Block => std::thread::sleep(Duration::from_millis(500)),
            Trouble::Leak => {
                let mut leaked = pool.begin().await?;
                driftless_queue::fence(&mut leaked, &context.claim()).await?;
                std::mem::forget(leaked);
                return Err(JobError::retry("as planned"));
            }
            Trouble::None => {}
        }
    }
    let mut tx = pool.begin().await?;
    sqlx::query("insert into effects values ($1, $2)")
        .bind(context.claim().id)
        .bind(context.attempt())
        .execute(&mut *tx)
        .await?;
    complete(&mut tx, &context.claim()).await?;
    tx.commit().await?;
    Ok(())
}
