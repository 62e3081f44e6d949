//! How deep the queues are and what is at work, without reading them whole.
//!
//! Invariant: what is read grows with the number of queues and priorities, not of jobs. Jobs are claimed in the order of the ready
//! index, so those at work stand at the front of their queue and priority (behind jobs only that were enqueued later for an
//! earlier time). The front is counted; what waits behind it is estimated from pages taken at random.

use serde::Serialize;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::{Error, JobId};

/// So many jobs are counted of each queue and priority, and of those that are far ahead.
const FRONT: i64 = 5000;

/// So many pages are taken at random for an estimate, the same ones each time, so that it moves with the depth only.
const SAMPLE: i64 = 500;

/// One queue at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct QueueState {
    /// Its name.
    pub queue: String,
    /// Due jobs that wait for a worker.
    pub ready: i64,
    /// Jobs that are not due yet.
    pub scheduled: i64,
    /// Claimed jobs.
    pub running: i64,
    /// Dead jobs.
    pub dead: i64,
    /// How long the oldest due job has waited, in seconds; 0 without one.
    pub oldest_ready_seconds: f64,
    /// Nothing is claimed from it.
    pub paused: bool,
    /// Too deep to be counted: `ready` and `scheduled` are within a tenth or so.
    pub estimated: bool,
}

/// The first $1 jobs of each queue and priority. The recursions go from one queue, and from one priority, to the next by the index.
macro_rules! front {
    ($rest:literal) => {
        concat!(
            "with recursive name(queue) as (
                 (select queue from queue.jobs where ready order by queue limit 1)
                 union all
                 select (select job.queue from queue.jobs job
                         where job.ready and job.queue > name.queue order by job.queue limit 1)
                 from name where name.queue is not null
             ), level(queue, priority) as (
                 select name.queue, (select job.priority from queue.jobs job
                                     where job.ready and job.queue = name.queue order by job.priority desc limit 1)
                 from name where name.queue is not null
                 union all
                 select level.queue, (select job.priority from queue.jobs job
                                      where job.ready and job.queue = level.queue and job.priority < level.priority
                                      order by job.priority desc limit 1)
                 from level where level.priority is not null
             ), front as materialized (
                 select level.queue, level.priority, job.id, job.claimed, job.run_at
                 from level cross join lateral (
                     select id, lease_token is not null as claimed, run_at from queue.jobs
                     where ready and queue = level.queue and priority = level.priority order by run_at, id limit $1
                 ) job where level.priority is not null
             ) ",
            $rest
        )
    };
}

const QUEUES: &str = front!(
    ", counted as (
        select queue, count(*) >= $1 as deep, count(*) filter (where claimed) as running,
               count(*) filter (where not claimed and run_at <= (select queue.now())) as ready,
               count(*) filter (where not claimed and run_at > (select queue.now())) as soon,
               min(run_at) filter (where not claimed and run_at <= (select queue.now())) as oldest
        from front group by queue, priority
    ), near as (
        select queue, bool_or(deep) as deep, sum(running)::bigint as running, sum(ready)::bigint as ready,
               sum(soon)::bigint as soon, min(oldest) as oldest
        from counted group by queue
    ), far as materialized (
        select queue from queue.jobs where not ready order by run_at limit $1
    ), later as (
        select queue, count(*) as jobs from far group by queue
    ), beyond as materialized (
        select (select count(*) from far) >= $1 as far, exists (select from near where deep) as near
    ), taken as (
        select queue, count(*) filter (where run_at <= (select queue.now())) as ready,
               count(*) filter (where run_at > (select queue.now())) as scheduled
        from queue.jobs tablesample system (least(100, 100.0 * $2 / greatest(1, pg_relation_size('queue.jobs') / 8192)))
             repeatable (0)
        where lease_token is null and (select far or near from beyond) group by queue
    ), guess as (
        select queue, (ready * pages.times)::bigint as ready, (scheduled * pages.times)::bigint as scheduled
        from taken cross join (select greatest(1, pg_relation_size('queue.jobs') / 8192.0 / $2) as times) pages
    ), buried as (
        select queue, count(*) as jobs from queue.dead_jobs group by queue
    ), served as (
        select distinct unnest(queues) as queue from queue.workers where lease_until > now()
    )
    select queue, coalesce(near.running, 0) as running, coalesce(buried.jobs, 0) as dead,
           greatest(near.ready, case when near.deep then guess.ready end, 0) as ready,
           greatest(coalesce(near.soon, 0) + coalesce(later.jobs, 0),
                    case when near.deep or beyond.far then guess.scheduled end) as scheduled,
           coalesce(extract(epoch from queue.now() - near.oldest), 0)::float8 as oldest_ready_seconds,
           paused.queue is not null as paused,
           coalesce(near.deep, false) or (beyond.far and (later.jobs is not null or coalesce(guess.scheduled, 0) > 0)) as estimated
    from near full join later using (queue) full join guess using (queue) full join buried using (queue)
         full join queue.paused using (queue) full join served using (queue) cross join beyond order by queue"
);

const AT_WORK: &str = front!(
    "select id from front where claimed and ($2 is null or queue = $2) and id < coalesce($3, 9223372036854775807)
     order by id desc limit $4"
);

const OF_QUEUE: &str = front!(
    ", far as materialized (
        select id, queue from queue.jobs where not ready order by run_at limit $1
    ), known as (
        select id from front where queue = $2 and ($5 or not claimed) union all select id from far where queue = $2
    )
    select (select count(*) from far) < $1
           and not exists (select from front where queue = $2 group by priority having count(*) >= $1),
           array(select id from known where id < coalesce($3, 9223372036854775807) order by id desc limit $4)"
);

/// Every queue that has jobs, dead jobs, a pause or a living worker, by name.
///
/// # Errors
/// [`Error::Database`].
pub async fn queues(conn: &mut PgConnection) -> Result<Vec<QueueState>, Error> {
    let mut tx = by_index(conn).await?;
    let queues = sqlx::query_as(QUEUES).bind(FRONT).bind(SAMPLE).fetch_all(&mut *tx).await?;
    tx.rollback().await?;
    Ok(queues)
}

/// The ids of claimed jobs below `before`, newest first, at most `limit`; of one queue or of all.
pub(crate) async fn at_work(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut tx = by_index(conn).await?;
    let ids = sqlx::query_scalar(AT_WORK).bind(FRONT).bind(queue).bind(before).bind(limit).fetch_all(&mut *tx).await?;
    tx.rollback().await?;
    Ok(ids)
}

/// The ids of a queue's jobs below `before`, newest first, at most `limit`, with or without the claimed ones; None when the queue
/// is too deep for that, and its jobs are found soon enough among the newest of all.
pub(crate) async fn of_queue(
    conn: &mut PgConnection,
    queue: &str,
    before: Option<JobId>,
    limit: i64,
    claimed: bool,
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let mut tx = by_index(conn).await?;
    let (all, ids): (bool, Vec<i64>) = sqlx::query_as(OF_QUEUE)
        .bind(FRONT)
        .bind(queue)
        .bind(before)
        .bind(limit)
        .bind(claimed)
        .fetch_one(&mut *tx)
        .await?;
    tx.rollback().await?;
    Ok(all.then_some(ids))
}

/// A transaction, to be rolled back, in which the planner keeps to the order of the indexes: on a table that was never analysed it
/// would read and sort all of a queue for its front.
async fn by_index(conn: &mut PgConnection) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    sqlx::query(
        "select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
                set_config('enable_sort', 'off', true)",
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx)
}
