//! Databases, worker processes and bounded waits for the queue's tests.

mod cluster;
mod standstill;
#[path = "../../../../tests/it/support/wire.rs"]
pub mod wire;

use std::{
    future::Future,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use driftless_queue::{Context, JobError, NewJob, Process, Registry, Serve, Workers, complete, enqueue_batch};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use cluster::Cluster;
pub use standstill::Standstill;

/// How long a test waits for what must come: on a machine that is busy with other things, too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A database of this test's own with the queue's tables and a table that counts effects without any unique key.
pub struct Db {
    pub pool: PgPool,
    pub url: String,
    server: String,
    name: String,
}

impl Db {
    pub async fn create() -> Self {
        Self::create_on(&cluster::shared()).await
    }

    pub async fn create_on(server: &str) -> Self {
        let name = format!("queue_test_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(server).await.expect("the test database server must answer");
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let url = with_database(server, &name);
        let pool = PgPoolOptions::new().max_connections(10).connect(&url).await.unwrap();
        pool.execute(include_str!("../../../../migrations/0001_queue.sql")).await.unwrap();
        pool.execute(include_str!("../../../../migrations/0009_claims.sql")).await.unwrap();
        pool.execute(include_str!("../../../../migrations/0010_cron_runs.sql")).await.unwrap();
        pool.execute("create table effects (job bigint not null, attempt smallint not null, who text not null)")
            .await
            .unwrap();
        Self { pool, url, server: server.to_owned(), name }
    }

    pub async fn enqueue(&self, jobs: impl IntoIterator<Item = NewJob>) {
        let jobs: Vec<_> = jobs.into_iter().collect();
        for batch in jobs.chunks(1000) {
            enqueue_batch(&mut self.pool.acquire().await.unwrap(), batch).await.unwrap();
        }
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until this count is reached.
    pub async fn until_count(&self, want: i64, sql: &'static str) {
        until(sql, || async { (self.count(sql).await == want).then_some(()) }).await;
    }

    pub async fn until_empty(&self) {
        self.until_count(0, "select count(*) from queue.jobs").await;
    }

    /// (effects, jobs with an effect)
    pub async fn effects(&self) -> (i64, i64) {
        sqlx::query_as("select count(*), count(distinct job) from effects").fetch_one(&self.pool).await.unwrap()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let drop = async move {
            if let Ok(mut admin) = PgConnection::connect(&server).await {
                let _ = admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await;
            }
        };
        // A runtime of its own: the test's may already be shutting down.
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(drop);
        });
        let _ = thread.join();
    }
}

fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(b, q)| (b, format!("?{q}")));
    format!("{}/{name}{query}", &base[..base.rfind('/').unwrap()])
}

/// Waits until `holds` answers `Some`, looking again every 10 ms, at most [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A worker inside the test's process.
pub struct Worker {
    pub process: Process,
    pub stop: CancellationToken,
    pub run: JoinHandle<()>,
}

impl Worker {
    pub async fn start(db: &Db, registry: &Registry) -> Self {
        Self::serve(db, Serve::new("q", 8), registry).await
    }

    pub async fn serve(db: &Db, serve: Serve, registry: &Registry) -> Self {
        Self::of(Process::start(&db.pool).await.unwrap(), serve, registry)
    }

    pub fn of(process: Process, serve: Serve, registry: &Registry) -> Self {
        let stop = CancellationToken::new();
        let run = tokio::spawn(Workers::new(&process).serve(serve, registry).run(stop.clone()));
        Self { process, stop, run }
    }

    /// Drains and waits for the end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap();
    }
}

/// The job of most tests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Effect {
    pub sleep_ms: u64,
}

pub fn effect_job(sleep_ms: u64) -> NewJob {
    NewJob::new("q", "effect", &Effect { sleep_ms })
}

/// Handlers whose effect and the end of their job are one transaction.
pub fn effects(pool: &PgPool) -> Registry {
    let pool = pool.clone();
    Registry::new().kind("effect", move |context: Context, job: Effect| {
        let pool = pool.clone();
        async move { write_effect(&pool, &context, &job).await }
    })
}

/// A job whose effect waits for a permit of the gate.
pub fn gated_job() -> NewJob {
    NewJob::new("q", "gated", &())
}

/// [`effects`], and those of gated jobs.
pub fn gated_effects(pool: &PgPool, gate: &Arc<Semaphore>) -> Registry {
    let (pool, gate) = (pool.clone(), gate.clone());
    effects(&pool.clone()).kind("gated", move |context: Context, (): ()| {
        let (pool, gate) = (pool.clone(), gate.clone());
        async move {
            gate.acquire().await?.forget();
            write_effect(&pool, &context, &Effect::default()).await
        }
    })
}

pub async fn write_effect(pool: &PgPool, context: &Context, job: &Effect) -> Result<(), JobError> {
    tokio::time::sleep(Duration::from_millis(job.sleep_ms)).await;
    let mut tx = pool.begin().await?;
    sqlx::query("insert into effects values ($1, $2, $3)")
        .bind(context.claim().id)
        .bind(context.attempt())
        .bind(std::process::id().to_string())
        .execute(&mut *tx)
        .await?;
    complete(&mut tx, &context.claim()).await?;
    tx.commit().await?;
    Ok(())
}

const CHILD: &str = "DRIFTLESS_QUEUE_TEST_CHILD";

/// A worker in a process of its own, to be killed. Dies with its handle.
pub struct ChildWorker(pub Child);

impl ChildWorker {
    pub fn start(db: &Db) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::a_child_process_works_until_it_is_killed"])
            .env(CHILD, &db.url)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for ChildWorker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of [`ChildWorker`]; does nothing when run as a test.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_process_works_until_it_is_killed() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let pool = PgPoolOptions::new().max_connections(10).connect(&url).await.unwrap();
    let process = Process::start(&pool).await.unwrap();
    Workers::new(&process).serve(Serve::new("q", 16), &effects(&pool)).run(CancellationToken::new()).await;
}
