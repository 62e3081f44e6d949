//! Which handler runs which kind of job, and what a handler sees.

use std::{collections::HashMap, error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    Claim,
    run::{Job, Progress, Run, Stop},
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// How a handler fails. Any other error turns into [`JobError::Retry`] through `?`.
#[derive(Debug)]
pub enum JobError {
    /// Run again, as long as attempts are left.
    Retry {
        /// What went wrong.
        source: BoxError,
        /// Not before; None is the usual backoff: random below 1 s, doubling with each attempt up to an hour.
        after: Option<Duration>,
    },
    /// Never again: the job goes to the dead ones.
    Abort(BoxError),
}

impl JobError {
    /// Run again after the usual backoff.
    pub fn retry(source: impl Into<BoxError>) -> Self {
        Self::Retry { source: source.into(), after: None }
    }

    /// Run again, not before `after`.
    pub fn retry_after(source: impl Into<BoxError>, after: Duration) -> Self {
        Self::Retry { source: source.into(), after: Some(after) }
    }

    /// Never again.
    pub fn abort(source: impl Into<BoxError>) -> Self {
        Self::Abort(source.into())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for JobError {
    fn from(source: E) -> Self {
        Self::retry(source)
    }
}

/// A [`JobError`] in the form in which it passes through apalis, whose layers want a `std::error::Error`.
#[derive(Debug)]
pub(crate) struct Failed(pub JobError);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job failed")
    }
}

impl StdError for Failed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            JobError::Retry { source, .. } | JobError::Abort(source) => Some(source.as_ref()),
        }
    }
}

/// What a handler sees of its run.
#[derive(Debug, Clone)]
pub struct Context {
    run: Arc<Run>,
}

impl Context {
    /// What [`fence`](crate::fence()) wants to see in each writing transaction.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.run.claim
    }

    /// The how-manieth run this is, from 1. Runs of lost workers count.
    #[must_use]
    pub fn attempt(&self) -> i16 {
        self.run.claim.attempt
    }

    /// True when a failure of this run makes the job dead.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.run.claim.attempt >= self.run.max_attempts
    }

    /// Cancelled when the run shall end: see [`Context::stop_reason`]. The handler has 5 s to end in its own way; then its future is
    /// dropped at the next await.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.run.stop
    }

    /// Why the run shall end; None while it may go on.
    #[must_use]
    pub fn stop_reason(&self) -> Option<Stop> {
        self.run.reason()
    }

    /// Tells people how far the job is. Call it as often as you like: at most one value a second is written.
    pub fn progress(&self, done: u64, total: u64, message: impl Into<String>) {
        self.run.set_progress(Progress { done, total, message: message.into() });
    }

    /// W3C traceparent of who enqueued the job.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.run.trace.as_deref()
    }
}

type Handling = Pin<Box<dyn Future<Output = Result<(), JobError>> + Send>>;
type Handler = Arc<dyn Fn(Context, &str) -> Handling + Send + Sync>;

/// The handlers by kind. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: Arc<HashMap<String, Handler>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

/// How long a job of a kind that this process does not know waits for one that does (a newer version, say).
const UNKNOWN_KIND_DELAY: Duration = Duration::from_secs(30);

impl Registry {
    /// Without any handler.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Jobs of `kind` carry a `J` and are run by `handler`. A payload that is no `J` makes its job dead.
    #[must_use]
    pub fn kind<J, F, Fut>(mut self, kind: &str, handler: F) -> Self
    where
        J: DeserializeOwned,
        F: Fn(Context, J) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |context, payload| match serde_json::from_str(payload) {
            Ok(job) => Box::pin(handler(context, job)),
            Err(error) => Box::pin(async { Err(JobError::abort(Undecodable(error))) }),
        });
        Arc::make_mut(&mut self.kinds).insert(kind.to_owned(), handler);
        self
    }

    /// Runs one job. Decoding and the handler's first steps happen inside the returned future, so that a panic there is caught.
    pub(crate) async fn handle(self, job: Job) -> Result<(), Failed> {
        let kind = job.run.kind.kind.clone();
        let result = match self.kinds.get(&kind) {
            Some(handler) => handler(Context { run: job.run }, &job.payload).await,
            None => Err(JobError::retry_after(UnknownKind(kind), UNKNOWN_KIND_DELAY)),
        };
        result.map_err(Failed)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the payload does not fit this kind of job")]
struct Undecodable(#[source] serde_json::Error);

#[derive(Debug, thiserror::Error)]
#[error("no handler for jobs of kind {0:?}")]
struct UnknownKind(String);
