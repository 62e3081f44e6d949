//! Throwing away what nobody needs any more: expired uploads, what only they held, packs without chunks, old runs and sessions.
//!
//! Invariant: a chunk goes only while it is locked and a second statement, begun after the lock, found no reference: a commit that
//! names it waits, or was first and is seen. One statement would not look again after waiting. An object goes a day after its
//! pack died, before its row: readers that were opened before have finished. Nothing is decided by a file's age.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Domain, Tx,
    audit::{self, Entry},
    db,
    error::{Fault, Kind},
    runs, sessions, store,
    uploads::KEPT_DAYS,
};

/// Rows that one transaction takes.
const BATCH: i64 = 1000;
/// Hours that a dead pack's object stays for readers that were opened before.
const DEAD_HOURS: i32 = 24;
/// Hours that whatever a process without a lease left behind is kept: servers that leave the jobs to others renew none.
const ORPHAN_HOURS: i32 = 1;

/// A failure to clean up. What was done before it stays done; the next cleanup goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("cleaning up the database failed")]
    Database(#[from] db::Error),
    /// The store could not be cleaned.
    #[error("cleaning up the file store failed")]
    Store(#[from] store::Error),
    /// Old sessions could not be removed.
    #[error("removing old sessions failed")]
    Sessions(#[from] sessions::Error),
    /// Old runs could not be removed.
    #[error("removing old runs failed")]
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
            Error::Sessions(_) | Error::Runs(_) => None,
        }
    }
}

/// What a cleanup took away.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Uploads that nobody touched for seven days.
    pub uploads: u64,
    /// Transfers whose process died.
    pub transfers: u64,
    /// Chunks that nothing refers to.
    pub chunks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packs that died: nothing is in them any more, or their writer is gone.
    pub packs: u64,
    /// Objects of packs that died a day ago.
    pub objects: u64,
    /// Old runs.
    pub runs: u64,
    /// Old sessions.
    pub sessions: u64,
}

/// Does all of it. Periodic and on demand alike; two at once do no harm.
pub async fn sweep(domain: &Domain) -> Result<Swept, Error> {
    let mut swept = Swept { uploads: expired_uploads(domain).await?, ..Swept::default() };
    let living = living(domain).await?;
    swept.transfers = orphaned_ingests(domain, &living).await?;
    let users: Vec<i64> =
        sqlx::query_scalar("select user_id from heads order by user_id").fetch_all(domain.pool()).await?;
    for user in users {
        let (chunks, bytes) = collect(domain, user).await?;
        swept.chunks += chunks;
        swept.bytes += bytes;
    }
    swept.packs = dead_packs(domain, &living).await?;
    swept.objects = objects(domain).await?;
    swept.runs = runs::rescue::prune(domain).await?;
    let mut tx = domain.begin_system().await?;
    swept.sessions = sessions::sweep(&mut tx).await?;
    sqlx::query("delete from deletions where minute < queue.now() - interval '2 hours'").execute(&mut *tx).await?;
    sqlx::query("delete from report_parts where at < queue.now() - interval '1 day'").execute(&mut *tx).await?;
    let counts = json!({
        "uploads": swept.uploads, "transfers": swept.transfers, "chunks": swept.chunks, "bytes": swept.bytes,
        "packs": swept.packs, "objects": swept.objects, "runs": swept.runs, "sessions": swept.sessions,
    });
    audit::record(&mut tx, Entry::new("cleanup").done_by("system").about("server", "cleanup").details(counts)).await?;
    tx.commit().await?;
    Ok(swept)
}

async fn living(domain: &Domain) -> Result<Vec<Uuid>, Error> {
    let mut tx = domain.begin_system().await?;
    Ok(driftless_queue::living(&mut tx).await.map_err(db::Error::from)?)
}

/// Uploads over their time, with their references.
async fn expired_uploads(domain: &Domain) -> Result<u64, Error> {
    let mut gone = 0;
    loop {
        let mut tx = domain.begin_system().await?;
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "delete from uploads u using (
                 select id from uploads where last_activity_at <= queue.now() - make_interval(days => $1)
                 limit $2 for update skip locked) old
             where u.id = old.id returning u.id",
        )
        .bind(KEPT_DAYS as i32)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        release(&mut tx, &ids).await?;
        tx.commit().await?;
        gone += ids.len() as u64;
        if (ids.len() as i64) < BATCH {
            return Ok(gone);
        }
    }
}

