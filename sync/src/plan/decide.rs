//! Decides row by row what happens to files, by the tables of the plan.
//!
//! Invariant: each open row is decided exactly once, in the order conflicts of kind, moves, files, folders; a decision leaves a
//! mark with the folders above it, so that no folder is deleted over something that stays, and none is missing under a new file.
//! Left out: folders themselves ([`super::folders`]).

use std::collections::{HashMap, HashSet};

use super::rows::Row;
use super::{Action, Deletion, Phase, Plan, Record, Rules, Side, Step, moves};
use crate::conflict::{Collision, Conflict, Outcome, Policy, keep_both_path, newer};
use crate::manifest::{Content, File, Node};
use crate::path::{TreePath, parent_text};

/// Most numbers tried for the name of a copy.
const MAX_COPIES: u32 = 1000;

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub rows: Vec<Row<'a>>,
    /// In tree order, none below another.
    pub unknown: &'a [TreePath],
    pub rules: &'a Rules,
    pub plan: Plan,
    /// What the folders above decided rows must bear.
    marks: HashMap<&'a str, Marks>,
    /// Names given to copies by this plan.
    copies: HashSet<TreePath>,
    /// Set while steps are planned that rely on each other.
    chain: Option<&'a TreePath>,
}

/// For one folder: sides on which something below it stays, and sides on which something will be put below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    pub fn stays(side: Side) -> Self {
        Self(1 << side as u8)
    }
    pub fn comes(side: Side) -> Self {
        Self(4 << side as u8)
    }
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A name for what loses a conflict, and which sides hold the loser's contents under it already.
struct Copy {
    path: TreePath,
    on_device: bool,
    on_server: bool,
}

impl<'a> Planner<'a> {
    pub fn new(rows: Vec<Row<'a>>, unknown: &'a [TreePath], rules: &'a Rules) -> Self {
        let (plan, marks, copies) = (Plan::default(), HashMap::new(), HashSet::new());
        let mut planner = Self { rows, unknown, rules, plan, marks, copies, chain: None };
        let both = Marks::stays(Side::Device).and(Marks::stays(Side::Server));
        for path in unknown {
            planner.mark(path, both);
        }
        planner
    }

    pub fn plan(mut self) -> Plan {
        self.folders_against_files();
        self.moves();
        if self.rules.policy == Policy::KeepBoth {
            self.conflicts_that_keep_both();
        }
        for index in 0..self.rows.len() {
            self.file(index);
        }
        self.folders();
        self.plan.actions.sort_by(|a, b| match (a.phase, a.phase.cmp(&b.phase)) {
            (Phase::Folders, std::cmp::Ordering::Equal) => a.path.cmp(&b.path),
            (_, order) => order,
        });
        self.plan
    }

    /// Leaves marks with all folders above a path.
    pub fn mark(&mut self, path: &'a TreePath, marks: Marks) {
        let mut folder = parent_text(path.as_str());
        while let Some(text) = folder {
            let found = self.marks.entry(text).or_default();
            if found.has(marks) {
                break;
            }
            *found = found.and(marks);
            folder = parent_text(text);
        }
    }

    pub fn marks(&self, folder: &TreePath) -> Marks {
        self.marks.get(folder.as_str()).copied().unwrap_or_default()
    }

    pub fn changes(&self, side: Side) -> bool {
        self.rules.direction.changes(side)
    }

    pub fn act(
        &mut self,
        phase: Phase,
        on: Side,
        path: &TreePath,
        step: Step,
        expects: Option<&Node>,
        agrees: Option<Content>,
    ) {
        let path = path.clone();
        let records = agrees.map(|content| Record::Agree { path: path.clone(), content }).into_iter().collect();
        let chain = self.chain.cloned();
        self.plan.actions.push(Action { phase, on, path, step, expects: expects.cloned(), chain, records });
    }

    fn conflict(&mut self, path: &TreePath, collision: Collision, outcome: Outcome) {
        self.plan.conflicts.push(Conflict { path: path.clone(), collision, outcome });
    }

