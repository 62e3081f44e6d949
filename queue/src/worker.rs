//! Apalis's workers over the feeds: one worker a queue, one Monitor over all, and the drain when the process shall end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use apalis::{layers::WorkerBuilderExt, prelude::Monitor};
use apalis_core::worker::{builder::WorkerBuilder, ext::parallelize::ParallelizeExt};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::QueueBackend,
    process::{DRAIN_GRACE, Process},
    registry::Registry,
    run::Job,
};

/// The longest that a run may take unless its queue says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// How this process serves one queue.
#[derive(Debug, Clone)]
pub struct Serve {
    queue: String,
    concurrency: usize,
    time_limit: Duration,
}

impl Serve {
    /// Runs up to `concurrency` jobs of `queue` at once, each for at most an hour.
    #[must_use]
    pub fn new(queue: impl Into<String>, concurrency: usize) -> Self {
        Self { queue: queue.into(), concurrency, time_limit: TIME_LIMIT }
    }

    /// The longest that a run may take. Then it is asked to end, and 5 s later its job is taken from it and retried.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }
}

/// The workers of a process, ready to run.
#[derive(Debug)]
pub struct Workers {
    process: Process,
    monitor: Monitor,
    later: Option<(mpsc::Receiver<Serve>, Registry)>,
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        Self { process: process.clone(), monitor: Monitor::new().should_restart(|_, _| true), later: None }
    }

    /// Adds a worker that runs the jobs of one queue with the handlers of `registry`.
    #[must_use]
    pub fn serve(mut self, serve: Serve, registry: &Registry) -> Self {
        self.monitor = register(self.monitor, &self.process, &serve, registry);
        self
    }

    /// Adds a worker for each queue that comes out of `later`, while the others run.
    #[must_use]
    pub fn serve_later(mut self, later: mpsc::Receiver<Serve>, registry: &Registry) -> Self {
        self.later = Some((later, registry.clone()));
        self
    }

    /// Runs until `shutdown` is cancelled, then drains: no new jobs, 20 s for those that run, the rest handed back unburnt.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { process, monitor, mut later } = self;
        let drained = CancellationToken::new();
        let until_drained = |monitor: Monitor| {
            let drained = drained.clone();
            monitor.run_with_signal(async move {
                drained.cancelled().await;
                Ok(())
            })
        };
        let mut monitors = JoinSet::new();
        monitors.spawn(until_drained(monitor));
        while let Some((serve, registry)) = next(&mut later, &shutdown).await {
            let monitor = Monitor::new().should_restart(|_, _| true);
            monitors.spawn(until_drained(register(monitor, &process, &serve, &registry)));
        }
        shutdown.cancelled().await;
        process.drain(DRAIN_GRACE).await;
        drained.cancel();
        while let Some(ended) = monitors.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the workers ended with an error"),
                Err(error) => tracing::error!(%error, "the workers' monitor panicked"),
            }
        }
    }
}

fn register(monitor: Monitor, process: &Process, serve: &Serve, registry: &Registry) -> Monitor {
    let feed = process.feed(&serve.queue, serve.concurrency, serve.time_limit);
    let name = format!("{}@{}", serve.queue, process.name());
    let registry = registry.clone();
    monitor.register(move |_restarts| {
        let registry = registry.clone();
        WorkerBuilder::new(name.clone())
            .backend(QueueBackend { feed: feed.clone() })
            .catch_panic()
            .enable_tracing()
            .parallelize(spawn)
            .build(move |job: Job| registry.clone().handle(job))
    })
}

/// The next queue to serve; None when none will come, or at the shutdown.
async fn next(
    later: &mut Option<(mpsc::Receiver<Serve>, Registry)>,
    shutdown: &CancellationToken,
) -> Option<(Serve, Registry)> {
    let (more, registry) = later.as_mut()?;
    tokio::select! {
        serve = more.recv() => Some((serve?, registry.clone())),
        () = shutdown.cancelled() => None,
    }
}

/// Handlers run as tasks of their own: one that blocks a thread holds up nobody else. Dropping the handle aborts them.
fn spawn<F>(future: F) -> AbortOnDrop<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    AbortOnDrop(tokio::spawn(future))
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
