//! What any process does for all: makes far-ahead jobs ready, gives the jobs of lost workers to others, clears away old rows.
//!
//! Several processes may sweep at once: each row is taken by one of them, the others step over it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use sqlx::PgPool;
use uuid::Uuid;

use crate::{heartbeat, lane, process::Shared};

/// A process judges others only after its own heart has beaten this long without a gap: after an outage of the database
/// everybody has had the time to renew the lease.
const STEADY: Duration = Duration::from_secs(8);

const CLEAR_AWAY_EVERY: Duration = Duration::from_secs(3600);

/// Jobs made ready by one statement.
const READY_BATCH: i64 = 5000;

const MAKE_READY: &str = "
    update queue.jobs set ready = true where id in (
        select id from queue.jobs where not ready and run_at <= queue.now() + interval '5 s'
        order by run_at limit $1 for update skip locked)";

/// Jobs that a handler's transaction has locked are left for the next time, and their worker's row with them.
const RESCUE: &str = "
    with theirs as materialized (
        select id from queue.jobs where ready and lease_token = any ($1)
    ), held as materialized (
        select job.id, job.attempt >= job.max_attempts as used_up from theirs join queue.jobs job on job.id = theirs.id
        where job.lease_token = any ($1) for update of job skip locked
    ), gone as (
        delete from queue.jobs job using held where job.id = held.id and held.used_up returning job.*
    ), buried as (
        insert into queue.dead_jobs (id, queue, kind, payload, priority, attempt, max_attempts, keep, trace, error, created_at)
        select id, queue, kind, payload, priority, attempt, max_attempts, keep, trace, 'the worker was lost', created_at from gone
    ), again as (
        update queue.jobs job set lease_token = null, progress = null, cancel_requested = false,
                              last_error = 'the worker was lost'
        from held where job.id = held.id and not held.used_up
        returning job.queue
    )
    select (select count(*) from held), (select count(*) from theirs) - (select count(*) from held),
           coalesce((select array_agg(distinct queue) from again), '{}')";

pub(crate) fn start(shared: &Arc<Shared>) {
    tokio::spawn(sweep_for_ever(shared.clone()));
}

async fn sweep_for_ever(shared: Arc<Shared>) {
    let mut cleared = Instant::now();
    loop {
        let asked = tokio::select! {
            () = shared.sweep.notified() => true,
            () = tokio::time::sleep(Duration::from_secs(5)) => false,
            () = shared.closed.cancelled() => return,
        };
        if let Err(error) = sweep(&shared, asked, &mut cleared).await {
            tracing::debug!(%error, "sweep failed; again in a second");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `asked`: a look found something to make ready or somebody to rescue.
async fn sweep(shared: &Shared, asked: bool, cleared: &mut Instant) -> Result<(), sqlx::Error> {
    if shared.takes_reconcile()
        && let Err(error) = lane::reconcile(shared).await
    {
        shared.reconcile_soon();
        return Err(error);
    }
    if asked {
        make_ready(&shared.pool).await?;
    }
    if asked && heartbeat::steady_for(shared) >= STEADY {
        let expired = rescue(shared).await?;
        shared.stats.leases_expired.fetch_add(expired, Relaxed);
    }
    if cleared.elapsed() > CLEAR_AWAY_EVERY {
        *cleared = Instant::now();
        clear_away(&shared.pool).await?;
    }
    Ok(())
}

async fn make_ready(pool: &PgPool) -> Result<(), sqlx::Error> {
    let batch = READY_BATCH.unsigned_abs();
    while sqlx::query(MAKE_READY).bind(READY_BATCH).execute(pool).await?.rows_affected() >= batch {}
    Ok(())
}

/// Gives the jobs of workers whose lease is over to others, or to the dead jobs when their attempts are used up.
async fn rescue(shared: &Shared) -> Result<u64, sqlx::Error> {
    let mut tx = shared.pool.begin().await?;
    // Claims lock their worker's row: from here on none can be made for these.
    let lost: Vec<(Uuid, String)> =
        sqlx::query_as("select token, name from queue.workers where lease_until < now() for update skip locked")
            .fetch_all(&mut *tx)
            .await?;
    if lost.is_empty() {
        return Ok(0);
    }
    let tokens: Vec<Uuid> = lost.iter().map(|(token, _)| *token).collect();
    // It has to find jobs by their holder, which no index knows, in a queue of any length.
    sqlx::query(lane::LONG_STATEMENT).execute(&mut *tx).await?;
    sqlx::query("set local enable_seqscan = on").execute(&mut *tx).await?;
    let (jobs, locked, queues): (i64, i64, Vec<String>) =
        sqlx::query_as(RESCUE).bind(&tokens).fetch_one(&mut *tx).await?;
    if locked == 0 {
        sqlx::query("delete from queue.workers where token = any ($1)").bind(&tokens).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    for (_, name) in &lost {
        tracing::warn!(worker = name, jobs, locked, "a worker was lost; its jobs run again");
    }
    let waker = crate::Waker::new(shared.pool.clone());
    queues.iter().for_each(|queue| waker.wake(queue));
    Ok(if locked == 0 { lost.len() as u64 } else { 0 })
}

/// Rows of a day and more ago: finished jobs after seven days, counts rolled up by day.
async fn clear_away(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("delete from queue.finished where finished_at < queue.now() - interval '7 days'").execute(pool).await?;
    sqlx::query(
        "with old as (
             delete from queue.stats where minute < queue.now() - interval '1 day' and worker <> '' returning *
         )
         insert into queue.stats as day (minute, queue, kind, worker, done, failed, dead, run_ms, wait_ms)
         select date_trunc('day', minute, 'UTC'), queue, kind, '', sum(done), sum(failed), sum(dead), sum(run_ms), sum(wait_ms)
         from old group by 1, 2, 3
         on conflict (minute, queue, kind, worker) do update set
             done = day.done + excluded.done, failed = day.failed + excluded.failed, dead = day.dead + excluded.dead,
             run_ms = day.run_ms + excluded.run_ms, wait_ms = day.wait_ms + excluded.wait_ms",
    )
    .execute(pool)
    .await?;
    Ok(())
}
