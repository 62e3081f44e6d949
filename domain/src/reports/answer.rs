//! What a device is told to do: a plan in the words of the API.
//!
//! Invariant: carried out in the order renames of conflicts, uploads, downloads, deletions, the answer leaves nothing that only one
//! place had; each item can be left out alone and is offered again next time. A move is told as its two halves with a hint, so that
//! a simple client does right without knowing of moves.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use driftless_sync::{
    conflict::{Collision, Conflict, Outcome},
    hash::ContentHash,
    manifest::{File, Node},
    path::TreePath,
    plan::{Action, Phase, Plan, Record, Side, Step},
};
use uuid::Uuid;

use super::{MAX_FILES, view::View};
use crate::tree::Cursor;

/// A file to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// Where it goes.
    pub path: TreePath,
    /// Where the device has it, when elsewhere.
    pub from: Option<TreePath>,
    /// The tree has these contents at this path: move them there instead of sending them.
    pub from_server: Option<TreePath>,
    /// Where the tree has the same file, which the device moved.
    pub moved_from: Option<TreePath>,
    /// SHA-256, as the device said.
    pub hash: Option<ContentHash>,
    /// Bytes.
    pub size: u64,
    /// What it replaces: the base_version of the upload.
    pub base_version: Option<i64>,
}

/// A file to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Download {
    /// Where it goes.
    pub path: TreePath,
    /// Where the tree has it, when elsewhere.
    pub from: Option<TreePath>,
    /// Where the device has the same file: renaming it will do.
    pub moved_from: Option<TreePath>,
    /// Its version.
    pub version: Option<i64>,
    /// SHA-256.
    pub hash: ContentHash,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// Executable bit.
    pub executable: Option<bool>,
    /// The contents that the device said it holds there; others must not be replaced.
    pub replaces: Option<ContentHash>,
    /// What it replaces has no version yet: send it before.
    pub upload_first: bool,
}

/// A file to be deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// Where.
    pub path: TreePath,
    /// The version of it that both sides last agreed on, or that the tree has.
    pub version: Option<i64>,
    /// Its contents; others must not be deleted.
    pub hash: ContentHash,
    /// Where the same file is now: this is half of a move.
    pub moved_to: Option<TreePath>,
}

/// What collided, and how it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Collided {
    /// On which path.
    pub path: TreePath,
    /// What.
    pub collision: Collision,
    /// Whose contents stay under the name; none while it is open.
    pub winner: Option<Side>,
    /// What the loser is called, where both stay. When the server wins, the device renames its own first.
    pub copy_path: Option<TreePath>,
}

/// Nothing has to move: acknowledge this as it is. Without a version neither side has the file any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Where.
    pub path: TreePath,
    /// The tree's version.
    pub version: Option<i64>,
    /// Its contents.
    pub hash: Option<ContentHash>,
}

/// What would make device and tree agree. Paths are relative to the report's base path; each list has at most [`MAX_FILES`].
#[derive(Debug, Clone)]
pub struct Answer {
    /// False while parts of the list are missing: then all else is empty.
    pub decided: bool,
    /// Parts of the list that are known to be missing.
    pub missing_parts: Vec<i32>,
    /// Files to send.
    pub to_upload: Vec<Upload>,
    /// Files to fetch.
    pub to_download: Vec<Download>,
    /// Files to delete on the device.
    pub to_delete: Vec<Delete>,
    /// Files to have deleted in the tree, by acknowledging.
    pub to_delete_on_server: Vec<Delete>,
    /// Conflicts; what follows from them is in the other lists.
    pub conflicts: Vec<Collided>,
    /// To be acknowledged as it is.
    pub to_acknowledge: Vec<Settled>,
    /// What was left alone, and why: `path.ignored`, `path.twice` or `hash.wanted` (report it again with its hash).
    pub left_out: Vec<(TreePath, &'static str)>,
    /// How far the tree was; acknowledge with it.
    pub change_token: Cursor,
    /// The run in which deletions wait for a person.
    pub run_id: Option<Uuid>,
    /// How many deletions wait.
    pub held: usize,
    /// A list was cut: do what is here, then report again.
    pub truncated: bool,
}

impl Answer {
    pub(super) fn undecided(change_token: Cursor, missing_parts: Vec<i32>) -> Self {
        Answer {
            decided: false,
            missing_parts,
            to_upload: Vec::new(),
            to_download: Vec::new(),
            to_delete: Vec::new(),
            to_delete_on_server: Vec::new(),
            conflicts: Vec::new(),
            to_acknowledge: Vec::new(),
            left_out: Vec::new(),
            change_token,
            run_id: None,
            held: 0,
            truncated: false,
        }
    }

