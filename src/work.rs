//! A worker process: fires due schedules and does the jobs, beside any number of others.

use std::time::Duration;

use anyhow::{Context, Result};
use driftless_domain::{Domain, audit, config::Settings};
use poem::{
    Server,
    listener::{Acceptor, Listener, TcpAcceptor, TcpListener},
};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, say, serve::stop_on_signal};

/// Enough for the jobs of one process; a private cluster allows 100 for all.
const CONNECTIONS: u32 = 16;
/// How long nothing must have been due before `--until-idle` stops.
const QUIET: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until no job is due, then drains.
pub async fn work(settings: Settings, until_idle: bool) -> Result<()> {
    // First of all, so that a taken address fails at once.
    let watched = match settings.metrics_listen {
        None => None,
        Some(address) => {
            let acceptor = TcpListener::bind(address).into_acceptor().await;
            Some(acceptor.with_context(|| format!("DRIFTLESS_METRICS_LISTEN: cannot listen on {address}"))?)
        }
    };
    let stop = stop_on_signal()?;
    let database = Database::open(&settings).await?;
    let worked = run(&database, settings, watched, until_idle, stop).await;
    database.close().await;
    worked
}

async fn run(
    database: &Database,
    settings: Settings,
    watched: Option<TcpAcceptor>,
    until_idle: bool,
    stop: CancellationToken,
) -> Result<()> {
    let (domain, process) = tokio::select! {
        leased = database.leased(settings, CONNECTIONS) => leased?,
        () = stop.cancelled() => return Ok(()),
    };
    if let Some(acceptor) = watched {
        answer(acceptor, domain.clone(), stop.clone())?;
    }
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

/// Answers for health and metrics as long as the process lives, also while it drains.
fn answer(acceptor: TcpAcceptor, domain: Domain, draining: CancellationToken) -> Result<()> {
    if let Some(address) = acceptor.local_addr().first().and_then(|a| a.as_socket_addr()) {
        say(&format!("Driftless can be watched at http://{address}"))?;
    }
    tokio::spawn(Server::new_with_acceptor(acceptor).run(driftless_api::probes(domain, draining)));
    Ok(())
}
