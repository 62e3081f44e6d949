//! From the device into the tree: many files an ingest, many changes a commit.
//!
//! Invariant: what is committed is byte for byte what the scan saw under that name, and nobody wrote to it while it was read.
//! The next batches are read and stored while one is committed.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use driftless_sync::{
    hash::ContentHash,
    manifest::File,
    path::TreePath,
    plan::{Action, Side, Step},
};
use futures::{Stream, StreamExt, TryStreamExt};

use super::{
    Error, Meter, Round, Run,
    ledger::{Entry, Note},
    meter::Flow,
    steps::{TreeAction, baseline_of},
    view,
};
use crate::{
    Actor, Domain,
    bandwidth::Direction,
    commit::{Base, Change, OnConflict, Outcome},
    ingest::{self, Contents, Ingest, Ingested},
    remotes::{
        folder::Stat,
        hands::{Hands, Readable, SMALL, ToRead, pieces},
        replace::Aside,
    },
};

/// Files of a batch, and about how many bytes of small ones; a large file ends its batch.
const BATCH_FILES: usize = 1000;
const BATCH_BYTES: u64 = 12 << 20;
/// Batches on their way into the store while one is committed.
const AHEAD: usize = 2;
/// How often a file that is still being written to is taken in again.
const RESCUES: usize = 10;

/// A file to be taken in.
struct Item {
    action: Action,
    file: File,
    read: ToRead,
}

