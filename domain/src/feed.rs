//! The change feed: what happened in a user's tree after a cursor, and waiting for more.
//!
//! Invariant: seq is given under the head's lock, so a reader that has seen `n` never misses a lower number. A change names an
//! entry and says what that entry is now; so reading a page twice does no harm. A cursor that can't be continued from is
//! [`Error::Expired`], never an empty page. Left out: what a device has taken in (`reports`).

mod hub;

use chrono::{DateTime, Utc};
use driftless_sync::path::TreePath;
use sqlx::prelude::FromRow;

use crate::{
    Actor, Domain, Tx, db,
    error::{Fault, Kind},
    tree::{self, Cursor, Did, FileInfo, Head, Row},
};

pub(crate) use hub::Hub;

/// A failure to read the feed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The journal can't be continued from this cursor.
    #[error("this cursor can't be continued from; list the files anew")]
    Expired,
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            Error::Expired => Kind::Gone,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Database(e) => e.code(),
            Error::Expired => "cursor.expired",
        }
    }

    fn field(&self) -> Option<&str> {
        matches!(self, Error::Expired).then_some("cursor")
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            Error::Expired => None,
        }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its number.
    pub seq: i64,
    /// What was done.
    pub did: Did,
    /// When.
    pub at: DateTime<Utc>,
    /// The device that it came through; none for a person, or when the device was removed.
    pub device_id: Option<String>,
    /// The entry.
    pub entry_id: i64,
    /// Where the entry is now, or was before it went.
    pub path: TreePath,
    /// Where it was before this change, for moves.
    pub old_path: Option<TreePath>,
    /// Whether the entry is gone now, with or without a folder above it.
    pub deleted: bool,
    /// Its version now.
    pub version: i64,
    /// What the file is now; none for a folder.
    pub file: Option<FileInfo>,
}

/// A page of changes.
#[derive(Debug)]
pub struct Page {
    /// In their order.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether more are there already.
    pub more: bool,
}

/// Whether the journal can be continued from `cursor`.
pub fn check(head: &Head, cursor: Cursor) -> Result<(), Error> {
    let known = cursor.epoch == head.epoch && cursor.seq <= head.seq;
    // A new device starts at 0 and lists what there is; no deletion before its time concerns it.
    let kept = cursor.seq >= head.horizon || cursor.seq == 0;
    if known && kept { Ok(()) } else { Err(Error::Expired) }
}

/// The changes after `cursor`, at most [`tree::PAGE`].
pub async fn read(tx: &mut Tx, actor: &Actor, cursor: Cursor) -> Result<Page, Error> {
    #[derive(FromRow)]
    struct Journal {
        change: i64,
        did: i16,
        at: DateTime<Utc>,
        device_id: Option<String>,
        old_parent_id: Option<i64>,
        old_name: Option<String>,
        parent_id: i64,
        name: String,
        deleted: bool,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Journal> = sqlx::query_as(
        "select j.seq as change, j.kind as did, j.at, d.device_id, j.old_parent_id, j.old_name,
                e.parent_id, e.name, e.deleted, e.id, e.seq, e.kind, v.size, v.sha256, v.modified_at, v.executable
         from (select * from versions where user_id = $1 and seq > $2 order by seq limit $3) j
         cross join lateral (select * from entries where user_id = $1 and id = j.entry_id limit 1) e
         cross join lateral (select * from versions where user_id = $1 and seq = e.seq limit 1) v
         left join devices d on d.id = j.device_id order by j.seq",
    )
    .bind(actor.user_id)
    .bind(cursor.seq)
    .bind(tree::PAGE)
    .fetch_all(&mut **tx)
    .await?;
    // After the rows: had the cleanup taken news of a deletion away before they were read, the horizon tells.
    let head = tree::head(tx, actor).await?;
    check(&head, cursor)?;
    let more = rows.len() as i64 == tree::PAGE;
    let seq = rows.last().map_or(cursor.seq, |r| r.change);
    let parents: Vec<i64> = rows.iter().flat_map(|r| [Some(r.parent_id), r.old_parent_id]).flatten().collect();
    let folders = tree::folder_paths(tx, actor.user_id, &parents).await?;
    let changes = rows.into_iter().filter_map(|r| {
        let folder = folders.get(&r.parent_id)?;
        let old = r.old_parent_id.zip(r.old_name.as_deref()).and_then(|(p, n)| folders.get(&p)?.path.join(n).ok());
        Some(Change {
            seq: r.change,
            did: Did::of(r.did),
            at: r.at,
            device_id: r.device_id,
            entry_id: r.row.id,
            path: folder.path.join(&r.name).ok()?,
            old_path: old.filter(|_| r.did == 3),
            deleted: r.deleted || folder.deleted,
            version: r.row.seq,
            file: r.row.file(),
        })
    });
    Ok(Page { changes: changes.collect(), cursor: Cursor { epoch: head.epoch, seq }, more })
}

/// [`read`], but when there is nothing new waits for it, at most `wait`. An empty page after that is no error.
pub async fn wait(domain: &Domain, actor: &Actor, cursor: Cursor, wait: std::time::Duration) -> Result<Page, Error> {
    // Watching begins before reading: what comes between the two is seen.
    let mut heads = domain.hub().watch(domain, actor.user_id);
    let end = tokio::time::Instant::now() + wait;
    loop {
        let mut tx = domain.begin(actor).await?;
        let page = read(&mut tx, actor, cursor).await?;
        drop(tx);
        if !page.changes.is_empty() || tokio::time::Instant::now() >= end {
            return Ok(page);
        }
        // Timed out or woken: look again.
        let _ = tokio::time::timeout_at(end, heads.beyond(cursor)).await;
    }
}
