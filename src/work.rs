//! A worker process: fires due schedules and does the jobs, beside any number of others.

use std::time::Duration;

use anyhow::Result;
use driftless_domain::{audit, config::Settings};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, say, serve::stop_on_signal};

/// Enough for the jobs of one process; a private cluster allows 100 for all.
const CONNECTIONS: u32 = 16;
/// How long nothing must have been due before `--until-idle` stops.
const QUIET: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until no job is due, then drains.
pub async fn work(settings: Settings, until_idle: bool) -> Result<()> {
    let stop = stop_on_signal()?;
    let database = Database::open(&settings).await?;
    let worked = run(&database, settings, until_idle, stop).await;
    database.close().await;
    worked
}

async fn run(database: &Database, settings: Settings, until_idle: bool, stop: CancellationToken) -> Result<()> {
    let (domain, process) = database.leased(settings, CONNECTIONS).await?;
    say(&format!("Driftless works as {}", process.name()))?;
    if until_idle {
        let (process, stop) = (process.clone(), stop.clone());
        tokio::spawn(async move {
            process.until_idle(QUIET).await;
            stop.cancel();
        });
    }
    let sealed = CancellationToken::new();
    let sealer = tokio::spawn(audit::run_sealer(domain.clone(), sealed.clone()));
    driftless_jobs::run(domain.clone(), &process, stop).await;
    // Last, so that what the draining jobs wrote is sealed too.
    sealed.cancel();
    let _ = sealer.await;
    domain.pool().close().await;
    Ok(())
}
