//! The end of an upload: all pieces there, the whole file's hash right, then one commit.
//!
//! Invariant: the hash is computed here, never believed; each byte is hashed once, for the state after the gap-free prefix is
//! kept in the upload and only the rest is read again. More than [`IN_REQUEST`] left is a job's work.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use driftless_queue::{JobId, NewJob};
use driftless_sync::{
    hash::{ContentHash, Hasher},
    path::TreePath,
};
use futures::StreamExt;
use sqlx::prelude::FromRow;
use uuid::Uuid;

use super::{Error, Upload, invalid, load, resume};
use crate::{
    Actor, Domain, baselines,
    commit::{self, Applied, Base, Batch, Change, Held, OnConflict, Origin, Outcome},
    contents,
    ingest::Contents,
    store,
};

/// The queue of the jobs that complete large uploads.
pub const QUEUE: &str = "uploads";
/// Pieces that one arrival catches up at most.
const AT_ONCE: usize = 8;

/// How completing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// The file is in the tree.
    Done {
        /// Where and in which version.
        applied: Applied,
        /// Whether something else was at the path, so that the file was put beside it.
        conflict: bool,
    },
    /// A job hashes the rest and then completes it.
    Job(Option<JobId>),
}

#[derive(FromRow)]
struct Piece {
    n: i32,
    sha256: Vec<u8>,
    length: i32,
}

/// Completes the upload; again, it answers the same. `hash` is what the whole must hash to, beside what was said at the start.
pub async fn complete(domain: &Domain, actor: &Actor, id: Uuid, hash: Option<ContentHash>) -> Result<Completed, Error> {
    let mut tx = domain.begin(actor).await?;
    // No piece is replaced between reading the hash's state and the list of pieces.
    lock(&mut tx, id).await?;
    let upload = load(&mut tx, actor, id).await?;
    if let Some(done) = done(&mut tx, actor, &upload).await? {
        return Ok(done);
    }
    let said = upload.sha256.as_deref().and_then(|h| ContentHash::try_from(h).ok());
    if hash.is_some_and(|hash| said.is_some_and(|said| said != hash)) {
        return Err(mismatch());
    }
    let chunks = pieces(&mut tx, &upload).await?;
    let hashed = upload.prefix as u64 * upload.chunk_size as u64;
    if (upload.total_size as u64).saturating_sub(hashed) > domain.settings().hash_in_request {
        let job = NewJob::new(QUEUE, "complete_upload", &serde_json::json!({"upload_id": id}))
            .unique_key(format!("complete_upload:{id}"));
        sqlx::query("update uploads set completing = true, last_activity_at = queue.now(), sha256 = coalesce(sha256, $2) where id = $1")
            .bind(id)
            .bind(hash.map(|h| h.0.to_vec()))
            .execute(&mut *tx)
            .await?;
        let job = tx.enqueue(&job).await?;
        tx.commit().await?;
        return Ok(Completed::Job(job));
    }
    drop(tx);
    let whole = hash_rest(domain, actor, &upload, &chunks).await?;
    if hash.or(said).is_some_and(|h| h != whole) {
        return Err(mismatch());
    }
    match commit_upload(domain, actor, &upload, Contents::new(upload.total_size as u64, whole, chunks)).await {
        // Somebody else was first: the answer is his.
        Err(Error::Commit(commit::Error::UploadOver)) => {
            let mut tx = domain.begin(actor).await?;
            let upload = load(&mut tx, actor, id).await?;
            done(&mut tx, actor, &upload).await?.ok_or(Error::NotFound)
        }
        completed => completed,
    }
}

fn mismatch() -> Error {
    invalid("upload.hash_mismatch", "hash", "the contents do not match the hash of the whole file")
}

/// The work of the job that [`complete`] may leave: hashes piece by piece, then completes. Repeating it is harmless.
pub async fn finish_job(domain: &Domain, id: Uuid) -> Result<(), Error> {
    let actor = &owner(domain, id).await?;
    loop {
        let before = {
            let mut tx = domain.begin(actor).await?;
            load(&mut tx, actor, id).await?.prefix
        };
        advance(domain, actor, id).await?;
        let mut tx = domain.begin(actor).await?;
        let upload = load(&mut tx, actor, id).await?;
        if upload.is_done() {
            return Ok(());
        }
        if upload.prefix == before || upload.prefix as u64 >= upload.total_chunks() {
            sqlx::query("update uploads set completing = false where id = $1").bind(id).execute(&mut *tx).await?;
            tx.commit().await?;
            return complete(domain, actor, id, None).await.map(|_| ());
        }
    }
}

