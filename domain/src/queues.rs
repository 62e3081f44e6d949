//! The queue as admins see and steer it. Every act is audited in the transaction that does it.
//!
//! Left out: what a job does. Jobs belong to the server, not to a user, so no row level security helps here; every function
//! asks for an admin first.

use chrono::{DateTime, TimeDelta, Utc};
use driftless_queue as queue;
pub use driftless_queue::{Cancelled, JobId, JobState, MinuteCounts, QueueState, WorkerState};
use serde_json::json;

use crate::{
    Actor, Domain, Tx,
    audit::{self, Entry},
    crons, db,
    error::{Fault, Kind},
};

/// Why an admin's wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only admins see and steer the queue.
    #[error("only an admin may see or steer the queue")]
    NotAdmin,
    /// No such job, or it ended longer ago than is kept.
    #[error("there is no such job; finished ones are kept for 7 days, and only some kinds")]
    NoSuchJob,
    /// The job is not dead.
    #[error("only a dead job can be retried or discarded")]
    NotDead,
    /// The job has ended.
    #[error("the job has ended already")]
    Ended,
    /// No such cron.
    #[error("there is no periodic job of that name")]
    NoSuchCron,
    /// The name can't be one.
    #[error("a queue's name has 1 to 255 characters")]
    NameInvalid,
    /// The database failed.
    #[error("the queue could not be read or changed")]
    Database(#[from] db::Error),
}