impl Run<'_> {
    pub(super) async fn upload(&mut self, r: &mut Round, actions: Vec<Action>) -> Result<(), Error> {
        let mut items = Vec::with_capacity(actions.len());
        for action in actions {
            let Step::Write { file, from: (Side::Device, from), .. } = &action.step else { continue };
            match r.view.ledger.device(from) {
                Some(on) => {
                    let read = ToRead { path: from.clone(), print: on.stat.print };
                    items.push(Item { file: file.clone(), read, action });
                }
                None => self.tally.later(&action, "file.unstable"),
            }
        }
        let (taker, hands) = (self.taker(), r.hands.clone());
        let batches = batches(items).into_iter().map(|batch| take_batch(taker.clone(), hands.clone(), batch));
        // Read, hashed and brought to the disk ahead of the commit, each in a task of its own.
        let mut taken = futures::stream::iter(batches).map(tokio::spawn).buffered(AHEAD);
        while let Some(batch) = taken.next().await {
            let batch = batch??;
            self.go_on().await?;
            self.commit_batch(r, batch).await?;
        }
        Ok(())
    }

    async fn commit_batch(&mut self, r: &mut Round, batch: Taken) -> Result<(), Error> {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (item, contents) in batch.items {
            match contents {
                Some(contents) => {
                    bytes += contents.size();
                    changes.push(put(r, item, contents));
                }
                None => self.tally.later(&item.action, "file.unstable"),
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let done = self.commit_actions(r, changes, Some(batch.ingested)).await?;
        self.tally.counts.uploaded += done.iter().filter(|done| **done).count() as i64;
        self.tally.counts.bytes_uploaded += bytes as i64;
        Ok(())
    }

    fn taker(&self) -> Taker {
        Taker { domain: self.domain.clone(), actor: self.execution.actor().clone(), meter: self.meter.clone() }
    }

    /// Puts what the device holds at these paths into history, beside what is current. Answers for each whether it is there.
    pub(super) async fn keep(
        &mut self,
        r: &mut Round,
        files: Vec<(TreePath, Stat, ContentHash)>,
    ) -> Result<Vec<bool>, Error> {
        let reads: Vec<ToRead> =
            files.iter().map(|(path, stat, _)| ToRead { path: path.clone(), print: stat.print }).collect();
        let (hands, list) = (r.hands.clone(), reads.clone());
        let readable = tokio::task::spawn_blocking(move || hands.read(&list)).await?;
        let taker = self.taker();
        let mut ingest = taker.ingest();
        let (mut entries, mut kept) = (Vec::new(), Vec::with_capacity(files.len()));
        for (((path, stat, hash), read), readable) in files.into_iter().zip(&reads).zip(readable) {
            let contents = taker.take_in(&mut ingest, readable, read, Some(hash)).await?;
            kept.push(contents.is_some());
            if let Some(contents) = contents {
                entries.push(keep_aside(path, contents, &stat));
            }
        }
        let ingested = ingest.finish().await?;
        if !entries.is_empty() {
            let outcomes = self.commit(r, &entries, Some(ingested)).await?;
            let mut outcomes = outcomes.iter();
            for kept in kept.iter_mut().filter(|kept| **kept) {
                *kept = outcomes.next().is_some_and(|outcome| !matches!(outcome, Outcome::Refused(_)));
            }
        }
        Ok(kept)
    }

    /// What came out of `path` is not what was planned: it goes into the file's history before it goes.
    pub(super) async fn rescue(&mut self, r: &mut Round, path: &TreePath, aside: Aside) -> Result<(), Error> {
        let folder = path.parent().unwrap_or_else(TreePath::root);
        self.keep_temporary(r, &folder, &aside.name, path).await
    }

    /// Puts the file `name` of ours in `folder` into the history of `path`, then removes it.
    pub(super) async fn keep_temporary(
        &mut self,
        r: &mut Round,
        folder: &TreePath,
        name: &str,
        path: &TreePath,
    ) -> Result<(), Error> {
        for _ in 0..RESCUES {
            let (hands, at, temporary) = (r.hands.clone(), folder.clone(), name.to_owned());
            let opened = tokio::task::spawn_blocking(move || hands.open_temporary(&at, &temporary)).await?;
            let (file, stat) = match opened {
                Ok(opened) => opened,
                // Whoever took the run over has dealt with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(super::steps::disk(path, &e)),
            };
            let taker = self.taker();
            let mut ingest = taker.ingest();
            let contents = ingest.add(taker.counted(pieces(file))).await.map_err(|e| taker.broke_off(path, e))?;
            let ingested = ingest.finish().await?;
            let kept = self.commit(r, &[keep_aside(path.clone(), contents, &stat)], Some(ingested)).await?;
            if let Some(Outcome::Refused(refusal)) = kept.first() {
                return Err(Error::Disk { path: path.to_string(), problem: refusal.to_string() });
            }
            let (hands, at, temporary) = (r.hands.clone(), folder.clone(), name.to_owned());
            let gone = tokio::task::spawn_blocking(move || hands.discard(&at, &temporary, &stat.print)).await?;
            if gone.map_err(|e| super::steps::disk(path, &e))? {
                return Ok(());
            }
        }
        // Somebody goes on writing to it: it stays aside for the next run.
        Ok(())
    }
}

/// What it takes to take contents in, beside the run.
#[derive(Clone)]
struct Taker {
    domain: Domain,
    actor: Actor,
    meter: Arc<Meter>,
}

impl Taker {
    fn ingest(&self) -> Ingest {
        Ingest::new(&self.domain, &self.actor)
    }

    /// None: it is no longer what the scan saw.
    async fn take_in(
        &self,
        ingest: &mut Ingest,
        readable: Option<Readable>,
        was: &ToRead,
        hash: Option<ContentHash>,
    ) -> Result<Option<Contents>, Error> {
        let (contents, same) = match readable {
            None => return Ok(None),
            Some(Readable::Whole(bytes)) => {
                let source = futures::stream::iter((!bytes.is_empty()).then_some(Ok(bytes)));
                let contents = ingest.add(self.counted(source)).await;
                (contents.map_err(|e| self.broke_off(&was.path, e))?, true)
            }
            Some(Readable::Large(file)) => {
                let again = file.try_clone().map_err(|e| super::steps::disk(&was.path, &e))?;
                let contents = ingest.add(self.counted(pieces(file))).await;
                (contents.map_err(|e| self.broke_off(&was.path, e))?, Hands::unchanged(&again, &was.print))
            }
        };
        Ok(Some(contents).filter(|contents| same && hash.is_none_or(|hash| hash == contents.hash())))
    }

    /// Bytes on their way, counted.
    fn counted(
        &self,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let meter = self.meter.clone();
        Flow::new(&self.domain, &self.actor, &self.meter).limit(Direction::Upload, pieces).inspect_ok(move |piece| {
            meter.bytes.fetch_add(piece.len() as u64, Relaxed);
        })
    }

    /// Contents that ended early: because the run was told to stop, or because the disk did not give them out.
    fn broke_off(&self, path: &TreePath, e: ingest::Error) -> Error {
        match (e, self.meter.stopped()) {
            (ingest::Error::Source(_), Some(why)) => Error::Stopped(why),
            (ingest::Error::Source(cause), None) => Error::Disk { path: path.to_string(), problem: cause.to_string() },
            (e, _) => e.into(),
        }
    }
}

/// A batch whose contents are on the disk of the store, waiting for its commit.
struct Taken {
    items: Vec<(Item, Option<Contents>)>,
    ingested: Ingested,
}

async fn take_batch(taker: Taker, hands: Arc<Hands>, batch: Vec<Item>) -> Result<Taken, Error> {
    let reads: Vec<ToRead> = batch.iter().map(|item| item.read.clone()).collect();
    let readable = tokio::task::spawn_blocking(move || hands.read(&reads)).await?;
    let mut ingest = taker.ingest();
    let mut items = Vec::with_capacity(batch.len());
    for (item, readable) in batch.into_iter().zip(readable) {
        let contents = taker.take_in(&mut ingest, readable, &item.read, Some(item.file.hash)).await?;
        items.push((item, contents));
    }
    Ok(Taken { items, ingested: ingest.finish().await? })
}

fn batches(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for item in items {
        let size = item.read.print.size;
        bytes += size;
        batch.push(item);
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES || size > SMALL {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

fn put(r: &Round, item: Item, contents: Contents) -> TreeAction {
    let (held, with, after) = baseline_of(r, &item.action);
    let path = item.action.path.clone();
    let version = item.action.expects.as_ref().and_then(|node| node.version);
    let note = Note::InTree { path: path.clone(), held: held.is_some() };
    let change = Change::Put {
        path,
        contents,
        modified_at: item.file.modified_at,
        executable: item.file.executable,
        base: version.map_or(Base::Absent, Base::Version),
        on_conflict: OnConflict::Refuse,
        held,
    };
    TreeAction { entry: Entry { change, note }, with, after, action: item.action }
}

fn keep_aside(path: TreePath, contents: Contents, stat: &Stat) -> Entry {
    let (modified_at, executable) = (view::modified_at(stat), stat.executable());
    Entry { change: Change::Keep { path, contents, modified_at, executable }, note: Note::Nothing }
}
