//! Taking contents in: bytes become chunks, chunks the user lacks go into packs, and a handle stands for the whole.
//!
//! Invariant: until the commit that uses it, everything a handle names is held: chunks that were stored already and those of full
//! packs by pins, those of the last pack by travelling with the handle. Memory is bounded whatever the size of the
//! contents. Left out: making a file of it (`commit`).

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};
use driftless_sync::{
    chunk::Splitter,
    hash::{ContentHash, Hasher},
};
use futures::{Stream, StreamExt};
use uuid::Uuid;

use crate::{
    Actor, Domain,
    error::{Fault, Kind},
    store::{self, MAX_PACK_BYTES, Pack, PackWriter},
};

/// Bytes taken from the stream before they are hashed and split, while the next are read.
const BLOCK: usize = 1 << 20;
/// Chunks wait for one look-up until they have so many bytes or are so many.
const PENDING_BYTES: usize = 4 << 20;
const PENDING_CHUNKS: usize = 4000;
/// Contents up to this size are hashed where they are; larger blocks go to the blocking pool.
const INLINE: usize = 32 << 10;

/// A failure to take contents in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Whoever sends the bytes stopped early.
    #[error("the contents ended early")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Hashing failed (the process is shutting down).
    #[error("the contents could not be hashed")]
    Hashing(#[source] tokio::task::JoinError),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Source(_) => Kind::Invalid,
            Error::Hashing(_) => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Store(e) => e.code(),
            Error::Source(_) => "contents.cut_short",
            Error::Hashing(_) => "store.interrupted",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Store(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// What a file holds: its size, its hash and its chunks in order. A value; holding it keeps nothing in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    size: u64,
    hash: ContentHash,
    chunks: Vec<ContentHash>,
}

impl Contents {
    /// Contents of the given chunks; one chunk (or none) is the file itself and need not be listed.
    pub(crate) fn new(size: u64, hash: ContentHash, chunks: Vec<ContentHash>) -> Self {
        Contents { size, hash, chunks }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the whole.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The chunks in order; none for empty contents.
    pub fn chunks(&self) -> &[ContentHash] {
        &self.chunks
    }
}

/// One request that takes contents in: a PUT, a tar of many files, a run's batch. Finish it and give the result to the
/// commit that uses its contents.
pub struct Ingest {
    domain: Domain,
    actor: Actor,
    holder: Holder,
    writer: Option<PackWriter>,
    pending: Vec<(ContentHash, Bytes)>,
    pending_bytes: usize,
    seen: HashSet<ContentHash>,
    pinned: i32,
}

/// The pins of an ingest; removed when it is dropped without a commit.
struct Holder {
    domain: Domain,
    id: Uuid,
    used: bool,
}

impl Drop for Holder {
    fn drop(&mut self) {
        if !self.used {
            return;
        }
        let (domain, id) = (self.domain.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = release(&domain, id).await {
                    tracing::warn!(ingest = %id, %error, "an abandoned transfer is left to cleanup");
                }
            });
        }
    }
}

