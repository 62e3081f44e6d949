//! Reading the tree: what is at a path, in a folder, below it, and in the history of a file.
//!
//! Invariant: an entry is there when it and every folder above it are not deleted; only walking down from the root tells that, or
//! climbing up to it. Every page limits on one table first and joins then (docs/storage.md). Left out: changing
//! anything (`commit`), and what changed since (`feed`).

mod many;

use std::collections::HashMap;

use chrono::{DateTime, Datelike, Utc};
use driftless_sync::{
    hash::ContentHash,
    manifest::{self, Content, File},
    path::TreePath,
};
use sqlx::{PgConnection, Row as _, postgres::PgRow, prelude::FromRow};
use uuid::Uuid;

use crate::{
    Actor, Tx,
    commit::Applied,
    db,
    error::{Fault, Kind},
    ingest::Contents,
};

pub use many::{count_files, stat_many};

/// Entries of a page at most.
pub const PAGE: i64 = 1000;

/// A failure to read the tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Nothing is there.
    #[error("there is nothing at {0}")]
    NotFound(TreePath),
    /// A folder was needed.
    #[error("{0} is a file, not a folder")]
    NotAFolder(TreePath),
    /// A file was needed.
    #[error("{0} is a folder, not a file")]
    IsAFolder(TreePath),
    /// The file never had that version, or it is no longer kept.
    #[error("there is no such version")]
    NoVersion,
    /// Not a cursor of ours.
    #[error("the cursor is not one that this server gave")]
    BadCursor,
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            Error::NotFound(_) | Error::NoVersion => Kind::NotFound,
            Error::NotAFolder(_) | Error::IsAFolder(_) => Kind::Conflict,
            Error::BadCursor => Kind::Invalid,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Database(e) => e.code(),
            Error::NotFound(_) => "file.not_found",
            Error::NotAFolder(_) => "file.not_a_folder",
            Error::IsAFolder(_) => "file.is_a_folder",
            Error::NoVersion => "version.not_found",
            Error::BadCursor => "cursor.invalid",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Database(_) => None,
            Error::BadCursor => Some("cursor"),
            Error::NoVersion => Some("version"),
            _ => Some("path"),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// An entry as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The entry; 0 is the root.
    pub entry_id: i64,
    /// Where it is.
    pub path: TreePath,
    /// The version that says what it is; 0 for the root.
    pub version: i64,
    /// What the file is; none for a folder.
    pub file: Option<FileInfo>,
}

impl Node {
    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.file.is_none()
    }

    /// As the plan compares it.
    pub(crate) fn into_entry(self) -> (TreePath, manifest::Node) {
        let content = self.file.map_or(Content::Folder, |file| {
            Content::File(File {
                hash: file.hash,
                size: file.size,
                modified_at: Some(file.modified_at),
                executable: Some(file.executable),
            })
        });
        let (entry, version) = (Some(self.entry_id), Some(self.version));
        (self.path, manifest::Node { content, inode: None, entry, version })
    }

    pub(crate) fn root() -> Self {
        Node { entry_id: 0, path: TreePath::root(), version: 0, file: None }
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the contents.
    pub hash: ContentHash,
    /// Modification time.
    pub modified_at: DateTime<Utc>,
    /// Executable bit.
    pub executable: bool,
}

/// Whether a modification time can be kept, and told in RFC 3339: from the year 1 to 9999.
pub fn keeps(modified_at: DateTime<Utc>) -> bool {
    (1..=9999).contains(&modified_at.year())
}

/// The head of a user's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Head {
    /// This course of history; another one knows none of our numbers.
    pub epoch: Uuid,
    /// Number of the last change.
    pub seq: i64,
    /// Living files.
    pub files: i64,
    /// Their bytes.
    pub bytes: i64,
    /// Journal rows up to here may be gone.
    pub horizon: i64,
}

impl Head {
    /// The cursor that stands for everything up to now.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.seq }
    }
}

/// How far somebody has read a journal. Travels as `<epoch>.<seq>`, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The course of history.
    pub epoch: Uuid,
    /// The last change taken in.
    pub seq: i64,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch.simple(), self.seq)
    }
}

impl std::str::FromStr for Cursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (epoch, seq) = text.split_once('.').ok_or(Error::BadCursor)?;
        let seq = seq.parse().ok().filter(|s| *s >= 0).ok_or(Error::BadCursor)?;
        Ok(Cursor { epoch: epoch.parse().map_err(|_| Error::BadCursor)?, seq })
    }
}

/// Columns of an entry joined with its version.
#[derive(FromRow)]
pub(crate) struct Row {
    pub id: i64,
    pub seq: i64,
    pub kind: i16,
    pub size: i64,
    pub sha256: Option<Vec<u8>>,
    pub modified_at: DateTime<Utc>,
    pub executable: bool,
}

