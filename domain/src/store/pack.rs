//! Writing packs: row first, then the object, then the rows of its chunks.
//!
//! Invariant: a pack's row (`writing`, with its owner) is committed before its object exists, so no object is ever unknown; the
//! transaction that records its chunks must turn that row `live`, after object and folder are synced. A pack that is dropped before that
//! is taken away again, by this process if it lives, else by cleanup.

use std::collections::HashSet;

use bytes::Bytes;
use driftless_sync::hash::ContentHash;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{BlobWriter, Error};
use crate::{Actor, Domain};

/// Bytes between two looks at the free space.
const ROOM_STEP: u64 = 8 << 20;
/// Bytes, and pieces, that are handed to the store at once.
const WRITE_BYTES: usize = 1 << 20;
const WRITE_PIECES: usize = 1024;

#[derive(Debug, Clone)]
struct Packed {
    hash: ContentHash,
    offset: u32,
    length: u32,
}

/// Removes the pack when it was never recorded.
struct Guard {
    domain: Domain,
    id: i64,
    name: Uuid,
    /// The process's lease when the row was made.
    owner: Uuid,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (domain, id, name) = (self.domain.clone(), self.id, self.name);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = abandon(&domain, id, name).await {
                    tracing::warn!(pack = id, %error, "an abandoned pack is left to cleanup");
                }
            });
        }
    }
}

