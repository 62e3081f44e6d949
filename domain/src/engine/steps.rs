//! Carrying a plan out, phase by phase, except the moving of contents.
//!
//! Invariant: an action counts as executed once it is committed or on the disk, and its baseline follows at once. One that
//! finds something else than the plan expected is left to the next plan; it has changed nothing.

use driftless_sync::{
    manifest::{File, Node},
    path::TreePath,
    plan::{Action, Phase, Plan, Record, Side, Step},
};
use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

use super::{
    Error, Round, Run,
    ledger::{Entry, Note, OnDevice},
};
use crate::{
    commit::{self, Base, Batch, Change, OnConflict, Outcome, Refusal},
    ingest::Ingested,
    remotes::{
        folder::Stat,
        hands::{Hands, Made, Open},
        replace::{self, Dress},
    },
    tree,
};

/// Changes of a transaction.
const BATCH: usize = 1000;

/// An action of the plan that is one change of the tree.
pub(super) struct TreeAction {
    /// The change.
    pub entry: Entry,
    /// What belongs into the same transaction.
    pub with: Vec<Entry>,
    /// What belongs into the baseline once it is committed.
    pub after: Vec<Record>,
    /// The action.
    pub action: Action,
}

impl Run<'_> {
    /// Carries out the whole plan.
    pub(super) async fn execute(&mut self, r: &mut Round, plan: Plan) -> Result<(), Error> {
        let moving: HashSet<&TreePath> = plan.actions.iter().map(|a| &a.path).collect();
        let stale = std::mem::take(&mut r.view.stale);
        let as_agreed = stale
            .into_iter()
            .filter(|(path, there, _)| !moving.contains(path) && r.view.ledger.tree(path) == Some(*there));
        let refreshed: Vec<Record> = as_agreed.map(|(path, _, content)| Record::Agree { path, content }).collect();
        self.record(r, plan.records.iter().chain(&refreshed)).await?;
        let mut actions = plan.actions.into_iter().peekable();
        while let Some(first) = actions.next() {
            let phase = first.phase;
            let mut part = vec![first];
            // Copies of what loses a conflict build on each other.
            while phase != Phase::Aside
                && let Some(action) = actions.next_if(|a| a.phase == phase)
            {
                part.push(action);
            }
            self.carry_out_part(r, part).await?;
        }
        Ok(())
    }

    async fn carry_out_part(&mut self, r: &mut Round, part: Vec<Action>) -> Result<(), Error> {
        let (mut uploads, mut downloads, mut on_device, mut on_server) = (vec![], vec![], vec![], vec![]);
        for action in part {
            if action.chain.as_ref().is_some_and(|chain| self.tally.broken.contains(chain)) {
                self.tally.later(&action, "file.unstable");
                continue;
            }
            match (&action.step, action.on) {
                (Step::Write { from: (Side::Device, _), .. }, Side::Server) => uploads.push(action),
                (Step::Write { .. }, Side::Device) => downloads.push(action),
                (_, Side::Device) => on_device.push(action),
                (_, Side::Server) => on_server.push(action),
            }
        }
        self.upload(r, uploads).await?;
        self.on_server(r, on_server).await?;
        self.on_device(r, on_device).await?;
        self.download(r, downloads).await
    }

    /// Writes changes of the baseline that need no action.
    pub(super) async fn record<'r>(
        &mut self,
        r: &mut Round,
        records: impl Iterator<Item = &'r Record>,
    ) -> Result<(), Error> {
        let entries: Vec<Entry> = records
            .flat_map(|record| match record {
                Record::Agree { path, .. } => r.view.ledger.agree(path),
                Record::Forget { path } => r.view.ledger.forget(path),
            })
            .collect();
        for part in entries.chunks(BATCH) {
            self.commit(r, part, None).await?;
        }
        Ok(())
    }

    /// Commits changes and notes them. A refused one has changed nothing.
    pub(super) async fn commit(
        &mut self,
        r: &mut Round,
        entries: &[Entry],
        ingested: Option<Ingested>,
    ) -> Result<Vec<Outcome>, Error> {
        let changes = entries.iter().map(|entry| entry.change.clone()).collect();
        let batch = Batch { ingested, ..Batch::new(self.origin, changes) };
        let outcomes = commit::apply(self.domain, self.execution.actor(), batch).await?;
        for (entry, outcome) in entries.iter().zip(&outcomes) {
            if let Ok(applied) = outcome.clone().applied() {
                r.view.ledger.note(&entry.note, &applied);
            }
        }
        Ok(outcomes)
    }

    /// Commits one change an action, then what follows for the baseline. Answers which were carried out.
    pub(super) async fn commit_actions(
        &mut self,
        r: &mut Round,
        changes: Vec<TreeAction>,
        ingested: Option<Ingested>,
    ) -> Result<Vec<bool>, Error> {
        let mut entries: Vec<Entry> = changes.iter().map(|c| c.entry.clone()).collect();
        entries.extend(changes.iter().flat_map(|c| c.with.iter().cloned()));
        let outcomes = self.commit(r, &entries, ingested).await?;
        let mut done = Vec::with_capacity(changes.len());
        let mut after = Vec::new();
        for (change, outcome) in changes.into_iter().zip(outcomes) {
            let deletes = matches!(change.entry.change, Change::Delete { .. });
            done.push(match outcome {
                // Somebody else was first, or put something in: both are as good.
                Outcome::Refused(Refusal::NotFound(_)) if deletes => true,
                Outcome::Refused(Refusal::NotEmpty(_)) if deletes => {
                    self.executed(1);
                    true
                }
                Outcome::Refused(refusal) => {
                    tracing::debug!(path = %change.action.path, %refusal, "left to the next plan");
                    self.tally.later(&change.action, "file.changed");
                    false
                }
                _ => {
                    self.executed(1);
                    after.extend(change.after);
                    true
                }
            });
        }
        self.record(r, after.iter()).await?;
        Ok(done)
    }

    pub(super) fn executed(&mut self, actions: usize) {
        self.tally.counts.executed += actions as i64;
        self.meter.files.fetch_add(actions as u64, Relaxed);
    }

    async fn on_server(&mut self, r: &mut Round, actions: Vec<Action>) -> Result<(), Error> {
        for part in actions.chunks(BATCH) {
            self.go_on().await?;
            let mut changes = Vec::with_capacity(part.len());
            for action in part {
                match self.server_change(r, action).await? {
                    Some(change) => changes.push(change),
                    None => self.tally.later(action, "file.changed"),
                }
            }
            let kinds: Vec<Change> = changes.iter().map(|c| c.entry.change.clone()).collect();
            let done = self.commit_actions(r, changes, None).await?;
            let counts = &mut self.tally.counts;
            for kind in kinds.iter().zip(done).filter_map(|(kind, done)| done.then_some(kind)) {
                match kind {
                    Change::Folder { .. } => counts.folders += 1,
                    Change::Move { .. } => counts.moved += 1,
                    Change::Delete { base: Base::Version(_), .. } => counts.deleted_on_server += 1,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn server_change(&mut self, r: &mut Round, action: &Action) -> Result<Option<TreeAction>, Error> {
        let path = action.path.clone();
        let version = |node: Option<&Node>| node.and_then(|n| n.version).map_or(Base::Absent, Base::Version);
        let (held, with, mut after) = baseline_of(r, action);
        let in_tree = Note::InTree { path: path.clone(), held: held.is_some() };
        let (change, note) = match &action.step {
            Step::CreateFolder => (Change::Folder { path, held }, in_tree),
            Step::SetMetadata { file } => {
                let (modified_at, executable) = (file.modified_at, file.executable);
                let base = version(action.expects.as_ref());
                (Change::Touch { path, modified_at, executable, base, held }, in_tree)
            }
            Step::Move { from, node } => {
                let moved = r.view.ledger.tree(from).map(|there| there.entry);
                if r.view.ledger.base(from) == moved && held.is_some() {
                    // Its row goes along.
                    after.retain(|record| !matches!(record, Record::Forget { path } if path == from));
                }
                let note = Note::Moved { from: from.clone(), to: path.clone(), held: held.is_some() };
                (Change::Move { from: from.clone(), to: path, base: version(Some(node)), held }, note)
            }
            Step::DeleteFile(deletion) => {
                let base = deletion.version.map_or(Base::Any, Base::Version);
                let note = Note::NotInTree(path.clone());
                (Change::Delete { path, base, recursive: false, half_of_move: false }, note)
            }
            Step::DeleteFolder => {
                let note = Note::NotInTree(path.clone());
                (Change::Delete { path, base: Base::Any, recursive: false, half_of_move: false }, note)
            }
            Step::Write { file, from: (_, from), .. } => {
                let Some(source) = r.view.ledger.tree(from) else { return Ok(None) };
                let mut tx = self.execution.begin().await?;
                let user = self.execution.actor().user_id;
                let found = tree::contents(&mut tx, user, source.version).await?;
                let Some((_, _, contents)) = found.filter(|(_, info, _)| info.hash == file.hash) else {
                    return Ok(None);
                };
                let (modified_at, executable) = (file.modified_at, file.executable);
                let (base, on_conflict) = (version(action.expects.as_ref()), OnConflict::Refuse);
                (Change::Put { path, contents, modified_at, executable, base, on_conflict, held }, in_tree)
            }
        };
        Ok(Some(TreeAction { entry: Entry { change, note }, with, after, action: action.clone() }))
    }

    async fn on_device(&mut self, r: &mut Round, actions: Vec<Action>) -> Result<(), Error> {
        let (deletions, others): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|a| matches!(a.step, Step::DeleteFile(_)));
        for part in deletions.chunks(BATCH) {
            self.delete_on_device(r, part).await?;
        }
        for part in others.chunks(BATCH) {
            self.go_on().await?;
            let work: Vec<_> = part.iter().map(|a| (a.clone(), before(r, a))).collect();
            let hands = r.hands.clone();
            let results = tokio::task::spawn_blocking(move || {
                let open = Open::default();
                let made: Vec<_> =
                    work.iter().map(|(action, there)| one_on_device(&hands, &open, action, *there)).collect();
                open.sync().map(|()| made)
            });
            let results = results.await?.map_err(|e| disk(&part[0].path, &e))?;
            let mut records = Vec::new();
            for (action, result) in part.iter().zip(results) {
                match result {
                    Ok(now) => {
                        self.note_on_device(r, action, now);
                        records.extend(action.records.iter().cloned());
                        self.executed(1);
                    }
                    // It stays, and that is no failure.
                    Err(replace::Error::NotEmpty) => self.executed(1),
                    Err(e) => self.not_done(action, e),
                }
            }
            self.record(r, records.iter()).await?;
        }
        Ok(())
    }

    fn note_on_device(&mut self, r: &mut Round, action: &Action, now: Option<(Stat, bool)>) {
        let counts = &mut self.tally.counts;
        match &action.step {
            Step::CreateFolder => counts.folders += 1,
            Step::Move { from, .. } => {
                counts.moved += 1;
                r.view.ledger.not_on_device(from);
            }
            _ => {}
        }
        match now {
            Some((stat, settled)) => {
                let spelling = r.hands.spelling(&action.path).map(Into::into);
                r.view.ledger.on_device(action.path.clone(), OnDevice { stat, settled, spelling });
            }
            None => drop(r.view.ledger.not_on_device(&action.path)),
        }
    }

    /// An action that the disk did not take: left to the next plan when somebody was there first, else a failure.
    pub(super) fn not_done(&mut self, action: &Action, e: replace::Error) {
        match e {
            replace::Error::Disk(e) if e.kind() != std::io::ErrorKind::NotFound => self.tally.fail(action, e),
            _ => self.tally.later(action, "file.unstable"),
        }
    }

    async fn delete_on_device(&mut self, r: &mut Round, part: &[Action]) -> Result<(), Error> {
        self.go_on().await?;
        let mut files = Vec::with_capacity(part.len());
        for action in part {
            let print = r.view.ledger.device(&action.path).map(|on| on.stat.print);
            files.push((action.path.clone(), r.view.ledger.base(&action.path).unwrap_or(0), print.unwrap_or_default()));
        }
        let mut tx = self.execution.begin().await?;
        let user = self.execution.actor().user_id;
        // Counted before, so that a run that is killed again and again can't delete more than it may.
        commit::count_deletions(&mut tx, user, r.device.id, "device", part.len() as i64).await?;
        tx.commit().await?;
        let (hands, list) = (r.hands.clone(), files.clone());
        let gone =
            tokio::task::spawn_blocking(move || hands.delete(&list)).await?.map_err(|e| disk(&part[0].path, &e))?;
        let mut records = Vec::new();
        for (action, gone) in part.iter().zip(gone) {
            match gone {
                Ok(surprise) => {
                    r.view.ledger.not_on_device(&action.path);
                    if let Some(aside) = surprise {
                        self.rescue(r, &action.path, aside).await?;
                    }
                    records.extend(action.records.iter().cloned());
                    self.executed(1);
                    self.tally.counts.deleted_on_device += 1;
                }
                Err(e) => self.not_done(action, e),
            }
        }
        self.record(r, records.iter()).await
    }
}

/// The baseline that travels with a change of the tree, what else belongs into its transaction, and what comes after it.
pub(super) fn baseline_of(r: &Round, action: &Action) -> (Option<commit::Held>, Vec<Entry>, Vec<Record>) {
    let own = |record: &&Record| matches!(record, Record::Agree { path, .. } if *path == action.path);
    let mut after: Vec<Record> = action.records.iter().filter(|record| !own(record)).cloned().collect();
    let Some(agree) = action.records.iter().find(own) else { return (None, Vec::new(), after) };
    let (held, with) = r.view.ledger.hold(&action.path);
    if held.is_none() {
        // The entry's row waits where it is; the ledger sees to it once the version is there.
        after.push(agree.clone());
    }
    (held, with, after)
}

fn before(r: &Round, action: &Action) -> Option<Stat> {
    let path = match &action.step {
        Step::Move { from, .. } => from,
        _ => &action.path,
    };
    r.view.ledger.device(path).map(|on| on.stat)
}

/// What is there afterwards; none for nothing.
fn one_on_device(
    hands: &Hands,
    open: &Open,
    action: &Action,
    there: Option<Stat>,
) -> Result<Option<(Stat, bool)>, replace::Error> {
    let now = |made: Made| Some((made.stat, made.settled));
    match (&action.step, there) {
        (Step::CreateFolder, _) => Ok(Some((hands.make_folder(open, &action.path)?, false))),
        (Step::DeleteFolder, _) => hands.remove_folder(open, &action.path).map(|()| None),
        (Step::Move { from, .. }, Some(stat)) => hands.shift(from, &action.path, &stat.print).map(now),
        (Step::SetMetadata { file }, Some(stat)) => hands.touch(&action.path, dress(file), &stat.print).map(now),
        _ => Err(replace::Error::Changed),
    }
}

/// How a file of the tree is to look on the disk.
pub(super) fn dress(file: &File) -> Dress {
    let mtime_ns = file.modified_at.and_then(|at| at.timestamp_nanos_opt()).unwrap_or(0);
    Dress { mtime_ns, executable: file.executable.unwrap_or(false) }
}

pub(super) fn disk(path: &TreePath, e: &std::io::Error) -> Error {
    Error::Disk { path: path.to_string(), problem: e.to_string() }
}
