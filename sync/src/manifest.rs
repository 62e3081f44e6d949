//! What one side holds, path by path: the values that the plan compares.
//!
//! Invariant: a path that is neither listed nor below an unknown one is proven absent. "Unknown" is never "absent".
//! Left out: how a listing came about (scan, report, tables) and where the bytes are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::hash::ContentHash;
use crate::path::TreePath;

/// A file: its contents and what travels with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// The identity of the contents.
    pub hash: ContentHash,
    /// Bytes.
    pub size: u64,
    /// Modification time; none when the side keeps none. Compared in whole microseconds, the database's grain.
    pub modified_at: Option<DateTime<Utc>>,
    /// The executable bit; none when the side keeps none.
    pub executable: Option<bool>,
}

impl File {
    /// Whether the contents are identical; then nothing about it is ever a conflict.
    pub fn same_contents(&self, other: &File) -> bool {
        self.hash == other.hash
    }

    /// Whether modification time and executable bit are equal, as far as both know them.
    pub fn same_metadata(&self, other: &File) -> bool {
        fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.zip(b).is_none_or(|(a, b)| a == b)
        }
        let micros = |file: &File| file.modified_at.map(|at| at.timestamp_micros());
        agree(micros(self), micros(other)) && agree(self.executable, other.executable)
    }

    /// This file, with what it does not know taken from `other`.
    pub(crate) fn completed_from(&self, other: Option<&File>) -> File {
        let mut file = self.clone();
        file.modified_at = file.modified_at.or(other.and_then(|other| other.modified_at));
        file.executable = file.executable.or(other.and_then(|other| other.executable));
        file
    }
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A folder.
    Folder,
    /// A regular file.
    File(File),
}

/// An entry of a listing. The three numbers are optional: a side gives what it has, the baseline what was true when both agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// File or folder.
    pub content: Content,
    /// The device's own identity of the entry (an inode): tells moves apart that contents alone do not.
    pub inode: Option<u64>,
    /// The id of the tree's entry, which survives moves.
    pub entry: Option<i64>,
    /// The tree's version.
    pub version: Option<i64>,
}

impl Node {
    /// A node without numbers.
    pub fn new(content: Content) -> Self {
        Self { content, inode: None, entry: None, version: None }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&File> {
        match &self.content {
            Content::File(file) => Some(file),
            Content::Folder => None,
        }
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.content == Content::Folder
    }
}

/// A complete listing of one side. Order does not matter; an entry implies the folders above it.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// What is known to be there. A path that is listed twice counts as unknown.
    pub entries: Vec<(TreePath, Node)>,
    /// Paths about which, and about everything below which, this side knows nothing: unreadable, ignored, not selected,
    /// clashing names. The plan leaves them alone on both sides.
    pub unknown: Vec<TreePath>,
}

impl Manifest {
    /// Number of files listed.
    pub fn files(&self) -> usize {
        self.entries.iter().filter(|(_, node)| !node.is_folder()).count()
    }
}
