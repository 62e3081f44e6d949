//! The change feed: what happened after a cursor, and waiting for more.

use std::time::Duration;

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain, feed,
    tree::{self, Cursor},
};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query, payload::Json};

use super::{
    Tag,
    entry::EntryKind,
    files::Did,
    reports::{self, DeviceReport, ReportAnswer},
};
use crate::{Draining, bearer::Bearer, body::JsonBody, problem::ApiError};

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
struct ChangePage {
    /// In their order, at most 1,000.
    changes: Vec<TreeChange>,
    /// Where to go on.
    cursor: String,
    /// Whether more are there already.
    more: bool,
}

pub(crate) struct Feed;

#[OpenApi(tag = "Tag::Sync")]
impl Feed {
    /// Report what a device holds
    ///
    /// Compares it with the tree and answers what would make them agree; changes neither. While the device has claimed a run, the run's
    /// options apply; else both versions of a conflict are kept and deletions travel.
    #[oai(path = "/sync/changes", method = "post", operation_id = "report_changes")]
    async fn report_changes(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<DeviceReport>,
    ) -> Result<Json<ReportAnswer>, ApiError> {
        Ok(Json(reports::report(&domain, &auth, body.0).await?))
    }

    /// What changed after a cursor
    ///
    /// A change names an entry and says what that entry is now, so reading a page twice does no harm. 410 with `cursor.expired` means: list
    /// anew. Without a cursor the answer is empty and carries the current one.
    #[oai(path = "/sync/changes", method = "get", operation_id = "list_changes")]
    async fn list_changes(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        draining: Data<&Draining>,
        /// A change token, or the cursor of the page before.
        cursor: Query<Option<String>>,
        /// When there is nothing new, wait for it so many seconds, at most 60.
        #[oai(validator(maximum(value = "60")))]
        wait: Query<Option<u32>>,
    ) -> Result<Json<ChangePage>, ApiError> {
        let Some(cursor) = cursor.0 else {
            let mut tx = domain.begin(&auth.0).await?;
            let cursor = tree::head(&mut tx, &auth.0).await?.cursor().to_string();
            return Ok(Json(ChangePage { changes: Vec::new(), cursor, more: false }));
        };
        let cursor: Cursor = cursor.parse()?;
        let wait = Duration::from_secs(u64::from(wait.0.unwrap_or(0)));
        let page = tokio::select! {
            page = feed::wait(&domain, &auth.0, cursor, wait) => page?,
            () = draining.0.0.cancelled() => feed::Page { changes: Vec::new(), cursor, more: false },
        };
        let changes = page.changes.into_iter().map(TreeChange::from).collect();
        Ok(Json(ChangePage { changes, cursor: page.cursor.to_string(), more: page.more }))
    }
}
