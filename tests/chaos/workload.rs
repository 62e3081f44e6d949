//! The work that must survive: runs of client devices for the shipped binary, and jobs for the rascals. Planning a run is a job whose
//! only side effect, the audit entry, is written behind the fence.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use driftless_domain::db;
use driftless_queue::NewJob;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use sqlx::{Executor, PgPool};
use uuid::Uuid;

use crate::rascal;

/// Runs in the queue at any moment; the workers take some hundred a second.
const BACKLOG: i64 = 3_000;
/// How many runs are made at once.
const BATCH: usize = 1_000;
/// Runs whose payload is no payload, in each batch.
const POISON: usize = 5;

const TABLES: &str = "
    create table chaos_effects (job bigint not null);
    create table chaos_refused (job bigint not null);
    create table chaos_made (mischief bigint not null, plain bigint not null, poison bigint not null)";
/// How long the work may stand still once the faults are over: lost leases, backoff, and the sweep for runs without a job.
const SETTLE: Duration = Duration::from_secs(240);

/// Runs made and still to be made.
pub struct Workload {
    pub pool: PgPool,
    rng: StdRng,
    user: i64,
    runs: usize,
    /// Whether rascals get plain jobs instead of mischief.
    plain: bool,
}

/// What became of the work.
pub struct Outcome {
    pub jobs: usize,
    pub lost: usize,
    pub doubled: usize,
    /// Late writes that the fence refused to rascals.
    pub refused: i64,
}

impl Workload {
    pub async fn prepare(url: &str, seed: u64, plain: bool) -> Result<Self> {
        let pool = db::connect(url, 4).await?;
        db::migrate(&pool).await?;
        pool.execute(TABLES).await?;
        let user = sqlx::query_scalar("insert into users (name, password_hash) values ('chaos', '') returning id")
            .fetch_one(&pool)
            .await?;
        let rng = StdRng::seed_from_u64(!seed);
        let mut workload = Workload { pool, rng, user, runs: 0, plain };
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
    pub async fn add(&mut self) -> Result<()> {
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
        self.add_for_rascals(&mut tx).await?;
        tx.commit().await?;
        self.runs += BATCH;
        Ok(())
    }

    /// What was made is counted in the transaction that makes it.
    async fn add_for_rascals(&mut self, conn: &mut sqlx::PgConnection) -> Result<()> {
        let make = if self.plain { rascal::plain } else { rascal::job };
        let mut jobs: Vec<NewJob> = (0..BATCH).map(|_| make(&mut self.rng)).collect();
        jobs.extend((0..POISON).flat_map(|_| [rascal::poison(), NewJob::new("sync", "run_sync", &rascal::POISON)]));
        driftless_queue::enqueue_batch(conn, &jobs).await?;
        let (mischief, plain) = if self.plain { (0, BATCH) } else { (BATCH, 0) };
        sqlx::query("insert into chaos_made values ($1, $2, $3)")
            .bind(mischief.cast_signed() as i64)
            .bind(plain.cast_signed() as i64)
            .bind(2 * POISON.cast_signed() as i64)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Waits until every run has been planned, for as long as it goes on, then counts each one's audit entries.
    pub async fn settle(&mut self) -> Result<Outcome> {
        let (mut fewest, mut progress) = (i64::MAX, Instant::now());
        loop {
            let open = sqlx::query_scalar::<_, i64>(
                "select (select count(*) from runs where state in ('queued', 'running'))
                      + (select count(*) from queue.jobs where queue in ('sync', 'chaos'))",
            );
            match open.fetch_one(&self.pool).await {
                Ok(0) => break,
                Ok(open) if open < fewest => (fewest, progress) = (open, Instant::now()),
                Ok(open) if progress.elapsed() > SETTLE => {
                    println!("{open} runs and jobs are still open, and none has ended for {} s", SETTLE.as_secs());
                    break;
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        let (runs, lost_runs, doubled_runs) = self.count_runs().await?;
        let (jobs, lost, doubled, refused): (i64, i64, i64, i64) = sqlx::query_as(
            "with made as (select coalesce(sum(mischief), 0)::bigint as mischief, coalesce(sum(poison), 0)::bigint as poison from chaos_made),
                  had as (select count(*) as effects, count(distinct job) as jobs from chaos_effects),
                  dead as (select count(*) as poison from queue.dead_jobs where payload = to_jsonb($1::text))
             select made.mischief + made.poison, made.mischief - had.jobs + made.poison - dead.poison, had.effects - had.jobs,
                    (select count(*) from chaos_refused)
             from made, had, dead",
        )
        .bind(rascal::POISON)
        .fetch_one(&self.pool)
        .await
        .context("the effects can't be counted")?;
        Ok(Outcome {
            jobs: runs + usize::try_from(jobs)?,
            lost: lost_runs + usize::try_from(lost)?,
            doubled: doubled_runs + usize::try_from(doubled)?,
            refused,
        })
    }

    /// Runs, those without an effect, those with more than one.
    async fn count_runs(&self) -> Result<(usize, usize, usize)> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select r.id::text, count(a.id) from runs r
             left join audit a on a.action = 'sync_schedule_execution' and a.details->>'run_id' = r.id::text group by 1",
        )
        .fetch_all(&self.pool)
        .await
        .context("the runs can't be counted")?;
        let effects: HashMap<String, i64> = rows.into_iter().collect();
        if effects.len() < self.runs {
            bail!("{} runs were committed, {} are there", self.runs, effects.len());
        }
        let lost = effects.values().filter(|n| **n == 0).count();
        let doubled = effects.values().filter(|n| **n > 1).count();
        Ok((effects.len(), lost, doubled))
    }
}
