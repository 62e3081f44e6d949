//! What device and tree hold while a run changes them, and the baseline that follows from it.
//!
//! Invariant: a baseline row speaks of one entry at one path. It leaves its path only once the device has nothing of the old
//! contents there any more, else a run that breaks off in between would take what is left for a new file. A path never has
//! two rows. Left out: deciding (the plan did), and writing (`commit`, in the transaction of the change itself).

use std::collections::HashMap;

use driftless_sync::path::TreePath;

use crate::{
    commit::{self, Applied, Change, Held},
    remotes::folder::{Fingerprint, Stat},
};

/// What the tree holds at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTree {
    /// The entry.
    pub entry: i64,
    /// Its version.
    pub version: i64,
}

/// What the device holds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDevice {
    /// What the disk said.
    pub stat: Stat,
    /// Whether the fingerprint will show every later change.
    pub settled: bool,
    /// The name on the disk, where it differs from the path's.
    pub spelling: Option<Box<str>>,
}

/// A change of tree or baseline, and what to note once it is committed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The change.
    pub change: Change,
    /// What it means for the ledger.
    pub note: Note,
}

/// What a committed change means for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// The tree holds what the outcome says at this path; `held`: so does the baseline.
    InTree {
        /// Where.
        path: TreePath,
        /// Whether the change brought its baseline along.
        held: bool,
    },
    /// The tree no longer holds anything at this path.
    NotInTree(TreePath),
    /// [`Note::InTree`] at `to`, and nothing at `from` any more.
    Moved {
        /// Where it was.
        from: TreePath,
        /// Where it is.
        to: TreePath,
        /// Whether the change brought its baseline along.
        held: bool,
    },
    /// The baseline says that the entry is held at this path.
    Agreed(i64, TreePath),
    /// The baseline says nothing of the entry.
    Forgot(i64),
}

/// The books of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    tree: HashMap<TreePath, InTree>,
    device: HashMap<TreePath, OnDevice>,
    base_at: HashMap<TreePath, i64>,
    base_of: HashMap<i64, TreePath>,
    /// Agreements that wait until the entry's old path is dealt with.
    waiting: HashMap<i64, TreePath>,
}

impl Ledger {
    /// The tree holds `what` at `path`.
    pub fn in_tree(&mut self, path: TreePath, what: InTree) {
        self.tree.insert(path, what);
    }

    /// The device holds `what` at `path`.
    pub fn on_device(&mut self, path: TreePath, what: OnDevice) {
        self.device.insert(path, what);
    }

    /// The baseline has the entry at `path`.
    pub fn in_baseline(&mut self, path: TreePath, entry: i64) {
        self.base_of.insert(entry, path.clone());
        self.base_at.insert(path, entry);
    }

    /// What the tree holds at `path`.
    pub fn tree(&self, path: &TreePath) -> Option<InTree> {
        self.tree.get(path).copied()
    }

    /// What the device holds at `path`.
    pub fn device(&self, path: &TreePath) -> Option<&OnDevice> {
        self.device.get(path)
    }

    /// The entry that the baseline has at `path`.
    pub fn base(&self, path: &TreePath) -> Option<i64> {
        self.base_at.get(path).copied()
    }

    /// The device no longer holds anything at `path`.
    pub fn not_on_device(&mut self, path: &TreePath) -> Option<OnDevice> {
        self.device.remove(path)
    }

    /// The device's baseline for a change of the tree that puts something at `path`, and what else belongs into its
    /// transaction. No baseline when the entry's row must stay where it is for now; then [`Ledger::agree`] once it is committed.
    pub fn hold(&self, path: &TreePath) -> (Option<Held>, Vec<Entry>) {
        let entry = self.tree(path).map(|there| there.entry);
        let others = self.forget_other(path, entry);
        match entry {
            Some(entry) if self.must_wait(entry, path) => (None, others),
            _ => (self.held(path), others),
        }
    }

    /// Both sides agree on what they hold at `path`.
    pub fn agree(&mut self, path: &TreePath) -> Vec<Entry> {
        let Some(there) = self.tree(path) else { return Vec::new() };
        let mut entries = self.forget_other(path, Some(there.entry));
        if self.must_wait(there.entry, path) {
            self.waiting.insert(there.entry, path.clone());
        } else if let Some(held) = self.held(path) {
            entries.push(agreement(there, held));
        }
        entries
    }

    /// The sides agree on nothing at `path` any more. An agreement that waited for this takes its place.
    pub fn forget(&mut self, path: &TreePath) -> Vec<Entry> {
        let Some(entry) = self.base(path) else { return Vec::new() };
        let next = self.waiting.remove(&entry);
        let next = next.and_then(|next| Some((self.tree(&next)?, self.held(&next)?)));
        vec![match next {
            Some((there, held)) if there.entry == entry => agreement(there, held),
            _ => Entry { change: Change::Forget { entry_id: entry }, note: Note::Forgot(entry) },
        }]
    }

    /// Notes what was committed.
    pub fn note(&mut self, note: &Note, applied: &Applied) {
        match note {
            Note::Nothing => {}
            Note::InTree { path, held } => {
                self.in_tree(path.clone(), InTree { entry: applied.entry_id, version: applied.version });
                if *held {
                    self.row(applied.entry_id, Some(path));
                }
            }
            Note::NotInTree(path) => {
                self.tree.remove(path);
            }
            Note::Moved { from, to, held } => {
                self.tree.remove(from);
                self.note(&Note::InTree { path: to.clone(), held: *held }, applied);
            }
            Note::Agreed(entry, path) => self.row(*entry, Some(path)),
            Note::Forgot(entry) => self.row(*entry, None),
        }
    }