    fn stays(&mut self, row: &Row<'a>) {
        for side in [Side::Device, Side::Server] {
            if row.on(side).is_some() {
                self.mark(row.path, Marks::stays(side));
            }
        }
    }

    fn stays_or_comes(&mut self, path: &'a TreePath, sides: &[Side]) {
        for side in sides {
            self.mark(path, Marks::stays(*side).and(Marks::comes(*side)));
        }
    }

    /// A folder on one side and a file on the other: the file gets another name, and the baseline below counts no more, so that
    /// nothing in the folder looks deleted.
    fn folders_against_files(&mut self) {
        let mut shadow: Option<(&TreePath, bool)> = None;
        for index in 0..self.rows.len() {
            let row = self.rows[index];
            match shadow.filter(|(folder, _)| row.path.starts_with(folder)) {
                Some((_, true)) if row.base.is_some() => {
                    self.plan.records.push(Record::Forget { path: row.path.clone() });
                    self.rows[index].base = None;
                }
                Some((_, resolved)) => self.rows[index].closed |= !resolved,
                None => {
                    if let Some(file_on) = row.file_against_folder().filter(|_| !row.closed) {
                        self.stays(&row);
                        self.chain = Some(row.path);
                        let outcome = self.file_aside(&row, file_on).unwrap_or(Outcome::Open);
                        self.chain = None;
                        shadow = Some((row.path, outcome != Outcome::Open));
                        self.conflict(row.path, Collision::FolderAndFile, outcome);
                        self.rows[index].closed = true;
                    }
                }
            }
        }
    }

    /// Renames the file that a folder of the other side collides with; none when that may not be.
    fn file_aside(&mut self, row: &Row<'a>, file_on: Side) -> Option<Outcome> {
        let node = row.on(file_on)?;
        let file = node.file()?.clone();
        if self.rules.policy == Policy::Ask || !self.changes(file_on) {
            return None;
        }
        let copy = self.copy_beside(row.path, &file, Some(file_on))?;
        let folder_on = file_on.other();
        let held = match folder_on {
            Side::Device => copy.on_device,
            Side::Server => copy.on_server,
        };
        if row.base.is_some() {
            self.plan.records.push(Record::Forget { path: row.path.clone() });
        }
        let content = || Some(Content::File(file.clone()));
        let write = |from: &TreePath| Step::Write { file: file.clone(), from: (file_on, from.clone()), ingest: false };
        let step = Step::Move { from: row.path.clone(), node: node.clone() };
        let write_other = !held && self.changes(folder_on);
        // What only the device has reaches the server before it is touched; the server's own history needs no such care.
        if write_other && folder_on == Side::Server {
            self.act(Phase::Aside, folder_on, &copy.path, write(row.path), None, None);
        }
        let agrees = (held || (write_other && folder_on == Side::Server)).then(content).flatten();
        self.act(Phase::Aside, file_on, &copy.path, step, None, agrees);
        if write_other && folder_on == Side::Device {
            self.act(Phase::Aside, folder_on, &copy.path, write(&copy.path), None, content());
        }
        self.act(Phase::Folders, file_on, row.path, Step::CreateFolder, None, Some(Content::Folder));
        Some(Outcome::KeepsBoth { winner: folder_on, copy: copy.path })
    }

