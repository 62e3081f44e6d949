//! The engine: what a job does for a run.
//!
//! Invariant: a run that this takes is ended, handed back or left to the next job, never forgotten.

use uuid::Uuid;

use crate::{
    Domain,
    runs::{self, Error, Job, Started},
};

/// Executes the run for the job that speaks of it. Finding nothing to do is success.
pub async fn run_sync(domain: &Domain, run: Uuid, job: Job) -> Result<(), Error> {
    match runs::start(domain, run, job).await? {
        Started::Done => Ok(()),
        Started::Remote(execution) => {
            execution.fail("remote.not_allowed", "this server syncs no remotes", true).await?;
            Ok(())
        }
    }
}
