//! What can go wrong between this crate and its caller. A handler's own failures are `JobError`, not this.

/// A failed operation on the queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job was given to another worker, taken away or cancelled: nothing of this run may be written any more.
    #[error("the job no longer belongs to this run")]
    LeaseLost,
    /// The database refused or did not answer.
    #[error("speak to the queue's tables")]
    Database(#[from] sqlx::Error),
}
