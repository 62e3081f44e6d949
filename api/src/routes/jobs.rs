//! The queue, for admins: see it, pause it, cancel, retry, run a periodic job now.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    crons::Rhythm,
    queues::{self, Cancelled, Filter, JobId, Which},
};
use poem::web::Data;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};

use super::Tag;
use crate::{bearer::Bearer, problem::ApiError};

/// A queue at this moment.
#[derive(Object)]
struct Queue {
    /// Its name.
    queue: String,
    /// Due jobs that wait for a worker.
    ready: i64,
    /// Jobs that are not due yet.
    scheduled: i64,
    /// Jobs at work.
    running: i64,
    /// Dead jobs.
    dead: i64,
    /// How long the oldest due job has waited, in seconds.
    oldest_ready_seconds: f64,
    /// Nothing is claimed from it.
    paused: bool,
    /// It is too deep to be counted: ready and scheduled are right within a tenth or so.
    estimated: bool,
}

/// A worker process.
#[derive(Object)]
struct Worker {
    /// Host and boot id.
    name: String,
    /// The queues it serves.
    queues: Vec<String>,
    /// Its machine.
    host: String,
    /// Its process there.
    pid: i32,
    /// Jobs it runs.
    running: i32,
    /// When it started, or began anew after a lost lease.
    started_at: DateTime<Utc>,
    /// When it counts as lost, unless it beats before.
    lease_until: DateTime<Utc>,
    /// Its lease is not over.
    alive: bool,
}

/// A job in any state.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Job {
    /// Its id.
    job_id: i64,
    /// Its queue.
    queue: String,
    /// Its kind.
    kind: String,
    /// scheduled, ready, running, done, cancelled or dead.
    state: String,
    /// What its handler gets.
    payload: serde_json::Value,
    /// Higher runs first.
    priority: i16,
    /// Runs so far.
    attempt: i16,
    /// Runs in all before it is dead.
    max_attempts: Option<i16>,
    /// Not before this time.
    run_at: Option<DateTime<Utc>>,
    /// How far the present run is: done, total, message.
    progress: Option<serde_json::Value>,
    /// The last failure.
    last_error: Option<String>,
    /// The process that runs or ran it.
    worker: Option<String>,
    /// When it was queued.
    created_at: DateTime<Utc>,
    /// When it ended.
    ended_at: Option<DateTime<Utc>>,
}

/// A page of jobs, newest first.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct JobPage {
    /// The jobs.
    jobs: Vec<Job>,
    /// Send as `cursor` for the next page; absent on the last one.
    next_cursor: Option<String>,
}

/// Counts of one kind in one minute, over all workers.
#[derive(Object)]
struct JobCounts {
    /// Start of the minute; midnight UTC for a whole day that lies further back.
    minute: DateTime<Utc>,
    /// Queue of the jobs.
    queue: String,
    /// Kind of the jobs.
    kind: String,
    /// Runs that ended well.
    done: i64,
    /// Runs that failed.
    failed: i64,
    /// Jobs that died.
    dead: i64,
    /// Time in handlers, milliseconds.
    run_ms: i64,
    /// Time between due and claimed, milliseconds.
    wait_ms: i64,
}

/// How often a periodic job runs.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum Every {
    /// Each minute.
    Minute,
    /// Once a day.
    Day,
}

/// A periodic job.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Cron {
    /// Its name.
    name: String,
    /// When it runs, in words.
    rule: String,
    /// How often; absent when this server does not know the job.
    every: Option<Every>,
    /// The local time at which a daily one runs, as HH:MM.
    time_of_day: Option<String>,
    /// The time zone of that time.
    timezone: Option<String>,
    /// Queue of its jobs.
    queue: String,
    /// Kind of its jobs.
    kind: String,
    /// When it was last queued, because it was due or by a person; absent when it never was.
    last_run: Option<DateTime<Utc>>,
    /// When it is due next; absent when this server does not know the job.
    next_tick: Option<DateTime<Utc>>,
}

/// What became of a job that was cancelled.
#[derive(Object)]
struct CancelledJob {
    /// The job was running: it has been told to end. Else it is gone already.
    was_running: bool,
}

/// A job that was queued.
#[derive(Object)]
struct QueuedJob {
    /// Its id.
    job_id: i64,
}

