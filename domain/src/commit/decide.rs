//! Deciding a change against the tree as the transaction sees it.
//!
//! Invariant: a refused change has decided nothing: every check comes before the first call that writes into the state.

use driftless_sync::{
    conflict::keep_both_path,
    path::{MAX_DEPTH, MAX_PATH_BYTES, TreePath},
};
use sqlx::PgConnection;

use super::{
    Applied, Base, Change, Error, Held, OnConflict, Origin, Outcome, Refusal,
    state::{BaselineRow, ROOT, Slot, State, VersionRow},
    write,
};
use crate::{
    ingest::Contents,
    tree::{self, FileInfo},
};

/// Names tried for the loser of a conflict.
const NAMES_TRIED: u32 = 100;

type Decided = Result<Result<Outcome, Refusal>, Error>;

/// Returns the refusal from the function, else the value.
macro_rules! grant {
    ($e:expr) => {
        match $e {
            Ok(granted) => granted,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

pub(super) struct Decider<'a> {
    pub conn: &'a mut PgConnection,
    pub state: &'a mut State,
    pub origin: Origin,
    /// The device's folder, where the device holds nothing else.
    pub folder: Option<&'a TreePath>,
}

/// The folder that will hold an entry, and the folders above it that must be made first.
struct Way {
    folder: i64,
    missing: Vec<String>,
    /// Ids of the folders from the root down.
    ids: Vec<i64>,
}

impl Decider<'_> {
    pub async fn decide(&mut self, change: &Change) -> Result<Outcome, Error> {
        let decided = match change {
            Change::Put { path, base, on_conflict, held, .. } => {
                let outcome = self.put(path, change, *base).await?;
                match (outcome, on_conflict) {
                    (Err(Refusal::Conflict { .. } | Refusal::IsAFolder(_)), OnConflict::KeepBoth { who }) => {
                        self.put_beside(path, change, who).await?
                    }
                    (outcome, _) => {
                        if let (Ok(outcome), Some(held)) = (&outcome, held) {
                            self.hold(outcome, held);
                        }
                        outcome
                    }
                }
            }
            Change::Keep { path, .. } => self.keep(path, change).await?,
            Change::Folder { path, held } => self.folder(path, held.as_ref()).await?,
            Change::Touch { path, .. } => self.touch(path, change).await?,
            Change::Move { from, to, base, held } => self.shift(from, to, *base, held.as_ref()).await?,
            Change::Delete { path, base, recursive, half_of_move } => {
                self.delete(path, *base, *recursive, *half_of_move).await?
            }
            Change::Restore { entry_id, to } => self.restore(*entry_id, to).await?,
            Change::Agree { entry_id, version, held } => {
                self.baseline(*entry_id, Some((*version, held.clone())));
                Ok(self.unchanged(*entry_id, *version, &held.path))
            }
            Change::Forget { entry_id } => {
                self.baseline(*entry_id, None);
                Ok(self.unchanged(*entry_id, 0, &TreePath::root()))
            }
        };
        Ok(decided.unwrap_or_else(Outcome::Refused))
    }

    fn unchanged(&self, entry_id: i64, version: i64, path: &TreePath) -> Outcome {
        Outcome::Unchanged(Applied { entry_id, version, path: path.clone() })
    }

    fn baseline(&mut self, entry: i64, held: Option<(i64, Held)>) {
        if let Some(device) = self.origin.device() {
            // What was on its way when the device was given another folder is none of the device's files.
            if let (Some(folder), Some((_, held))) = (self.folder, &held)
                && !held.path.starts_with(folder)
            {
                return;
            }
            // A run forgets by itself what it has replaced or moved away.
            let alone = matches!(self.origin, Origin::Device { .. });
            self.state.baselines.push(BaselineRow { device, entry, held, alone });
        }
    }

    fn hold(&mut self, outcome: &Outcome, held: &Held) {
        if let Ok(applied) = outcome.clone().applied() {
            self.baseline(applied.entry_id, Some((applied.version, held.clone())));
        }
    }

    /// Walks down to the folder that holds `path`.
    async fn way(&mut self, path: &TreePath) -> Result<Result<Way, Refusal>, Error> {
        let Some(parent) = path.parent() else { return Ok(Err(Refusal::Root)) };
        let mut way = Way { folder: ROOT, missing: Vec::new(), ids: vec![ROOT] };
        for name in parent.clone().segments() {
            if !way.missing.is_empty() {
                way.missing.push(name.to_owned());
                continue;
            }
            match self.state.child(self.conn, way.folder, name).await? {
                Some(slot) if slot.file.is_some() => return Ok(Err(Refusal::NotAFolder(parent))),
                Some(slot) => {
                    way.folder = slot.id;
                    way.ids.push(slot.id);
                }
                None => way.missing.push(name.to_owned()),
            }
        }
        Ok(Ok(way))
    }

    /// Makes the folders that are missing and answers the last one's id.
    fn make_way(&mut self, way: &Way) -> i64 {
        let mut folder = way.folder;
        for name in &way.missing {
            folder = self.make_folder(folder, name).id;
        }
        folder
    }

    fn make_folder(&mut self, parent: i64, name: &str) -> Slot {
        let seq = self.state.next_seq();
        self.state.make(seq, 0, parent, name, false);
        self.version(seq, seq, 2, None, None);
        let slot = Slot { id: seq, seq, file: None };
        self.state.place(parent, name, Some(slot.clone()));
        slot
    }

    fn version(
        &mut self,
        seq: i64,
        entry: i64,
        kind: i16,
        file: Option<(&Contents, &FileInfo)>,
        old: Option<(i64, String)>,
    ) {
        let row = VersionRow {
            seq,
            entry,
            device: self.origin.device(),
            kind,
            contents: file.map(|(c, _)| c.clone()),
            modified_at: file.map_or(self.state.now, |(_, f)| f.modified_at),
            executable: file.is_some_and(|(_, f)| f.executable),
            old,
        };
        self.state.versions.push(row);
    }

    /// The folder above `path`, its name, and what is there.
    async fn find(&mut self, path: &TreePath) -> Result<Result<(Way, String, Option<Slot>), Refusal>, Error> {
        let way = grant!(self.way(path).await?);
        let name = path.name().expect("way() refused the root").to_owned();
        let slot = if way.missing.is_empty() { self.state.child(self.conn, way.folder, &name).await? } else { None };
        Ok(Ok((way, name, slot)))
    }

    async fn put(&mut self, path: &TreePath, change: &Change, base: Base) -> Decided {
        let Change::Put { contents, modified_at, executable, .. } = change else { unreachable!("put() decides puts") };
        let (way, name, slot) = grant!(self.find(path).await?);
        let conflict = |slot: Option<&Slot>| Refusal::Conflict {
            path: path.clone(),
            current: slot.map(|s| Box::new(s.node(path))),
        };
        let now = self.state.now;
        let file = |old: Option<&FileInfo>| FileInfo {
            size: contents.size(),
            hash: contents.hash(),
            modified_at: modified_at.unwrap_or(now),
            executable: executable.or(old.map(|o| o.executable)).unwrap_or(false),
        };
        let Some(slot) = slot else {
            if matches!(base, Base::Version(_)) {
                return Ok(Err(conflict(None)));
            }
            let parent = self.make_way(&way);
            let (seq, file) = (self.state.next_seq(), file(None));
            self.state.make(seq, 1, parent, &name, false);
            self.version(seq, seq, 1, Some((contents, &file)), None);
            self.state.files += 1;
            self.state.bytes += file.size as i64;
            self.state.place(parent, &name, Some(Slot { id: seq, seq, file: Some(file) }));
            return Ok(Ok(Outcome::Created(Applied { entry_id: seq, version: seq, path: path.clone() })));
        };
        let Some(old) = &slot.file else { return Ok(Err(Refusal::IsAFolder(path.clone()))) };
        let same = old.hash == contents.hash();
        if same && modified_at.is_none_or(|m| m == old.modified_at) && executable.is_none_or(|e| e == old.executable) {
            return Ok(Ok(self.unchanged(slot.id, slot.seq, path)));
        }
        let based = match base {
            Base::Any => true,
            Base::Absent => false,
            Base::Version(v) => v == slot.seq,
        };
        // Identical contents are never a conflict: a difference in time or mode alone leaves the tree's.
        match (based, same) {
            (false, true) => return Ok(Ok(self.unchanged(slot.id, slot.seq, path))),
            (false, false) => return Ok(Err(conflict(Some(&slot)))),
            _ => {}
        }
        let file = file(Some(old));
        Ok(Ok(self.change(&slot, way.folder, &name, path, if same { 6 } else { 1 }, contents, file)))
    }

    /// A new version of a file that is there.
    #[allow(clippy::too_many_arguments)]
    fn change(
        &mut self,
        slot: &Slot,
        parent: i64,
        name: &str,
        path: &TreePath,
        kind: i16,
        contents: &Contents,
        file: FileInfo,
    ) -> Outcome {
        let seq = self.state.next_seq();
        self.version(seq, slot.id, kind, Some((contents, &file)), None);
        self.state.bytes += file.size as i64 - slot.file.as_ref().map_or(0, |f| f.size as i64);
        self.state.entry(slot, parent, name).seq = seq;
        self.state.place(parent, name, Some(Slot { id: slot.id, seq, file: Some(file) }));
        Outcome::Done(Applied { entry_id: slot.id, version: seq, path: path.clone() })
    }

    /// What lost a conflict, under another name beside the winner.
    async fn put_beside(&mut self, path: &TreePath, change: &Change, who: &str) -> Decided {
        let date = self.state.now.date_naive();
        for number in 1..=NAMES_TRIED {
            let Some(beside) = keep_both_path(path, date, who, number) else { break };
            match self.put(&beside, change, Base::Absent).await? {
                Ok(outcome) => return Ok(outcome.applied().map(Outcome::KeptBoth)),
                Err(Refusal::Conflict { .. } | Refusal::IsAFolder(_)) => continue,
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Ok(Err(Refusal::Taken(path.clone())))
    }

    async fn keep(&mut self, path: &TreePath, change: &Change) -> Decided {
        let Change::Keep { contents, modified_at, executable, .. } = change else {
            unreachable!("keep() decides keeps")
        };
        let file = FileInfo {
            size: contents.size(),
            hash: contents.hash(),
            modified_at: *modified_at,
            executable: *executable,
        };
        let (way, name, slot) = grant!(self.find(path).await?);
        let entry = match slot {
            Some(slot) if slot.file.is_some() => slot.id,
            _ => {
                let parent = self.make_way(&way);
                let seq = self.state.seq + 1;
                self.state.make(seq, 1, parent, &name, true);
                seq
            }
        };
        let seq = self.state.next_seq();
        self.version(seq, entry, 7, Some((contents, &file)), None);
        Ok(Ok(Outcome::Done(Applied { entry_id: entry, version: seq, path: path.clone() })))
    }

    async fn folder(&mut self, path: &TreePath, held: Option<&Held>) -> Decided {
        let (way, name, slot) = grant!(self.find(path).await?);
        let outcome = match slot {
            Some(slot) if slot.file.is_some() => return Ok(Err(Refusal::NotAFolder(path.clone()))),
            Some(slot) => self.unchanged(slot.id, slot.seq, path),
            None => {
                let parent = self.make_way(&way);
                let slot = self.make_folder(parent, &name);
                Outcome::Created(Applied { entry_id: slot.id, version: slot.seq, path: path.clone() })
            }
        };
        if let Some(held) = held {
            self.hold(&outcome, held);
        }
        Ok(Ok(outcome))
    }

    async fn touch(&mut self, path: &TreePath, change: &Change) -> Decided {
        let Change::Touch { modified_at, executable, base, held, .. } = change else {
            unreachable!("touch() decides touches")
        };
        let (way, name, slot) = grant!(self.find(path).await?);
        let Some(slot) = slot else { return Ok(Err(Refusal::NotFound(path.clone()))) };
        let Some(old) = slot.file.clone() else { return Ok(Err(Refusal::IsAFolder(path.clone()))) };
        grant!(fits(*base, &slot, path));
        let file = FileInfo {
            modified_at: modified_at.unwrap_or(old.modified_at),
            executable: executable.unwrap_or(old.executable),
            ..old.clone()
        };
        let outcome = if file == old {
            self.unchanged(slot.id, slot.seq, path)
        } else {
            let Some(contents) = self.contents(slot.seq).await? else {
                return Ok(Err(Refusal::NotFound(path.clone())));
            };
            self.change(&slot, way.folder, &name, path, 6, &contents, file)
        };
        if let Some(held) = held {
            self.hold(&outcome, held);
        }
        Ok(Ok(outcome))
    }

    async fn contents(&mut self, version: i64) -> Result<Option<Contents>, Error> {
        if let Some(row) = self.state.versions.iter().find(|v| v.seq == version) {
            return Ok(row.contents.clone());
        }
        Ok(tree::contents(self.conn, self.state.user_id, version).await?.map(|(_, _, contents)| contents))
    }

    async fn shift(&mut self, from: &TreePath, to: &TreePath, base: Base, held: Option<&Held>) -> Decided {
        let (source, old_name, slot) = grant!(self.find(from).await?);
        let Some(slot) = slot else { return Ok(Err(Refusal::NotFound(from.clone()))) };
        grant!(fits(base, &slot, from));
        let applied = Applied { entry_id: slot.id, version: slot.seq, path: to.clone() };
        if from == to {
            return Ok(Ok(Outcome::Unchanged(applied)));
        }
        let (target, name, there) = grant!(self.find(to).await?);
        if there.is_some() {
            return Ok(Err(Refusal::Taken(to.clone())));
        }
        if target.ids.contains(&slot.id) {
            return Ok(Err(Refusal::IntoItself(from.clone())));
        }
        if slot.file.is_none() && !self.fits_below(&slot, from, to).await? {
            return Ok(Err(Refusal::TooLong(to.clone())));
        }
        let parent = self.make_way(&target);
        let seq = self.state.next_seq();
        self.version(seq, slot.id, 3, None, Some((source.folder, old_name.clone())));
        let row = self.state.entry(&slot, source.folder, &old_name);
        (row.parent, row.name, row.placed) = (parent, name.clone(), true);
        self.state.place(source.folder, &old_name, None);
        self.state.place(parent, &name, Some(slot));
        let outcome = Outcome::Done(applied);
        if let Some(held) = held {
            self.hold(&outcome, held);
        }
        Ok(Ok(outcome))
    }

    /// Whether all paths below a folder stay within the limits when it moves. Looks only when they grow.
    async fn fits_below(&mut self, slot: &Slot, from: &TreePath, to: &TreePath) -> Result<bool, Error> {
        let longer = to.as_str().len() as i64 - from.as_str().len() as i64;
        let deeper = to.depth() as i64 - from.depth() as i64;
        if longer <= 0 && deeper <= 0 {
            return Ok(true);
        }
        Ok(fits_at(&write::below(self.conn, self.state, slot.id).await?, to))
    }

    async fn delete(&mut self, path: &TreePath, base: Base, recursive: bool, half_of_move: bool) -> Decided {
        let (way, name, slot) = grant!(self.find(path).await?);
        let Some(slot) = slot else { return Ok(Err(Refusal::NotFound(path.clone()))) };
        grant!(fits(base, &slot, path));
        let (files, bytes) = match &slot.file {
            Some(file) => (1, file.size as i64),
            None => {
                let below = write::below(self.conn, self.state, slot.id).await?;
                if below.entries > 0 && !recursive {
                    return Ok(Err(Refusal::NotEmpty(path.clone())));
                }
                (below.files, below.bytes)
            }
        };
        let seq = self.state.next_seq();
        self.version(seq, slot.id, 4, None, Some((way.folder, name.clone())));
        let row = self.state.entry(&slot, way.folder, &name);
        (row.deleted, row.placed) = (true, true);
        self.state.place(way.folder, &name, None);
        self.state.files -= files;
        self.state.bytes -= bytes;
        if let Some(device) = self.origin.device() {
            self.baseline(slot.id, None);
            if !half_of_move {
                *self.state.deletions.entry(device).or_default() += files;
            }
        }
        Ok(Ok(Outcome::Done(Applied { entry_id: slot.id, version: slot.seq, path: path.clone() })))
    }

    async fn restore(&mut self, entry_id: i64, to: &TreePath) -> Decided {
        let trashed = write::trashed(self.conn, self.state, entry_id).await?;
        let Some((slot, old_parent, old_name)) = trashed else { return Ok(Err(Refusal::NotFound(to.clone()))) };
        let (target, name, there) = grant!(self.find(to).await?);
        if there.is_some() {
            return Ok(Err(Refusal::Taken(to.clone())));
        }
        let (files, bytes) = match &slot.file {
            Some(file) => (1, file.size as i64),
            None if target.ids.contains(&slot.id) => return Ok(Err(Refusal::IntoItself(to.clone()))),
            None => {
                // The folder above it may lie deeper than when it went.
                let below = write::below(self.conn, self.state, slot.id).await?;
                if !fits_at(&below, to) {
                    return Ok(Err(Refusal::TooLong(to.clone())));
                }
                (below.files, below.bytes)
            }
        };
        let parent = self.make_way(&target);
        let seq = self.state.next_seq();
        self.version(seq, slot.id, 5, None, Some((old_parent, old_name.clone())));
        let row = self.state.entry(&slot, old_parent, &old_name);
        (row.deleted, row.parent, row.name, row.placed) = (false, parent, name.clone(), true);
        self.state.files += files;
        self.state.bytes += bytes;
        let applied = Applied { entry_id: slot.id, version: slot.seq, path: to.clone() };
        self.state.place(parent, &name, Some(slot));
        Ok(Ok(Outcome::Done(applied)))
    }
}

/// Whether all paths below a folder are within the limits when it lies at `to`.
fn fits_at(below: &write::Below, to: &TreePath) -> bool {
    to.as_str().len() as i64 + below.longest <= MAX_PATH_BYTES as i64
        && to.depth() as i64 + below.depth <= MAX_DEPTH as i64
}

/// Whether what is there is what the caller believes.
fn fits(base: Base, slot: &Slot, path: &TreePath) -> Result<(), Refusal> {
    match base {
        Base::Any => Ok(()),
        Base::Version(v) if v == slot.seq => Ok(()),
        _ => Err(Refusal::Conflict { path: path.clone(), current: Some(Box::new(slot.node(path))) }),
    }
}
