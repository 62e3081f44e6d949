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
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use uuid::Uuid;

use crate::{
    Actor, Domain,
    error::{Fault, Kind},
    store::{self, MAX_PACK_BYTES, Pack, PackWriter},
};

/// Bytes taken from the stream before they are hashed and split, while the next are read.
const BLOCK: usize = 1 << 20;
/// Pieces below this size are copied together: each that is kept costs more than its bytes.
const TINY: usize = 4 << 10;
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
    /// The user sends too many bodies at once.
    #[error("too many uploads of yours are under way; wait until one of them has ended")]
    TooManyAtOnce,
    /// A part of the work broke off (the process is shutting down).
    #[error("the contents could not be hashed and stored")]
    BrokeOff(#[from] JoinError),
    /// An earlier call failed.
    #[error("earlier contents of the same request could not be stored")]
    Failed,
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Source(_) => Kind::Invalid,
            Error::TooManyAtOnce => Kind::Busy,
            Error::BrokeOff(_) | Error::Failed => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Store(e) => e.code(),
            Error::Source(_) => "contents.cut_short",
            Error::TooManyAtOnce => "upload.too_many_at_once",
            Error::BrokeOff(_) | Error::Failed => "store.interrupted",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Store(e) => e.retry_after(),
            Error::TooManyAtOnce => Some(1),
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
    shelf: Shelving,
    pending: Vec<Chunk>,
    pending_bytes: usize,
    seen: HashSet<ContentHash>,
}

/// In whose hands the shelf is: ours, or a task's that puts chunks on it while the next ones come in.
enum Shelving {
    Ours(Box<Shelf>),
    Storing(JoinHandle<Result<Box<Shelf>, Error>>),
    Failed,
}

/// Where chunks are brought to: the packs of this request, and its pins.
struct Shelf {
    domain: Domain,
    actor: Actor,
    holder: Holder,
    writer: Option<PackWriter>,
    /// A full pack on its way to the disk.
    sealing: Option<JoinHandle<Result<Pack, store::Error>>>,
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

/// A chunk as it came: its bytes are where the network or the disk put them.
struct Chunk {
    hash: ContentHash,
    pieces: Vec<Bytes>,
}

impl Chunk {
    fn new(pieces: Vec<Bytes>) -> Self {
        Chunk { hash: hash(Hasher::new(), &pieces).finish(), pieces }
    }

    fn size(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

fn hash(mut hasher: Hasher, pieces: &[Bytes]) -> Hasher {
    for piece in pieces {
        hasher.update(piece);
    }
    hasher
}

/// Splits a block and hashes the chunks that end in it.
fn split(mut splitter: Splitter, block: Vec<Bytes>) -> (Splitter, Vec<Chunk>) {
    block.into_iter().for_each(|piece| splitter.push(piece));
    let chunks = std::iter::from_fn(|| splitter.next_chunk()).map(Chunk::new).collect();
    (splitter, chunks)
}

impl Ingest {
    /// Begins; nothing is written before there are bytes.
    pub fn new(domain: &Domain, actor: &Actor) -> Self {
        let shelf = Shelf {
            domain: domain.clone(),
            actor: actor.clone(),
            holder: Holder { domain: domain.clone(), id: Uuid::now_v7(), used: false },
            writer: None,
            sealing: None,
            pinned: 0,
        };
        Ingest { shelf: Shelving::Ours(Box::new(shelf)), pending: Vec::new(), pending_bytes: 0, seen: HashSet::new() }
    }

    /// Takes one file's contents in. After an error the ingest is of no further use.
    pub async fn add<S, E>(&mut self, source: S) -> Result<Contents, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Fused: the end is looked at again after the last block.
        let mut source = std::pin::pin!(source.fuse());
        let (mut whole, mut splitter) = (Hasher::new(), Splitter::new());
        let mut names = Vec::new();
        let mut block = next_block(&mut source).await?;
        while !block.is_empty() {
            let chunks;
            if block.iter().map(Bytes::len).sum::<usize>() <= INLINE {
                whole = hash(whole, &block);
                (splitter, chunks) = split(splitter, block);
                block = next_block(&mut source).await?;
                self.store_if_many().await?;
            } else {
                // Side by side: the next block comes in, and this one is hashed twice over.
                self.store_if_many().await?;
                let pieces = block.clone();
                let (hashed, cut, next) = tokio::join!(
                    spawn_blocking(move || hash(whole, &pieces)),
                    spawn_blocking(move || split(splitter, block)),
                    next_block(&mut source),
                );
                (whole, block) = (hashed?, next?);
                (splitter, chunks) = cut?;
            }
            for chunk in chunks {
                names.push(chunk.hash);
                self.hold(chunk);
            }
        }
        let size = whole.length();
        let hash = whole.finish();
        let rest = splitter.finish();
        if !rest.is_empty() {
            let last = match names.is_empty() {
                // The only chunk is the whole.
                true => Chunk { hash, pieces: rest },
                false => spawn_blocking(|| Chunk::new(rest)).await?,
            };
            names.push(last.hash);
            self.hold(last);
            self.store_if_many().await?;
        }
        Ok(Contents::new(size, hash, names))
    }

    /// Ends the request's last pack.
    pub async fn finish(mut self) -> Result<Ingested, Error> {
        self.store().await?;
        self.shelf.take().await?.finish().await
    }

    fn hold(&mut self, chunk: Chunk) {
        if self.seen.insert(chunk.hash) {
            self.pending_bytes += chunk.size();
            self.pending.push(chunk);
        }
    }

    async fn store_if_many(&mut self) -> Result<(), Error> {
        match self.pending_bytes >= PENDING_BYTES || self.pending.len() >= PENDING_CHUNKS {
            true => self.store().await,
            false => Ok(()),
        }
    }

    /// Has the waiting chunks stored, once those before them are.
    async fn store(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut shelf = self.shelf.take().await?;
        self.pending_bytes = 0;
        let chunks = std::mem::take(&mut self.pending);
        self.shelf = Shelving::Storing(tokio::spawn(async move {
            shelf.store(chunks).await?;
            Ok(shelf)
        }));
        Ok(())
    }
}

impl Shelving {
    /// The shelf, once nobody puts anything on it any more.
    async fn take(&mut self) -> Result<Box<Shelf>, Error> {
        match std::mem::replace(self, Shelving::Failed) {
            Shelving::Ours(shelf) => Ok(shelf),
            Shelving::Storing(task) => task.await?,
            Shelving::Failed => Err(Error::Failed),
        }
    }
}

impl Shelf {
    async fn finish(mut self) -> Result<Ingested, Error> {
        let last = self.writer.take().map(|writer| tokio::spawn(writer.seal()));
        self.record_full().await?;
        let pack = match last {
            Some(sealing) => Some(sealing.await??),
            None => None,
        };
        Ok(Ingested { pack, holder: self.holder })
    }

