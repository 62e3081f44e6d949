//! The seam to apalis: a [`Feed`] as an `apalis_core` Backend, and the tower layer through which each run reports its end.
//!
//! Tasks come out undecoded (`Ephemeral`): apalis's own decoding ends the whole worker at the first bad payload, ours makes one dead job. Jobs
//! go in through [`enqueue`](crate::enqueue()) in the caller's transaction, so there is no Sink.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::BoxDynError,
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::context::WorkerContext,
};
use tower::{Layer, Service};

use crate::{
    feed::Feed,
    registry::{Failed, JobError},
    run::{Job, Run, Stop},
};

#[derive(Debug, Clone)]
pub(crate) struct QueueBackend {
    pub feed: Arc<Feed>,
}

impl Backend for QueueBackend {
    type Task = Task<Job>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.feed.poll_job(cx).map(|job| {
            let claim = job.run.claim;
            let task = TaskBuilder::new(job)
                .task_id(TaskId::from_int(claim.id.0.unsigned_abs()))
                .attempt(usize::from(claim.attempt.unsigned_abs()).saturating_sub(1));
            Some(Ok(task.build()))
        })
    }

    /// Nothing is left to do here: `Process::drain` settles the runs before it lets apalis's workers end.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for QueueBackend {
    type Args = Job;
    type Id = u64;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = AcknowledgeLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> AcknowledgeLayer {
        AcknowledgeLayer { feed: self.feed.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AcknowledgeLayer {
    feed: Arc<Feed>,
}

impl<S> Layer<S> for AcknowledgeLayer {
    type Service = Acknowledge<S>;

    fn layer(&self, inner: S) -> Acknowledge<S> {
        Acknowledge { inner, feed: self.feed.clone() }
    }
}

/// Outermost service: whatever happens inside, the feed learns how the run ended, exactly once.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledge<S> {
    inner: S,
    feed: Arc<Feed>,
}

impl<S> Service<Task<Job>> for Acknowledge<S>
where
    S: Service<Task<Job>, Response = (), Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxDynError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, task: Task<Job>) -> Self::Future {
        let mut report = Report { feed: self.feed.clone(), run: Some(task.args.run.clone()) };
        let run = task.args.run.clone();
        let handling = self.inner.call(task);
        Box::pin(async move {
            let result = tokio::select! {
                biased;
                result = handling => result.map_err(into_job_error),
                () = run.taken.cancelled() => Err(JobError::retry(Taken)),
            };
            report.end(result);
            Ok(())
        })
    }
}

/// Reports a run whose future is dropped unfinished as handed back.
struct Report {
    feed: Arc<Feed>,
    run: Option<Arc<Run>>,
}

impl Report {
    fn end(&mut self, result: Result<(), JobError>) {
        if let Some(run) = self.run.take() {
            self.feed.ended(&run, result);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            run.stop(Stop::Drain);
        }
        self.end(Err(JobError::retry(Taken)));
    }
}

fn into_job_error(error: BoxDynError) -> JobError {
    match error.downcast::<Failed>() {
        Ok(failed) => failed.0,
        // A panic, caught by apalis's layer.
        Err(error) => JobError::Retry { source: error, after: None },
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the run was ended because it took too long")]
struct Taken;
