//! Worker processes to be killed: this program again, with the verb `worker`, its settings on the command line.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Result;
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
}

/// A worker process; killed when dropped.
pub struct Worker(pub Child);

impl Worker {
    pub fn start(url: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", url]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
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
