//! The test app: the real API on a real port, its own database and data folder, and a client that speaks to it.
//!
//! Invariant: when a test ends well, no job and no lease is left over, else dropping the app fails the test. Waits are
//! level-triggered with a bound ([`until`]), never sleeps.

pub mod binary;
mod client;
mod database;
pub mod wire;

use std::{path::PathBuf, thread, time::Duration};

use driftless_domain::{
    Domain,
    commit::{Base, Change, OnConflict},
    config::Settings,
    db,
    ingest::Contents,
};
use driftless_queue::Process;
use driftless_sync::path::TreePath;
use poem::{
    Route, Server,
    listener::{Acceptor, Listener, TcpListener},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use client::{Answer, PASSWORD, ready, send};
pub use database::Database;

/// A server of this test's own.
pub struct App {
    pub domain: Domain,
    pub database: Database,
    pub base: String,
    pub http: reqwest::Client,
    pub stop: CancellationToken,
    data: TempDir,
}

/// What a test may change before the server starts.
pub fn settings(database: &Database, data: &TempDir) -> Settings {
    let set = |name: &str| match name {
        "DRIFTLESS_DATA_DIR" => Some(data.path().as_os_str().to_owned()),
        "DRIFTLESS_DATABASE_URL" => Some(database.url.clone().into()),
        "DRIFTLESS_MIN_FREE" => Some("0".into()),
        _ => None,
    };
    Settings::from_lookup(set).unwrap()
}

impl App {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server whose settings `change` has touched.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = Database::create().await;
        let data = TempDir::new().unwrap();
        let mut settings = settings(&database, &data);
        change(&mut settings);
        let pool = db::connect(&database.url, 10).await.unwrap();
        let domain = Domain::new(pool.clone(), settings, Some(Process::start(&pool).await.unwrap()));
        let stop = CancellationToken::new();
        let base = serve(domain.clone(), stop.clone()).await;
        App { domain, database, base, http: reqwest::Client::builder().no_proxy().build().unwrap(), stop, data }
    }

    /// Another server process's worth of API on the same database and data folder; answers its address.
    pub async fn second_server(&self) -> String {
        self.second_server_on(&self.database.url).await
    }

    /// The same, which reaches the database by another way.
    pub async fn second_server_on(&self, url: &str) -> String {
        let pool = db::connect(url, 5).await.unwrap();
        let domain =
            Domain::new(pool.clone(), self.domain.settings().clone(), Some(Process::start(&pool).await.unwrap()));
        serve(domain, self.stop.clone()).await
    }

    /// Another worker process's worth of work on the same database, until the app ends. Answers its rules and its lease.
    pub async fn work(&self) -> Domain {
        let pool = db::connect(&self.database.url, 10).await.unwrap();
        let process = Process::start(&pool).await.unwrap();
        let domain = Domain::new(pool, self.domain.settings().clone(), Some(process.clone()));
        let (working, stop) = (domain.clone(), self.stop.clone());
        tokio::spawn(async move { driftless_jobs::run(working, &process, stop).await });
        domain
    }

    /// Waits until the app's own process holds its lease for some seconds to come: it loses connections, and time, where the
    /// clock is moved or the machine stops.
    pub async fn is_alive(&self) {
        until("the process holds its lease", async || {
            let lives =
                "select exists (select from queue.workers where token = $1 and lease_until > now() + interval '5 s')";
            let lives = sqlx::query_scalar(lives).bind(self.domain.process()).fetch_one(self.domain.pool()).await;
            lives.unwrap_or(false).then_some(())
        })
        .await;
    }

    /// One value from this test's database, as its owner.
    pub async fn value<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(self.domain.pool()).await.unwrap()
    }

    /// Runs statements on this test's database, as its owner.
    pub async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.domain.pool()).await.unwrap();
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.path().to_owned()
    }
}

async fn serve(domain: Domain, stop: CancellationToken) -> String {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
    let app = driftless_api::app(domain, stop.clone(), Route::new());
    tokio::spawn(async move {
        Server::new_with_acceptor(acceptor)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(Duration::from_secs(1)))
            .await
    });
    format!("http://{address}")
}

/// Contents at a path of the tree, whatever was there.
pub fn put_change(path: &str, contents: Contents) -> Change {
    Change::Put {
        path: TreePath::parse(path).unwrap(),
        contents,
        modified_at: None,
        executable: None,
        base: Base::Any,
        on_conflict: OnConflict::Refuse,
        held: None,
    }
}

/// How long a test waits for what must come: on a machine that is busy with other things, too.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `holds` answers `Some`, looking again every 20 ms, at most [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
        let url = self.database.url.clone();
        let database = Database { name: self.database.name.clone(), url: url.clone() };
        let failed = thread::panicking();
        // A runtime of its own: the test's may already be shutting down.
        let left = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let left = if failed { Vec::new() } else { leftovers(&url).await };
                database.drop_now().await;
                left
            })
        })
        .join();
        if !failed {
            assert_eq!(
                left.expect("the database can be looked at"),
                Vec::<String>::new(),
                "jobs or leases were left over"
            );
        }
    }
}

/// Jobs and leases that a test left behind, after giving a draining worker time to hand them back. A periodic job is
/// nobody's: its minute came while the workers were stopping, where they share the test's thread even while one was taking it.
async fn leftovers(url: &str) -> Vec<String> {
    use sqlx::Connection;
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let left: Vec<String> = sqlx::query_scalar(
            "select case when lease_token is null then 'ready ' else '' end || 'job ' || kind || ' ' || payload::text
             from queue.jobs where (lease_token is not null or run_at <= queue.now()) and queue <> 'system'
             union all select 'running run ' || id::text from runs where state = 'running'",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        if left.is_empty() || std::time::Instant::now() > end {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