async fn release(tx: &mut Tx, holders: &[Uuid]) -> Result<(), Error> {
    if !holders.is_empty() {
        sqlx::query("delete from pins p using unnest($1::uuid[]) u(id) where p.holder = u.id")
            .bind(holders)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Transfers of processes that are gone.
async fn orphaned_ingests(domain: &Domain, living: &[Uuid]) -> Result<u64, Error> {
    let mut tx = domain.begin_system().await?;
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "delete from ingests where not (owner = any($1)) and created_at < queue.now() - make_interval(hours => $2)
         returning id",
    )
    .bind(living)
    .bind(ORPHAN_HOURS)
    .fetch_all(&mut *tx)
    .await?;
    release(&mut tx, &ids).await?;
    tx.commit().await?;
    Ok(ids.len() as u64)
}

/// Chunks of a user that nothing refers to: how many went, and their bytes.
async fn collect(domain: &Domain, user_id: i64) -> Result<(u64, u64), Error> {
    let mut tx = domain.begin_system().await?;
    // Which chunks have no reference at this moment, and which seq the user's head had at it: references that come later come by
    // versions with higher numbers, or by pins.
    let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "select (select seq from heads where user_id = $1), free.sha256 from (
             select sha256 from chunks where user_id = $1
             except (select sha256 from versions where user_id = $1 and sha256 is not null and chunks is null
                     union all select unnest(chunks) from versions where user_id = $1 and chunks is not null
                     union all select sha256 from pins where user_id = $1)) free order by 2",
    )
    .bind(user_id)
    .fetch_all(&mut *tx)
    .await?;
    drop(tx);
    let Some(seq) = found.first().map(|f| f.0) else { return Ok((0, 0)) };
    let (mut chunks, mut bytes) = (0, 0);
    for some in found.chunks(BATCH as usize) {
        let hashes: Vec<&[u8]> = some.iter().map(|(_, h)| &h[..]).collect();
        let mut tx = domain.begin_system().await?;
        let (c, b) = collect_some(&mut tx, user_id, seq, &hashes).await?;
        tx.commit().await?;
        chunks += c;
        bytes += b;
    }
    Ok((chunks, bytes))
}

/// Removes those of the chunks that still have no reference. `seq` is the head's when they were found to have none.
async fn collect_some(
    conn: &mut PgConnection,
    user_id: i64,
    seq: i64,
    hashes: &[&[u8]],
) -> Result<(u64, u64), sqlx::Error> {
    let locked: Vec<Vec<u8>> = sqlx::query_scalar(
        "select c.sha256 from unnest($2::bytea[]) with ordinality u(h, n) cross join lateral (
             select sha256 from chunks where user_id = $1 and sha256 = u.h for update skip locked) c",
    )
    .bind(user_id)
    .bind(hashes)
    .fetch_all(&mut *conn)
    .await?;
    // A second statement: it sees what was committed before the locks were had.
    let gone: Vec<(i64, i32)> = sqlx::query_as(
        "with recent as (
             select sha256 from versions where user_id = $1 and seq > $3 and sha256 is not null and chunks is null
             union all select unnest(chunks) from versions where user_id = $1 and seq > $3 and chunks is not null)
         delete from chunks c using unnest($2::bytea[]) u(h)
         where c.user_id = $1 and c.sha256 = u.h
           and not exists (select from recent r where r.sha256 = u.h)
           and not exists (select from pins p where p.user_id = $1 and p.sha256 = u.h)
         returning c.pack_id, c.length",
    )
    .bind(user_id)
    .bind(&locked)
    .bind(seq)
    .fetch_all(&mut *conn)
    .await?;
    let mut packs: HashMap<i64, (i32, i64)> = HashMap::new();
    for (pack, length) in &gone {
        let (chunks, bytes) = packs.entry(*pack).or_default();
        *chunks += 1;
        *bytes += i64::from(*length);
    }
    let mut ids: Vec<i64> = packs.keys().copied().collect();
    ids.sort_unstable();
    sqlx::query(
        "update packs p set chunks = p.chunks - u.c, live_bytes = p.live_bytes - u.b
         from unnest($1::bigint[], $2::int[], $3::bigint[]) u(id, c, b) where p.id = u.id",
    )
    .bind(&ids)
    .bind(ids.iter().map(|id| packs[id].0).collect::<Vec<_>>())
    .bind(ids.iter().map(|id| packs[id].1).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok((gone.len() as u64, packs.values().map(|p| p.1.unsigned_abs()).sum()))
}

/// Packs that nothing is in any more, and those whose writer is gone.
async fn dead_packs(domain: &Domain, living: &[Uuid]) -> Result<u64, Error> {
    let mut tx = domain.begin_system().await?;
    let died = sqlx::query(
        "update packs set state = 'dead', dead_at = queue.now()
         where (state = 'live' and chunks = 0)
            or (state = 'writing' and not (owner = any($1)) and created_at < queue.now() - make_interval(hours => $2))",
    )
    .bind(living)
    .bind(ORPHAN_HOURS)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(died)
}

/// Objects of packs that died long enough ago; object first, then the row that knows of it.
async fn objects(domain: &Domain) -> Result<u64, Error> {
    let mut removed = 0;
    loop {
        let mut tx = domain.begin_system().await?;
        let dead: Vec<(i64, Uuid)> = sqlx::query_as(
            "select id, name from packs where state = 'dead' and dead_at <= queue.now() - make_interval(hours => $1)
             order by id limit $2 for update skip locked",
        )
        .bind(DEAD_HOURS)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        for (_, name) in &dead {
            domain.store().blobs().remove(*name).await.map_err(store::Error::Write)?;
        }
        let ids: Vec<i64> = dead.iter().map(|d| d.0).collect();
        sqlx::query("delete from packs p using unnest($1::bigint[]) u(id) where p.id = u.id")
            .bind(&ids)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        removed += ids.len() as u64;
        if (ids.len() as i64) < BATCH {
            return Ok(removed);
        }
    }
}
