//! An entry of the tree as the API tells it, and paths as the API takes them.

use chrono::{DateTime, Utc};
use driftless_domain::tree::Node;
use driftless_sync::{hash::ContentHash, path::TreePath};
use poem_openapi::{Enum, Object};

use crate::problem::ApiError;

/// What an entry is.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
#[oai(rename_all = "snake_case")]
pub(crate) enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// A file or folder of the tree.
#[derive(Object, Debug, Clone)]
#[oai(skip_serializing_if_is_none)]
pub(crate) struct Entry {
    /// Names the entry wherever it moves; 0 is the root folder.
    pub entry_id: i64,
    /// Where it is.
    pub path: String,
    /// Its name, the last part of the path.
    pub name: String,
    /// File or folder.
    pub kind: EntryKind,
    /// The version that it is at. The ETag of a file is `"v<version>"`.
    pub version: i64,
    /// Bytes, of a file.
    pub size: Option<u64>,
    /// SHA-256 of a file's contents, 64 hex digits.
    pub hash: Option<String>,
    /// A file's modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// Whether a file may be executed.
    pub executable: Option<bool>,
}

impl From<Node> for Entry {
    fn from(node: Node) -> Self {
        let file = node.file.as_ref();
        Entry {
            entry_id: node.entry_id,
            name: node.path.name().unwrap_or_default().to_owned(),
            kind: if node.is_folder() { EntryKind::Folder } else { EntryKind::File },
            version: node.version,
            size: file.map(|f| f.size),
            hash: file.map(|f| f.hash.to_string()),
            modified_at: file.map(|f| f.modified_at),
            executable: file.map(|f| f.executable),
            path: node.path.into(),
        }
    }
}

/// Reads a path that came as the field `field`.
pub(crate) fn tree_path(text: &str, field: &str) -> Result<TreePath, ApiError> {
    TreePath::parse(text)
        .map_err(|e| ApiError::invalid(e.code(), format!("this is no path of the tree: {e}"), Some(field.to_owned())))
}

/// Reads a SHA-256 that came as the field `field`.
pub(crate) fn hash(text: &str, field: &str) -> Result<ContentHash, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid("hash.invalid", "must be a SHA-256 of 64 hex digits", Some(field.to_owned())))
}
