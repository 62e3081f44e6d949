//! Where the database is: the server that DRIFTLESS_DATABASE_URL names, or the private cluster of the data folder.

use std::{
    env::current_exe,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use driftless_domain::{Domain, config::Settings, db, store::Store};
use driftless_queue::Process;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::postgres::{self, Options, PrivatePostgres, npm_binaries};

/// How soon a private cluster that died is started again.
const LOOK: Duration = Duration::from_secs(1);

/// How long a start goes on with a database that goes away and comes back.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the database, and a share in the private cluster if it is that.
pub struct Database {
    url: String,
    private: Option<Tended>,
}

struct Tended {
    leave: CancellationToken,
    task: JoinHandle<()>,
}

impl Database {
    /// Starts or adopts the private cluster when no server is named.
    pub async fn open(settings: &Settings) -> Result<Self> {
        if let Some(url) = &settings.database_url {
            return Ok(Self { url: url.clone(), private: None });
        }
        let settings = settings.clone();
        let cluster = spawn_blocking(move || {
            let search: Vec<PathBuf> =
                settings.search_path.iter().cloned().chain(binaries_beside_the_clone()).collect();
            postgres::open(&Options {
                data_dir: &settings.data_dir,
                bin: settings.pg_bin.as_deref(),
                search: &search,
                throw_away: false,
            })
        })
        .await
        .context("starting the private Postgres failed")??;
        let (url, leave) = (cluster.url.clone(), CancellationToken::new());
        let task = tokio::spawn(tend(cluster, leave.clone()));
        Ok(Self { url, private: Some(Tended { leave, task }) })
    }

    /// Connects with at most `connections`, migrates, and puts the server's rules on top; for a command that ends.
    pub async fn domain(&self, settings: Settings, connections: u32) -> Result<Domain> {
        let named = settings.database_url.is_some();
        let whose = || if named { "DRIFTLESS_DATABASE_URL: cannot connect" } else { "cannot connect" };
        let pool = db::connect(&self.url, connections).await.with_context(whose)?;
        db::migrate(&pool).await?;
        Ok(Domain::new(pool, settings, None))
    }

    /// The same for a process that stays: it has a lease in the queue, by which others see that it lives. A database that goes away
    /// during the start is waited for.
    pub async fn leased(&self, settings: Settings, connections: u32) -> Result<(Domain, Process)> {
        let store = Store::new(&settings);
        let named = || format!("DRIFTLESS_STORE: cannot write to {}", settings.store.display());
        store.blobs().prepare().with_context(named)?;
        let begun = Instant::now();
        loop {
            match self.register(settings.clone(), connections).await {
                Err(error) if error.chain().any(db::is_away) && begun.elapsed() < PATIENCE => sleep(LOOK / 2).await,
                outcome => return outcome,
            }
        }
    }

    async fn register(&self, settings: Settings, connections: u32) -> Result<(Domain, Process)> {
        let domain = self.domain(settings.clone(), connections).await?;
        let pool = domain.pool().clone();
        let process = Process::start(&pool).await.context("cannot register this process with the queue")?;
        Ok((Domain::new(pool, settings, Some(process.clone())), process))
    }

    /// Gives up the share; the last one stops the cluster, which takes a moment.
    pub async fn close(self) {
        if let Some(private) = self.private {
            private.leave.cancel();
            let _ = private.task.await;
        }
    }
}

/// Keeps the cluster running until it is left.
async fn tend(mut cluster: PrivatePostgres, leave: CancellationToken) {
    while timeout(LOOK, leave.cancelled()).await.is_err() {
        let looked = spawn_blocking(move || {
            let outcome = cluster.revive();
            (cluster, outcome)
        });
        let Ok((back, outcome)) = looked.await else { return };
        cluster = back;
        match outcome {
            Ok(false) => {}
            Ok(true) => tracing::warn!("the private Postgres had died and was started again"),
            Err(error) => tracing::error!("the private Postgres died and can't be started: {error:#}"),
        }
    }
    let _ = spawn_blocking(move || drop(cluster)).await;
}

/// A binary that runs from its clone (`target/debug/driftless`) may use what `npm ci` brought there.
fn binaries_beside_the_clone() -> Vec<PathBuf> {
    let exe = current_exe().unwrap_or_default();
    exe.ancestors().skip(1).map(npm_binaries).filter(|bin| bin.is_dir()).collect()
}
