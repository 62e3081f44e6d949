//! What a worker process does: it fires due schedules, ticks the crons and runs the jobs. Thin: a handler decodes, makes one
//! call into the domain and says whether to try again.
//!
//! Invariant: any number of processes may run this on one database; the domain and the queue let each thing be done once.

pub mod crons;

use std::{error::Error, time::Duration};

use driftless_domain::{
    Domain, cleanup, crons as periodic, dispatch, engine,
    error::{Fault, Kind},
    remotes::{self, Roots},
    runs, uploads,
};
use driftless_queue::{Context, JobError, Process, Registry, Serve, Workers};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Runs of client devices that are planned at once.
const PLANS: usize = 8;
/// Folders of one root that are synced at once: they share a disk.
const FOLDERS: usize = 2;
/// Large uploads that are hashed at once.
const HASHES: usize = 2;
/// Sweeps at once.
const SWEEPS: usize = 2;
/// The longest that a sync may take in one go.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How often roots of folder remotes are looked for.
const LOOK_FOR_ROOTS: Duration = Duration::from_secs(10);

/// Works until `stop`, then drains: handlers get 20 s, and what is left goes back to the queue unburnt.
pub async fn run(domain: Domain, process: &Process, stop: CancellationToken) {
    let handlers = handlers(&domain);
    let (found, later) = mpsc::channel(1);
    let workers = Workers::new(process)
        .serve(Serve::new("sync", PLANS), &handlers)
        .serve(Serve::new(uploads::QUEUE, HASHES).time_limit(DAY), &handlers)
        .serve(Serve::new(periodic::QUEUE, SWEEPS).time_limit(DAY), &handlers)
        .serve_later(later, &handlers);
    let roots = Roots::new(domain.settings());
    tokio::join!(
        dispatch::run(domain.clone(), stop.clone()),
        crons::run(domain, stop.clone()),
        serve_roots(roots, found, stop.clone()),
        workers.run(stop),
    );
}

/// Has the queue of each root of folder remotes served from when it is first seen: its disk may be mounted later.
async fn serve_roots(mut roots: Roots, found: mpsc::Sender<Serve>, stop: CancellationToken) {
    loop {
        // A disk that does not answer holds up nobody but this task.
        let looked = tokio::task::spawn_blocking(move || {
            let fresh = roots.look();
            (roots, fresh)
        });
        let looked = tokio::select! {
            looked = looked => looked,
            () = stop.cancelled() => return,
        };
        let Ok((back, fresh)) = looked else { return };
        roots = back;
        for root in fresh {
            if found.send(Serve::new(remotes::queue(root), FOLDERS).time_limit(DAY)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_FOR_ROOTS) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[derive(Deserialize)]
struct RunSync {
    run_id: Uuid,
}

#[derive(Deserialize)]
struct CompleteUpload {
    upload_id: Uuid,
}

#[derive(Deserialize)]
struct Nothing {}

fn handlers(domain: &Domain) -> Registry {
    Registry::new()
        .kind(
            periodic::CLEANUP,
            with(domain, |domain, _, _: Nothing| async move { outcome(cleanup::run(&domain).await.map(drop)) }),
        )
        .kind(
            "run_sync",
            with(domain, |domain, context, job: RunSync| async move {
                let job_of_run = runs::Job { claim: context.claim(), cancel: context.cancelled().clone() };
                outcome(engine::run_sync(&domain, job.run_id, job_of_run).await)
            }),
        )
        .kind(
            "complete_upload",
            with(domain, |domain, _, job: CompleteUpload| async move {
                outcome(uploads::finish_job(&domain, job.upload_id).await)
            }),
        )
        .kind(
            periodic::RESCUE,
            with(domain, |domain, _, _: Nothing| async move { outcome(runs::rescue::rescue(&domain).await.map(drop)) }),
        )
}

/// Hands the domain to a handler.
fn with<J, F, Fut>(domain: &Domain, handler: F) -> impl Fn(Context, J) -> Fut + Send + Sync + 'static + use<J, F, Fut>
where
    F: Fn(Domain, Context, J) -> Fut + Send + Sync + 'static,
{
    let domain = domain.clone();
    move |context, job| handler(domain.clone(), context, job)
}

/// What an error means for its job. That the subject is gone or has moved on is as good as done.
fn outcome<E: Fault + Error>(result: Result<(), E>) -> Result<(), JobError> {
    let Err(error) = result else { return Ok(()) };
    match error.kind() {
        Kind::NotFound | Kind::Conflict | Kind::Gone | Kind::Precondition => {
            tracing::debug!(%error, "nothing left to do for this job");
            Ok(())
        }
        Kind::Invalid | Kind::Unauthenticated | Kind::Forbidden | Kind::TooLarge => Err(JobError::abort(error)),
        Kind::OverQuota | Kind::Busy | Kind::Unavailable | Kind::Internal => match error.retry_after() {
            Some(seconds) => Err(JobError::retry_after(error, Duration::from_secs(seconds))),
            None => Err(JobError::retry(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(error: runs::Error) -> &'static str {
        match outcome(Err(error)) {
            Ok(()) => "done",
            Err(JobError::Abort(_)) => "dead",
            Err(JobError::Retry { .. }) => "again",
        }
    }

    #[test]
    fn a_subject_that_is_gone_is_done_and_a_wrong_value_is_never_tried_again() {
        assert_eq!(verdict(runs::Error::NotFound), "done");
        assert_eq!(verdict(runs::Error::Superseded), "done");
        let wrong = runs::Error::Invalid { code: "x", field: "y", problem: String::new() };
        assert_eq!(verdict(wrong), "dead");
    }
}
