//! Uploads: contents on their way into the tree, in one request ([`put`]) or in pieces that any process can take on.
//!
//! Invariant: which pieces are there is told by the set of their numbers, never by a counter; a piece counts once its bytes are synced and its
//! reference stands. Nothing is in the tree before [`complete`], and then all of it. An upload that nobody touched for
//! seven days is over. Left out: throwing expired ones away (`cleanup`).

mod complete;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use driftless_sync::{
    hash::{ContentHash, Hasher},
    path::TreePath,
};
use futures::{Stream, StreamExt};
use sqlx::prelude::FromRow;
use uuid::Uuid;

use crate::{
    Actor, Domain, Tx,
    bandwidth::Direction,
    commit::{self, Applied, Base, Batch, Change, OnConflict, Origin, Outcome, Refusal},
    contents, db,
    error::{Fault, Kind},
    ingest::{self, Ingest},
    store::{self, PackWriter},
    tree,
};

pub(crate) use complete::CatchingUp;
pub use complete::{Completed, QUEUE, complete, finish_job};

/// Days after the last activity when an upload is over.
pub const KEPT_DAYS: i64 = 7;
/// Usual size of a piece in bytes.
pub const DEFAULT_CHUNK: u32 = 5 << 20;
/// Smallest and largest size of a piece in bytes.
pub const CHUNK_SIZES: std::ops::RangeInclusive<u32> = 64 << 10..=8 << 20;
/// Pieces of an upload at most.
pub const MAX_CHUNKS: u64 = 200_000;
/// Open uploads of a user at most.
pub const MAX_OPEN: i64 = 1000;

