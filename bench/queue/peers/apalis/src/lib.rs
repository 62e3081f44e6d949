//! What both generations share: the job, the settings in the environment (N BATCH ECONC RATE), and the figures.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noop {
    /// When it was enqueued, in microseconds.
    pub t: u64,
}

/// What the handlers have seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    count: Arc<AtomicUsize>,
    waits: Arc<Mutex<Vec<u64>>>,
}

impl Seen {
    pub fn note(&self, job: &Noop) {
        self.waits.lock().expect("no handler panics").push(now().saturating_sub(job.t));
        self.count.fetch_add(1, Relaxed);
    }

    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// p50 and p99 in milliseconds.
    pub fn latency(&self) -> String {
        let mut waits = self.waits.lock().expect("no handler panics").clone();
        waits.sort_unstable();
        let at = |share: usize| waits.get(waits.len() * share / 100).map_or(f64::NAN, |micros| *micros as f64 / 1e3);
        format!("{:.2} {:.2}", at(50), at(99))
    }
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    u64::try_from(since.as_micros()).expect("micros fit for half a million years")
}

pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