    /// Pins those of the chunks that the user has, and writes the others.
    async fn store(&mut self, chunks: Vec<Chunk>) -> Result<(), Error> {
        let known = self.pin_known(&chunks).await?;
        for chunk in chunks {
            if known.contains(&chunk.hash) {
                continue;
            }
            if self.writer.as_ref().is_some_and(|w| w.size() + chunk.size() as u64 > MAX_PACK_BYTES) {
                // Brought to the disk while the next one fills; one at a time.
                self.record_full().await?;
                self.sealing = self.writer.take().map(|writer| tokio::spawn(writer.seal()));
            }
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(PackWriter::begin(&self.domain, &self.actor).await?),
            };
            for piece in chunk.pieces {
                writer.write(piece).await?;
            }
            writer.end_chunk(chunk.hash);
        }
        Ok(())
    }

    async fn pin_known(&mut self, chunks: &[Chunk]) -> Result<HashSet<ContentHash>, store::Error> {
        let mut wanted: Vec<ContentHash> = chunks.iter().map(|chunk| chunk.hash).collect();
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
        // Before the commit: whoever gives up while it is under way must give the pins back, too.
        self.holder.used = true;
        tx.commit().await?;
        self.pinned += known.len() as i32;
        Ok(known.iter().filter_map(|h| ContentHash::try_from(&h[..]).ok()).collect())
    }

    /// Records the full pack that is on its way to the disk, held by pins.
    async fn record_full(&mut self) -> Result<(), Error> {
        let Some(sealing) = self.sealing.take() else { return Ok(()) };
        let pack = sealing.await??;
        Ok(self.record(pack).await?)
    }

    async fn record(&mut self, pack: Pack) -> Result<(), store::Error> {
        let mut tx = self.domain.begin(&self.actor).await?;
        let recorded = pin_pack(&mut tx, self.actor.user_id, self.holder.id, self.pinned, &pack).await?;
        sqlx::query("insert into ingests (id, user_id, owner) values ($1, $2, $3) on conflict do nothing")
            .bind(self.holder.id)
            .bind(self.actor.user_id)
            .bind(self.domain.process())
            .execute(&mut *tx)
            .await?;
        self.holder.used = true;
        tx.commit().await?;
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

/// The next bytes, about [`BLOCK`], as the pieces that they came in; none at the end.
async fn next_block<S, E>(source: &mut std::pin::Pin<&mut S>) -> Result<Vec<Bytes>, Error>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut block, mut size) = (Vec::new(), 0);
    let mut tiny = BytesMut::new();
    while size < BLOCK {
        let Some(piece) = source.next().await else { break };
        let piece = piece.map_err(|e| Error::Source(e.into()))?;
        size += piece.len();
        if piece.len() < TINY {
            tiny.extend_from_slice(&piece);
            continue;
        }
        block.extend([tiny.split().freeze(), piece].into_iter().filter(|piece| !piece.is_empty()));
    }
    block.extend(Some(tiny.freeze()).filter(|piece| !piece.is_empty()));
    Ok(block)
}
