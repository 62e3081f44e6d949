//! The tree: listing, folders, moving, deleting, history. Paths travel in the query or the body, never in the address.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    files::{self, Removal},
    tree::{self, Version},
};
use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, param::Query, payload::Json};

use super::{
    Tag,
    entry::{Entry, tree_path},
};
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

/// A page of a folder.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FolderPage {
    /// The folder itself.
    folder: Entry,
    /// What is in it, by name, at most 1,000.
    entries: Vec<Entry>,
    /// Send it to get the next page; absent on the last.
    cursor: Option<String>,
}

/// A page of the whole tree.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct StatePage {
    /// Entries below the path, in no particular order; a page may hold fewer than others, even none.
    entries: Vec<Entry>,
    /// Send it to get the next page; absent on the last.
    cursor: Option<String>,
    /// On the first page: changes after this token are what the listing may have missed.
    change_token: Option<String>,
}

/// A folder to make.
#[derive(Object)]
struct NewFolder {
    /// Where. Folders above it are made where they are missing.
    path: String,
}

/// A file or folder to move or rename.
#[derive(Object)]
struct MoveRequest {
    /// What.
    from: String,
    /// Where to; nothing may be there.
    to: String,
    /// Refuse with 409 unless the file is in this version.
    version: Option<i64>,
}

/// What to delete.
#[derive(Object)]
struct DeleteRequest {
    /// Files and folders, folders with all that is in them; at most 1,000.
    #[oai(validator(max_items = 1000))]
    paths: Vec<String>,
}

/// What was deleted.
#[derive(Object)]
struct Deleted {
    /// In the trash now.
    deleted: Vec<String>,
    /// Left where it is, with the reason.
    refused: Vec<RefusedPath>,
}

/// A path that was refused.
#[derive(Object)]
pub(crate) struct RefusedPath {
    /// Which.
    pub path: String,
    /// Stable code.
    pub code: String,
    /// Why.
    pub detail: String,
}

/// What was done to an entry.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
pub(crate) enum Did {
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
    /// Contents kept aside: what lost a conflict.
    Keep,
}

impl From<tree::Did> for Did {
    fn from(did: tree::Did) -> Self {
        match did {
            tree::Did::Put => Did::Put,
            tree::Did::Folder => Did::Folder,
            tree::Did::Move => Did::Move,
            tree::Did::Delete => Did::Delete,
            tree::Did::Restore => Did::Restore,
            tree::Did::Touch => Did::Touch,
            tree::Did::Keep => Did::Keep,
        }
    }
}

/// One step of a file's history.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FileVersion {
    /// Its number; give it to restore.
    version: i64,
    /// What was done.
    did: Did,
    /// Bytes, where contents came.
    size: Option<i64>,
    /// SHA-256, where contents came.
    hash: Option<String>,
    /// Modification time, where contents came.
    modified_at: Option<DateTime<Utc>>,
    /// When it was recorded.
    at: DateTime<Utc>,
    /// The device that it came through; absent for a person.
    device_id: Option<String>,
}

impl From<Version> for FileVersion {
    fn from(v: Version) -> Self {
        let has = v.hash.is_some();
        FileVersion {
            version: v.seq,
            did: v.did.into(),
            size: has.then_some(v.size),
            hash: v.hash.map(|h| h.to_string()),
            modified_at: has.then_some(v.modified_at),
            at: v.at,
            device_id: v.device_id,
        }
    }
}

/// A page of a history, newest first.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct HistoryPage {
    /// At most 1,000.
    versions: Vec<FileVersion>,
    /// Send it to get the next page; absent on the last.
    cursor: Option<String>,
}

/// What to restore.
#[derive(Object)]
struct RestoreRequest {
    /// The file; one that was deleted comes back there.
    path: String,
    /// Which of its versions becomes current; absent: the one it had when it was deleted.
    version: Option<i64>,
}

pub(crate) struct Files;

