//! Device reports: what a client holds, what it is told to do, and what it then did.

use chrono::{DateTime, Utc};
use driftless_domain::{Domain, reports};
use driftless_sync::{conflict::Collision, path::TreePath, plan::Side};
use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, payload::Json};
use uuid::Uuid;

use super::Tag;
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

/// What a device says of one file.
#[derive(Object)]
struct ListedFile {
    /// Relative to base_path, beginning with a slash.
    path: String,
    /// SHA-256 of the contents, 64 hex digits. Without it the file counts as unchanged while size and time are those of the version
    /// that was last acknowledged.
    hash: Option<String>,
    /// Bytes.
    #[oai(default)]
    size: i64,
    /// Modification time. It decides conflicts; it is not synced by reports.
    modified_at: Option<DateTime<Utc>>,
    /// The device has no file here (any more).
    #[oai(default)]
    deleted: bool,
}

impl From<ListedFile> for reports::Listed {
    fn from(file: ListedFile) -> Self {
        let ListedFile { path, hash, size, modified_at, deleted } = file;
        reports::Listed { path, hash, size, modified_at, deleted }
    }
}

/// What a device holds, or a part of it.
#[derive(Object)]
pub(super) struct DeviceReport {
    /// The device.
    device_id: String,
    /// Its files, at most 10,000. Folders are not listed: they follow from the files.
    file_list: Vec<ListedFile>,
    /// Whether the device holds nothing else below base_path. An incomplete list speaks of the listed paths only.
    #[oai(default)]
    complete: bool,
    /// Paths that the device could not look at, at most 10,000: they and all below are left alone, never taken for deleted.
    #[oai(default)]
    unknown: Vec<String>,
    /// For longer lists: the client's name for the list, the same in each of its parts.
    list_id: Option<String>,
    /// Which part this is, from 1. Parts may come in any order and again.
    part: Option<i32>,
    /// Whether no part follows. Nothing is decided before this part and all before it are here. Parts are kept for a day.
    #[oai(default)]
    last: bool,
    /// The folder of the tree that paths are relative to: the device's base path (the default), or a folder below it.
    base_path: Option<String>,
}

/// A file to be sent.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileToUpload {
    /// Where it goes.
    path: String,
    /// Where the device has it, when elsewhere: it lost a conflict and is to be renamed.
    from: Option<String>,
    /// The tree has these contents at this path: move it (POST /api/files/move) instead of sending them.
    from_server: Option<String>,
    /// Where the tree has the same file, which the device moved: moving it there, too, spares the bytes.
    moved_from: Option<String>,
    /// As the device listed it.
    hash: Option<String>,
    /// Bytes.
    size: u64,
    /// The version that it replaces, for the upload's base_version.
    base_version: Option<i64>,
}

/// A file to be fetched.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileToDownload {
    /// Where it goes.
    path: String,
    /// Where the tree has it, when elsewhere.
    from: Option<String>,
    /// Where the device has the same file: renaming it will do.
    moved_from: Option<String>,
    /// Its version, to be acknowledged.
    version: Option<i64>,
    /// SHA-256 of the contents.
    hash: String,
    /// Bytes.
    size: u64,
    /// Modification time in the tree.
    modified_at: Option<DateTime<Utc>>,
    /// Whether it may be executed.
    executable: Option<bool>,
    /// What the device said it holds there. When it holds something else by now, leave it and report again.
    replaces: Option<String>,
    /// What it replaces is in no version yet: send it (PUT, then this file wins) before replacing it.
    upload_first: bool,
}

/// A file to be deleted.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileToDelete {
    /// Where.
    path: String,
    /// The version that both sides last agreed on, or that the tree has.
    version: Option<i64>,
    /// Its contents. What holds something else by now is not to be deleted.
    hash: String,
    /// Where the same file is now: this is half of a move.
    moved_to: Option<String>,
}

/// What collided.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum ConflictKind {
    /// Both sides changed or made the file, and the contents differ.
    BothChanged,
    /// The device deleted what the tree changed; the change wins.
    DeletedOnDevice,
    /// The tree deleted what the device changed; the change wins.
    DeletedOnServer,
    /// A folder on one side, a file on the other.
    FolderAndFile,
}

/// Who keeps the name.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum ConflictWinner {
    /// The device.
    Device,
    /// The tree.
    Server,
}

/// A conflict. What follows from it is in the other lists.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct ReportedConflict {
    /// On which path.
    path: String,
    /// What collided.
    kind: ConflictKind,
    /// Whose contents keep the name; absent when it is left as it is on both sides.
    winner: Option<ConflictWinner>,
    /// What the loser is called, where both stay. When the server wins, rename your file to this before anything else.
    copy_path: Option<String>,
}

