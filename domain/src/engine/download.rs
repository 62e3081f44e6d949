//! From the tree onto the device: contents are read out of the store while the batch before is written.
//!
//! Invariant: what a replaced file held is in history before it is replaced; the baseline follows only what is on the disk.

use std::{collections::HashMap, io};

use bytes::{Bytes, BytesMut};
use driftless_sync::{
    hash::ContentHash,
    manifest::File,
    plan::{Action, Record, Side, Step},
};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::{
    Error, Round, Run,
    ledger::{InTree, OnDevice},
    meter::Flow,
    steps::{disk, dress},
};
use crate::{
    Actor,
    bandwidth::Direction,
    remotes::hands::{SMALL, Source, ToWrite},
    store::{self, Place},
};

/// Files of a batch, and about how many bytes; a large file ends its batch.
const BATCH_FILES: usize = 500;
const BATCH_BYTES: u64 = 24 << 20;
/// Small files read from the store at once.
const READS: usize = 8;

/// A file to be written.
#[derive(Clone)]
struct Item {
    action: Action,
    file: File,
    source: InTree,
}

impl Run<'_> {
    pub(super) async fn download(&mut self, r: &mut Round, actions: Vec<Action>) -> Result<(), Error> {
        let actions = self.keep_what_loses(r, actions).await?;
        let mut items = Vec::with_capacity(actions.len());
        for action in actions {
            let Step::Write { file, from: (Side::Server, from), .. } = &action.step else { continue };
            match r.view.ledger.tree(from) {
                Some(source) => items.push(Item { file: file.clone(), source, action }),
                None => self.tally.later(&action, "file.changed"),
            }
        }
        let mut batches = batches(items).into_iter();
        let (flow, actor) = (self.flow(), self.execution.actor().clone());
        let fetch = |batch| tokio::spawn(fetch(flow.clone(), actor.clone(), batch));
        let mut next = batches.next().map(fetch);
        while let Some(current) = next.take() {
            let batch = current.await?.map_err(|e| self.unless_stopped(e))?;
            next = batches.next().map(fetch);
            self.go_on().await?;
            self.download_batch(r, batch).await?;
        }
        Ok(())
    }

    /// What only the device has, and a policy decided against, goes into history first. Answers the actions that may go on.
    async fn keep_what_loses(&mut self, r: &mut Round, actions: Vec<Action>) -> Result<Vec<Action>, Error> {
        let (losing, mut ready): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|a| matches!(a.step, Step::Write { ingest: true, .. }));
        for part in losing.chunks(BATCH_FILES) {
            let files: Vec<_> = part
                .iter()
                .filter_map(|action| {
                    let on = r.view.ledger.device(&action.path)?;
                    let hash = action.expects.as_ref()?.file()?.hash;
                    Some((action.path.clone(), on.stat, hash))
                })
                .collect();
            let kept: HashMap<_, _> = {
                let paths: Vec<_> = files.iter().map(|(path, ..)| path.clone()).collect();
                paths.into_iter().zip(self.keep(r, files).await?).collect()
            };
            for action in part {
                match kept.get(&action.path) {
                    Some(true) => ready.push(action.clone()),
                    _ => self.tally.later(action, "file.unstable"),
                }
            }
        }
        Ok(ready)
    }

    async fn download_batch(&mut self, r: &mut Round, batch: Vec<(Item, Source)>) -> Result<(), Error> {
        let (mut items, mut files) = (Vec::new(), Vec::new());
        for (item, source) in batch {
            let there = r.view.ledger.device(&item.action.path).map(|on| on.stat);
            files.push(ToWrite {
                path: item.action.path.clone(),
                entry: item.source.entry,
                look: dress(&item.file),
                replaces: item.action.expects.as_ref().and(there),
                hash: item.file.hash,
                source,
            });
            items.push(item);
        }
        let Some(first) = items.first().map(|item| item.action.path.clone()) else { return Ok(()) };
        let hands = r.hands.clone();
        let written = tokio::task::spawn_blocking(move || hands.write(files)).await?;
        let written = written.map_err(|e| self.unless_stopped(disk(&first, &e)))?;
        let mut records: Vec<Record> = Vec::with_capacity(items.len());
        for (item, written) in items.into_iter().zip(written) {
            let path = &item.action.path;
            match written {
                Ok(made) => {
                    let spelling = r.hands.spelling(path).map(Into::into);
                    let on = OnDevice { stat: made.stat, settled: made.settled, spelling };
                    r.view.ledger.on_device(path.clone(), on);
                    if let Some(aside) = made.surprise {
                        self.rescue(r, path, aside).await?;
                    }
                    self.executed(1);
                    self.tally.counts.downloaded += 1;
                    self.tally.counts.bytes_downloaded += item.file.size as i64;
                    self.meter.bytes.fetch_add(item.file.size, std::sync::atomic::Ordering::Relaxed);
                    records.extend(item.action.records.iter().cloned());
                }
                Err(e) => self.not_done(&item.action, e),
            }
        }
        self.record(r, records.iter()).await?;
        self.meter.stopped().map_or(Ok(()), |why| Err(Error::Stopped(why)))
    }
}

