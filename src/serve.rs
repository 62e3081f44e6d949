//! The server process: HTTP, and a worker beside it unless it is told to leave the jobs to others.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use driftless_domain::{accounts, audit, config::Settings};
use poem::{
    EndpointExt, Server,
    listener::{Acceptor, Listener, TcpListener},
    middleware::Compression,
    web::CompressionAlgo,
};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, say, web::WebApp};

/// How long requests may go on after the signal to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Enough for requests and jobs side by side; a private cluster allows 100 for all processes.
const CONNECTIONS: u32 = 24;

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn serve(settings: Settings, with_worker: bool) -> Result<()> {
    // First of all, so that a taken address fails at once.
    let acceptor = TcpListener::bind(settings.listen)
        .into_acceptor()
        .await
        .with_context(|| format!("DRIFTLESS_LISTEN: cannot listen on {}", settings.listen))?;
    let stop = stop_on_signal()?;
    let database = Database::open(&settings).await?;
    let served = answer(acceptor, &database, settings, with_worker, stop).await;
    database.close().await;
    served
}

async fn answer<A: Acceptor + 'static>(
    acceptor: A,
    database: &Database,
    settings: Settings,
    with_worker: bool,
    stop: CancellationToken,
) -> Result<()> {
    let address = acceptor.local_addr().first().and_then(|a| a.as_socket_addr().copied()).unwrap_or(settings.listen);
    let (domain, process) = tokio::select! {
        leased = database.leased(settings, CONNECTIONS) => leased?,
        () = stop.cancelled() => return Ok(()),
    };
    let first_password = accounts::ensure_admin(&domain).await?;
    say(&format!("Driftless is at http://{}", reachable(address)))?;
    if let Some(password) = first_password {
        say(&format!("Sign in as admin with the password {password} (it is not shown again)"))?;
    }
    let sealed = CancellationToken::new();
    let sealer = tokio::spawn(audit::run_sealer(domain.clone(), sealed.clone()));
    let worker = {
        let (domain, stop) = (domain.clone(), stop.clone());
        tokio::spawn(async move {
            if with_worker {
                driftless_jobs::run(domain, &process, stop).await;
            } else {
                stop.cancelled().await;
                process.drain(DRAIN_LIMIT).await;
            }
        })
    };
    // A browser fetches each file once, so compressing as it goes is cheap enough.
    let web = WebApp.with(Compression::new().algorithms([CompressionAlgo::GZIP]));
    let app = driftless_api::app(domain.clone(), stop.clone(), web);
    let served = Server::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(app, stop.cancelled(), Some(DRAIN_LIMIT))
        .await
        .context("the server failed");
    // When the server failed by itself, the worker is still to be told.
    stop.cancel();
    let _ = worker.await;
    // Last, so that what the last requests and jobs wrote is sealed too.
    sealed.cancel();
    let _ = sealer.await;
    domain.pool().close().await;
    served
}

/// Where a browser on this machine finds what listens on `address`.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

/// Cancelled by the first SIGTERM or SIGINT; the second ends the process where it stands.
pub fn stop_on_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let drain = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !first {
                std::process::exit(1);
            }
            tracing::info!("stopping: finishing what is under way");
            drain.cancel();
        }
    });
    Ok(stop)
}