/// Why an upload can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The contents could not be taken in.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    /// The contents could not be read again.
    #[error(transparent)]
    Contents(#[from] contents::Error),
    /// The commit failed.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// The commit refused the change.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such upload, or over.
    #[error("there is no such upload; it may have expired")]
    NotFound,
    /// No such device.
    #[error("there is no device with this id")]
    NoDevice,
    /// A value of the request can't be.
    #[error("{problem}")]
    Invalid {
        /// Stable code.
        code: &'static str,
        /// The field at fault.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Pieces are missing.
    #[error("{0} pieces are missing; ask for them with resume")]
    Incomplete(u64),
    /// The upload is complete already.
    #[error("the upload is complete already")]
    Done,
    /// A job completes the upload.
    #[error("the upload is being completed; it can't be changed or given up any more")]
    Completing,
    /// Too many uploads are open.
    #[error("too many uploads are open; complete or cancel some")]
    TooMany,
    /// A precondition that the request stated does not hold.
    #[error("{0} is not what the request's condition says")]
    Precondition(TreePath),
}

crate::db::from_sqlx!(Error::Database);

impl From<store::Error> for Error {
    fn from(e: store::Error) -> Self {
        Error::Ingest(e.into())
    }
}

impl Error {
    fn cause(&self) -> Option<&dyn Fault> {
        match self {
            Error::Database(e) => Some(e),
            Error::Ingest(e) => Some(e),
            Error::Contents(e) => Some(e),
            Error::Commit(e) => Some(e),
            Error::Refused(e) => Some(e),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound | Error::NoDevice => Kind::NotFound,
            Error::Invalid { .. } => Kind::Invalid,
            Error::Incomplete(_) | Error::Done | Error::Completing => Kind::Conflict,
            Error::TooMany => Kind::Busy,
            Error::Precondition(_) => Kind::Precondition,
            other => other.cause().map_or(Kind::Internal, Fault::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NotFound => "upload.not_found",
            Error::NoDevice => "device.not_found",
            Error::Invalid { code, .. } => code,
            Error::Incomplete(_) => "upload.incomplete",
            Error::Done => "upload.done",
            Error::Completing => "upload.completing",
            Error::TooMany => "upload.too_many",
            Error::Precondition(_) => "file.precondition",
            other => other.cause().map_or("internal", Fault::code),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Invalid { field, .. } => Some(field),
            Error::NoDevice => Some("device_id"),
            other => other.cause().and_then(Fault::field),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::TooMany => Some(60),
            other => other.cause().and_then(Fault::retry_after),
        }
    }
}

fn invalid(code: &'static str, field: &'static str, problem: impl Into<String>) -> Error {
    Error::Invalid { code, field, problem: problem.into() }
}

fn check_time(modified_at: Option<DateTime<Utc>>) -> Result<(), Error> {
    match modified_at {
        Some(at) if !tree::keeps(at) => {
            Err(invalid("time.out_of_range", "modified_at", "must lie between the years 1 and 9999"))
        }
        _ => Ok(()),
    }
}

/// Contents for a path, in one request.
#[derive(Debug, Clone)]
pub struct Put {
    /// Where.
    pub path: TreePath,
    /// What the caller believes to be there; anything else is [`Error::Precondition`].
    pub base: Base,
    /// What the contents must hash to.
    pub hash: Option<ContentHash>,
    /// Modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// Executable bit.
    pub executable: Option<bool>,
}

/// Takes the contents in and puts them at the path. The flag says whether the file is new.
pub async fn put<S, E>(domain: &Domain, actor: &Actor, put: Put, body: S) -> Result<(Applied, bool), Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    check_time(put.modified_at)?;
    let _place = domain.transfers().begin(actor).await?;
    let mut ingest = Ingest::new(domain, actor);
    let contents = ingest.add(contents::metered(domain, actor, Direction::Upload, body)).await?;
    if put.hash.is_some_and(|h| h != contents.hash()) {
        return Err(invalid("contents.digest_mismatch", "Content-Digest", "the contents do not match their digest"));
    }
    let change = Change::Put {
        path: put.path.clone(),
        contents,
        modified_at: put.modified_at,
        executable: put.executable,
        base: put.base,
        on_conflict: OnConflict::Refuse,
        held: None,
    };
    let batch = Batch::with(Origin::Person, vec![change], ingest.finish().await?);
    let outcome = commit::apply(domain, actor, batch).await?.pop();
    match outcome.expect("each change has an outcome") {
        Outcome::Refused(Refusal::Conflict { path, .. }) => Err(Error::Precondition(path)),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::Created(applied) => Ok((applied, true)),
        outcome => Ok((outcome.applied()?, false)),
    }
}

/// What to open an upload with.
#[derive(Debug, Clone)]
pub struct New {
    /// The device that sends it, by its own id; none for a person.
    pub device_id: Option<String>,
    /// Where it will be; relative to the device's base path when there is a device.
    pub path: TreePath,
    /// Bytes in all.
    pub total_size: u64,
    /// Bytes of each piece but the last.
    pub chunk_size: u32,
    /// SHA-256 of the whole, if it is known.
    pub hash: Option<ContentHash>,
    /// The version that it replaces; 0 for none.
    pub base_version: Option<i64>,
    /// Modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// Executable bit.
    pub executable: bool,
}

/// An upload as it stands.
#[derive(Debug, Clone, FromRow)]
pub struct Upload {
    /// Its id.
    pub id: Uuid,
    /// Bytes in all.
    pub total_size: i64,
    /// Bytes of each piece but the last.
    pub chunk_size: i32,
    /// Pieces that are there.
    pub received: i64,
    /// Last time that a piece came or somebody asked to go on.
    pub last_activity_at: DateTime<Utc>,
    path: String,
    device_id: Option<i64>,
    base_version: Option<i64>,
    sha256: Option<Vec<u8>>,
    modified_at: Option<DateTime<Utc>>,
    executable: bool,
    prefix: i32,
    hash_state: Vec<u8>,
    /// Whether a job completes it.
    pub completing: bool,
    done: Option<i64>,
    done_path: Option<String>,
}

impl Upload {
    /// How many pieces there are in all.
    pub fn total_chunks(&self) -> u64 {
        (self.total_size as u64).div_ceil(self.chunk_size as u64)
    }

    /// When it is over unless somebody goes on.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.last_activity_at + TimeDelta::days(KEPT_DAYS)
    }

    /// Whether the file is in the tree.
    pub fn is_done(&self) -> bool {
        self.done.is_some()
    }

    fn length_of(&self, n: u64) -> u64 {
        let start = n * self.chunk_size as u64;
        (self.total_size as u64 - start).min(self.chunk_size as u64)
    }
}

async fn load(tx: &mut Tx, actor: &Actor, id: Uuid) -> Result<Upload, Error> {
    let found: Option<Upload> = sqlx::query_as(
        "select u.*, (select count(*) from pins where holder = u.id) as received from uploads u
         where u.id = $1 and u.user_id = $2 and u.last_activity_at > queue.now() - make_interval(days => $3)",
    )
    .bind(id)
    .bind(actor.user_id)
    .bind(KEPT_DAYS as i32)
    .fetch_optional(&mut **tx)
    .await?;
    found.ok_or(Error::NotFound)
}

/// The device's row and base path.
async fn device(tx: &mut Tx, actor: &Actor, device_id: &str) -> Result<(i64, TreePath), Error> {
    // Postgres takes no NUL in a text, so no device has one.
    let found: Option<(i64, String)> = if device_id.contains('\0') {
        None
    } else {
        sqlx::query_as("select id, base_path from devices where user_id = $1 and device_id = $2")
            .bind(actor.user_id)
            .bind(device_id)
            .fetch_optional(&mut **tx)
            .await?
    };
    let (id, base) = found.ok_or(Error::NoDevice)?;
    Ok((id, TreePath::parse(&base).unwrap_or(TreePath::root())))
}