    /// Carries each side's moves to the other. With deletions off, a moved file stays where it was and is also new.
    fn moves(&mut self) {
        for side in [Side::Device, Side::Server] {
            let target = side.other();
            if !self.rules.sync_deletions || !self.changes(target) {
                continue;
            }
            for moved in moves::find(&self.rows, side) {
                let (from, to) = (self.rows[moved.from], self.rows[moved.to]);
                let (Some(base), Some(node), Some(new)) = (from.base, from.on(target), to.on(side)) else { continue };
                let step = Step::Move { from: from.path.clone(), node: node.clone() };
                self.chain = Some(to.path);
                self.act(Phase::Moves, target, to.path, step, None, None);
                let action = self.plan.actions.len() - 1;
                // Seen as one row at the new path, whose baseline moved along.
                let (device, server) = if side == Side::Device { (new, node) } else { (node, new) };
                let (device, server) = (Some(device), Some(server));
                let row = Row { path: to.path, base: Some(base), device, server, closed: false };
                let settled = self.metadata(&row);
                self.chain = None;
                let content = settled.map_or_else(|| base.content.clone(), Content::File);
                self.plan.actions[action].records =
                    vec![Record::Forget { path: from.path.clone() }, Record::Agree { path: to.path.clone(), content }];
                self.stays_or_comes(to.path, &[target]);
                self.mark(to.path, Marks::stays(side));
                self.rows[moved.from].closed = true;
                self.rows[moved.to].closed = true;
            }
        }
    }

    /// Goes before all other files, since a name it finds for a copy may have a row of its own.
    fn conflicts_that_keep_both(&mut self) {
        for index in 0..self.rows.len() {
            let row = self.rows[index];
            if let Some((device, server)) = differing(&row).filter(|_| !row.closed) {
                self.chain = Some(row.path);
                let outcome = self.keep_both(&row, device, server).unwrap_or(Outcome::Open);
                self.chain = None;
                self.stays(&row);
                self.conflict(row.path, Collision::BothChanged, outcome);
                self.rows[index].closed = true;
            }
        }
    }

    fn keep_both(&mut self, row: &Row<'a>, device: &File, server: &File) -> Option<Outcome> {
        use super::Direction::{Both, Download, Upload};
        // One way, what is written to loses: the other side's file can't be renamed.
        let winner = match self.rules.direction {
            Both => newer(device, server, self.rules.now),
            Upload => Side::Device,
            Download => Side::Server,
        };
        let (from_device, from_server) = ((Side::Device, row.path), (Side::Server, row.path));
        if winner == Side::Server {
            let copy = self.copy_beside(row.path, device, Some(Side::Device))?;
            let upload = !copy.on_server && self.changes(Side::Server);
            if upload {
                self.write(Phase::Aside, Side::Server, &copy.path, device, from_device, None, false);
            }
            let step = Step::Move { from: row.path.clone(), node: row.device?.clone() };
            let agrees = (upload || copy.on_server).then(|| Content::File(device.clone()));
            self.act(Phase::Aside, Side::Device, &copy.path, step, None, agrees);
            self.write(Phase::Files, Side::Device, row.path, server, from_server, None, true);
            return Some(Outcome::KeepsBoth { winner, copy: copy.path });
        }
        let copy = self.copy_beside(row.path, server, None)?;
        if !copy.on_server {
            self.write(Phase::Aside, Side::Server, &copy.path, server, from_server, None, copy.on_device);
        }
        if !copy.on_device && self.changes(Side::Device) {
            self.write(Phase::Aside, Side::Device, &copy.path, server, (Side::Server, &copy.path), None, true);
        }
        if copy.on_server && copy.on_device {
            self.plan.records.push(Record::Agree { path: copy.path.clone(), content: Content::File(server.clone()) });
        }
        self.write(Phase::Files, Side::Server, row.path, device, from_device, row.server, true);
        Some(Outcome::KeepsBoth { winner, copy: copy.path })
    }

    #[allow(clippy::too_many_arguments)] // a shorthand for one literal
    fn write(
        &mut self,
        phase: Phase,
        on: Side,
        path: &TreePath,
        file: &File,
        from: (Side, &TreePath),
        expects: Option<&Node>,
        agrees: bool,
    ) {
        let step = Step::Write { file: file.clone(), from: (from.0, from.1.clone()), ingest: false };
        self.act(phase, on, path, step, expects, agrees.then(|| Content::File(file.clone())));
    }

