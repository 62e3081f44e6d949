//! How far a run is, and whether it goes on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use super::Stop;
use crate::{remotes::scan::Gauge, runs::Progress};

/// How far the run is, and whether to go on; shared with the threads that do the work.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub scan: Gauge,
    stop: AtomicU8,
    pub files: AtomicU64,
    pub files_of: AtomicU64,
    pub bytes: AtomicU64,
    pub bytes_of: AtomicU64,
}

impl Meter {
    pub fn stop(&self, why: Stop) {
        let code = match why {
            Stop::Cancelled => 1,
            Stop::Draining => 2,
            Stop::Superseded => 3,
        };
        self.stop.store(code, Relaxed);
        self.scan.cancel.store(true, Relaxed);
    }

    pub fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Relaxed) {
            0 => None,
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::Draining),
            _ => Some(Stop::Superseded),
        }
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