/// Opens an upload. Refused when the disk has no room for it.
pub async fn start(domain: &Domain, actor: &Actor, new: New) -> Result<Upload, Error> {
    if !CHUNK_SIZES.contains(&new.chunk_size) {
        return Err(invalid("upload.chunk_size_invalid", "chunk_size", "must be 65536 to 8388608 bytes"));
    }
    if new.total_size > i64::MAX as u64 || new.total_size.div_ceil(u64::from(new.chunk_size)) > MAX_CHUNKS {
        let problem = format!("would take more than {MAX_CHUNKS} pieces; choose larger ones");
        return Err(invalid("upload.too_many_chunks", "total_size", problem));
    }
    check_time(new.modified_at)?;
    domain.store().check_room(new.total_size)?;
    let mut tx = domain.begin(actor).await?;
    let (device, path) = match &new.device_id {
        Some(device_id) => {
            let (device, base) = device(&mut tx, actor, device_id).await?;
            let path = new.path.below(&base).map_err(|e| invalid(e.code(), "file_path", e.to_string()))?;
            (Some(device), path)
        }
        None => (None, new.path.clone()),
    };
    if path.is_root() {
        return Err(Refusal::Root.into());
    }
    // Not those that are over: nobody can complete or cancel them, only the next cleanup.
    let open: i64 = sqlx::query_scalar(
        "select count(*) from (select from uploads where user_id = $1 and done is null
                               and last_activity_at > queue.now() - make_interval(days => $3) limit $2) u",
    )
    .bind(actor.user_id)
    .bind(MAX_OPEN)
    .bind(KEPT_DAYS as i32)
    .fetch_one(&mut *tx)
    .await?;
    if open >= MAX_OPEN {
        return Err(Error::TooMany);
    }
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into uploads (id, user_id, device_id, path, base_version, total_size, chunk_size, sha256, modified_at, executable)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(id)
    .bind(actor.user_id)
    .bind(device)
    .bind(path.as_str())
    .bind(new.base_version)
    .bind(new.total_size as i64)
    .bind(new.chunk_size as i32)
    .bind(new.hash.map(|h| h.0.to_vec()))
    .bind(new.modified_at)
    .bind(new.executable)
    .execute(&mut *tx)
    .await?;
    let upload = load(&mut tx, actor, id).await?;
    tx.commit().await?;
    Ok(upload)
}

/// Takes piece `n` in. Sending a piece again is harmless. `hash` is what it must hash to, if the caller says so.
pub async fn put_chunk<S, E>(
    domain: &Domain,
    actor: &Actor,
    id: Uuid,
    n: u64,
    hash: Option<ContentHash>,
    body: S,
) -> Result<Upload, Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let _place = domain.transfers().begin(actor).await?;
    let mut tx = domain.begin(actor).await?;
    let upload = load(&mut tx, actor, id).await?;
    drop(tx);
    if upload.done.is_some() {
        return Err(Error::Done);
    }
    if upload.completing {
        return Err(Error::Completing);
    }
    if n >= upload.total_chunks() {
        let problem = format!("there are {} pieces, counted from 0", upload.total_chunks());
        return Err(invalid("upload.chunk_out_of_range", "chunk_number", problem));
    }
    // The state of the whole file's hash goes on while the bytes pass by, when this is the piece it waits for.
    let whole = (upload.prefix as u64 == n).then(|| resume(&upload)).flatten();
    let body = contents::metered(domain, actor, Direction::Upload, body);
    let (pack, found, whole) = receive(domain, actor, upload.length_of(n), whole, body).await?;
    if hash.is_some_and(|h| h != found) {
        return Err(invalid("upload.hash_mismatch", "chunk_hash", "the piece does not match its hash"));
    }
    let mut tx = domain.begin(actor).await?;
    let recorded = store::record_and_claim(&mut tx, actor.user_id, &[&pack], &[found]).await?[0];
    let catch_up = refer(&mut tx, &upload, n, found, whole.as_ref()).await?;
    let upload = load(&mut tx, actor, id).await?;
    tx.commit().await?;
    if recorded {
        pack.keep();
    }
    if catch_up {
        complete::catch_up(domain, actor, id).await?;
    }
    Ok(upload)
}

fn resume(upload: &Upload) -> Option<Hasher> {
    if upload.prefix == 0 { Some(Hasher::new()) } else { Hasher::restore(&upload.hash_state).ok() }
}

