//! What devices and the tree last agreed on: reading it. It is written by `commit`, with the change that it speaks of.
//!
//! Invariant: a row is moved only by what its device has acknowledged or a run has carried out.

use chrono::{DateTime, Utc};
use driftless_sync::{
    manifest::{self, Content, File},
    path::TreePath,
};
use sqlx::prelude::FromRow;

use crate::{
    Actor, Tx,
    commit::{Fingerprint, Held},
    db,
    tree::Row,
};

/// One row: the device holds this version of this entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// The entry.
    pub entry_id: i64,
    /// The version.
    pub version: i64,
    /// How the device holds it.
    pub held: Held,
    /// What the version is.
    pub content: Content,
}

impl Baseline {
    /// As the plan wants it.
    pub fn node(&self) -> manifest::Node {
        manifest::Node {
            content: self.content.clone(),
            inode: self.held.fingerprint.map(|f| f.inode as u64),
            entry: Some(self.entry_id),
            version: Some(self.version),
        }
    }
}

#[derive(FromRow)]
struct Found {
    entry_id: i64,
    path: String,
    spelling: Option<String>,
    held_size: Option<i64>,
    mtime_ns: Option<i64>,
    ctime_ns: Option<i64>,
    inode: Option<i64>,
    #[sqlx(flatten)]
    row: Row,
}

impl Found {
    fn baseline(self) -> Option<Baseline> {
        let path = TreePath::parse(&self.path).ok()?;
        let fingerprint = match (self.held_size, self.mtime_ns, self.ctime_ns, self.inode) {
            (Some(size), Some(mtime_ns), Some(ctime_ns), Some(inode)) => {
                Some(Fingerprint { size, mtime_ns, ctime_ns, inode })
            }
            _ => None,
        };
        Some(Baseline {
            entry_id: self.entry_id,
            version: self.row.seq,
            held: Held { path, spelling: self.spelling, fingerprint },
            content: content(&self.row),
        })
    }
}

fn content(row: &Row) -> Content {
    match row.file() {
        None => Content::Folder,
        Some(file) => Content::File(File {
            hash: file.hash,
            size: file.size,
            modified_at: Some(
                DateTime::<Utc>::from_timestamp_micros(file.modified_at.timestamp_micros()).unwrap_or_default(),
            ),
            executable: Some(file.executable),
        }),
    }
}

/// All rows of a device, in no particular order.
pub async fn of_device(tx: &mut Tx, actor: &Actor, device: i64) -> Result<Vec<Baseline>, db::Error> {
    let rows: Vec<Found> = sqlx::query_as(
        "select b.entry_id, b.path, b.spelling, b.size as held_size, b.mtime_ns, b.ctime_ns, b.inode,
                b.entry_id as id, b.seq, case when v.kind = 2 then 0 else 1 end::smallint as kind,
                v.size, v.sha256, v.modified_at, v.executable
         from baselines b
         cross join lateral (select * from versions where user_id = $1 and seq = b.seq limit 1) v
         where b.user_id = $1 and b.device_id = $2",
    )
    .bind(actor.user_id)
    .bind(device)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().filter_map(Found::baseline).collect())
}

/// How many rows a device has.
pub async fn count(tx: &mut Tx, actor: &Actor, device: i64) -> Result<u64, db::Error> {
    let rows: i64 = sqlx::query_scalar("select count(*) from baselines where user_id = $1 and device_id = $2")
        .bind(actor.user_id)
        .bind(device)
        .fetch_one(&mut **tx)
        .await?;
    Ok(rows.unsigned_abs())
}

/// The rows of a device at these paths.
pub async fn at_paths(tx: &mut Tx, actor: &Actor, device: i64, paths: &[TreePath]) -> Result<Vec<Baseline>, db::Error> {
    let rows: Vec<Found> = sqlx::query_as(
        "select b.entry_id, b.path, b.spelling, b.size as held_size, b.mtime_ns, b.ctime_ns, b.inode,
                b.entry_id as id, b.seq, case when v.kind = 2 then 0 else 1 end::smallint as kind,
                v.size, v.sha256, v.modified_at, v.executable
         from (select path, hashtextextended(path, 0) as hash from unnest($3::text[]) u(path)) u
         cross join lateral (select * from baselines
                             where device_id = $2 and path_hash = u.hash and path = u.path and user_id = $1 offset 0) b
         cross join lateral (select * from versions where user_id = $1 and seq = b.seq limit 1) v",
    )
    .bind(actor.user_id)
    .bind(device)
    .bind(paths.iter().map(TreePath::as_str).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().filter_map(Found::baseline).collect())
}
