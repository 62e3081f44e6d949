//! The daily cleanup: what nobody refers to any more goes, in small transactions that may break off anywhere.
//!
//! Invariant: no file's age decides anything; a chunk goes only when, with its row locked, no version and no pin names it, and a pack's object
//! only a day after nothing in it is needed. Each step does what it finds, so a run that broke off is made good by the next. Trash and
//! versions are kept: nothing in them is garbage.
//! Left out: when it runs (a cron), and finding damage (`verify`).

mod collect;
pub(crate) mod packs;
mod tombstones;

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    Domain, audit, db,
    error::{Fault, Kind},
    runs, sessions, store, uploads,
};

/// Most uploads or ingests that end in one transaction: each may hold many pins.
const BATCH: i64 = 20;
/// Unknown objects that are named; the rest is counted.
const NAMED: usize = 100;

/// Why a cleanup broke off. What it did until then holds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Old sessions could not be removed.
    #[error(transparent)]
    Sessions(#[from] sessions::Error),
    /// Old runs could not be removed.
    #[error(transparent)]
    Runs(#[from] runs::Error),
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        Error::Database(e.into())
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            Error::Store(e) => e.kind(),
            Error::Sessions(e) => e.kind(),
            Error::Runs(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Database(e) => e.code(),
            Error::Store(e) => e.code(),
            Error::Sessions(e) => e.code(),
            Error::Runs(e) => e.code(),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            Error::Store(e) => e.retry_after(),
            Error::Sessions(e) => e.retry_after(),
            Error::Runs(e) => e.retry_after(),
        }
    }
}

/// What a cleanup did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Uploads that nobody had touched for seven days.
    pub uploads: u64,
    /// Transfers whose process is gone.
    pub ingests: u64,
    /// Chunks that nothing referred to.
    pub chunks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packs that were left half written by a process that is gone.
    pub packs_abandoned: u64,
    /// Packs of which nothing is needed any more.
    pub packs_emptied: u64,
    /// Packs whose objects were removed from the store.
    pub packs_removed: u64,
    /// Objects in the store that no pack's row names; they are left for a person to look at.
    pub objects_unknown: u64,
    /// The first of those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Uuid>,
    /// Old runs.
    pub runs: u64,
    /// Sessions that ended long ago.
    pub sessions: u64,
    /// Parts of device reports, a day old.
    pub list_parts: u64,
    /// Journal rows of deletions that every device has taken in.
    pub tombstones: u64,
}

/// Cleans up everything once and records what was done.
pub async fn run(domain: &Domain) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let done = steps(domain, &mut counts).await;
    let mut tx = domain.begin_system().await?;
    let entry = audit::Entry::new("cleanup").done_by("system").about("cleanup", "daily").details(json!(counts));
    let entry = match &done {
        // A person should look at it.
        Ok(()) if counts.objects_unknown > 0 => entry.warning(),
        Ok(()) => entry,
        Err(e) => entry.error(e.code()),
    };
    audit::record(&mut tx, entry).await?;
    tx.commit().await?;
    done.map(|()| counts)
}

async fn steps(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    expired_uploads(domain, counts).await?;
    lost_ingests(domain, counts).await?;
    packs::abandoned(domain, counts).await?;
    collect::collect(domain, counts).await?;
    packs::remove_dead(domain, counts).await?;
    let unknown = packs::unknown_objects(domain).await?;
    counts.objects_unknown += unknown.len() as u64;
    counts.unknown.extend(unknown.into_iter().take(NAMED));
    counts.runs += runs::rescue::prune(domain).await?;
    let mut tx = domain.begin_system().await?;
    counts.sessions += sessions::sweep(&mut tx).await?;
    tx.commit().await?;
    old_rows(domain, counts).await?;
    tombstones::forget(domain, counts).await
}

/// Uploads that expired, with their references: what only they held is garbage from then on.
async fn expired_uploads(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    loop {
        let mut tx = domain.begin_system().await?;
        // Whoever adds to an upload locks its row: skipped here, and no longer old the next time.
        let gone: i64 = sqlx::query_scalar(
            "with old as (select id from uploads where last_activity_at <= queue.now() - make_interval(days => $1)
                          order by last_activity_at limit $2 for update skip locked),
             gone as (delete from uploads u using old where u.id = old.id returning u.id),
             pins as (delete from pins p using gone where p.holder = gone.id)
             select count(*) from gone",
        )
        .bind(uploads::KEPT_DAYS as i32)
        .bind(BATCH)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        counts.uploads += gone.unsigned_abs();
        if gone < BATCH {
            return Ok(());
        }
    }
}

/// Transfers whose process no longer holds its lease. Should it live after all, its commit finds the chunks gone and is repeated.
async fn lost_ingests(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    loop {
        let mut tx = domain.begin_system().await?;
        let gone: i64 = sqlx::query_scalar(
            "with lost as (select id from ingests i where not exists (
                               select from queue.workers w where w.token = i.owner and w.lease_until > now())
                           limit $1 for update skip locked),
             gone as (delete from ingests i using lost where i.id = lost.id returning i.id),
             pins as (delete from pins p using gone where p.holder = gone.id)
             select count(*) from gone",
        )
        .bind(BATCH)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        counts.ingests += gone.unsigned_abs();
        if gone < BATCH {
            return Ok(());
        }
    }
}

/// Rows that only count for a while: parts of reports for a day, counts of deletions for an hour.
async fn old_rows(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    const ROWS: u64 = 1000;
    loop {
        let mut tx = domain.begin_system().await?;
        let gone = sqlx::query(
            "delete from list_parts where ctid = any(array(
                 select ctid from list_parts where at <= queue.now() - interval '1 day' limit 1000))",
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        counts.list_parts += gone;
        if gone < ROWS {
            break;
        }
    }
    let mut tx = domain.begin_system().await?;
    sqlx::query("delete from deletions where minute < queue.now() - interval '1 hour'").execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