impl Row {
    pub(crate) fn file(&self) -> Option<FileInfo> {
        (self.kind == 1).then(|| FileInfo {
            size: self.size as u64,
            hash: self.sha256.as_deref().and_then(|h| ContentHash::try_from(h).ok()).unwrap_or(ContentHash([0; 32])),
            modified_at: self.modified_at,
            executable: self.executable,
        })
    }

    fn node(&self, path: TreePath) -> Node {
        Node { entry_id: self.id, path, version: self.seq, file: self.file() }
    }
}

/// The head of the actor's tree.
pub async fn head(tx: &mut Tx, actor: &Actor) -> Result<Head, db::Error> {
    Ok(sqlx::query_as("select epoch, seq, files, bytes, horizon from heads where user_id = $1")
        .bind(actor.user_id)
        .fetch_one(&mut **tx)
        .await?)
}

/// What is at `path` now.
pub async fn stat(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<Option<Node>, Error> {
    if path.is_root() {
        return Ok(Some(Node::root()));
    }
    let segments: Vec<&str> = path.segments().collect();
    let row: Option<Row> = sqlx::query_as(
        "with recursive w as (
             select 0 as depth, 0::bigint as id, 0::bigint as seq, 0::smallint as kind
             union all
             select w.depth + 1, e.id, e.seq, e.kind from w cross join lateral (
                 select id, seq, kind from entries
                 where user_id = $1 and parent_id = w.id and name = ($2::text[])[w.depth + 1] and not deleted limit 1) e
             where w.depth < cardinality($2::text[]))
         select w.id, w.seq, w.kind, v.size, v.sha256, v.modified_at, v.executable from w
         cross join lateral (select * from versions where user_id = $1 and seq = w.seq limit 1) v
         where w.depth = cardinality($2::text[])",
    )
    .bind(actor.user_id)
    .bind(segments)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|r| r.node(path.clone())))
}

