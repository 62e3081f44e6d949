//! The work that must survive: runs of client devices. Planning one is a job whose only side effect, the audit entry, is
//! written behind the fence.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use driftless_domain::db;
use driftless_queue::NewJob;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

/// Runs in the queue at any moment; the workers take some hundred a second.
const BACKLOG: i64 = 3_000;
/// How many runs are made at once.
const BATCH: usize = 1_000;
/// How long the last runs may take once the faults are over: lost leases, backoff, and the sweep for runs without a job.
const SETTLE: Duration = Duration::from_secs(240);

/// Runs made and still to be made.
pub struct Workload {
    pool: PgPool,
    user: i64,
    jobs: usize,
}

/// What became of the work.
pub struct Outcome {
    pub jobs: usize,
    pub lost: usize,
    pub doubled: usize,
}

impl Workload {
    pub async fn prepare(url: &str) -> Result<Self> {
        let pool = db::connect(url, 4).await?;
        db::migrate(&pool).await?;
        let user = sqlx::query_scalar("insert into users (name, password_hash) values ('chaos', '') returning id")
            .fetch_one(&pool)
            .await?;
        let mut workload = Workload { pool, user, jobs: 0 };
        workload.add().await?;
        Ok(workload)
    }

    /// Tops the queue up. The database may be away just now; then the next time will do.
    pub async fn keep_busy(&mut self) {
        let waiting = sqlx::query_scalar::<_, i64>("select count(*) from queue.jobs where lease_token is null");
        if let Ok(waiting) = waiting.fetch_one(&self.pool).await
            && waiting < BACKLOG
            && let Err(e) = self.add().await
        {
            println!("no runs added just now: {e:#}");
        }
    }

    /// One transaction of devices, runs and jobs. A commit whose answer is lost may have happened: what counts as made is what
    /// the table says in the end.
    async fn add(&mut self) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let runs: Vec<Uuid> = (0..BATCH).map(|_| Uuid::now_v7()).collect();
        sqlx::query(
            "with made as (
                 insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
                 select $1, r::text, r::text, 'client', (select epoch from heads where user_id = $1) from unnest($2::uuid[]) r
                 returning id, device_id)
             insert into runs (id, user_id, device_id, trigger, state, sync_deletions, resolve_conflicts, direction)
             select device_id::uuid, $1, id, 'manual', 'queued', true, 'keep_both', 'both' from made",
        )
        .bind(self.user)
        .bind(&runs)
        .execute(&mut *tx)
        .await?;
        let jobs: Vec<NewJob> = runs
            .iter()
            .map(|run| {
                NewJob::new("sync", "run_sync", &json!({ "run_id": run }))
                    .max_attempts(100)
                    .unique_key(format!("run:{run}"))
            })
            .collect();
        driftless_queue::enqueue_batch(&mut tx, &jobs).await?;
        tx.commit().await?;
        self.jobs += BATCH;
        Ok(())
    }

    /// Waits until every run has been planned, then counts each one's audit entries.
    pub async fn settle(&mut self) -> Result<Outcome> {
        let end = Instant::now() + SETTLE;
        loop {
            let open = sqlx::query_scalar::<_, i64>("select count(*) from runs where state in ('queued', 'running')");
            match open.fetch_one(&self.pool).await {
                Ok(0) => break,
                Ok(open) if Instant::now() > end => {
                    println!("{open} runs are still open after {} s", SETTLE.as_secs());
                    break;
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select r.id::text, count(a.id) from runs r
             left join audit a on a.action = 'sync_schedule_execution' and a.details->>'run_id' = r.id::text group by 1",
        )
        .fetch_all(&self.pool)
        .await
        .context("the runs can't be counted")?;
        let effects: HashMap<String, i64> = rows.into_iter().collect();
        if effects.len() < self.jobs {
            bail!("{} runs were committed, {} are there", self.jobs, effects.len());
        }
        let lost = effects.values().filter(|n| **n == 0).count();
        let doubled = effects.values().filter(|n| **n > 1).count();
        Ok(Outcome { jobs: effects.len(), lost, doubled })
    }
}
