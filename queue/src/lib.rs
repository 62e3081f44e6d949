//! The Postgres queue of Driftless, a Backend for apalis.
//!
//! Owns the schema `queue` and everything that is said to it. Invariant: a job that was committed runs at least once, and a
//! transaction that passed [`fence()`] commits only while its job still belongs to it. Knows nothing of files or users.
//!
//! Enqueueing belongs to the transaction that needs the job:
//!
//! ```no_run
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! # #[derive(serde::Serialize)] struct RunSync { run_id: i64 }
//! use driftless_queue::{NewJob, Waker, enqueue};
//! let waker = Waker::new(pool.clone());
//! let mut tx = pool.begin().await?;
//! enqueue(&mut tx, &NewJob::new("sync", "run_sync", &RunSync { run_id: 7 }).unique_key("run_sync:7")).await?;
//! tx.commit().await?;
//! waker.wake("sync");
//! # Ok(()) }
//! ```
//!
//! Working is a [`Process`], a [`Registry`] of handlers by kind and [`Workers`] that serve queues:
//!
//! ```no_run
//! # async fn example(pool: sqlx::PgPool, shutdown: tokio_util::sync::CancellationToken) -> Result<(), Box<dyn std::error::Error>> {
//! # #[derive(serde::Deserialize)] struct RunSync { run_id: i64 }
//! use driftless_queue::{Context, JobError, Process, Registry, Serve, Workers, fence};
//! let handlers = Registry::new().kind("run_sync", move |context: Context, job: RunSync| {
//!     let pool = pool.clone();
//!     async move {
//!         let mut tx = pool.begin().await?;
//!         fence(&mut tx, &context.claim()).await?;
//!         sqlx::query("update runs set state = 'succeeded' where id = $1").bind(job.run_id).execute(&mut *tx).await?;
//!         tx.commit().await?;
//!         Ok::<(), JobError>(())
//!     }
//! });
//! # let pool: sqlx::PgPool = unimplemented!();
//! let process = Process::start(&pool).await?;
//! Workers::new(&process).serve(Serve::new("sync", 8), &handlers).run(shutdown).await;
//! # Ok(()) }
//! ```

mod backend;
mod control;
pub mod crons;
mod depth;
mod enqueue;
mod error;
mod feed;
mod fence;
mod heartbeat;
mod inspect;
mod lane;
mod look;
mod process;
mod registry;
mod run;
mod stats;
mod sweep;
mod wake;
mod worker;

pub use control::{Cancelled, cancel, discard, pause, redrive, resume};
pub use depth::{QueueState, queues};
pub use enqueue::{JobId, NewJob, enqueue, enqueue_batch};
pub use error::Error;
pub use fence::{Claim, complete, fence};
pub use inspect::{
    JobState, MinuteCounts, WorkerState, dead_jobs, finished_jobs, job, jobs, living, running_jobs, stats,
    waiting_jobs, workers,
};
pub use process::{DRAIN_GRACE, Process};
pub use registry::{Context, JobError, Registry};
pub use run::{Progress, Stop};
pub use stats::{BUCKETS, Distribution, KindMetrics, Metrics};
pub use wake::Waker;
pub use worker::{Serve, Workers};