#[OpenApi(tag = "Tag::Files")]
impl Files {
    /// List a folder
    #[oai(path = "/files", method = "get", operation_id = "list_files")]
    async fn list_files(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The folder; the root when absent.
        path: Query<Option<String>>,
        /// From the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<FolderPage>, ApiError> {
        let path = tree_path(path.0.as_deref().unwrap_or("/"), "path")?;
        let mut tx = domain.begin(&auth.0).await?;
        let page = tree::list(&mut tx, &auth.0, &path, cursor.0.as_deref()).await?;
        let entries = page.entries.into_iter().map(Entry::from).collect();
        Ok(Json(FolderPage { folder: page.folder.into(), entries, cursor: page.next }))
    }

    /// Make a folder
    ///
    /// One that is there already is fine.
    #[oai(path = "/files/folder", method = "post", operation_id = "create_folder")]
    async fn create_folder(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<NewFolder>,
    ) -> Result<Json<Entry>, ApiError> {
        let path = tree_path(&body.0.path, "path")?;
        Ok(Json(files::create_folder(&domain, &auth.0, path).await?.into()))
    }

    /// Move or rename
    #[oai(path = "/files/move", method = "post", operation_id = "move_file")]
    async fn move_file(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<MoveRequest>,
    ) -> Result<Json<Entry>, ApiError> {
        let (from, to) = (tree_path(&body.0.from, "from")?, tree_path(&body.0.to, "to")?);
        Ok(Json(files::rename(&domain, &auth.0, from, to, body.0.version).await?.into()))
    }

    /// Delete files and folders
    ///
    /// They go to the trash, from which POST /api/sync/history/restore brings them back.
    #[oai(path = "/files/delete", method = "post", operation_id = "delete_files")]
    async fn delete_files(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<DeleteRequest>,
    ) -> Result<Json<Deleted>, ApiError> {
        let paths: Result<Vec<_>, _> =
            body.0.paths.iter().enumerate().map(|(i, p)| tree_path(p, &format!("paths[{i}]"))).collect();
        let removed = files::delete(&domain, &auth.0, paths?).await?;
        let mut answer = Deleted { deleted: Vec::new(), refused: Vec::new() };
        for Removal { path, refusal } in removed {
            match refusal {
                None => answer.deleted.push(path.into()),
                Some((code, detail)) => {
                    answer.refused.push(RefusedPath { path: path.into(), code: code.to_owned(), detail });
                }
            }
        }
        Ok(Json(answer))
    }

    /// Everything in the tree
    ///
    /// Read all pages, then go on with the changes after the first page's token.
    #[oai(path = "/sync/state", method = "get", operation_id = "get_state")]
    async fn get_state(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// Only what is below this folder; the root when absent.
        path: Query<Option<String>>,
        /// From the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<StatePage>, ApiError> {
        let path = tree_path(path.0.as_deref().unwrap_or("/"), "path")?;
        let after = super::position(cursor.0)?;
        let mut tx = domain.begin(&auth.0).await?;
        let token = tree::head(&mut tx, &auth.0).await?.cursor();
        let (nodes, next) = tree::page(&mut tx, &auth.0, &path, after.unwrap_or(0)).await?;
        Ok(Json(StatePage {
            entries: nodes.into_iter().map(Entry::from).collect(),
            cursor: next.map(|n| n.to_string()),
            change_token: after.is_none().then(|| token.to_string()),
        }))
    }

    /// The history of a file
    ///
    /// Also of one that was deleted from the path.
    #[oai(path = "/sync/history", method = "get", operation_id = "list_versions")]
    async fn list_versions(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The file.
        path: Query<String>,
        /// From the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<HistoryPage>, ApiError> {
        let path = tree_path(&path.0, "path")?;
        let before = super::position(cursor.0)?;
        let mut tx = domain.begin(&auth.0).await?;
        let (versions, next) = tree::history(&mut tx, &auth.0, &path, before).await?;
        let versions = versions.into_iter().map(FileVersion::from).collect();
        Ok(Json(HistoryPage { versions, cursor: next.map(|n| n.to_string()) }))
    }

    /// Bring back a version, or what was deleted
    ///
    /// Restoring makes a new version; nothing in the history changes.
    #[oai(path = "/sync/history/restore", method = "post", operation_id = "restore_version")]
    async fn restore_version(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<RestoreRequest>,
    ) -> Result<Json<Entry>, ApiError> {
        let path = tree_path(&body.0.path, "path")?;
        Ok(Json(files::restore(&domain, &auth.0, path, body.0.version).await?.into()))
    }
}