    /// Shortens the lists. What relies on an item that fell away falls away with it: nothing is fetched over a file whose conflict
    /// is not told, and no half of a move is told without the other.
    fn cut(&mut self) {
        fn cut<T>(list: &mut Vec<T>) -> Vec<T> {
            list.split_off(list.len().min(MAX_FILES))
        }
        let conflicts: HashSet<TreePath> = cut(&mut self.conflicts).into_iter().map(|c| c.path).collect();
        self.truncated = !conflicts.is_empty();
        if self.truncated {
            let told = |path: &Option<TreePath>| path.as_ref().is_none_or(|path| !conflicts.contains(path));
            self.to_upload.retain(|u| !conflicts.contains(&u.path) && told(&u.from) && told(&u.from_server));
            self.to_download.retain(|d| !conflicts.contains(&d.path) && told(&d.from));
        }
        let uploads: HashSet<TreePath> = cut(&mut self.to_upload).into_iter().map(|u| u.path).collect();
        let downloads: HashSet<TreePath> = cut(&mut self.to_download).into_iter().map(|d| d.path).collect();
        for (deletes, gone) in [(&mut self.to_delete_on_server, &uploads), (&mut self.to_delete, &downloads)] {
            if !gone.is_empty() {
                deletes.retain(|d| d.moved_to.as_ref().is_none_or(|to| !gone.contains(to)));
                self.truncated = true;
            }
        }
        self.truncated |= !cut(&mut self.to_delete).is_empty();
        self.truncated |= !cut(&mut self.to_delete_on_server).is_empty();
        self.truncated |= !cut(&mut self.to_acknowledge).is_empty();
        self.truncated |= !cut(&mut self.left_out).is_empty();
    }
}

struct Teller<'a> {
    view: &'a View,
    scope: &'a TreePath,
    answer: Answer,
    server: HashMap<&'a TreePath, &'a Node>,
    /// Copies that the plan makes in the tree, by where they come from.
    copies: HashMap<&'a TreePath, &'a TreePath>,
}

pub(super) fn answer(
    view: &View,
    plan: &Plan,
    scope: &TreePath,
    token: Cursor,
    run: Option<Uuid>,
    held: usize,
) -> Answer {
    let server = view.server.entries.iter().map(|(path, node)| (path, node)).collect();
    let answer = Answer { decided: true, run_id: run, held, ..Answer::undecided(token, Vec::new()) };
    let mut teller = Teller { view, scope, answer, server, copies: HashMap::new() };
    for action in &plan.actions {
        teller.action(action);
    }
    for conflict in &plan.conflicts {
        teller.conflict(conflict);
    }
    teller.records(&plan.records);
    let left_out = view.left_out.iter().map(|(path, why)| (teller.told(path), *why)).collect();
    teller.answer.left_out = left_out;
    teller.answer.cut();
    teller.answer
}

impl<'a> Teller<'a> {
    fn told(&self, path: &TreePath) -> TreePath {
        path.relative_to(self.scope).unwrap_or_else(|| path.clone())
    }

    fn version(&self, path: &TreePath) -> Option<i64> {
        let path = self.copies.get(path).copied().unwrap_or(path);
        self.server.get(path).and_then(|node| node.version)
    }

    fn action(&mut self, action: &'a Action) {
        match (&action.step, action.on) {
            (Step::Write { file, from, .. }, Side::Server) => self.upload(action, file, from),
            (Step::Write { file, from, ingest }, Side::Device) => self.download(action, file, &from.1, *ingest),
            (Step::Move { from, node }, on) => self.moved(action, from, node, on),
            (Step::DeleteFile(deletion), on) => {
                let path = self.told(&deletion.path);
                let delete = Delete { path, version: deletion.version, hash: deletion.hash, moved_to: None };
                self.deletes(on).push(delete);
            }
            // Folders follow from files, and times are not synced.
            (Step::CreateFolder | Step::DeleteFolder | Step::SetMetadata { .. }, _) => {}
        }
    }

    fn deletes(&mut self, on: Side) -> &mut Vec<Delete> {
        match on {
            Side::Device => &mut self.answer.to_delete,
            Side::Server => &mut self.answer.to_delete_on_server,
        }
    }

    fn upload(&mut self, action: &'a Action, file: &File, (side, from): &'a (Side, TreePath)) {
        if *side == Side::Server {
            self.copies.insert(&action.path, from);
        }
        let elsewhere = (*from != action.path).then(|| self.told(from));
        let (from, from_server) = if *side == Side::Device { (elsewhere, None) } else { (None, elsewhere) };
        let hash = Some(file.hash).filter(|hash| !self.view.stand_ins.contains(hash));
        let replaced = action.expects.as_ref().filter(|node| !node.is_folder());
        self.answer.to_upload.push(Upload {
            path: self.told(&action.path),
            from,
            from_server,
            moved_from: None,
            hash,
            size: file.size,
            base_version: replaced.and_then(|node| node.version),
        });
    }

    fn download(&mut self, action: &Action, file: &File, from: &TreePath, upload_first: bool) {
        let replaced = action.expects.as_ref().and_then(Node::file).map(|file| file.hash);
        self.answer.to_download.push(Download {
            path: self.told(&action.path),
            from: (*from != action.path).then(|| self.told(from)),
            moved_from: None,
            version: self.version(from),
            hash: file.hash,
            size: file.size,
            modified_at: file.modified_at,
            executable: file.executable,
            replaces: replaced.filter(|hash| !self.view.stand_ins.contains(hash)),
            upload_first,
        });
    }