/// Nothing has to move: send it back in `applied` as it is.
#[derive(Object)]
struct FileToAcknowledge {
    /// Where.
    path: String,
    /// The tree's version; null: neither side has the file any more.
    version: Option<i64>,
    /// Its contents; null with the version.
    hash: Option<String>,
}

/// A path that was left alone.
#[derive(Object)]
struct LeftAlone {
    /// Where.
    path: String,
    /// `path.ignored`; `path.twice`: listed twice; `hash.wanted`: only a hash can tell, so report it again with one.
    reason: String,
}

/// What would make device and tree agree. Do it in this order: renames of conflicts, uploads, downloads, deletions; then
/// acknowledge. Whatever is left out is offered again.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct ReportAnswer {
    /// False while parts of the list are missing; then the lists are empty.
    decided: bool,
    /// Parts that are known to be missing.
    missing_parts: Vec<i32>,
    /// Files to send.
    to_upload: Vec<FileToUpload>,
    /// Files to fetch.
    to_download: Vec<FileToDownload>,
    /// Files to delete on the device. Never one that only the device has, unless it is proven that the tree deleted it.
    to_delete: Vec<FileToDelete>,
    /// Files that the device deleted: send them back as `deleted`.
    to_delete_on_server: Vec<FileToDelete>,
    /// What collided.
    conflicts: Vec<ReportedConflict>,
    /// Files that are the same on both sides, or gone from both, and not yet acknowledged.
    to_acknowledge: Vec<FileToAcknowledge>,
    /// Paths that were left alone.
    left_out: Vec<LeftAlone>,
    /// How far the tree was; acknowledge with it.
    change_token: String,
    /// The run in which deletions wait for a person's approval.
    run_id: Option<Uuid>,
    /// How many deletions wait.
    held: u64,
    /// A list was cut at 10,000: do what is here, then report again.
    truncated: bool,
}

fn path(path: TreePath) -> String {
    path.into()
}

impl From<reports::Upload> for FileToUpload {
    fn from(u: reports::Upload) -> Self {
        FileToUpload {
            path: path(u.path),
            from: u.from.map(path),
            from_server: u.from_server.map(path),
            moved_from: u.moved_from.map(path),
            hash: u.hash.map(|hash| hash.to_string()),
            size: u.size,
            base_version: u.base_version,
        }
    }
}

impl From<reports::Download> for FileToDownload {
    fn from(d: reports::Download) -> Self {
        FileToDownload {
            path: path(d.path),
            from: d.from.map(path),
            moved_from: d.moved_from.map(path),
            version: d.version,
            hash: d.hash.to_string(),
            size: d.size,
            modified_at: d.modified_at,
            executable: d.executable,
            replaces: d.replaces.map(|hash| hash.to_string()),
            upload_first: d.upload_first,
        }
    }
}

impl From<reports::Delete> for FileToDelete {
    fn from(d: reports::Delete) -> Self {
        FileToDelete {
            path: path(d.path),
            version: d.version,
            hash: d.hash.to_string(),
            moved_to: d.moved_to.map(path),
        }
    }
}

impl From<reports::Collided> for ReportedConflict {
    fn from(c: reports::Collided) -> Self {
        ReportedConflict {
            path: path(c.path),
            kind: match c.collision {
                Collision::BothChanged => ConflictKind::BothChanged,
                Collision::DeletedOnDevice => ConflictKind::DeletedOnDevice,
                Collision::DeletedOnServer => ConflictKind::DeletedOnServer,
                Collision::FolderAndFile => ConflictKind::FolderAndFile,
            },
            winner: c.winner.map(|winner| match winner {
                Side::Device => ConflictWinner::Device,
                Side::Server => ConflictWinner::Server,
            }),
            copy_path: c.copy_path.map(path),
        }
    }
}

impl From<reports::Settled> for FileToAcknowledge {
    fn from(s: reports::Settled) -> Self {
        FileToAcknowledge { path: path(s.path), version: s.version, hash: s.hash.map(|hash| hash.to_string()) }
    }
}

impl From<reports::Answer> for ReportAnswer {
    fn from(a: reports::Answer) -> Self {
        fn all<T, U: From<T>>(list: Vec<T>) -> Vec<U> {
            list.into_iter().map(U::from).collect()
        }
        let alone = |(at, reason): (TreePath, &str)| LeftAlone { path: path(at), reason: reason.to_owned() };
        ReportAnswer {
            decided: a.decided,
            missing_parts: a.missing_parts,
            to_upload: all(a.to_upload),
            to_download: all(a.to_download),
            to_delete: all(a.to_delete),
            to_delete_on_server: all(a.to_delete_on_server),
            conflicts: all(a.conflicts),
            to_acknowledge: all(a.to_acknowledge),
            left_out: a.left_out.into_iter().map(alone).collect(),
            change_token: a.change_token.to_string(),
            run_id: a.run_id,
            held: a.held as u64,
            truncated: a.truncated,
        }
    }
}

