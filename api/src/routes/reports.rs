//! What client devices report: their file lists, and what they have taken in.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    reports::{self, Ack, Answer, Applied, Gone, Listed, Part, Report, Transfer},
};
use driftless_sync::conflict::{Collision, Conflict, Outcome};
use driftless_sync::plan::Side;
use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, param::Query, payload::Json};
use uuid::Uuid;

use super::{
    Tag,
    entry::{hash, tree_path},
    feed,
    files::RefusedPath,
};
use crate::{Draining, bearer::Bearer, body::JsonBody, problem::ApiError};

/// A file of a device.
#[derive(Object)]
struct ListedFile {
    /// Where, relative to the device's base path.
    path: String,
    /// SHA-256, when the device knows it. Without it equal size and time stand for equal contents.
    hash: Option<String>,
    /// Bytes.
    #[oai(default)]
    size: u64,
    /// Modification time.
    modified_at: Option<DateTime<Utc>>,
    /// The device knows that it is gone.
    #[oai(default)]
    deleted: bool,
}

/// What a device holds.
#[derive(Object)]
struct ChangesRequest {
    /// The device.
    device_id: String,
    /// Files, at most 10,000; more go in parts.
    file_list: Vec<ListedFile>,
    /// Whether the list is the whole device. Else what it does not name is as last agreed.
    #[oai(default)]
    complete: bool,
    /// Paths that the device could not look at: they and all below are left alone.
    #[oai(default)]
    unknown: Vec<String>,
    /// Names a list that comes in parts.
    list_id: Option<String>,
    /// Number of this part, from 0.
    part: Option<i32>,
    /// Whether this is the last part; nothing is decided before.
    last: Option<bool>,
    /// The folder of the tree that paths are relative to; the device's own when absent.
    base_path: Option<String>,
}

/// A file to move one way or the other.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileTransfer {
    /// Where it is to be.
    path: String,
    /// Where it is now on the side that has it, when that is another path.
    from: Option<String>,
    /// To upload: the base_version to give, 0 when nothing is there. To download: the version.
    version: i64,
    /// SHA-256; of a file to upload as the device said.
    hash: String,
    /// Bytes.
    size: u64,
    /// Modification time.
    modified_at: Option<DateTime<Utc>>,
    /// Whether it may be executed.
    executable: Option<bool>,
}

impl From<Transfer> for FileTransfer {
    fn from(t: Transfer) -> Self {
        FileTransfer {
            path: t.path.into(),
            from: t.from.map(Into::into),
            version: t.version,
            hash: t.file.hash.to_string(),
            size: t.file.size,
            modified_at: t.file.modified_at,
            executable: t.file.executable,
        }
    }
}

/// A file to delete.
#[derive(Object)]
struct FileDeletion {
    /// Where.
    path: String,
    /// The version that device and tree last agreed on.
    version: i64,
}

/// What collided.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
enum ConflictKind {
    /// Both sides changed or created the file.
    BothChanged,
    /// The device deleted what the server changed.
    DeletedOnDevice,
    /// The server deleted what the device changed.
    DeletedOnServer,
    /// A folder on one side, a file on the other.
    FolderAndFile,
}

/// Which side's contents stay under the name.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
enum ConflictWinner {
    /// The device's.
    Device,
    /// The server's.
    Server,
}

/// A path on which both sides collided.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileConflict {
    /// Where.
    path: String,
    /// What collided.
    kind: ConflictKind,
    /// Whose contents stay under the name once the lists are worked off.
    winner: Option<ConflictWinner>,
    /// Where the other's are then.
    copy: Option<String>,
}

impl From<Conflict> for FileConflict {
    fn from(c: Conflict) -> Self {
        let winner = |side| match side {
            Side::Device => ConflictWinner::Device,
            Side::Server => ConflictWinner::Server,
        };
        let (won, copy) = match c.outcome {
            Outcome::Keeps(side) => (Some(winner(side)), None),
            Outcome::KeepsBoth { winner: side, copy } => (Some(winner(side)), Some(copy.into())),
            Outcome::Open => (None, None),
        };
        let kind = match c.collision {
            Collision::BothChanged => ConflictKind::BothChanged,
            Collision::DeletedOnDevice => ConflictKind::DeletedOnDevice,
            Collision::DeletedOnServer => ConflictKind::DeletedOnServer,
            Collision::FolderAndFile => ConflictKind::FolderAndFile,
        };
        FileConflict { path: c.path.into(), kind, winner: won, copy }
    }
}

/// What makes device and tree agree.
#[derive(Object, Default)]
#[oai(skip_serializing_if_is_none)]
struct ChangesAnswer {
    /// From the device to the server.
    to_upload: Vec<FileTransfer>,
    /// From the server to the device.
    to_download: Vec<FileTransfer>,
    /// On the device; the server deleted them.
    to_delete: Vec<FileDeletion>,
    /// On the server: acknowledge them as deleted.
    to_delete_on_server: Vec<FileDeletion>,
    /// Equal on both sides already: acknowledge them as applied.
    identical: Vec<FileTransfer>,
    /// What collided.
    conflicts: Vec<FileConflict>,
    /// Give it back when acknowledging. Absent before the last part.
    change_token: Option<String>,
    /// Too many deletions: none is in the lists, and this run waits for approval.
    run_id: Option<Uuid>,
}

