//! The plan of a sync: what makes device and server agree, from what both hold and what they last agreed on.
//!
//! Invariants: carrying the plan out makes both sides agree wherever direction and rules let them, and the next plan is empty;
//! input order does not matter; an unknown path, and all below it, is left alone; contents that only the device has are never
//! replaced or removed without [`Step::Write`] saying that they must be ingested before.
//! Left out: scanning, moving bytes, retries, and who may do it. A plan is a value: dry run and real run share it.

mod decide;
mod folders;
mod moves;
mod rows;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::conflict::{Conflict, Policy};
use crate::hash::ContentHash;
use crate::manifest::{Content, File, Manifest, Node};
use crate::path::TreePath;

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The device.
    Device,
    /// The user's tree.
    Server,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Self::Device => Self::Server,
            Self::Server => Self::Device,
        }
    }
}

/// Which sides may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Both.
    Both,
    /// Only the server.
    Upload,
    /// Only the device.
    Download,
}

impl Direction {
    /// Whether the plan may change this side.
    pub fn changes(self, side: Side) -> bool {
        match self {
            Self::Both => true,
            Self::Upload => side == Side::Server,
            Self::Download => side == Side::Device,
        }
    }
}

/// By what rules a plan is made.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Which sides may be changed.
    pub direction: Direction,
    /// Who wins a conflict.
    pub policy: Policy,
    /// Whether a deletion travels. Without it nothing is deleted and nothing counts as moved.
    pub sync_deletions: bool,
    /// The time of the run: judges modification times and dates the copies' names (in UTC).
    pub now: DateTime<Utc>,
    /// The device's name, for the copies' names.
    pub device_name: String,
}

/// One step on one side. Paths are those of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Its part of the plan.
    pub phase: Phase,
    /// The side that is changed.
    pub on: Side,
    /// What is changed.
    pub path: TreePath,
    /// How.
    pub step: Step,
    /// What the path held when the plan was made; none: nothing. Whoever finds something else leaves it to the next plan.
    pub expects: Option<Node>,
    /// Steps with the same chain rely on each other, in order: when one is not done, the later ones are left out too. All other
    /// steps may fail alone.
    pub chain: Option<TreePath>,
    /// What to write into the baseline once the step is done, in one transaction with its completion.
    pub records: Vec<Record>,
}

/// The kinds of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a folder where nothing is.
    CreateFolder,
    /// Put the contents that `from` holds under the path, with the metadata of `file`. On the server from the server: a copy,
    /// no byte moves.
    Write {
        /// What the path holds afterwards.
        file: File,
        /// Where the contents are.
        from: (Side, TreePath),
        /// What the path held has no version yet: make one of it before it is replaced, else leave the step undone.
        ingest: bool,
    },
    /// Same contents; set modification time and executable bit.
    SetMetadata {
        /// What the path holds afterwards.
        file: File,
    },
    /// Rename a file; the path is where it goes, and is free.
    Move {
        /// Where it is.
        from: TreePath,
        /// What is there.
        node: Node,
    },
    /// Delete a file that holds what the baseline holds.
    DeleteFile(Deletion),
    /// Delete a folder that is empty by then. One that is not stays, and that is no failure.
    DeleteFolder,
}

/// A file that a plan deletes. A person's approval covers exactly equal ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deletion {
    /// The side that loses it.
    pub on: Side,
    /// Where.
    pub path: TreePath,
    /// The tree's version: on the server the one that is deleted, on the device the one it was last equal to.
    pub version: Option<i64>,
    /// The contents.
    pub hash: ContentHash,
}

/// A change of the baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Both sides now hold this at the path.
    Agree {
        /// Where.
        path: TreePath,
        /// What.
        content: Content,
    },
    /// The sides agree on nothing at the path any more.
    Forget {
        /// Where.
        path: TreePath,
    },
}

/// What to do, in an order that can be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes of the baseline that need no step; to be written before the first one.
    pub records: Vec<Record>,
    /// The steps. Those of one phase may run side by side where [`Phase`] does not say otherwise.
    pub actions: Vec<Action>,
    /// What collided, and how it ends.
    pub conflicts: Vec<Conflict>,
}

/// The parts of a plan, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Copies of what loses a conflict, one after the other.
    Aside,
    /// Folders, from the top down, one after the other.
    Folders,
    /// Moves.
    Moves,
    /// Contents and metadata.
    Files,
    /// Deleted files.
    Deletions,
    /// Deleted folders, from the bottom up, one after the other.
    EmptyFolders,
}

/// How much a plan does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files written on the server, from the device.
    pub uploads: u64,
    /// Bytes of those.
    pub upload_bytes: u64,
    /// Files written on the device.
    pub downloads: u64,
    /// Bytes of those.
    pub download_bytes: u64,
    /// Files moved, on either side.
    pub moves: u64,
    /// Files deleted on the device.
    pub deletes_on_device: u64,
    /// Files deleted on the server.
    pub deletes_on_server: u64,
    /// Everything else: folders, metadata, copies on the server.
    pub others: u64,
}

/// Makes the plan.
pub fn plan(base: &Manifest, device: &Manifest, server: &Manifest, rules: &Rules) -> Plan {
    let arena = rows::Arena::new(base, device, server);
    let (rows, unknown) = arena.rows();
    decide::Planner::new(rows, unknown, rules).plan()
}

impl Plan {
    /// Whether there is nothing to do, not even in the baseline.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.actions.is_empty()
    }

    /// The files that it deletes.
    pub fn deletions(&self) -> impl Iterator<Item = &Deletion> {
        self.actions.iter().filter_map(|action| match &action.step {
            Step::DeleteFile(deletion) => Some(deletion),
            _ => None,
        })
    }

    /// Takes all deletions out but the approved ones, and returns them. Folders that would not be empty then stay, too.
    pub fn hold_deletions(&mut self, approved: &HashSet<Deletion>) -> Vec<Deletion> {
        let held: Vec<Deletion> = self.deletions().filter(|deletion| !approved.contains(deletion)).cloned().collect();
        let mut stay: HashSet<(Side, TreePath)> = HashSet::new();
        for deletion in &held {
            let mut folder = deletion.path.parent();
            while let Some(path) = folder {
                folder = path.parent();
                if !stay.insert((deletion.on, path)) {
                    break;
                }
            }
        }
        self.actions.retain(|action| match &action.step {
            Step::DeleteFile(deletion) => approved.contains(deletion),
            Step::DeleteFolder => !stay.contains(&(action.on, action.path.clone())),
            _ => true,
        });
        held
    }

    /// How much it does.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for action in &self.actions {
            match (&action.step, action.on) {
                (Step::Write { file, from: (Side::Device, _), .. }, Side::Server) => {
                    counts.uploads += 1;
                    counts.upload_bytes += file.size;
                }
                (Step::Write { file, .. }, Side::Device) => {
                    counts.downloads += 1;
                    counts.download_bytes += file.size;
                }
                (Step::Move { .. }, _) => counts.moves += 1,
                (Step::DeleteFile(_), Side::Device) => counts.deletes_on_device += 1,
                (Step::DeleteFile(_), Side::Server) => counts.deletes_on_server += 1,
                _ => counts.others += 1,
            }
        }
        counts
    }
}
