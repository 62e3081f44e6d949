//! The change feed as the API tells it; its operation stands beside the reports, for one path belongs to one struct.

use std::time::Duration;

use chrono::{DateTime, Utc};
use driftless_domain::{
    Actor, Domain, feed,
    tree::{self, Cursor},
};
use poem_openapi::Object;

use super::{entry::EntryKind, files::Did};
use crate::{Draining, problem::ApiError};

/// One change of the tree.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct TreeChange {
    /// Its number.
    seq: i64,
    /// What was done.
    did: Did,
    /// When.
    at: DateTime<Utc>,
    /// The device that it came through; absent for a person.
    device_id: Option<String>,
    /// Names the entry wherever it moves.
    entry_id: i64,
    /// Where the entry is now, or was before it went.
    path: String,
    /// Where it was before, when it moved.
    old_path: Option<String>,
    /// Whether the entry is gone now, by itself or with a folder above it.
    deleted: bool,
    /// File or folder.
    kind: EntryKind,
    /// Its version now.
    version: i64,
    /// Bytes now, of a file.
    size: Option<u64>,
    /// SHA-256 now, of a file.
    hash: Option<String>,
    /// Modification time now, of a file.
    modified_at: Option<DateTime<Utc>>,
    /// Whether a file may be executed now.
    executable: Option<bool>,
}

impl From<feed::Change> for TreeChange {
    fn from(c: feed::Change) -> Self {
        let file = c.file.as_ref();
        TreeChange {
            seq: c.seq,
            did: c.did.into(),
            at: c.at,
            device_id: c.device_id,
            entry_id: c.entry_id,
            path: c.path.into(),
            old_path: c.old_path.map(Into::into),
            deleted: c.deleted,
            kind: if file.is_some() { EntryKind::File } else { EntryKind::Folder },
            version: c.version,
            size: file.map(|f| f.size),
            hash: file.map(|f| f.hash.to_string()),
            modified_at: file.map(|f| f.modified_at),
            executable: file.map(|f| f.executable),
        }
    }
}

/// A page of changes.
#[derive(Object)]
pub(crate) struct ChangePage {
    /// In their order, at most 1,000.
    changes: Vec<TreeChange>,
    /// Where to go on.
    cursor: String,
    /// Whether more are there already.
    more: bool,
}

/// The answer to `list_changes`.
pub(crate) async fn page(
    domain: &Domain,
    actor: &Actor,
    draining: &Draining,
    cursor: Option<String>,
    wait: Option<u32>,
) -> Result<ChangePage, ApiError> {
    let Some(cursor) = cursor else {
        let mut tx = domain.begin(actor).await?;
        let cursor = tree::head(&mut tx, actor).await?.cursor().to_string();
        return Ok(ChangePage { changes: Vec::new(), cursor, more: false });
    };
    let cursor: Cursor = cursor.parse()?;
    let wait = Duration::from_secs(u64::from(wait.unwrap_or(0)));
    let page = tokio::select! {
        page = feed::wait(domain, actor, cursor, wait) => page?,
        () = draining.0.cancelled() => feed::Page { changes: Vec::new(), cursor, more: false },
    };
    let changes = page.changes.into_iter().map(TreeChange::from).collect();
    Ok(ChangePage { changes, cursor: page.cursor.to_string(), more: page.more })
}
