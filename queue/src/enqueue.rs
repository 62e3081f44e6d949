//! Putting jobs into the queue, in the caller's transaction: the job exists exactly if that transaction commits.
//!
//! Leaves out waking the workers: NOTIFY inside a writing transaction serialises all commits of the database, so
//! [`Waker::wake`](crate::Waker::wake) is called after the commit. A job nobody was woken for is found within a second.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::Error;

/// Names a job for ever: also after it ended, in `finished` and `dead_jobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct JobId(pub i64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A job to be. [`NewJob::new`] gives the usual one; the builder methods change it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Which workers take it.
    pub queue: String,
    /// Which handler runs it.
    pub kind: String,
    /// What the handler gets. Ids rather than state: the handler loads fresh state.
    pub payload: serde_json::Value,
    /// Higher runs first; 0 is usual.
    pub priority: i16,
    /// Not before; None is now.
    pub run_at: Option<DateTime<Utc>>,
    /// Runs that may fail or be lost before the job is dead; 5 is usual.
    pub max_attempts: i16,
    /// While a job with an equal key waits, this one is not inserted. Keys are compared over all queues.
    pub unique_key: Option<String>,
    /// Leave a row in `finished` for 7 days.
    pub keep: bool,
    /// W3C traceparent of who asks.
    pub trace: Option<String>,
}

impl NewJob {
    /// A job that runs now, at most 5 times, and leaves nothing behind.
    ///
    /// # Panics
    /// When the payload has no JSON form (a map whose keys are not text): a mistake in its type, not in its values.
    pub fn new(queue: impl Into<String>, kind: impl Into<String>, payload: &impl Serialize) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload: serde_json::to_value(payload).expect("payloads are plain structs, whose serialisation can't fail"),
            priority: 0,
            run_at: None,
            max_attempts: 5,
            unique_key: None,
            keep: false,
            trace: None,
        }
    }

    /// Higher runs first.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Not before this time.
    #[must_use]
    pub fn run_at(mut self, at: DateTime<Utc>) -> Self {
        self.run_at = Some(at);
        self
    }

    /// Runs that may fail or be lost before the job is dead.
    #[must_use]
    pub fn max_attempts(mut self, attempts: i16) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Nothing is inserted while a job with this key waits.
    #[must_use]
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// Leave a row in `finished` for 7 days.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// W3C traceparent of who asks.
    #[must_use]
    pub fn trace(mut self, traceparent: impl Into<String>) -> Self {
        self.trace = Some(traceparent.into());
        self
    }
}

const INSERT: &str = "
    insert into queue.jobs (queue, kind, payload, priority, ready, run_at, max_attempts, unique_key, keep, trace)
    values ($1, $2, $3, $4, coalesce($5 <= queue.now() + interval '60 s', true), coalesce($5, queue.now()), $6, $7, $8, $9)
    on conflict (unique_key) where unique_key is not null do nothing
    returning id";

/// Inserts the job in the caller's transaction. None: a job with an equal `unique_key` already waits.
///
/// # Errors
/// [`Error::Database`]; the caller's transaction is then aborted, as after any failed statement.
pub async fn enqueue(conn: &mut PgConnection, job: &NewJob) -> Result<Option<JobId>, Error> {
    let id = sqlx::query_scalar(INSERT)
        .bind(&job.queue)
        .bind(&job.kind)
        .bind(&job.payload)
        .bind(job.priority)
        .bind(job.run_at)
        .bind(job.max_attempts)
        .bind(&job.unique_key)
        .bind(job.keep)
        .bind(&job.trace)
        .fetch_optional(conn)
        .await?;
    Ok(id)
}

/// `(select queue.now())` is computed once, not for each row and column.
macro_rules! insert_batch {
    ($conflict:literal) => {
        concat!(
            "insert into queue.jobs (queue, kind, payload, priority, ready, run_at, max_attempts, unique_key, keep, trace, created_at)
             select queue, kind, payload, priority, coalesce(run_at <= (select queue.now()) + interval '60 s', true),
                    coalesce(run_at, (select queue.now())), max_attempts, unique_key, keep, trace, (select queue.now())
             from unnest($1::text[], $2::text[], $3::jsonb[], $4::int2[], $5::timestamptz[], $6::int2[], $7::text[], $8::bool[], $9::text[])
                  as job(queue, kind, payload, priority, run_at, max_attempts, unique_key, keep, trace) ",
            $conflict
        )
    };
}

/// Rows that may be refused are written in two steps.
const INSERT_BATCH: &str = insert_batch!("");
const INSERT_BATCH_UNLESS_WAITING: &str =
    insert_batch!("on conflict (unique_key) where unique_key is not null do nothing");

/// Inserts all jobs with one statement in the caller's transaction and says how many were new.
///
/// Those whose `unique_key` already waits, in the table or earlier in `jobs`, are left out.
///
/// # Errors
/// [`Error::Database`]; then none was inserted.
pub async fn enqueue_batch(conn: &mut PgConnection, jobs: &[NewJob]) -> Result<u64, Error> {
    fn column<'a, T>(jobs: &'a [NewJob], field: impl Fn(&'a NewJob) -> T) -> Vec<T> {
        jobs.iter().map(field).collect()
    }
    let unique = jobs.iter().any(|job| job.unique_key.is_some());
    let done = sqlx::query(if unique { INSERT_BATCH_UNLESS_WAITING } else { INSERT_BATCH })
        .bind(column(jobs, |j| j.queue.as_str()))
        .bind(column(jobs, |j| j.kind.as_str()))
        .bind(column(jobs, |j| &j.payload))
        .bind(column(jobs, |j| j.priority))
        .bind(column(jobs, |j| j.run_at))
        .bind(column(jobs, |j| j.max_attempts))
        .bind(column(jobs, |j| j.unique_key.as_deref()))
        .bind(column(jobs, |j| j.keep))
        .bind(column(jobs, |j| j.trace.as_deref()))
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}