/// What the device now holds at a path.
#[derive(Object)]
struct AppliedFile {
    /// Relative to base_path.
    path: String,
    /// The version that was offered, or that the device's own upload became; null: the device holds nothing there.
    version: Option<i64>,
    /// SHA-256 of what it holds; null with the version.
    hash: Option<String>,
}

/// A file that the device deleted.
#[derive(Object)]
struct DeletedFile {
    /// Relative to base_path.
    path: String,
    /// The version that the report named.
    version: i64,
    /// As the report named it: the same file is there now, so this is no loss.
    moved_to: Option<String>,
}

/// What a device did.
#[derive(Object)]
struct Acknowledgement {
    /// The device.
    device_id: String,
    /// As in the report.
    base_path: Option<String>,
    /// The report's.
    change_token: String,
    /// What the device now holds, at most 10,000. Only these paths move its baseline.
    #[oai(default)]
    applied: Vec<AppliedFile>,
    /// What the tree is to lose, at most 10,000, under deletion safety.
    #[oai(default)]
    deleted: Vec<DeletedFile>,
}

/// An item that changed nothing.
#[derive(Object)]
struct NotAcceptedFile {
    /// As it was sent.
    path: String,
    /// `ack.not_offered`: not what the tree held there; `ack.not_current`: changed meanwhile; `ack.not_allowed`: the run deletes
    /// nothing on the server, or the path is left out of the device's sync; `ack.held`: waits for a person.
    code: String,
}

/// What came of it.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Acknowledged {
    /// The device's cursor now: the token that was acknowledged when nothing remains.
    change_token: String,
    /// Items of `applied` that hold.
    applied: u64,
    /// Files that the tree lost.
    deleted: u64,
    /// Items that changed nothing.
    not_accepted: Vec<NotAcceptedFile>,
    /// Files that changed in the tree up to the token and that the device has not acknowledged. Of very many, only some are counted.
    remaining: i64,
    /// The run in which deletions wait for a person's approval.
    run_id: Option<Uuid>,
}

impl From<reports::Acked> for Acknowledged {
    fn from(a: reports::Acked) -> Self {
        let not_accepted = a.not_accepted.into_iter();
        Acknowledged {
            change_token: a.change_token.to_string(),
            applied: a.applied as u64,
            deleted: a.deleted as u64,
            not_accepted: not_accepted.map(|f| NotAcceptedFile { path: f.path, code: f.code.to_owned() }).collect(),
            remaining: a.remaining,
            run_id: a.run_id,
        }
    }
}

/// POST /sync/changes, which shares its address with the feed and so stands there.
pub(super) async fn report(domain: &Domain, auth: &Bearer, report: DeviceReport) -> Result<ReportAnswer, ApiError> {
    let DeviceReport { device_id, file_list, complete, unknown, list_id, part, last, base_path } = report;
    let part = reports::Part::from_fields(list_id, part, last)?;
    let files = file_list.into_iter().map(reports::Listed::from).collect();
    let report = reports::Report { device_id, base_path, complete, files, unknown, part };
    Ok(reports::report(domain, &auth.0, &report).await?.into())
}

pub(crate) struct Reports;

#[OpenApi(tag = "Tag::Sync")]
impl Reports {
    /// Acknowledge what a device did
    ///
    /// Moves the device's baseline for the listed paths, carries its deletions out, and moves its cursor to the token when nothing
    /// that was offered is left. May be sent in pieces and again.
    #[oai(path = "/sync/changes/ack", method = "post", operation_id = "ack_changes")]
    async fn ack_changes(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<Acknowledgement>,
    ) -> Result<Json<Acknowledged>, ApiError> {
        let Acknowledgement { device_id, base_path, change_token, applied, deleted } = body.0;
        let applied = applied.into_iter().map(|AppliedFile { path, version, hash }| {
            // One shape, two crates.
            reports::AppliedFile { path, version, hash }
        });
        let deleted = deleted.into_iter().map(|DeletedFile { path, version, moved_to }| reports::DeletedFile {
            path,
            version,
            moved_to,
        });
        let (applied, deleted) = (applied.collect(), deleted.collect());
        let ack = reports::Ack { device_id, base_path, change_token, applied, deleted };
        Ok(Json(reports::acknowledge(&domain, &auth.0, &ack).await?.into()))
    }
}