/// The row says dead before the object goes; a transaction that is just recording the pack holds the row, so this waits for
/// it and then finds it live.
async fn abandon(domain: &Domain, id: i64, name: Uuid) -> Result<(), Error> {
    let mut tx = domain.begin_system().await?;
    let mine =
        sqlx::query("update packs set state = 'dead', dead_at = queue.now() where id = $1 and state = 'writing'")
            .bind(id)
            .execute(&mut *tx)
            .await?
            .rows_affected();
    tx.commit().await?;
    if mine == 0 {
        return Ok(());
    }
    domain.store().blobs().remove(name).await.map_err(Error::Write)?;
    let mut tx = domain.begin_system().await?;
    sqlx::query("delete from packs where id = $1").bind(id).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// A pack that is being written.
pub struct PackWriter {
    guard: Guard,
    writer: Box<dyn BlobWriter>,
    /// Not handed to the store yet.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    size: u64,
    chunk_start: u64,
    checked: u64,
    chunks: Vec<Packed>,
}

impl PackWriter {
    /// Commits the pack's row, then begins its object.
    pub async fn begin(domain: &Domain, actor: &Actor) -> Result<Self, Error> {
        domain.store().check_room(0)?;
        let (name, owner) = (Uuid::now_v7(), domain.process());
        let mut tx = domain.begin(actor).await?;
        let id = sqlx::query_scalar(
            "insert into packs (user_id, name, state, owner) values ($1, $2, 'writing', $3) returning id",
        )
        .bind(actor.user_id)
        .bind(name)
        .bind(owner)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let guard = Guard { domain: domain.clone(), id, name, owner, armed: true };
        let writer = domain.store().blobs().create(name).await.map_err(Error::Write)?;
        Ok(PackWriter {
            guard,
            writer,
            waiting: Vec::new(),
            waiting_bytes: 0,
            size: 0,
            chunk_start: 0,
            checked: 0,
            chunks: Vec::new(),
        })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes bytes of the current chunk.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        if self.size >= self.checked + ROOM_STEP {
            self.guard.domain.store().check_room(0)?;
            self.checked = self.size;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= WRITE_BYTES || self.waiting.len() >= WRITE_PIECES {
            self.hand_over().await?;
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        self.writer.write(std::mem::take(&mut self.waiting)).await.map_err(Error::Write)
    }

    /// Ends the current chunk: what was written since the last end has this hash.
    pub fn end_chunk(&mut self, hash: ContentHash) {
        let fits = "a pack and a chunk are far below 4 GiB";
        let offset = u32::try_from(self.chunk_start).expect(fits);
        let length = u32::try_from(self.size - self.chunk_start).expect(fits);
        self.chunks.push(Packed { hash, offset, length });
        self.chunk_start = self.size;
    }

    /// Waits until object and folder are synced.
    pub async fn seal(mut self) -> Result<Pack, Error> {
        debug_assert_eq!(self.chunk_start, self.size, "a chunk was not ended");
        self.hand_over().await?;
        self.writer.seal().await.map_err(Error::Write)?;
        Ok(Pack { guard: self.guard, size: self.size, chunks: self.chunks })
    }
}

/// A pack whose bytes are safe and whose chunks are not recorded yet. Recorded by [`record`]; dropped before the
/// recording transaction commits, it goes again.
pub struct Pack {
    guard: Guard,
    size: u64,
    chunks: Vec<Packed>,
}

impl Pack {
    /// The chunks in it, with their lengths.
    pub fn chunks(&self) -> impl Iterator<Item = (ContentHash, u32)> {
        self.chunks.iter().map(|c| (c.hash, c.length))
    }

    /// Call after the transaction that recorded it has committed.
    pub fn keep(mut self) {
        self.guard.armed = false;
    }
}

/// How many of a pack's chunks were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// All: rows of this transaction, which nobody else sees or can remove before it ends.
    All,
    /// Some; the others were stored already.
    Some,
    /// All were stored already: the pack is of no use and must be dropped.
    None,
}

/// Records the chunks of `pack` in the caller's transaction, which must be the user's.
async fn record(conn: &mut PgConnection, user_id: i64, pack: &Pack) -> Result<Recorded, Error> {
    let mut chunks: Vec<&Packed> = pack.chunks.iter().collect();
    // Locks on chunks are taken in the order of their hashes everywhere.
    chunks.sort_by_key(|c| c.hash);
    chunks.dedup_by_key(|c| c.hash);
    let (new, bytes): (i64, i64) = sqlx::query_as(
        "with i as (insert into chunks (user_id, sha256, pack_id, pack_offset, length)
                    select $1, u.h, $2, u.o, u.l from unnest($3::bytea[], $4::int[], $5::int[]) u(h, o, l)
                    on conflict do nothing returning length)
         select count(*), coalesce(sum(length), 0)::bigint from i",
    )
    .bind(user_id)
    .bind(pack.guard.id)
    .bind(chunks.iter().map(|c| &c.hash.0[..]).collect::<Vec<_>>())
    .bind(chunks.iter().map(|c| c.offset as i32).collect::<Vec<_>>())
    .bind(chunks.iter().map(|c| c.length as i32).collect::<Vec<_>>())
    .fetch_one(&mut *conn)
    .await?;
    if new == 0 {
        return Ok(Recorded::None);
    }
    // chunks: a second call in one transaction (after the collector was first) adds to what the first one recorded.
    let hit = sqlx::query(
        "update packs set state = 'live', size = $3, chunks = chunks + $4, live_bytes = live_bytes + $5
         where id = $1 and owner = $2 and (state = 'writing' or (state = 'live' and xmin = pg_current_xact_id()::xid))",
    )
    .bind(pack.guard.id)
    .bind(pack.guard.owner)
    .bind(pack.size as i64)
    .bind(new as i32)
    .bind(bytes)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    match hit {
        0 => Err(Error::PackLost),
        _ if new as usize == chunks.len() => Ok(Recorded::All),
        _ => Ok(Recorded::Some),
    }
}

/// Takes `wanted` for the caller's transaction, so that no collector can remove them before it ends; answers those that are not
/// stored.
async fn claim(conn: &mut PgConnection, user_id: i64, mut wanted: Vec<ContentHash>) -> Result<Vec<ContentHash>, Error> {
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let have: Vec<Vec<u8>> = sqlx::query_scalar(
        "select c.sha256 from unnest($2::bytea[]) with ordinality u(h, n)
         cross join lateral (select sha256 from chunks where user_id = $1 and sha256 = u.h for key share) c",
    )
    .bind(user_id)
    .bind(wanted.iter().map(|h| &h.0[..]).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    let have: HashSet<_> = have.iter().filter_map(|h| ContentHash::try_from(&h[..]).ok()).collect();
    wanted.retain(|h| !have.contains(h));
    Ok(wanted)
}

/// Records `packs` and takes `wanted` in the caller's transaction, the user's. Answers for each pack whether it was of any use;
/// one that was not must be dropped. Chunks that are neither stored nor in a pack are [`Error::Missing`].
pub async fn record_and_claim(
    conn: &mut PgConnection,
    user_id: i64,
    packs: &[&Pack],
    wanted: &[ContentHash],
) -> Result<Vec<bool>, Error> {
    let mut used = vec![false; packs.len()];
    let mut missing = Vec::new();
    let mut ours = HashSet::new();
    // A chunk that was stored already may go between the two steps when the collector was first; the next round then
    // records ours.
    for _ in 0..3 {
        for (pack, used) in packs.iter().zip(&mut used) {
            let recorded = record(conn, user_id, pack).await?;
            *used |= recorded != Recorded::None;
            if recorded == Recorded::All {
                ours.extend(pack.chunks.iter().map(|c| c.hash));
            }
        }
        let others: Vec<ContentHash> = wanted.iter().filter(|hash| !ours.contains(*hash)).copied().collect();
        missing = claim(conn, user_id, others).await?;
        if missing.is_empty() {
            return Ok(used);
        }
    }
    Err(Error::Missing(missing))
}
