//! What this process has done, counted in atomics: the source of `queue.stats` (written each two seconds) and of metrics.
//!
//! A killed process loses the two seconds it had not written.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the histograms' buckets in seconds; one more bucket holds what is longer.
pub const BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> Distribution {
        Distribution {
            counts: self.buckets.iter().map(|b| b.load(Relaxed)).collect(),
            sum_seconds: self.micros.load(Relaxed) as f64 / 1e6,
        }
    }
}

/// The counters of one kind of job in one queue.
#[derive(Debug)]
pub(crate) struct KindStats {
    pub queue: String,
    pub kind: String,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub dead: AtomicU64,
    pub run: Histogram,
    pub wait: Histogram,
    /// What has been written to `queue.stats` already.
    written: Mutex<Written>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Written {
    done: u64,
    failed: u64,
    dead: u64,
    run_ms: u64,
    wait_ms: u64,
}

/// Counts of one kind since the last write.
#[derive(Debug, Clone)]
pub(crate) struct Delta {
    pub queue: String,
    pub kind: String,
    pub done: i64,
    pub failed: i64,
    pub dead: i64,
    pub run_ms: i64,
    pub wait_ms: i64,
}

/// Durations by bucket of [`BUCKETS`]; the last count has no bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Not cumulative.
    pub counts: Vec<u64>,
    /// All durations added up, in seconds.
    pub sum_seconds: f64,
}

/// What one process did with one kind of job since it started.
#[derive(Debug, Clone, PartialEq)]
pub struct KindMetrics {
    /// Queue of the jobs.
    pub queue: String,
    /// Kind of the jobs.
    pub kind: String,
    /// Runs that ended well.
    pub done: u64,
    /// Runs that failed, those of dead jobs included.
    pub failed: u64,
    /// Jobs that are dead for good.
    pub dead: u64,
    /// How long handlers ran.
    pub run: Distribution,
    /// How long jobs waited from being due until their claim.
    pub pickup: Distribution,
}

/// What one process did since it started.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// By queue and kind.
    pub kinds: Vec<KindMetrics>,
    /// Leases of other processes that this one found to be over.
    pub leases_expired: u64,
    /// How often the listening connection had to be made anew.
    pub listener_reconnects: u64,
    /// Handlers at work.
    pub running: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    kinds: Mutex<HashMap<String, HashMap<String, Arc<KindStats>>>>,
    pub leases_expired: AtomicU64,
    pub listener_reconnects: AtomicU64,
}

impl Stats {
    pub fn kind(&self, queue: &str, kind: &str) -> Arc<KindStats> {
        let mut queues = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = queues.get(queue).and_then(|kinds| kinds.get(kind)) {
            return found.clone();
        }
        let fresh = Arc::new(KindStats {
            queue: queue.to_owned(),
            kind: kind.to_owned(),
            done: AtomicU64::default(),
            failed: AtomicU64::default(),
            dead: AtomicU64::default(),
            run: Histogram::default(),
            wait: Histogram::default(),
            written: Mutex::default(),
        });
        queues.entry(queue.to_owned()).or_default().insert(kind.to_owned(), fresh.clone());
        fresh
    }

    fn all(&self) -> Vec<Arc<KindStats>> {
        let queues = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        queues.values().flat_map(|kinds| kinds.values().cloned()).collect()
    }

    /// What changed since the last call. What is returned counts as written.
    pub fn drain(&self) -> Vec<Delta> {
        self.all().iter().filter_map(|kind| kind.drain()).collect()
    }

    pub fn read(&self, running: u64) -> Metrics {
        let kinds = self.all().into_iter().map(|k| KindMetrics {
            queue: k.queue.clone(),
            kind: k.kind.clone(),
            done: k.done.load(Relaxed),
            failed: k.failed.load(Relaxed),
            dead: k.dead.load(Relaxed),
            run: k.run.read(),
            pickup: k.wait.read(),
        });
        Metrics {
            kinds: kinds.collect(),
            leases_expired: self.leases_expired.load(Relaxed),
            listener_reconnects: self.listener_reconnects.load(Relaxed),
            running,
        }
    }
}

impl KindStats {
    fn drain(&self) -> Option<Delta> {
        let now = Written {
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dead: self.dead.load(Relaxed),
            run_ms: self.run.micros.load(Relaxed) / 1000,
            wait_ms: self.wait.micros.load(Relaxed) / 1000,
        };
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *written, now);
        let change = |now: u64, before: u64| i64::try_from(now - before).unwrap_or(i64::MAX);
        (before != now).then(|| Delta {
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            done: change(now.done, before.done),
            failed: change(now.failed, before.failed),
            dead: change(now.dead, before.dead),
            run_ms: change(now.run_ms, before.run_ms),
            wait_ms: change(now.wait_ms, before.wait_ms),
        })
    }
}
