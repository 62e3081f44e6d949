//! The fence: a handler's transaction writes only while the job is still its own.
//!
//! It ends at this database. What a handler does elsewhere (files, other services) must be safe to repeat and to come late.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, JobId};

/// One run of a job: what a handler holds and shows to [`fence`]. No two runs of a job ever have equal claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub id: JobId,
    /// The how-manieth run this is, from 1.
    pub attempt: i16,
    /// The process that claimed it.
    pub lease_token: Uuid,
}

/// Checks that the claim still holds and keeps it so until the caller's transaction ends.
///
/// Belongs into every transaction that a handler writes. The job's row is locked FOR SHARE, so that rescue
/// waits for the commit; keep the transaction short. Postgres ends it when it stands idle for 15 s.
///
/// # Errors
/// [`Error::LeaseLost`] when the job has been given away: roll back and return. [`Error::Database`] else.
pub async fn fence(conn: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    let held: Option<bool> = sqlx::query_scalar("select queue.fence($1, $2, $3)")
        .bind(claim.id)
        .bind(claim.attempt)
        .bind(claim.lease_token)
        .fetch_one(conn)
        .await?;
    if held == Some(true) { Ok(()) } else { Err(Error::LeaseLost) }
}

/// Completes the job in the caller's transaction: what the handler wrote there and the job's end are one. The one way to effects
/// that happen exactly once even if the process is killed right after its commit. Return Ok after the commit.
///
/// # Errors
/// [`Error::LeaseLost`] when the job has been given away: roll back and return. [`Error::Database`] else.
pub async fn complete(conn: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    let held: Option<bool> = sqlx::query_scalar("select queue.complete($1, $2, $3)")
        .bind(claim.id)
        .bind(claim.attempt)
        .bind(claim.lease_token)
        .fetch_one(conn)
        .await?;
    if held == Some(true) { Ok(()) } else { Err(Error::LeaseLost) }
}
