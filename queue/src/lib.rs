//! The Postgres queue of Driftless, a Backend for apalis.
//!
//! Owns the schema `queue` and everything that is said to it. Invariant: a job that was committed runs at least once, and a
//! transaction that passed [`fence`] commits only while its job still belongs to it. Knows nothing of files or users.

mod enqueue;
mod error;
mod fence;
mod wake;

pub use enqueue::{JobId, NewJob, enqueue, enqueue_batch};
pub use error::Error;
pub use fence::{Claim, fence};
pub use wake::Waker;