    /// A free name beside `path`. One that holds the very same file is taken again where nothing was agreed on it: a run that
    /// broke off between two steps left it. `mover` is the side that will rename the file, and must have nothing there.
    fn copy_beside(&mut self, path: &TreePath, file: &File, mover: Option<Side>) -> Option<Copy> {
        let date = self.rules.now.date_naive();
        for number in 1..=MAX_COPIES {
            let candidate = keep_both_path(path, date, &self.rules.device_name, number)?;
            let before = self.unknown.partition_point(|unknown| *unknown <= candidate);
            if self.copies.contains(&candidate)
                || before.checked_sub(1).is_some_and(|i| candidate.starts_with(&self.unknown[i]))
            {
                continue;
            }
            let Ok(index) = self.rows.binary_search_by(|row| row.path.cmp(&candidate)) else {
                self.copies.insert(candidate.clone());
                return Some(Copy { path: candidate, on_device: false, on_server: false });
            };
            let row = self.rows[index];
            let same =
                |node: &Node| node.file().is_some_and(|held| held.same_contents(file) && held.same_metadata(file));
            let sides_fit = row.device.is_none_or(same) && row.server.is_none_or(same);
            let agreed_and_there = row.base.is_none() || (row.device.is_some() && row.server.is_some());
            if !row.closed && sides_fit && agreed_and_there && mover.is_none_or(|mover| row.on(mover).is_none()) {
                self.stays(&row);
                self.rows[index].closed = true;
                self.copies.insert(candidate.clone());
                return Some(Copy {
                    path: candidate,
                    on_device: row.device.is_some(),
                    on_server: row.server.is_some(),
                });
            }
        }
        None
    }

    /// Decides one row that holds a file on a side.
    fn file(&mut self, index: usize) {
        let row = self.rows[index];
        let file = |side| row.on(side).and_then(Node::file);
        if row.closed {
            return;
        }
        match (file(Side::Device), file(Side::Server)) {
            (Some(device), Some(server)) => self.file_on_both(&row, device, server),
            (Some(device), None) => self.file_on_one(&row, Side::Device, device),
            (None, Some(server)) => self.file_on_one(&row, Side::Server, server),
            (None, None) => return,
        }
        self.rows[index].closed = true;
    }

    fn file_on_one(&mut self, row: &Row<'a>, holder: Side, file: &File) {
        let other = holder.other();
        match row.base.and_then(Node::file) {
            None => {
                self.send(row, holder, file);
            }
            Some(base) if base.same_contents(file) => {
                if self.rules.sync_deletions && self.changes(holder) {
                    self.delete(row, holder, file);
                } else if !self.rules.sync_deletions && holder == Side::Server {
                    self.send(row, holder, file);
                } else {
                    self.stays(row);
                }
            }
            Some(_) => {
                let sent = self.send(row, holder, file);
                let collision = match other {
                    Side::Device => Collision::DeletedOnDevice,
                    Side::Server => Collision::DeletedOnServer,
                };
                self.conflict(row.path, collision, if sent { Outcome::Keeps(holder) } else { Outcome::Open });
            }
        }
    }

    /// Writes a file to the side that has none; says whether it may.
    fn send(&mut self, row: &Row<'a>, holder: Side, file: &File) -> bool {
        let to = holder.other();
        self.mark(row.path, Marks::stays(holder));
        if self.changes(to) {
            let file = file.completed_from(row.base.and_then(Node::file));
            self.write(Phase::Files, to, row.path, &file, (holder, row.path), None, true);
            self.stays_or_comes(row.path, &[to]);
        }
        self.changes(to)
    }

    fn delete(&mut self, row: &Row<'a>, on: Side, file: &File) {
        let version = match on {
            Side::Device => row.base.and_then(|node| node.version),
            Side::Server => row.server.and_then(|node| node.version),
        };
        let step = Step::DeleteFile(Deletion { on, path: row.path.clone(), version, hash: file.hash });
        self.act(Phase::Deletions, on, row.path, step, row.on(on), None);
        if let Some(action) = self.plan.actions.last_mut() {
            action.records.push(Record::Forget { path: row.path.clone() });
        }
    }