/// Writes one piece into a pack of its own while hashing it.
async fn receive<S, E>(
    domain: &Domain,
    actor: &Actor,
    length: u64,
    mut whole: Option<Hasher>,
    body: S,
) -> Result<(store::Pack, ContentHash, Option<Hasher>), Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let wrong = || invalid("upload.chunk_size_wrong", "chunk_number", format!("this piece has {length} bytes"));
    let mut body = std::pin::pin!(body);
    let mut writer = PackWriter::begin(domain, actor).await?;
    let mut hasher = Hasher::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| ingest::Error::Source(e.into()))?;
        if hasher.length() + piece.len() as u64 > length {
            return Err(wrong());
        }
        hasher.update(&piece);
        if let Some(whole) = &mut whole {
            whole.update(&piece);
        }
        writer.write(piece).await?;
    }
    if hasher.length() != length {
        return Err(wrong());
    }
    let hash = hasher.finish();
    writer.end_chunk(hash);
    Ok((writer.seal().await?, hash, whole))
}

/// Writes the upload's reference to piece `n`. Answers whether the piece that the whole file's hash waits for is there.
async fn refer(tx: &mut Tx, upload: &Upload, n: u64, hash: ContentHash, whole: Option<&Hasher>) -> Result<bool, Error> {
    let n = n as i32;
    let state: Option<(i32, Vec<u8>)> = sqlx::query_as(
        "select prefix, hash_state from uploads where id = $1 and done is null and not completing for no key update",
    )
    .bind(upload.id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some((mut prefix, state)) = state else { return Err(Error::NotFound) };
    // A piece before this one may have been replaced while it arrived; then what was hashed on is of the old one.
    let whole = whole.filter(|_| prefix == upload.prefix && (prefix == 0 || state == upload.hash_state));
    let before: Option<Vec<u8>> = sqlx::query_scalar("select sha256 from pins where holder = $1 and n = $2")
        .bind(upload.id)
        .bind(n)
        .fetch_optional(&mut **tx)
        .await?;
    sqlx::query(
        "insert into pins (user_id, holder, n, sha256, length) select user_id, id, $2, $3, $4 from uploads where id = $1
         on conflict (holder, n) do update set sha256 = excluded.sha256, length = excluded.length",
    )
    .bind(upload.id)
    .bind(n)
    .bind(&hash.0[..])
    .bind(upload.length_of(n as u64) as i32)
    .execute(&mut **tx)
    .await?;
    let mut hash_state = None;
    if n < prefix && before.is_some_and(|b| b != hash.0) {
        // Other contents for a piece that was hashed: the hash begins anew.
        (prefix, hash_state) = (0, Some(Vec::new()));
    } else if let (true, Some(whole)) = (n == prefix, whole) {
        (prefix, hash_state) = (prefix + 1, Some(whole.save()));
    }
    Ok(sqlx::query_scalar(
        "update uploads set last_activity_at = queue.now(), prefix = $2, hash_state = coalesce($3, hash_state) where id = $1
         returning exists (select from pins where holder = $1 and n = $2)",
    )
    .bind(upload.id)
    .bind(prefix)
    .bind(hash_state)
    .fetch_one(&mut **tx)
    .await?)
}

/// How far an upload is.
pub async fn progress(tx: &mut Tx, actor: &Actor, id: Uuid) -> Result<Upload, Error> {
    load(tx, actor, id).await
}

/// The numbers of the pieces that are missing; asking counts as activity.
pub async fn missing(tx: &mut Tx, actor: &Actor, id: Uuid) -> Result<(Upload, Vec<i32>), Error> {
    let upload = load(tx, actor, id).await?;
    if upload.done.is_some() {
        return Ok((upload, Vec::new()));
    }
    sqlx::query("update uploads set last_activity_at = queue.now() where id = $1").bind(id).execute(&mut **tx).await?;
    let missing = sqlx::query_scalar(
        "select i from generate_series(0, $2::int - 1) i
         where not exists (select from pins where holder = $1 and n = i) order by i",
    )
    .bind(id)
    .bind(upload.total_chunks() as i32)
    .fetch_all(&mut **tx)
    .await?;
    Ok((load(tx, actor, id).await?, missing))
}

/// Gives an upload up. What only it held goes with the next cleanup.
pub async fn cancel(tx: &mut Tx, actor: &Actor, id: Uuid) -> Result<(), Error> {
    let gone = sqlx::query("delete from uploads where id = $1 and user_id = $2 and not completing")
        .bind(id)
        .bind(actor.user_id)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if gone == 0 {
        // There is none, or a job is at it.
        load(tx, actor, id).await?;
        return Err(Error::Completing);
    }
    sqlx::query("delete from pins where holder = $1").bind(id).execute(&mut **tx).await?;
    Ok(())
}