impl From<queue::Error> for Error {
    fn from(cause: queue::Error) -> Self {
        Error::Database(cause.into())
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotAdmin => Kind::Forbidden,
            Error::NoSuchJob | Error::NoSuchCron => Kind::NotFound,
            Error::NotDead | Error::Ended => Kind::Conflict,
            Error::NameInvalid => Kind::Invalid,
            Error::Database(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NotAdmin => "admin.required",
            Error::NoSuchJob => "job.not_found",
            Error::NoSuchCron => "cron.not_found",
            Error::NotDead => "job.not_dead",
            Error::Ended => "job.ended",
            Error::NameInvalid => "queue.name_invalid",
            Error::Database(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        matches!(self, Error::NameInvalid).then_some("queue")
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Waiting, due and running ones.
    #[default]
    Living,
    /// Those at work.
    Running,
    /// Those that are due or will be.
    Waiting,
    /// Those that ran out of attempts, were aborted or could not be read.
    Dead,
    /// Finished ones of kinds that are kept, and cancelled ones; for 7 days.
    Finished,
}

/// What to list: newest first, below the id `before`.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In which state.
    pub which: Which,
    /// Of one queue, or of all.
    pub queue: Option<String>,
    /// The last id of the page before.
    pub before: Option<JobId>,
    /// At most so many, 1 to 1,000.
    pub limit: i64,
}

/// A transaction in which `actor`, an admin, sees the whole queue.
pub async fn begin(domain: &Domain, actor: &Actor) -> Result<Tx, Error> {
    if !actor.is_admin() {
        return Err(Error::NotAdmin);
    }
    Ok(domain.begin_system().await?)
}

/// Every queue with its depth and age.
pub async fn queues(domain: &Domain, actor: &Actor) -> Result<Vec<QueueState>, Error> {
    let mut tx = begin(domain, actor).await?;
    Ok(queue::queues(&mut tx).await?)
}

/// Every worker process with its lease.
pub async fn workers(domain: &Domain, actor: &Actor) -> Result<Vec<WorkerState>, Error> {
    let mut tx = begin(domain, actor).await?;
    Ok(queue::workers(&mut tx).await?)
}

/// A page of jobs.
pub async fn list(domain: &Domain, actor: &Actor, filter: &Filter) -> Result<Vec<JobState>, Error> {
    let mut tx = begin(domain, actor).await?;
    let (of, before, limit) = (filter.queue.as_deref(), filter.before, filter.limit.clamp(1, 1000));
    Ok(match filter.which {
        Which::Living => queue::jobs(&mut tx, of, before, limit).await,
        Which::Running => queue::running_jobs(&mut tx, of, before, limit).await,
        Which::Waiting => queue::waiting_jobs(&mut tx, of, before, limit).await,
        Which::Dead => queue::dead_jobs(&mut tx, of, before, limit).await,
        Which::Finished => queue::finished_jobs(&mut tx, of, before, limit).await,
    }?)
}

/// One job, in whatever state.
pub async fn get(domain: &Domain, actor: &Actor, id: JobId) -> Result<JobState, Error> {
    let mut tx = begin(domain, actor).await?;
    queue::job(&mut tx, id).await?.ok_or(Error::NoSuchJob)
}

/// Counts by minute and kind of the last `hours` (1 to 168); what is older than a day is counted by day.
pub async fn stats(domain: &Domain, actor: &Actor, hours: u32) -> Result<Vec<MinuteCounts>, Error> {
    let mut tx = begin(domain, actor).await?;
    let since: DateTime<Utc> = tx.now().await? - TimeDelta::hours(i64::from(hours.clamp(1, 168)));
    Ok(queue::stats(&mut tx, since).await?)
}

/// Cancels a job: at once when it waits; a running one is told to end.
pub async fn cancel(domain: &Domain, actor: &Actor, id: JobId) -> Result<Cancelled, Error> {
    let mut tx = begin(domain, actor).await?;
    let cancelled = queue::cancel(&mut tx, id).await?;
    if cancelled == Cancelled::Unknown {
        return Err(queue::job(&mut tx, id).await?.map_or(Error::NoSuchJob, |_| Error::Ended));
    }
    let running = cancelled == Cancelled::Requested;
    let entry = Entry::new("job_cancelled").by(actor).about("job", id).details(json!({ "was_running": running }));
    audit::record(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(cancelled)
}

/// Puts a dead job back, with all its attempts before it.
pub async fn retry(domain: &Domain, actor: &Actor, id: JobId) -> Result<(), Error> {
    let mut tx = begin(domain, actor).await?;
    let Some(name) = queue::redrive(&mut tx, id).await? else {
        return Err(queue::job(&mut tx, id).await?.map_or(Error::NoSuchJob, |_| Error::NotDead));
    };
    audit::record(&mut tx, Entry::new("job_retried").by(actor).about("job", id)).await?;
    tx.commit().await?;
    domain.waker().wake(&name);
    Ok(())
}

/// Forgets a dead job for good.
pub async fn discard(domain: &Domain, actor: &Actor, id: JobId) -> Result<(), Error> {
    let mut tx = begin(domain, actor).await?;
    let Some(job) = queue::job(&mut tx, id).await? else { return Err(Error::NoSuchJob) };
    if !queue::discard(&mut tx, id).await? {
        return Err(Error::NotDead);
    }
    let details = json!({ "queue": job.queue, "kind": job.kind, "payload": job.payload, "error": job.last_error });
    audit::record(&mut tx, Entry::new("job_discarded").by(actor).about("job", id).details(details)).await?;
    Ok(tx.commit().await?)
}

/// Stops claiming from a queue, or goes on with it. What runs, runs on. Doing it twice is no error.
pub async fn set_paused(domain: &Domain, actor: &Actor, name: &str, paused: bool) -> Result<(), Error> {
    if name.is_empty() || name.chars().count() > 255 {
        return Err(Error::NameInvalid);
    }
    let mut tx = begin(domain, actor).await?;
    let changed = if paused { queue::pause(&mut tx, name).await? } else { queue::resume(&mut tx, name).await? };
    if changed {
        let action = if paused { "queue_paused" } else { "queue_resumed" };
        audit::record(&mut tx, Entry::new(action).by(actor).about("queue", name)).await?;
        tx.commit().await?;
        domain.waker().wake(name);
    }
    Ok(())
}

/// A periodic job with its times.
#[derive(Debug, Clone, PartialEq)]
pub struct CronState {
    /// Its name, unique.
    pub name: String,
    /// Its rule in words.
    pub rule: String,
    /// When it is due; None for a cron that only another version knows.
    pub rhythm: Option<crons::Rhythm>,
    /// Queue of its jobs.
    pub queue: String,
    /// Kind of its jobs.
    pub kind: String,
    /// When it was last queued, by its tick or by a person; None: never.
    pub last_run: Option<DateTime<Utc>>,
    /// The next one; None for a cron that only another version knows.
    pub next_tick: Option<DateTime<Utc>>,
}

/// The periodic jobs.
pub async fn crons(domain: &Domain, actor: &Actor) -> Result<Vec<CronState>, Error> {
    let mut tx = begin(domain, actor).await?;
    let (now, known) = (tx.now().await?, crons::all(domain.settings()));
    let registered = queue::crons::list(&mut tx).await?;
    let state = |c: queue::crons::Cron| {
        let known = known.iter().find(|k| k.kind == c.name);
        let (rhythm, next_tick) = known.map(|k| (k.rhythm, k.next(now))).unzip();
        let queue::crons::Cron { name, rule, queue, kind, last_run } = c;
        CronState { name, rule, rhythm, queue, kind, last_run, next_tick }
    };
    Ok(registered.into_iter().map(state).collect())
}

/// Runs a periodic job now, beside its rhythm; answers the job.
pub async fn run_cron(domain: &Domain, actor: &Actor, name: &str) -> Result<JobId, Error> {
    let mut tx = begin(domain, actor).await?;
    let (queue_name, id) = queue::crons::run_now(&mut tx, name).await?.ok_or(Error::NoSuchCron)?;
    let entry = Entry::new("cron_run").by(actor).about("cron", name).details(json!({ "job_id": id }));
    audit::record(&mut tx, entry).await?;
    tx.commit().await?;
    domain.waker().wake(&queue_name);
    Ok(id)
}