/// [`stat`], nothing being an error.
pub async fn node(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<Node, Error> {
    stat(tx, actor, path).await?.ok_or_else(|| Error::NotFound(path.clone()))
}

/// The entry as a commit left it, whatever happened since.
pub async fn at_version(tx: &mut Tx, actor: &Actor, applied: &Applied) -> Result<Node, Error> {
    let (entry_id, file, _) = contents(tx, actor.user_id, applied.version).await?.ok_or(Error::NoVersion)?;
    Ok(Node { entry_id, path: applied.path.clone(), version: applied.version, file: Some(file) })
}

/// A page of what is in a folder, by name.
#[derive(Debug)]
pub struct Listing {
    /// The folder itself.
    pub folder: Node,
    /// Entries by name, at most [`PAGE`].
    pub entries: Vec<Node>,
    /// Name after which the next page begins; none at the end.
    pub next: Option<String>,
}

/// The folder at `path`.
async fn folder(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<Node, Error> {
    let found = node(tx, actor, path).await?;
    if found.is_folder() { Ok(found) } else { Err(Error::NotAFolder(path.clone())) }
}

/// What is in the folder at `path`, after the name `after`.
pub async fn list(tx: &mut Tx, actor: &Actor, path: &TreePath, after: Option<&str>) -> Result<Listing, Error> {
    #[derive(FromRow)]
    struct Named {
        name: String,
        #[sqlx(flatten)]
        row: Row,
    }
    let folder = folder(tx, actor, path).await?;
    let rows: Vec<Named> = sqlx::query_as(
        "select e.name, e.id, e.seq, e.kind, v.size, v.sha256, v.modified_at, v.executable from (
             select name, id, seq, kind from entries
             where user_id = $1 and parent_id = $2 and not deleted and name > $3 order by name limit $4) e
         cross join lateral (select * from versions where user_id = $1 and seq = e.seq limit 1) v order by e.name",
    )
    .bind(actor.user_id)
    .bind(folder.entry_id)
    .bind(after.unwrap_or(""))
    .bind(PAGE)
    .fetch_all(&mut **tx)
    .await?;
    let next = (rows.len() as i64 == PAGE).then(|| rows.last().map(|r| r.name.clone())).flatten();
    let entries = rows.iter().filter_map(|r| Some(r.row.node(path.join(&r.name).ok()?))).collect();
    Ok(Listing { folder, entries, next })
}

/// Everything below the folder at `path` (itself left out), in no particular order, as one statement saw it.
pub async fn below(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<Vec<Node>, Error> {
    #[derive(FromRow)]
    struct Pathed {
        path: String,
        #[sqlx(flatten)]
        row: Row,
    }
    let folder = folder(tx, actor, path).await?;
    let rows: Vec<Pathed> = sqlx::query_as(
        "with recursive t as (
             select $2::bigint as id, 0::bigint as seq, 0::smallint as kind, ''::text collate \"C\" as path
             union all
             select e.id, e.seq, e.kind, t.path || '/' || e.name from t cross join lateral (
                 select id, seq, kind, name from entries where user_id = $1 and parent_id = t.id and not deleted offset 0) e
             where t.kind = 0)
         select t.path, t.id, t.seq, t.kind, v.size, v.sha256, v.modified_at, v.executable from t
         cross join lateral (select * from versions where user_id = $1 and seq = t.seq limit 1) v
         where t.id <> $2",
    )
    .bind(actor.user_id)
    .bind(folder.entry_id)
    .fetch_all(&mut **tx)
    .await?;
    let base = if path.is_root() { "" } else { path.as_str() };
    Ok(rows
        .iter()
        .filter_map(|r| match TreePath::parse(&format!("{base}{}", r.path)) {
            Ok(path) => Some(r.row.node(path)),
            Err(error) => {
                tracing::error!(entry = r.row.id, %error, "an entry's path breaks the rules of paths");
                None
            }
        })
        .collect())
}

/// A page of the living entries below a folder, by entry id: what [`below`] answers, in pages for those who can wait between
/// them. Entries that come or change meanwhile are told by the journal from the head before the first page.
pub async fn page(tx: &mut Tx, actor: &Actor, path: &TreePath, after: i64) -> Result<(Vec<Node>, Option<i64>), Error> {
    #[derive(FromRow)]
    struct Placed {
        parent_id: i64,
        name: String,
        #[sqlx(flatten)]
        row: Row,
    }
    folder(tx, actor, path).await?;
    let rows: Vec<Placed> = sqlx::query_as(
        "select e.parent_id, e.name, e.id, e.seq, e.kind, v.size, v.sha256, v.modified_at, v.executable from (
             select parent_id, name, id, seq, kind from entries
             where user_id = $1 and id > $2 and not deleted order by id limit $3) e
         cross join lateral (select * from versions where user_id = $1 and seq = e.seq limit 1) v order by e.id",
    )
    .bind(actor.user_id)
    .bind(after)
    .bind(PAGE)
    .fetch_all(&mut **tx)
    .await?;
    let next = (rows.len() as i64 == PAGE).then(|| rows.last().map(|r| r.row.id)).flatten();
    let parents: Vec<i64> = rows.iter().map(|r| r.parent_id).collect();
    let folders = folder_paths(tx, actor.user_id, &parents).await?;
    let nodes = rows
        .iter()
        .filter_map(|r| {
            let parent = folders.get(&r.parent_id).filter(|f| !f.deleted)?;
            let at = parent.path.join(&r.name).ok()?;
            at.starts_with(path).then(|| r.row.node(at))
        })
        .filter(|n| n.path != *path)
        .collect();
    Ok((nodes, next))
}

/// Where a folder is.
#[derive(Debug, Clone)]
pub(crate) struct FolderPath {
    pub path: TreePath,
    /// It or a folder above it is in the trash.
    pub deleted: bool,
}

/// Paths of folders by their ids, found by climbing.
pub(crate) async fn folder_paths(
    conn: &mut PgConnection,
    user_id: i64,
    ids: &[i64],
) -> Result<HashMap<i64, FolderPath>, db::Error> {
    let mut wanted: Vec<i64> = ids.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let rows: Vec<(i64, String, bool)> = sqlx::query_as(
        "with recursive up as (
             select i as id, i as at, ''::text collate \"C\" as path, false as deleted from unnest($2::bigint[]) u(i)
             union all
             select up.id, e.parent_id, '/' || e.name || up.path, up.deleted or e.deleted from up cross join lateral (
                 select parent_id, name, deleted from entries where user_id = $1 and id = up.at limit 1) e
             where up.at <> 0)
         select id, path, deleted from up where at = 0",
    )
    .bind(user_id)
    .bind(&wanted)
    .fetch_all(conn)
    .await?;
    let path = |text: String| if text.is_empty() { Some(TreePath::root()) } else { TreePath::parse(&text).ok() };
    Ok(rows
        .into_iter()
        .filter_map(|(id, text, deleted)| Some((id, FolderPath { path: path(text)?, deleted })))
        .collect())
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// New contents.
    Put,
    /// A new folder.
    Folder,
    /// Another place.
    Move,
    /// Into the trash.
    Delete,
    /// Out of the trash.
    Restore,
    /// Time or mode.
    Touch,
    /// Contents kept aside in the history; what is current did not change.
    Keep,
}

