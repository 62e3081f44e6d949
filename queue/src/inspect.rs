//! What people and machines may see of the queue. Read only.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::{Error, JobId, depth};

/// One process that works.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct WorkerState {
    /// Host and boot id.
    pub name: String,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// Its machine.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// Jobs it runs.
    pub running: i32,
    /// When it started or began anew after a lost lease.
    pub started_at: DateTime<Utc>,
    /// When it counts as lost, unless it beats before.
    pub lease_until: DateTime<Utc>,
    /// Its lease is not over.
    pub alive: bool,
}

/// A job in any state.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct JobState {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// scheduled, ready, running, done, cancelled or dead.
    pub state: String,
    /// What its handler gets.
    pub payload: serde_json::Value,
    /// Higher runs first.
    pub priority: i16,
    /// Runs so far.
    pub attempt: i16,
    /// Runs in all.
    pub max_attempts: Option<i16>,
    /// Not before; None when it has ended.
    pub run_at: Option<DateTime<Utc>>,
    /// {done, total, message} of the present run.
    pub progress: Option<serde_json::Value>,
    /// The last failure.
    pub last_error: Option<String>,
    /// The process that runs or ran it.
    pub worker: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it ended; None while it hasn't.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Counts of one kind in one minute, over all workers.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct MinuteCounts {
    /// Start of the minute; midnight UTC for a day that was rolled up.
    pub minute: DateTime<Utc>,
    /// Queue of the jobs.
    pub queue: String,
    /// Kind of the jobs.
    pub kind: String,
    /// Runs that ended well.
    pub done: i64,
    /// Runs that failed.
    pub failed: i64,
    /// Jobs that died.
    pub dead: i64,
    /// Time in handlers, milliseconds.
    pub run_ms: i64,
    /// Time between due and claimed, milliseconds.
    pub wait_ms: i64,
}

const JOBS: &str = "
    select job.id, job.queue, job.kind,
           case when job.lease_token is not null then 'running' when job.run_at <= queue.now() then 'ready' else 'scheduled' end as state,
           job.payload, job.priority, job.attempt, job.max_attempts, job.run_at, job.progress, job.last_error,
           worker.name as worker, job.created_at, null::timestamptz as ended_at
    from queue.jobs job left join queue.workers worker on worker.token = job.lease_token";

const FINISHED: &str = "
    select id, queue, kind, outcome as state, payload, 0::smallint as priority, attempt, null::smallint as max_attempts,
           null::timestamptz as run_at, null::jsonb as progress, last_error, worker, created_at, finished_at as ended_at
    from queue.finished";

const DEAD: &str = "
    select id, queue, kind, 'dead' as state, payload, priority, attempt, max_attempts, null::timestamptz as run_at,
           null::jsonb as progress, error as last_error, null::text as worker, created_at, died_at as ended_at
    from queue.dead_jobs";

/// Every registered worker process.
///
/// # Errors
/// [`Error::Database`].
pub async fn workers(conn: &mut PgConnection) -> Result<Vec<WorkerState>, Error> {
    let workers = sqlx::query_as(
        "select name, queues, host, pid, running, started_at, lease_until, lease_until > now() as alive
         from queue.workers order by started_at, name",
    )
    .fetch_all(conn)
    .await?;
    Ok(workers)
}

/// The tokens of the processes whose lease holds.
///
/// # Errors
/// [`Error::Database`].
pub async fn living(conn: &mut PgConnection) -> Result<Vec<uuid::Uuid>, Error> {
    Ok(sqlx::query_scalar("select token from queue.workers where lease_until > now()").fetch_all(conn).await?)
}

/// A job, whether it lives, has finished (for 7 days, if marked keep or cancelled) or is dead.
///
/// # Errors
/// [`Error::Database`].
pub async fn job(conn: &mut PgConnection, id: JobId) -> Result<Option<JobState>, Error> {
    for source in [JOBS, FINISHED, DEAD] {
        let sql = sqlx::AssertSqlSafe(format!("select * from ({source}) all_jobs where id = $1"));
        if let Some(job) = sqlx::query_as(sql).bind(id).fetch_optional(&mut *conn).await? {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// Living jobs below `before`, newest first, at most `limit`; of one queue or of all.
///
/// # Errors
/// [`Error::Database`].
pub async fn jobs(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    if let Some(queue) = queue
        && let Some(ids) = depth::of_queue(conn, queue, before, limit, true).await?
    {
        return by_id(conn, "true", &ids).await;
    }
    list(conn, JOBS, queue, before, limit).await
}

/// Jobs at work below `before`, newest first, at most `limit`; of one queue or of all.
///
/// # Errors
/// [`Error::Database`].
pub async fn running_jobs(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    let ids = depth::at_work(conn, queue, before, limit).await?;
    by_id(conn, "job.lease_token is not null", &ids).await
}

/// Waiting jobs, due or not, below `before`, newest first, at most `limit`; of one queue or of all.
///
/// # Errors
/// [`Error::Database`].
pub async fn waiting_jobs(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    if let Some(queue) = queue
        && let Some(ids) = depth::of_queue(conn, queue, before, limit, false).await?
    {
        return by_id(conn, "job.lease_token is null", &ids).await;
    }
    list(conn, &format!("{JOBS} where job.lease_token is null"), queue, before, limit).await
}

/// Dead jobs below `before`, newest first, at most `limit`; of one queue or of all.
///
/// # Errors
/// [`Error::Database`].
pub async fn dead_jobs(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    list(conn, DEAD, queue, before, limit).await
}

/// Finished jobs below `before`, newest first, at most `limit`; of one queue or of all.
///
/// # Errors
/// [`Error::Database`].
pub async fn finished_jobs(
    conn: &mut PgConnection,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    list(conn, FINISHED, queue, before, limit).await
}

/// Those of these jobs that still are what they were found as, newest first.
async fn by_id(conn: &mut PgConnection, still: &str, ids: &[i64]) -> Result<Vec<JobState>, Error> {
    let sql = format!("{JOBS} where job.id = any ($1) and {still} order by job.id desc");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(ids).fetch_all(conn).await?)
}

async fn list(
    conn: &mut PgConnection,
    source: &str,
    queue: Option<&str>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<JobState>, Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "select * from ({source}) all_jobs where ($1 is null or queue = $1) and id < coalesce($2, 9223372036854775807)
         order by id desc limit $3"
    ));
    Ok(sqlx::query_as(sql).bind(queue).bind(before).bind(limit).fetch_all(conn).await?)
}

/// Counts since a time, by minute and kind; what is older than a day stands in rows of a day.
///
/// # Errors
/// [`Error::Database`].
pub async fn stats(conn: &mut PgConnection, since: DateTime<Utc>) -> Result<Vec<MinuteCounts>, Error> {
    let counts = sqlx::query_as(
        "select minute, queue, kind, sum(done)::bigint as done, sum(failed)::bigint as failed, sum(dead)::bigint as dead,
                sum(run_ms)::bigint as run_ms, sum(wait_ms)::bigint as wait_ms
         from queue.stats where minute >= $1 group by minute, queue, kind order by minute, queue, kind",
    )
    .bind(since)
    .fetch_all(conn)
    .await?;
    Ok(counts)
}
