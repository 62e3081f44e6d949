//! What people do to jobs and queues. Authorization and auditing are the caller's.

use sqlx::PgConnection;

use crate::{Error, JobId};

/// NOTIFY channel; the payload is the id of a running job that shall end.
pub(crate) const CANCEL_CHANNEL: &str = "driftless_queue_cancel";

/// What became of a cancelled job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not started and never will.
    Removed,
    /// It runs; its handler is told after this transaction's commit.
    Requested,
    /// There is no such job, or it has ended.
    Unknown,
}

/// Cancels a job: at once when it waits, through its cancellation token when it runs.
///
/// # Errors
/// [`Error::Database`].
pub async fn cancel(conn: &mut PgConnection, id: JobId) -> Result<Cancelled, Error> {
    let running: Option<bool> = sqlx::query_scalar(
        "with held as materialized (
             select id, lease_token is not null as running from queue.jobs where id = $1 for update
         ), gone as (
             delete from queue.jobs job using held where job.id = held.id and not held.running returning job.*
         ), kept as (
             insert into queue.finished (id, queue, kind, payload, outcome, attempt, last_error, created_at)
             select id, queue, kind, payload, 'cancelled', attempt, last_error, created_at from gone
         ), asked as (
             update queue.jobs job set cancel_requested = true from held where job.id = held.id and held.running
             returning pg_notify($2, job.id::text)
         )
         select running from held left join asked on true",
    )
    .bind(id)
    .bind(CANCEL_CHANNEL)
    .fetch_optional(conn)
    .await?;
    Ok(match running {
        Some(true) => Cancelled::Requested,
        Some(false) => Cancelled::Removed,
        None => Cancelled::Unknown,
    })
}

/// Stops claiming from a queue; what runs, runs on. False: it was paused already.
///
/// # Errors
/// [`Error::Database`].
pub async fn pause(conn: &mut PgConnection, queue: &str) -> Result<bool, Error> {
    let done = sqlx::query("insert into queue.paused (queue) values ($1) on conflict do nothing")
        .bind(queue)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Claims from the queue again; wake it after the commit. False: it was not paused.
///
/// # Errors
/// [`Error::Database`].
pub async fn resume(conn: &mut PgConnection, queue: &str) -> Result<bool, Error> {
    let done = sqlx::query("delete from queue.paused where queue = $1").bind(queue).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Puts a dead job back under its old id, with all attempts before it. Returns its queue, to be woken after the commit; None: there
/// is no such dead job.
///
/// # Errors
/// [`Error::Database`].
pub async fn redrive(conn: &mut PgConnection, id: JobId) -> Result<Option<String>, Error> {
    let queue = sqlx::query_scalar(
        "with dead as (
             delete from queue.dead_jobs where id = $1 returning *
         )
         insert into queue.jobs (id, queue, kind, payload, priority, max_attempts, keep, trace, last_error, created_at)
         overriding system value
         select id, queue, kind, payload, priority, max_attempts, keep, trace, error, created_at from dead
         returning queue",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(queue)
}

/// Forgets a dead job. False: there is no such dead job.
///
/// # Errors
/// [`Error::Database`].
pub async fn discard(conn: &mut PgConnection, id: JobId) -> Result<bool, Error> {
    let done = sqlx::query("delete from queue.dead_jobs where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}