/// The user whose upload it is: a job acts for the one who asked for it.
async fn owner(domain: &Domain, id: Uuid) -> Result<Actor, Error> {
    let mut tx = domain.begin_system().await?;
    let found: Option<(i64, String, bool)> = sqlx::query_as(
        "select u.id, u.name, u.is_admin from uploads o join users u on u.id = o.user_id where o.id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    let (user_id, name, admin) = found.ok_or(Error::NotFound)?;
    Ok(Actor { user_id, name, admin, session: None })
}

async fn lock(tx: &mut crate::Tx, id: Uuid) -> Result<(), Error> {
    sqlx::query("select from uploads where id = $1 for no key update").bind(id).execute(&mut **tx).await?;
    Ok(())
}

async fn done(tx: &mut crate::Tx, actor: &Actor, upload: &Upload) -> Result<Option<Completed>, Error> {
    let Some(version) = upload.done else { return Ok(None) };
    let path = upload.done_path.as_deref().and_then(|p| TreePath::parse(p).ok()).unwrap_or(TreePath::root());
    let entry: Option<i64> = sqlx::query_scalar("select entry_id from versions where user_id = $1 and seq = $2")
        .bind(actor.user_id)
        .bind(version)
        .fetch_optional(&mut **tx)
        .await?;
    let conflict = path.as_str() != upload.path;
    Ok(Some(Completed::Done { applied: Applied { entry_id: entry.unwrap_or(0), version, path }, conflict }))
}

/// The chunks in order, once each number from 0 on is there with its right length.
async fn pieces(tx: &mut crate::Tx, upload: &Upload) -> Result<Vec<ContentHash>, Error> {
    let rows: Vec<Piece> = sqlx::query_as("select n, sha256, length from pins where holder = $1 order by n")
        .bind(upload.id)
        .fetch_all(&mut **tx)
        .await?;
    let there: HashMap<u64, &Piece> = rows.iter().map(|p| (p.n as u64, p)).collect();
    let (mut chunks, mut missing) = (Vec::with_capacity(rows.len()), 0);
    for n in 0..upload.total_chunks() {
        match there.get(&n).filter(|p| p.length as u64 == upload.length_of(n)) {
            Some(piece) => chunks.extend(ContentHash::try_from(&piece.sha256[..])),
            None => missing += 1,
        }
    }
    if missing > 0 { Err(Error::Incomplete(missing)) } else { Ok(chunks) }
}

/// The hash of the whole, going on after the prefix.
async fn hash_rest(
    domain: &Domain,
    actor: &Actor,
    upload: &Upload,
    chunks: &[ContentHash],
) -> Result<ContentHash, Error> {
    let (mut hasher, from) = match resume(upload) {
        Some(hasher) => (hasher, upload.prefix as usize),
        None => (Hasher::new(), 0),
    };
    hasher = hash_chunks(domain, actor, hasher, &chunks[from.min(chunks.len())..]).await?;
    Ok(hasher.finish())
}

async fn hash_chunks(
    domain: &Domain,
    actor: &Actor,
    mut hasher: Hasher,
    chunks: &[ContentHash],
) -> Result<Hasher, Error> {
    if chunks.is_empty() {
        return Ok(hasher);
    }
    let mut tx = domain.begin(actor).await?;
    let places = store::places(&mut tx, actor.user_id, chunks).await?;
    drop(tx);
    let mut bytes = std::pin::pin!(store::stream(domain.store().clone(), places, 0..u64::MAX));
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(store::Error::Read)?;
        hasher = tokio::task::spawn_blocking(move || {
            hasher.update(&piece);
            hasher
        })
        .await
        .map_err(|e| contents::Error::Store(store::Error::Read(std::io::Error::other(e))))?;
    }
    Ok(hasher)
}

/// The uploads whose whole-file hash a request of this process is catching up: a second one would hash the same bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct CatchingUp(Arc<Mutex<HashSet<Uuid>>>);

/// Whose turn it is.
struct Turn<'a>(&'a CatchingUp, Uuid);