/// Which jobs to list.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum JobList {
    /// Waiting, due and running ones.
    Living,
    /// Those at work.
    Running,
    /// Those that are due or will be, and those of paused queues.
    Waiting,
    /// Dead ones.
    Dead,
    /// Finished ones that are kept.
    Finished,
}

/// The operations on the queue.
#[derive(Clone, Copy)]
pub struct Jobs;

#[OpenApi]
impl Jobs {
    /// List jobs
    ///
    /// Newest first. For admins.
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs", tag = "Tag::Jobs")]
    async fn list_jobs(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        /// Which ones; living by default.
        list: Query<Option<JobList>>,
        /// Of one queue.
        queue: Query<Option<String>>,
        /// next_cursor of the page before.
        cursor: Query<Option<String>>,
        /// At most so many, 1 to 1,000; 100 by default.
        limit: Query<Option<u16>>,
    ) -> Result<Json<JobPage>, ApiError> {
        let which = match list.0 {
            None | Some(JobList::Living) => Which::Living,
            Some(JobList::Running) => Which::Running,
            Some(JobList::Waiting) => Which::Waiting,
            Some(JobList::Dead) => Which::Dead,
            Some(JobList::Finished) => Which::Finished,
        };
        let limit = i64::from(limit.0.unwrap_or(100)).clamp(1, 1000);
        let before = super::position(cursor.0)?.map(JobId);
        let filter = Filter { which, queue: queue.0, before, limit };
        let jobs: Vec<Job> = queues::list(domain, &actor, &filter).await?.into_iter().map(Job::from).collect();
        let next_cursor = super::next(&jobs, limit, |job| job.job_id.to_string());
        Ok(Json(JobPage { jobs, next_cursor }))
    }

    /// Job counts by minute
    ///
    /// What ended, by minute, queue and kind. For admins.
    #[oai(path = "/jobs/stats", method = "get", operation_id = "get_job_stats", tag = "Tag::Jobs")]
    async fn get_job_stats(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        /// How far back, in hours, 1 to 168; 1 by default.
        hours: Query<Option<u32>>,
    ) -> Result<Json<Vec<JobCounts>>, ApiError> {
        let counts = queues::stats(domain, &actor, hours.0.unwrap_or(1)).await?;
        Ok(Json(counts.into_iter().map(JobCounts::from).collect()))
    }

    /// List the queues
    ///
    /// Each with depth and age. For admins.
    #[oai(path = "/jobs/queues", method = "get", operation_id = "list_queues", tag = "Tag::Jobs")]
    async fn list_queues(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
    ) -> Result<Json<Vec<Queue>>, ApiError> {
        Ok(Json(queues::queues(domain, &actor).await?.into_iter().map(Queue::from).collect()))
    }

    /// Pause a queue
    ///
    /// Nothing more is claimed from it; what runs, runs on. For admins.
    #[oai(path = "/jobs/queues/:queue/pause", method = "post", operation_id = "pause_queue", tag = "Tag::Jobs")]
    async fn pause_queue(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        queue: Path<String>,
    ) -> Result<(), ApiError> {
        Ok(queues::set_paused(domain, &actor, &queue, true).await?)
    }

    /// Resume a queue
    ///
    /// For admins.
    #[oai(path = "/jobs/queues/:queue/resume", method = "post", operation_id = "resume_queue", tag = "Tag::Jobs")]
    async fn resume_queue(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        queue: Path<String>,
    ) -> Result<(), ApiError> {
        Ok(queues::set_paused(domain, &actor, &queue, false).await?)
    }

    /// List the workers
    ///
    /// Every process that works, with its lease. For admins.
    #[oai(path = "/jobs/workers", method = "get", operation_id = "list_workers", tag = "Tag::Jobs")]
    async fn list_workers(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
    ) -> Result<Json<Vec<Worker>>, ApiError> {
        Ok(Json(queues::workers(domain, &actor).await?.into_iter().map(Worker::from).collect()))
    }

    /// List the periodic jobs
    ///
    /// For admins.
    #[oai(path = "/jobs/crons", method = "get", operation_id = "list_crons", tag = "Tag::Jobs")]
    async fn list_crons(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
    ) -> Result<Json<Vec<Cron>>, ApiError> {
        Ok(Json(queues::crons(domain, &actor).await?.into_iter().map(Cron::from).collect()))
    }

