//! From the tree onto the device: contents are read out of the store while the batch before is written and the one before that
//! is brought to the disk and recorded.
//!
//! Invariant: what a replaced file held is in history before it is replaced; the baseline follows only what is on the disk.

use std::{collections::HashMap, io, pin::pin};

use bytes::{Bytes, BytesMut};
use driftless_sync::{
    hash::ContentHash,
    manifest::File,
    plan::{Action, Record, Side, Step},
};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Error, Round, Run,
    ledger::{InTree, OnDevice},
    meter::Flow,
    steps::{disk, dress},
};
use crate::{
    Actor,
    bandwidth::Direction,
    remotes::{
        hands::{Made, SMALL, Source, ToWrite},
        replace,
    },
    store::{self, Place},
};

/// Files of a batch, and about how many bytes; a large file ends its batch.
const BATCH_FILES: usize = 500;
const BATCH_BYTES: u64 = 16 << 20;

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
        let mut writing = None;
        let done = self.download_batches(r, batches(items), &mut writing).await;
        if let Some(Writing { written, .. }) = writing {
            // Nobody goes on before the hands rest. What they have written, the next plan finds.
            let _ = written.await;
        }
        done
    }

    async fn download_batches(
        &mut self,
        r: &mut Round,
        batches: Vec<Vec<Item>>,
        writing: &mut Option<Writing>,
    ) -> Result<(), Error> {
        let mut batches = batches.into_iter();
        let (flow, actor) = (self.flow(), self.execution.actor().clone());
        let fetch = |batch| tokio::spawn(fetch(flow.clone(), actor.clone(), batch));
        let mut next = batches.next().map(fetch);
        while let Some(current) = next.take() {
            let batch = current.await?.map_err(|e| self.unless_stopped(e))?;
            next = batches.next().map(fetch);
            self.go_on().await?;
            if let Some(before) = writing.replace(begin(r, batch)) {
                self.finish(r, before).await?;
            }
        }
        match writing.take() {
            Some(last) => self.finish(r, last).await,
            None => Ok(()),
        }
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

    /// Waits until a batch is on the disk, then records it.
    async fn finish(&mut self, r: &mut Round, batch: Writing) -> Result<(), Error> {
        let Writing { items, written } = batch;
        let Some(first) = items.first().map(|item| item.action.path.clone()) else { return Ok(()) };
        let written = written.await?.map_err(|e| self.unless_stopped(disk(&first, &e)))?;
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

/// A batch in the hands that write it.
struct Writing {
    items: Vec<Item>,
    written: JoinHandle<io::Result<Vec<Result<Made, replace::Error>>>>,
}

/// Begins to write a batch.
fn begin(r: &Round, batch: Vec<(Item, Source)>) -> Writing {
    let (mut items, mut files) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
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
    let hands = r.hands.clone();
    Writing { items, written: tokio::task::spawn_blocking(move || hands.write(files)) }
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
    // The small files follow each other as if they were one: those that came in together lie together.
    let (mut small, mut found, mut each) =
        (Vec::new(), Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for (item, chunks) in batch.iter().zip(chunks) {
        let places: Vec<Place> = places.by_ref().take(chunks.len()).collect();
        match item.file.size > SMALL {
            true => each.push(Lying::Alone(places)),
            false => {
                each.push(Lying::Among(places.iter().map(|place| place.length).sum()));
                small.extend(places);
            }
        }
    }
    let all = small.iter().map(|place| place.length).sum();
    let mut small = pin!(flow.limit(Direction::Download, store::stream(store.clone(), small, 0..all)));
    let mut at_hand = Bytes::new();
    for (item, lying) in batch.into_iter().zip(each) {
        let source = match lying {
            Lying::Among(length) => {
                let bytes = take(&mut small, &mut at_hand, length as usize).await;
                Source::Whole(bytes.map_err(store::Error::Read)?)
            }
            Lying::Alone(places) => {
                let pieces = store::stream(store.clone(), places, 0..item.file.size);
                feed(flow.limit(Direction::Download, pieces))
            }
        };
        found.push((item, source));
    }
    Ok(found)
}

/// Where the bytes of a file of a batch lie.
enum Lying {
    /// So many of the stream of all small ones.
    Among(u64),
    /// Here.
    Alone(Vec<Place>),
}

/// The next `size` bytes; fewer when there are no more. Copied only where they come in several pieces.
async fn take(
    pieces: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    at_hand: &mut Bytes,
    size: usize,
) -> io::Result<Bytes> {
    let mut taken = BytesMut::new();
    loop {
        let wanted = size - taken.len();
        if at_hand.len() >= wanted {
            let rest = at_hand.split_to(wanted);
            if taken.is_empty() {
                return Ok(rest);
            }
            taken.extend_from_slice(&rest);
            return Ok(taken.freeze());
        }
        taken.extend_from_slice(&std::mem::take(at_hand));
        match pieces.try_next().await? {
            Some(piece) => *at_hand = piece,
            None => return Ok(taken.freeze()),
        }
    }
}

fn feed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Source {
    let (to, from) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            // Whoever writes has given up.
            if to.send(piece).await.is_err() {
                return;
            }
        }
    });
    Source::Pieces(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn files_are_cut_out_of_the_stream_wherever_its_pieces_end(
            sizes in prop::collection::vec(0usize..40, 0..20),
            pieces in prop::collection::vec(1usize..50, 1..8),
        ) {
            let total = sizes.iter().sum::<usize>();
            let all = Bytes::from((0..total).map(|n| n as u8).collect::<Vec<_>>());
            let (mut stream, mut at) = (Vec::new(), 0);
            for piece in pieces.iter().cycle().take_while(|_| total > 0) {
                let end = total.min(at + piece);
                stream.push(Ok(all.slice(at..end)));
                at = end;
                if at == total {
                    break;
                }
            }
            let mut stream = futures::stream::iter(stream);
            let (mut at_hand, mut at) = (Bytes::new(), 0);
            for size in sizes {
                let file = futures::executor::block_on(take(&mut stream, &mut at_hand, size)).expect("no error");
                prop_assert_eq!(file, all.slice(at..at + size));
                at += size;
            }
            let end = futures::executor::block_on(take(&mut stream, &mut at_hand, 1)).expect("no error");
            prop_assert!(end.is_empty(), "a file that is cut short is short");
        }
    }
}