impl CatchingUp {
    fn turn(&self, id: Uuid) -> Option<Turn<'_>> {
        let free = self.lock().insert(id);
        // Not `then_some`: a turn that is not taken must not be given back.
        free.then(|| Turn(self, id))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// [`advance`], unless another request of this process is at it.
pub(super) async fn catch_up(domain: &Domain, actor: &Actor, id: Uuid) -> Result<(), Error> {
    match domain.catching_up().turn(id) {
        Some(_turn) => advance(domain, actor, id).await,
        None => Ok(()),
    }
}

/// Hashes pieces that came before the one the hash waited for, some at a time, and keeps the state unless another process was
/// faster.
async fn advance(domain: &Domain, actor: &Actor, id: Uuid) -> Result<(), Error> {
    let mut tx = domain.begin(actor).await?;
    let upload = load(&mut tx, actor, id).await?;
    let rows: Vec<Piece> =
        sqlx::query_as("select n, sha256, length from pins where holder = $1 and n >= $2 order by n limit $3")
            .bind(id)
            .bind(upload.prefix)
            .bind(AT_ONCE as i64)
            .fetch_all(&mut *tx)
            .await?;
    drop(tx);
    let next: Vec<ContentHash> = rows
        .iter()
        .zip(upload.prefix..)
        .take_while(|(piece, n)| piece.n == *n)
        .filter_map(|(piece, _)| ContentHash::try_from(&piece.sha256[..]).ok())
        .collect();
    let Some(hasher) = resume(&upload).filter(|_| !next.is_empty()) else { return Ok(()) };
    let hasher = hash_chunks(domain, actor, hasher, &next).await?;
    let mut tx = domain.begin(actor).await?;
    // A piece may have been replaced meanwhile: the state counts only for what is there under the lock.
    lock(&mut tx, id).await?;
    sqlx::query(
        "update uploads set prefix = prefix + $3, hash_state = $4 where id = $1 and prefix = $2 and hash_state = $5
         and not exists (select from unnest($6::bytea[]) with ordinality u(h, n) where not exists (
             select from pins p where p.holder = $1 and p.n = $2 + u.n::int - 1 and p.sha256 = u.h))",
    )
    .bind(id)
    .bind(upload.prefix)
    .bind(next.len() as i32)
    .bind(hasher.save())
    .bind(&upload.hash_state)
    .bind(next.iter().map(|h| &h.0[..]).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

async fn commit_upload(
    domain: &Domain,
    actor: &Actor,
    upload: &Upload,
    contents: Contents,
) -> Result<Completed, Error> {
    let path = TreePath::parse(&upload.path).map_err(|e| invalid(e.code(), "file_path", e.to_string()))?;
    let mut tx = domain.begin(actor).await?;
    let who: Option<String> = sqlx::query_scalar("select device_name from devices where id = $1")
        .bind(upload.device_id)
        .fetch_optional(&mut *tx)
        .await?;
    let base = base(&mut tx, actor, upload, &path).await?;
    drop(tx);
    let origin = upload.device_id.map_or(Origin::Person, |device| Origin::Device { device });
    let change = Change::Put {
        path: path.clone(),
        contents,
        modified_at: upload.modified_at,
        executable: upload.executable.then_some(true),
        base,
        on_conflict: OnConflict::KeepBoth { who: who.unwrap_or_else(|| actor.name.clone()) },
        held: upload.device_id.map(|_| Held { path, spelling: None, fingerprint: None }),
    };
    let batch = Batch { upload: Some(upload.id), ..Batch::new(origin, vec![change]) };
    let outcome = commit::apply(domain, actor, batch).await?.pop().expect("each change has an outcome");
    let conflict = matches!(outcome, Outcome::KeptBoth(_));
    Ok(Completed::Done { applied: outcome.applied()?, conflict })
}

/// What the sender believes to be at the path: what it said, else what its device last had there, else nothing.
async fn base(tx: &mut crate::Tx, actor: &Actor, upload: &Upload, path: &TreePath) -> Result<Base, Error> {
    match (upload.base_version, upload.device_id) {
        (Some(0), _) => Ok(Base::Absent),
        (Some(version), _) => Ok(Base::Version(version)),
        (None, None) => Ok(Base::Any),
        (None, Some(device)) => {
            let known = baselines::at_paths(tx, actor, device, std::slice::from_ref(path)).await?;
            Ok(known.iter().map(|b| b.version).max().map_or(Base::Absent, Base::Version))
        }
    }
}