async fn release(domain: &Domain, id: Uuid) -> Result<(), crate::db::Error> {
    let mut tx = domain.begin_system().await?;
    sqlx::query("with i as (delete from ingests where id = $1) delete from pins where holder = $1")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// What an ingest leaves for the commit: the last pack, and the pins to give back.
pub struct Ingested {
    pub(crate) pack: Option<Pack>,
    holder: Holder,
}

impl Ingested {
    /// The holder of the pins, if there are any; the commit removes them.
    pub(crate) fn pins(&self) -> Option<Uuid> {
        self.holder.used.then_some(self.holder.id)
    }

    /// Call after the commit that used it; `recorded` says whether the last pack was of any use.
    pub(crate) fn committed(mut self, recorded: bool) {
        self.holder.used = false;
        if let (Some(pack), true) = (self.pack.take(), recorded) {
            pack.keep();
        }
    }
}

/// A block's chunks, and the state to go on with.
struct Split {
    hasher: Hasher,
    splitter: Splitter,
    chunks: Vec<(ContentHash, Bytes)>,
}

impl Split {
    fn take_in(mut self, block: &[u8]) -> Self {
        self.hasher.update(block);
        self.splitter.push(block);
        while let Some(chunk) = self.splitter.next_chunk() {
            self.chunks.push((ContentHash::of(&chunk), chunk.into()));
        }
        self
    }

    fn end(self) -> (ContentHash, Vec<(ContentHash, Bytes)>) {
        let mut chunks = self.chunks;
        chunks.extend(self.splitter.finish().into_iter().map(|c| (ContentHash::of(&c), c.into())));
        (self.hasher.finish(), chunks)
    }
}

impl Ingest {
    /// Begins; nothing is written before there are bytes.
    pub fn new(domain: &Domain, actor: &Actor) -> Self {
        Ingest {
            domain: domain.clone(),
            actor: actor.clone(),
            holder: Holder { domain: domain.clone(), id: Uuid::now_v7(), used: false },
            writer: None,
            pending: Vec::new(),
            pending_bytes: 0,
            seen: HashSet::new(),
            pinned: 0,
        }
    }

    /// Takes one file's contents in. After an error the ingest is of no further use.
    pub async fn add<S, E>(&mut self, source: S) -> Result<Contents, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Fused: the end is looked at again after the last block.
        let mut source = std::pin::pin!(source.fuse());
        let mut split = Split { hasher: Hasher::new(), splitter: Splitter::new(), chunks: Vec::new() };
        let (mut size, mut names) = (0, Vec::new());
        let mut block = next_block(&mut source).await?;
        while !block.is_empty() {
            size += block.len() as u64;
            let (done, next) = if block.len() <= INLINE {
                (Ok(split.take_in(&block)), next_block(&mut source).await)
            } else {
                let work = tokio::task::spawn_blocking(move || split.take_in(&block));
                tokio::join!(work, next_block(&mut source))
            };
            (split, block) = (done.map_err(Error::Hashing)?, next?);
            for (hash, bytes) in split.chunks.drain(..) {
                names.push(hash);
                self.hold(hash, bytes).await?;
            }
        }
        let (hash, rest) = if size <= INLINE as u64 {
            split.end()
        } else {
            tokio::task::spawn_blocking(|| split.end()).await.map_err(Error::Hashing)?
        };
        for (hash, bytes) in rest {
            names.push(hash);
            self.hold(hash, bytes).await?;
        }
        Ok(Contents::new(size, hash, names))
    }

    /// Ends the request's last pack.
    pub async fn finish(mut self) -> Result<Ingested, Error> {
        self.look_up().await?;
        let pack = match self.writer.take() {
            Some(writer) => Some(writer.seal().await?),
            None => None,
        };
        Ok(Ingested { pack, holder: self.holder })
    }

    async fn hold(&mut self, hash: ContentHash, bytes: Bytes) -> Result<(), Error> {
        if !self.seen.insert(hash) {
            return Ok(());
        }
        self.pending_bytes += bytes.len();
        self.pending.push((hash, bytes));
        if self.pending_bytes >= PENDING_BYTES || self.pending.len() >= PENDING_CHUNKS {
            self.look_up().await?;
        }
        Ok(())
    }

    /// Pins those of the waiting chunks that the user has, and writes the others.
    async fn look_up(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let known = self.pin_known().await?;
        self.pending_bytes = 0;
        for (hash, bytes) in std::mem::take(&mut self.pending) {
            if known.contains(&hash) {
                continue;
            }
            if self.writer.as_ref().is_some_and(|w| w.size() + bytes.len() as u64 > MAX_PACK_BYTES) {
                self.end_pack().await?;
            }
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(PackWriter::begin(&self.domain, &self.actor).await?),
            };
            writer.write(bytes).await?;
            writer.end_chunk(hash);
        }
        Ok(())
    }

    async fn pin_known(&mut self) -> Result<HashSet<ContentHash>, store::Error> {
        let mut wanted: Vec<ContentHash> = self.pending.iter().map(|(h, _)| *h).collect();
        wanted.sort();
        let mut tx = self.domain.begin(&self.actor).await?;
        let known: Vec<Vec<u8>> = sqlx::query_scalar(
            "with k as (
                 select c.sha256, c.length from unnest($4::bytea[]) u(h)
                 cross join lateral (select sha256, length from chunks where user_id = $1 and sha256 = u.h for key share) c),
             p as (insert into pins (user_id, holder, n, sha256, length)
                   select $1, $2, $3 + row_number() over ()::int, sha256, length from k),
             i as (insert into ingests (id, user_id, owner) select $2, $1, $5 where exists (select from k)
                   on conflict do nothing)
             select sha256 from k",
        )
        .bind(self.actor.user_id)
        .bind(self.holder.id)
        .bind(self.pinned)
        .bind(wanted.iter().map(|h| &h.0[..]).collect::<Vec<_>>())
        .bind(self.domain.process())
        .fetch_all(&mut *tx)
        .await?;
        if known.is_empty() {
            return Ok(HashSet::new());
        }
        tx.commit().await?;
        self.pinned += known.len() as i32;
        self.holder.used = true;
        Ok(known.iter().filter_map(|h| ContentHash::try_from(&h[..]).ok()).collect())
    }

    /// Records a full pack at once, held by pins.
    async fn end_pack(&mut self) -> Result<(), store::Error> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let pack = writer.seal().await?;
        let mut tx = self.domain.begin(&self.actor).await?;
        let recorded = pin_pack(&mut tx, self.actor.user_id, self.holder.id, self.pinned, &pack).await?;
        sqlx::query("insert into ingests (id, user_id, owner) values ($1, $2, $3) on conflict do nothing")
            .bind(self.holder.id)
            .bind(self.actor.user_id)
            .bind(self.domain.process())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.holder.used = true;
        self.pinned += pack.chunks().count() as i32;
        if recorded {
            pack.keep();
        }
        Ok(())
    }
}