fn batches(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for item in items {
        let size = item.file.size;
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

/// Finds the contents of a batch in the store: small files whole, large ones as they come.
async fn fetch(flow: Flow, actor: Actor, batch: Vec<Item>) -> Result<Vec<(Item, Source)>, Error> {
    let domain = flow.domain();
    let mut tx = domain.begin(&actor).await?;
    let rows: Vec<(i64, Option<Vec<Vec<u8>>>)> = sqlx::query_as(
        "select v.seq, v.chunks from unnest($2::bigint[]) u(seq)
         cross join lateral (select seq, chunks from versions where user_id = $1 and seq = u.seq limit 1) v",
    )
    .bind(actor.user_id)
    .bind(batch.iter().map(|item| item.source.version).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    let lists: HashMap<i64, Option<Vec<Vec<u8>>>> = rows.into_iter().collect();
    let mut chunks: Vec<Vec<ContentHash>> = Vec::with_capacity(batch.len());
    for item in &batch {
        chunks.push(match lists.get(&item.source.version) {
            Some(Some(list)) => list.iter().filter_map(|hash| ContentHash::try_from(&hash[..]).ok()).collect(),
            _ if item.file.size == 0 => Vec::new(),
            _ => vec![item.file.hash],
        });
    }
    let store = domain.store().reading();
    let mut places = store::places(&mut tx, actor.user_id, &chunks.concat()).await?.into_iter();
    drop(tx);
    let items = batch.into_iter().zip(chunks).map(|(item, chunks)| {
        let places: Vec<Place> = places.by_ref().take(chunks.len()).collect();
        (item, places)
    });
    let items: Vec<_> = items.collect();
    futures::stream::iter(items)
        .map(|(item, places)| {
            let pieces = flow.limit(Direction::Download, store::stream(store.clone(), places, 0..item.file.size));
            async move {
                let source = if item.file.size > SMALL { feed(pieces) } else { whole(pieces, item.file.size).await? };
                Ok::<_, Error>((item, source))
            }
        })
        .buffered(READS)
        .try_collect()
        .await
}

async fn whole(
    pieces: impl futures::Stream<Item = io::Result<Bytes>> + Send,
    size: u64,
) -> Result<Source, store::Error> {
    let mut pieces = std::pin::pin!(pieces);
    let mut all = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(store::Error::Read)?;
        if piece.len() as u64 == size {
            return Ok(Source::Whole(piece));
        }
        all.extend_from_slice(&piece);
    }
    Ok(Source::Whole(all.freeze()))
}

fn feed(pieces: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Source {
    let (to, from) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            // Whoever writes has given up.
            if to.send(piece).await.is_err() {
                return;
            }
        }
    });
    Source::Pieces(from)
}
