//! Periodic jobs: any number of processes tick, one of them inserts the job.
//!
//! Leaves out when a tick is due: that is the caller's rule. A ticker is a wake-up only and may come twice, late, or from many
//! processes at once.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

use crate::{Error, JobId, NewJob, enqueue};

/// A periodic job.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct Cron {
    /// Its name, unique.
    pub name: String,
    /// Its rule in the words of whoever registered it.
    pub rule: String,
    /// Queue of its jobs.
    pub queue: String,
    /// Kind of its jobs.
    pub kind: String,
    /// When it was last queued, by its tick or by a person; None: never.
    pub last_run: Option<DateTime<Utc>>,
}

/// Makes the cron known, with the job that running it now inserts, and returns its last tick.
///
/// At start, the newest tick after that one which is not in the future was missed: [`fire`] it once. A cron registered for the
/// first time has its last tick now, and so has missed nothing.
///
/// # Errors
/// [`Error::Database`].
pub async fn register(conn: &mut PgConnection, name: &str, rule: &str, job: &NewJob) -> Result<DateTime<Utc>, Error> {
    let last = sqlx::query_scalar(
        "insert into queue.crons (name, rule, queue, kind, payload, last_tick) values ($1, $2, $3, $4, $5, queue.now())
         on conflict (name) do update
             set rule = excluded.rule, queue = excluded.queue, kind = excluded.kind, payload = excluded.payload
         returning last_tick",
    )
    .bind(name)
    .bind(rule)
    .bind(&job.queue)
    .bind(&job.kind)
    .bind(&job.payload)
    .fetch_one(conn)
    .await?;
    Ok(last)
}

/// Inserts the job of this tick, unless another process was first. Must be called in a transaction; wake the queue after its
/// commit when it says true.
///
/// # Errors
/// [`Error::Database`].
pub async fn fire(conn: &mut PgConnection, name: &str, tick: DateTime<Utc>, job: &NewJob) -> Result<bool, Error> {
    let moved = sqlx::query("update queue.crons set last_tick = $2, last_run = $2 where name = $1 and last_tick < $2")
        .bind(name)
        .bind(tick)
        .execute(&mut *conn)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    enqueue(conn, job).await?;
    Ok(true)
}

/// Inserts a job of the cron now, beside its rhythm, and keeps a row of it in `finished`. None: there is no such cron.
///
/// # Errors
/// [`Error::Database`].
pub async fn run_now(conn: &mut PgConnection, name: &str) -> Result<Option<(String, JobId)>, Error> {
    let row: Option<(String, String, Json<serde_json::Value>)> =
        sqlx::query_as("update queue.crons set last_run = queue.now() where name = $1 returning queue, kind, payload")
            .bind(name)
            .fetch_optional(&mut *conn)
            .await?;
    let Some((queue, kind, Json(payload))) = row else { return Ok(None) };
    let id = enqueue(conn, &NewJob::new(&queue, kind, &payload).keep()).await?;
    Ok(id.map(|id| (queue, id)))
}

/// All crons by name.
///
/// # Errors
/// [`Error::Database`].
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Cron>, Error> {
    let crons = sqlx::query_as("select name, rule, queue, kind, last_run from queue.crons order by name")
        .fetch_all(conn)
        .await?;
    Ok(crons)
}