/// Records the pack's chunks and pins each of them, numbered after `first`. Answers whether the pack was of any use.
async fn pin_pack(
    tx: &mut sqlx::PgConnection,
    user_id: i64,
    holder: Uuid,
    first: i32,
    pack: &Pack,
) -> Result<bool, store::Error> {
    let (hashes, lengths): (Vec<_>, Vec<_>) = pack.chunks().map(|(h, l)| (h, l as i32)).unzip();
    let recorded = store::record_and_claim(tx, user_id, &[pack], &hashes).await?[0];
    sqlx::query(
        "insert into pins (user_id, holder, n, sha256, length)
         select $1, $2, $3 + n::int, h, l from unnest($4::bytea[], $5::int[]) with ordinality u(h, l, n)",
    )
    .bind(user_id)
    .bind(holder)
    .bind(first)
    .bind(hashes.iter().map(|h| &h.0[..]).collect::<Vec<_>>())
    .bind(&lengths)
    .execute(tx)
    .await?;
    Ok(recorded)
}

/// The next bytes, about [`BLOCK`]; empty at the end.
async fn next_block<S, E>(source: &mut std::pin::Pin<&mut S>) -> Result<Bytes, Error>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(first) = source.next().await else { return Ok(Bytes::new()) };
    let first = first.map_err(|e| Error::Source(e.into()))?;
    if first.len() >= BLOCK / 2 {
        return Ok(first);
    }
    let mut block = BytesMut::from(first);
    while block.len() < BLOCK {
        match source.next().await {
            Some(piece) => block.extend_from_slice(&piece.map_err(|e| Error::Source(e.into()))?),
            None => break,
        }
    }
    Ok(block.freeze())
}