    fn row(&mut self, entry: i64, path: Option<&TreePath>) {
        if let Some(old) = self.base_of.remove(&entry)
            && self.base_at.get(&old) == Some(&entry)
        {
            self.base_at.remove(&old);
        }
        if let Some(path) = path {
            self.in_baseline(path.clone(), entry);
        }
    }

    // The row of another entry that the baseline has at the path: its file was replaced by this one.
    fn forget_other(&self, path: &TreePath, entry: Option<i64>) -> Vec<Entry> {
        let other = self.base(path).filter(|other| Some(*other) != entry);
        other
            .map(|other| Entry { change: Change::Forget { entry_id: other }, note: Note::Forgot(other) })
            .into_iter()
            .collect()
    }

    fn must_wait(&self, entry: i64, path: &TreePath) -> bool {
        self.base_of.get(&entry).is_some_and(|row| row != path && self.device.contains_key(row))
    }

    fn held(&self, path: &TreePath) -> Option<Held> {
        let on = self.device(path)?;
        Some(Held {
            path: path.clone(),
            spelling: on.spelling.as_deref().map(str::to_owned),
            fingerprint: on.settled.then(|| fingerprint(&on.stat.print)),
        })
    }
}

/// As the baseline keeps it: numbers bit for bit.
pub fn fingerprint(print: &Fingerprint) -> commit::Fingerprint {
    commit::Fingerprint {
        size: print.size as i64,
        mtime_ns: print.mtime_ns,
        ctime_ns: print.ctime_ns,
        inode: print.inode as i64,
    }
}

fn agreement(there: InTree, held: Held) -> Entry {
    let note = Note::Agreed(there.entry, held.path.clone());
    Entry { change: Change::Agree { entry_id: there.entry, version: there.version, held }, note }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::remotes::folder::Kind;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    fn file() -> OnDevice {
        let print = Fingerprint { size: 1, mtime_ns: 2, ctime_ns: 3, inode: 4 };
        OnDevice {
            stat: Stat { kind: Kind::File, print, dev: 0, mode: 0o644, uid: 0, gid: 0 },
            settled: true,
            spelling: None,
        }
    }

    fn commit(ledger: &mut Ledger, entries: &[Entry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| {
                ledger.note(&entry.note, &Applied { entry_id: 0, version: 0, path: TreePath::root() });
                match &entry.change {
                    Change::Agree { entry_id, held, .. } => format!("agree {entry_id} {}", held.path),
                    Change::Forget { entry_id } => format!("forget {entry_id}"),
                    other => format!("{other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn a_row_stays_at_its_path_while_the_device_has_the_old_file() {
        let mut ledger = Ledger::default();
        ledger.in_baseline(path("/old"), 1);
        ledger.in_tree(path("/new"), InTree { entry: 1, version: 9 });
        ledger.on_device(path("/old"), file());
        ledger.on_device(path("/new"), file());
        let entries = ledger.agree(&path("/new"));
        assert!(commit(&mut ledger, &entries).is_empty(), "the old file would look new to a run that begins now");
        ledger.not_on_device(&path("/old"));
        let entries = ledger.forget(&path("/old"));
        assert_eq!(commit(&mut ledger, &entries), ["agree 1 /new"]);
        assert_eq!((ledger.base(&path("/old")), ledger.base(&path("/new"))), (None, Some(1)));
    }

    #[test]
    fn a_path_that_another_entry_takes_over_loses_its_old_row() {
        let mut ledger = Ledger::default();
        ledger.in_baseline(path("/f"), 1);
        ledger.in_tree(path("/f"), InTree { entry: 2, version: 9 });
        ledger.on_device(path("/f"), file());
        let entries = ledger.agree(&path("/f"));
        assert_eq!(commit(&mut ledger, &entries), ["forget 1", "agree 2 /f"]);
        let (held, others) = ledger.hold(&path("/f"));
        assert!(held.is_some() && others.is_empty());
    }

    #[test]
    fn a_new_file_in_the_place_of_a_deleted_one_takes_its_row_away() {
        let mut ledger = Ledger::default();
        ledger.in_baseline(path("/f"), 1);
        ledger.on_device(path("/f"), file());
        let (held, others) = ledger.hold(&path("/f"));
        assert_eq!(held.unwrap().fingerprint, Some(fingerprint(&file().stat.print)));
        assert_eq!(commit(&mut ledger, &others), ["forget 1"]);
        ledger.note(
            &Note::InTree { path: path("/f"), held: true },
            &Applied { entry_id: 7, version: 7, path: path("/f") },
        );
        assert_eq!(ledger.base(&path("/f")), Some(7));
    }

    #[test]
    fn an_unsettled_fingerprint_never_enters_the_baseline() {
        let mut ledger = Ledger::default();
        ledger.on_device(path("/f"), OnDevice { settled: false, ..file() });
        assert_eq!(ledger.hold(&path("/f")).0.unwrap().fingerprint, None);
    }

    #[test]
    fn a_moved_entry_whose_old_path_is_empty_moves_its_row() {
        let mut ledger = Ledger::default();
        ledger.in_baseline(path("/a"), 1);
        ledger.in_tree(path("/b"), InTree { entry: 1, version: 5 });
        ledger.on_device(path("/b"), file());
        let entries = [ledger.forget(&path("/a")), ledger.agree(&path("/b"))].concat();
        assert_eq!(commit(&mut ledger, &entries), ["forget 1", "agree 1 /b"]);
        assert_eq!(ledger.base(&path("/b")), Some(1));
    }
}