    /// A move of the plan goes from the side where it was made to this one.
    fn moved(&mut self, action: &'a Action, from: &'a TreePath, node: &Node, on: Side) {
        let Some(file) = node.file() else { return };
        let (path, told_from) = (self.told(&action.path), self.told(from));
        match (action.phase, on) {
            // The device's own file under another name: the conflict says so.
            (Phase::Aside, Side::Device) => {}
            (Phase::Aside, Side::Server) => {
                self.copies.insert(&action.path, from);
                let (hash, size) = (Some(file.hash), file.size);
                let from_server = Some(told_from);
                let base_version = None;
                let upload = Upload { path, from: None, from_server, moved_from: None, hash, size, base_version };
                self.answer.to_upload.push(upload);
            }
            (_, Side::Server) => {
                let upload = Upload {
                    path: path.clone(),
                    from: None,
                    from_server: None,
                    moved_from: Some(told_from.clone()),
                    hash: Some(file.hash),
                    size: file.size,
                    base_version: None,
                };
                self.answer.to_upload.push(upload);
                let delete = Delete { path: told_from, version: node.version, hash: file.hash, moved_to: Some(path) };
                self.answer.to_delete_on_server.push(delete);
            }
            (_, Side::Device) => {
                let there = self.server.get(&action.path).and_then(|node| node.file());
                let download = Download {
                    path: path.clone(),
                    from: None,
                    moved_from: Some(told_from.clone()),
                    version: self.version(&action.path),
                    hash: file.hash,
                    size: file.size,
                    modified_at: there.and_then(|file| file.modified_at),
                    executable: there.and_then(|file| file.executable),
                    replaces: None,
                    upload_first: false,
                };
                self.answer.to_download.push(download);
                let delete = Delete { path: told_from, version: None, hash: file.hash, moved_to: Some(path) };
                self.answer.to_delete.push(delete);
            }
        }
    }

    fn conflict(&mut self, conflict: &Conflict) {
        let (winner, copy) = match &conflict.outcome {
            Outcome::Keeps(side) => (Some(*side), None),
            Outcome::KeepsBoth { winner, copy } => (Some(*winner), Some(self.told(copy))),
            Outcome::Open => (None, None),
        };
        let path = self.told(&conflict.path);
        self.answer.conflicts.push(Collided { path, collision: conflict.collision, winner, copy_path: copy });
    }

    fn records(&mut self, records: &[Record]) {
        let based: HashMap<&TreePath, &Node> = self.view.base.entries.iter().map(|(p, n)| (p, n)).collect();
        for record in records {
            let settled = match record {
                Record::Agree { path, .. } => {
                    let Some(file) = self.server.get(path).and_then(|node| node.file()) else { continue };
                    Settled { path: self.told(path), version: self.version(path), hash: Some(file.hash) }
                }
                Record::Forget { path } if based.get(path).is_some_and(|node| !node.is_folder()) => {
                    Settled { path: self.told(path), version: None, hash: None }
                }
                Record::Forget { .. } => continue,
            };
            self.answer.to_acknowledge.push(settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: String) -> TreePath {
        TreePath::parse(&text).expect("valid")
    }

    fn download(path: TreePath, moved_from: Option<TreePath>) -> Download {
        Download {
            path,
            from: None,
            moved_from,
            version: Some(1),
            hash: ContentHash([0; 32]),
            size: 0,
            modified_at: None,
            executable: None,
            replaces: None,
            upload_first: false,
        }
    }

    #[test]
    fn what_relies_on_an_item_that_is_cut_is_cut_with_it() {
        let mut answer = Answer::undecided(Cursor { epoch: Uuid::nil(), seq: 0 }, Vec::new());
        let names = || (0..=MAX_FILES).map(|n| path(format!("/{n:05}")));
        let collided = |path| Collided { path, collision: Collision::BothChanged, winner: None, copy_path: None };
        answer.conflicts = names().map(collided).collect();
        answer.to_download = names().map(|path| download(path, None)).collect();
        answer.cut();
        let last = answer.to_download.last().map(|d| d.path.to_string());
        assert_eq!((answer.conflicts.len(), last.as_deref(), answer.truncated), (MAX_FILES, Some("/09999"), true));

        let mut answer = Answer::undecided(Cursor { epoch: Uuid::nil(), seq: 0 }, Vec::new());
        let old = |n: usize| path(format!("/old {n:05}"));
        answer.to_download = names().enumerate().map(|(n, path)| download(path, Some(old(n)))).collect();
        let delete = |(n, to)| Delete { path: old(n), version: None, hash: ContentHash([0; 32]), moved_to: Some(to) };
        answer.to_delete = names().enumerate().map(delete).collect();
        answer.cut();
        let last = answer.to_delete.last().map(|d| d.path.to_string());
        assert_eq!(
            (answer.to_download.len(), last.as_deref(), answer.truncated),
            (MAX_FILES, Some("/old 09999"), true)
        );

        let mut answer = Answer::undecided(Cursor { epoch: Uuid::nil(), seq: 0 }, Vec::new());
        answer.to_download = names().take(MAX_FILES).map(|path| download(path, None)).collect();
        answer.cut();
        assert!(!answer.truncated);
    }
}
