//! How far a run is, whether it goes on, and how fast its bytes may flow.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::Stop;
use crate::{Actor, Domain, bandwidth::Direction, remotes::scan::Gauge, runs::Progress};

/// How far the run is, and whether to go on; shared with the threads that do the work.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub scan: Gauge,
    why: OnceLock<Stop>,
    stopping: CancellationToken,
    pub files: AtomicU64,
    pub files_of: AtomicU64,
    pub bytes: AtomicU64,
    pub bytes_of: AtomicU64,
}

impl Meter {
    /// Ends the run at its next safe point. The first reason holds.
    pub fn stop(&self, why: Stop) {
        self.why.get_or_init(|| why);
        self.scan.cancel.store(true, Relaxed);
        self.stopping.cancel();
    }

    pub fn stopped(&self) -> Option<Stop> {
        self.why.get().copied()
    }

    pub fn progress(&self) -> Progress {
        let number = |n: &AtomicU64| n.load(Relaxed) as i64;
        match number(&self.files_of) {
            // Before there is a plan: what the scan has seen.
            0 => Progress {
                files_done: number(&self.scan.names),
                bytes_done: number(&self.scan.bytes),
                ..Progress::default()
            },
            files_total => Progress {
                files_done: number(&self.files),
                files_total,
                bytes_done: number(&self.bytes),
                bytes_total: number(&self.bytes_of),
            },
        }
    }
}

/// A remote's bytes on their way: within the bandwidth limit of its user, until the run is told to stop.
#[derive(Clone)]
pub(super) struct Flow {
    domain: Domain,
    user_id: i64,
    meter: Arc<Meter>,
}

impl Flow {
    pub fn new(domain: &Domain, actor: &Actor, meter: &Arc<Meter>) -> Self {
        Flow { domain: domain.clone(), user_id: actor.user_id, meter: meter.clone() }
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The pieces as they may flow; a piece that comes after the stop is an error.
    pub fn limit<S: Stream<Item = io::Result<Bytes>> + Send + 'static>(
        &self,
        direction: Direction,
        pieces: S,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static + use<S> {
        let flow = self.clone();
        pieces.then(move |piece| {
            let flow = flow.clone();
            async move {
                let piece = piece?;
                tokio::select! {
                    biased;
                    () = flow.meter.stopping.cancelled() => Err(io::ErrorKind::Interrupted.into()),
                    () = flow.domain.meter().take(flow.user_id, direction, piece.len()) => Ok(piece),
                }
            }
        })
    }
}