impl Did {
    /// By its number in the journal.
    pub(crate) fn of(kind: i16) -> Self {
        match kind {
            1 => Did::Put,
            2 => Did::Folder,
            3 => Did::Move,
            4 => Did::Delete,
            5 => Did::Restore,
            6 => Did::Touch,
            _ => Did::Keep,
        }
    }
}

/// One row of a file's history.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its number.
    pub seq: i64,
    /// What was done.
    pub did: Did,
    /// Bytes.
    pub size: i64,
    /// SHA-256; none where no contents came.
    pub hash: Option<ContentHash>,
    /// Modification time.
    pub modified_at: DateTime<Utc>,
    /// Executable bit.
    pub executable: bool,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The device that it came through; none for a person, or when the device was removed.
    pub device_id: Option<String>,
}

impl FromRow<'_, PgRow> for Version {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let hash: Option<Vec<u8>> = row.try_get("sha256")?;
        Ok(Version {
            seq: row.try_get("seq")?,
            did: Did::of(row.try_get("kind")?),
            size: row.try_get("size")?,
            hash: hash.and_then(|h| ContentHash::try_from(&h[..]).ok()),
            modified_at: row.try_get("modified_at")?,
            executable: row.try_get("executable")?,
            at: row.try_get("at")?,
            device_id: row.try_get("device_id")?,
        })
    }
}

/// The entry at `path`, else the one that was deleted from there last.
pub async fn find_also_in_trash(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<(i64, bool), Error> {
    if let Some(node) = stat(tx, actor, path).await? {
        return Ok((node.entry_id, false));
    }
    let missing = || Error::NotFound(path.clone());
    let (parent, name) = path.parent().zip(path.name()).ok_or_else(missing)?;
    let parent = match Box::pin(find_also_in_trash(tx, actor, &parent)).await {
        Err(Error::NotFound(_)) => return Err(missing()),
        found => found?.0,
    };
    let found: Option<(i64, bool)> = sqlx::query_as(
        "select id, deleted from entries where user_id = $1 and parent_id = $2 and name = $3 order by deleted, id desc limit 1",
    )
    .bind(actor.user_id)
    .bind(parent)
    .bind(name)
    .fetch_optional(&mut **tx)
    .await?;
    found.map(|(id, _)| (id, true)).ok_or_else(missing)
}

/// The history of the entry at `path` (also one in the trash), newest first, before the version `before`.
pub async fn history(
    tx: &mut Tx,
    actor: &Actor,
    path: &TreePath,
    before: Option<i64>,
) -> Result<(Vec<Version>, Option<i64>), Error> {
    let (entry, _) = find_also_in_trash(tx, actor, path).await?;
    let rows: Vec<Version> = sqlx::query_as(
        "select v.seq, v.kind, v.size, v.sha256, v.modified_at, v.executable, v.at, d.device_id from (
             select * from versions where user_id = $1 and entry_id = $2 and seq < $3 order by seq desc limit $4) v
         left join devices d on d.id = v.device_id order by v.seq desc",
    )
    .bind(actor.user_id)
    .bind(entry)
    .bind(before.unwrap_or(i64::MAX))
    .bind(PAGE)
    .fetch_all(&mut **tx)
    .await?;
    let next = (rows.len() as i64 == PAGE).then(|| rows.last().map(|r| r.seq)).flatten();
    Ok((rows, next))
}

/// The contents that version `seq` holds, with the entry it belongs to.
pub async fn contents(
    conn: &mut PgConnection,
    user_id: i64,
    seq: i64,
) -> Result<Option<(i64, FileInfo, Contents)>, db::Error> {
    #[derive(FromRow)]
    struct Found {
        entry_id: i64,
        chunks: Option<Vec<Vec<u8>>>,
        #[sqlx(flatten)]
        row: Row,
    }
    let found: Option<Found> = sqlx::query_as(
        "select entry_id, chunks, seq as id, seq, 1::smallint as kind, size, sha256, modified_at, executable from versions
         where user_id = $1 and seq = $2 and sha256 is not null",
    )
    .bind(user_id)
    .bind(seq)
    .fetch_optional(conn)
    .await?;
    Ok(found.and_then(|f| {
        let file = f.row.file()?;
        let chunks = match f.chunks {
            Some(chunks) => chunks.iter().filter_map(|h| ContentHash::try_from(&h[..]).ok()).collect(),
            None if file.size == 0 => Vec::new(),
            None => vec![file.hash],
        };
        let contents = Contents::new(file.size, file.hash, chunks);
        Some((f.entry_id, file, contents))
    }))
}