    fn file_on_both(&mut self, row: &Row<'a>, device: &File, server: &File) {
        self.stays(row);
        if device.same_contents(server) {
            if let Some(file) = self.metadata(row).filter(|file| !is_settled(row, file)) {
                self.plan.records.push(Record::Agree { path: row.path.clone(), content: Content::File(file) });
            }
        } else if differing(row).is_some() {
            let winner = match self.rules.policy {
                Policy::KeepLocal => Some(Side::Device),
                Policy::KeepServer => Some(Side::Server),
                Policy::KeepNewest => Some(newer(device, server, self.rules.now)),
                Policy::KeepBoth | Policy::Ask => None,
            };
            let replaced = winner.filter(|winner| self.replace(row, winner.other(), true));
            self.conflict(row.path, Collision::BothChanged, replaced.map_or(Outcome::Open, Outcome::Keeps));
        } else {
            let base = row.base.and_then(Node::file);
            let on = if base.is_some_and(|base| base.same_contents(device)) { Side::Device } else { Side::Server };
            self.replace(row, on, false);
        }
    }

    /// Replaces what a side holds by what the other holds; says whether it may. What loses a conflict on the device has no
    /// version yet.
    fn replace(&mut self, row: &Row<'a>, on: Side, conflict: bool) -> bool {
        let (Some(old), Some(new)) = (row.on(on), row.on(on.other()).and_then(Node::file)) else { return false };
        if !self.changes(on) {
            return false;
        }
        let file = new.completed_from(old.file());
        let from = (on.other(), row.path.clone());
        let step = Step::Write { file: file.clone(), from, ingest: conflict && on == Side::Device };
        self.act(Phase::Files, on, row.path, step, Some(old), Some(Content::File(file)));
        true
    }

    /// Makes the metadata of a file with the same contents on both sides equal. The file when they are already; none when a
    /// step was planned, or none may be.
    fn metadata(&mut self, row: &Row<'a>) -> Option<File> {
        let (device, server) = (row.device?.file()?, row.server?.file()?);
        if device.same_metadata(server) {
            return Some(server.completed_from(Some(device)));
        }
        let base = row.base.and_then(Node::file).filter(|base| base.same_contents(device));
        let winner = match (base, self.rules.policy) {
            (Some(base), _) if device.same_metadata(base) => Side::Server,
            (Some(base), _) if server.same_metadata(base) => Side::Device,
            (_, Policy::KeepLocal) => Side::Device,
            (_, Policy::KeepServer) => Side::Server,
            _ => newer(device, server, self.rules.now),
        };
        let on = winner.other();
        if self.changes(on) {
            let (new, old) = if winner == Side::Device { (device, server) } else { (server, device) };
            let file = new.completed_from(Some(old));
            let step = Step::SetMetadata { file: file.clone() };
            self.act(Phase::Files, on, row.path, step, row.on(on), Some(Content::File(file)));
        }
        None
    }
}

/// Both files, when both sides changed or created the file and the contents differ.
fn differing<'a>(row: &Row<'a>) -> Option<(&'a File, &'a File)> {
    let (device, server) = (row.device?.file()?, row.server?.file()?);
    let base = row.base.and_then(Node::file);
    let changed = |file: &File| base.is_none_or(|base| !base.same_contents(file));
    (!device.same_contents(server) && changed(device) && changed(server)).then_some((device, server))
}

/// Whether the baseline already says what both sides hold.
fn is_settled(row: &Row, file: &File) -> bool {
    fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
        a.zip(b).is_some_and(|(a, b)| a != b)
    }
    row.base.is_some_and(|base| {
        let held = base.file().is_some_and(|base| base.same_contents(file) && base.same_metadata(file));
        let inode = row.device.and_then(|node| node.inode);
        let (entry, version) = (row.server.and_then(|node| node.entry), row.server.and_then(|node| node.version));
        held && !differ(base.inode, inode) && !differ(base.entry, entry) && !differ(base.version, version)
    })
}