    /// Run a periodic job now
    ///
    /// Beside its rhythm, for example the daily cleanup. For admins.
    #[oai(path = "/jobs/crons/:name/run", method = "post", operation_id = "run_cron", tag = "Tag::Jobs")]
    async fn run_cron(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        name: Path<String>,
    ) -> Result<Json<QueuedJob>, ApiError> {
        Ok(Json(QueuedJob { job_id: queues::run_cron(domain, &actor, &name).await?.0 }))
    }

    /// Get a job
    ///
    /// In whatever state it is. For admins.
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "get_job", tag = "Tag::Jobs")]
    async fn get_job(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        job_id: Path<i64>,
    ) -> Result<Json<Job>, ApiError> {
        Ok(Json(queues::get(domain, &actor, JobId(job_id.0)).await?.into()))
    }

    /// Cancel a job
    ///
    /// At once when it waits; a running one is told to end. For admins.
    #[oai(path = "/jobs/:job_id/cancel", method = "post", operation_id = "cancel_job", tag = "Tag::Jobs")]
    async fn cancel_job(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        job_id: Path<i64>,
    ) -> Result<Json<CancelledJob>, ApiError> {
        let cancelled = queues::cancel(domain, &actor, JobId(job_id.0)).await?;
        Ok(Json(CancelledJob { was_running: cancelled == Cancelled::Requested }))
    }

    /// Retry a dead job
    ///
    /// It gets all its attempts anew. For admins.
    #[oai(path = "/jobs/:job_id/retry", method = "post", operation_id = "retry_job", tag = "Tag::Jobs")]
    async fn retry_job(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        job_id: Path<i64>,
    ) -> Result<(), ApiError> {
        Ok(queues::retry(domain, &actor, JobId(job_id.0)).await?)
    }

    /// Forget a dead job
    ///
    /// It will never run again. For admins.
    #[oai(path = "/jobs/:job_id/discard", method = "post", operation_id = "discard_job", tag = "Tag::Jobs")]
    async fn discard_job(
        &self,
        Data(domain): Data<&Domain>,
        Bearer(actor): Bearer,
        job_id: Path<i64>,
    ) -> Result<(), ApiError> {
        Ok(queues::discard(domain, &actor, JobId(job_id.0)).await?)
    }
}

impl From<queues::QueueState> for Queue {
    fn from(q: queues::QueueState) -> Self {
        let queues::QueueState { queue, ready, scheduled, running, dead, oldest_ready_seconds, paused, estimated } = q;
        Queue { queue, ready, scheduled, running, dead, oldest_ready_seconds, paused, estimated }
    }
}

impl From<queues::WorkerState> for Worker {
    fn from(w: queues::WorkerState) -> Self {
        let queues::WorkerState { name, queues, host, pid, running, started_at, lease_until, alive } = w;
        Worker { name, queues, host, pid, running, started_at, lease_until, alive }
    }
}

impl From<queues::JobState> for Job {
    fn from(j: queues::JobState) -> Self {
        Job {
            job_id: j.id.0,
            queue: j.queue,
            kind: j.kind,
            state: j.state,
            payload: j.payload,
            priority: j.priority,
            attempt: j.attempt,
            max_attempts: j.max_attempts,
            run_at: j.run_at,
            progress: j.progress,
            last_error: j.last_error,
            worker: j.worker,
            created_at: j.created_at,
            ended_at: j.ended_at,
        }
    }
}

impl From<queues::MinuteCounts> for JobCounts {
    fn from(c: queues::MinuteCounts) -> Self {
        let queues::MinuteCounts { minute, queue, kind, done, failed, dead, run_ms, wait_ms } = c;
        JobCounts { minute, queue, kind, done, failed, dead, run_ms, wait_ms }
    }
}

impl From<queues::CronState> for Cron {
    fn from(c: queues::CronState) -> Self {
        let queues::CronState { name, rule, rhythm, queue, kind, last_run, next_tick } = c;
        let daily = match &rhythm {
            Some(Rhythm::Daily(rule)) => {
                Some((rule.time_of_day().format("%H:%M").to_string(), rule.zone().to_string()))
            }
            _ => None,
        };
        let (time_of_day, timezone) = daily.unzip();
        let every = rhythm.map(|rhythm| match rhythm {
            Rhythm::Minutely => Every::Minute,
            Rhythm::Daily(_) => Every::Day,
        });
        Cron { name, rule, every, time_of_day, timezone, queue, kind, last_run, next_tick }
    }
}