impl From<Answer> for ChangesAnswer {
    fn from(a: Answer) -> Self {
        fn all<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
            items.into_iter().map(U::from).collect()
        }
        let deletions = |items: Vec<(driftless_sync::path::TreePath, i64)>| {
            items.into_iter().map(|(path, version)| FileDeletion { path: path.into(), version }).collect()
        };
        ChangesAnswer {
            to_upload: all(a.to_upload),
            to_download: all(a.to_download),
            to_delete: deletions(a.to_delete),
            to_delete_on_server: deletions(a.to_delete_on_server),
            identical: all(a.identical),
            conflicts: all(a.conflicts),
            change_token: Some(a.cursor.to_string()),
            run_id: a.held,
        }
    }
}

/// What the device now holds at a path.
#[derive(Object)]
struct AppliedFile {
    /// Where.
    path: String,
    /// The version; null: nothing any more.
    version: Option<i64>,
    /// SHA-256 of what it holds; null: nothing any more.
    hash: Option<String>,
}

/// A file that was deleted on the device.
#[derive(Object)]
struct DeletedFile {
    /// Where.
    path: String,
    /// The version that the device had.
    version: i64,
}

/// An acknowledgement.
#[derive(Object)]
struct AckRequest {
    /// The device.
    device_id: String,
    /// From the answer that was worked off.
    change_token: String,
    /// What the device now holds.
    #[oai(default)]
    applied: Vec<AppliedFile>,
    /// What is to be deleted on the server.
    #[oai(default)]
    deleted: Vec<DeletedFile>,
}

/// What came of an acknowledgement.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct AckAnswer {
    /// Lines that were taken.
    applied: u64,
    /// Files that were deleted on the server.
    deleted: u64,
    /// Lines that were not taken, with the reason.
    refused: Vec<RefusedPath>,
    /// Offered changes that the device has not taken in; the cursor moves when it is 0.
    remaining: u64,
    /// Where the device's cursor stands now.
    change_token: String,
    /// Too many deletions: none was carried out, and this run waits for approval.
    run_id: Option<Uuid>,
}

pub(crate) struct Reports;

fn listed(files: Vec<ListedFile>) -> Result<Vec<Listed>, ApiError> {
    let read = |(i, file): (usize, ListedFile)| {
        Ok(Listed {
            path: tree_path(&file.path, &format!("file_list[{i}].path"))?,
            hash: file.hash.as_deref().map(|h| hash(h, &format!("file_list[{i}].hash"))).transpose()?,
            size: file.size,
            modified_at: file.modified_at,
            deleted: file.deleted,
        })
    };
    files.into_iter().enumerate().map(read).collect()
}

#[OpenApi(tag = "Tag::Sync")]
impl Reports {
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
    ) -> Result<Json<feed::ChangePage>, ApiError> {
        Ok(Json(feed::page(&domain, &auth.0, &draining, cursor.0, wait.0).await?))
    }

    /// Compare a device's files with the tree
    ///
    /// Changes nothing. A file that only the device has is to be uploaded, and never deleted, unless the baseline proves that the server
    /// deleted it.
    #[oai(path = "/sync/changes", method = "post", operation_id = "report_changes")]
    async fn report_changes(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<ChangesRequest>,
    ) -> Result<Json<ChangesAnswer>, ApiError> {
        let body = body.0;
        let files = listed(body.file_list)?;
        let unknown: Result<Vec<_>, _> =
            body.unknown.iter().enumerate().map(|(i, p)| tree_path(p, &format!("unknown[{i}]"))).collect();
        let (unknown, base_path) = (unknown?, body.base_path.map(|p| tree_path(&p, "base_path")).transpose()?);
        let part = body.list_id.map(|list_id| Part {
            list_id,
            part: body.part.unwrap_or(0),
            last: body.last.unwrap_or(false),
        });
        let collected = reports::collect(&domain, &auth.0, &body.device_id, part.as_ref(), files).await?;
        let Some(files) = collected else { return Ok(Json(ChangesAnswer::default())) };
        let report = Report { device_id: body.device_id, files, complete: body.complete, unknown, base_path };
        Ok(Json(reports::answer(&domain, &auth.0, report).await?.into()))
    }

    /// Acknowledge what was taken in
    ///
    /// Only the paths listed move their baseline, and only when version and hash are the server's.
    #[oai(path = "/sync/changes/ack", method = "post", operation_id = "ack_changes")]
    async fn ack_changes(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<AckRequest>,
    ) -> Result<Json<AckAnswer>, ApiError> {
        let body = body.0;
        let mut ack = Ack {
            device_id: body.device_id,
            cursor: body.change_token.parse()?,
            applied: Vec::with_capacity(body.applied.len()),
            deleted: Vec::with_capacity(body.deleted.len()),
        };
        for (i, file) in body.applied.into_iter().enumerate() {
            let hash = file.hash.as_deref().map(|h| hash(h, &format!("applied[{i}].hash"))).transpose()?;
            let path = tree_path(&file.path, &format!("applied[{i}].path"))?;
            ack.applied.push(Applied { path, version: file.version, hash });
        }
        for (i, file) in body.deleted.into_iter().enumerate() {
            ack.deleted
                .push(Gone { path: tree_path(&file.path, &format!("deleted[{i}].path"))?, version: file.version });
        }
        let acked = reports::ack(&domain, &auth.0, ack).await?;
        let refused = acked.refused.into_iter();
        Ok(Json(AckAnswer {
            applied: acked.applied,
            deleted: acked.deleted,
            refused: refused
                .map(|r| RefusedPath { path: r.path.into(), code: r.code.to_owned(), detail: r.detail })
                .collect(),
            remaining: acked.remaining,
            change_token: acked.cursor.to_string(),
            run_id: acked.held,
        }))
    }
}
