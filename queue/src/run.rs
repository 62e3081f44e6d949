//! One run of a job inside this process: what the lanes claimed, what the handler holds, and how the run may end.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{Claim, stats::KindStats};

/// A claimed job on its way to its handler.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) run: Arc<Run>,
    pub(crate) payload: String,
    pub(crate) priority: i16,
}

/// How far a handler has come, for people to read. The unit is the handler's: files, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, 0 while unknown.
    pub total: u64,
    /// What is being done.
    pub message: String,
}

/// Why a run is asked to stop. The first reason stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// A person cancelled the job.
    Cancelled = 1,
    /// The run is longer than its queue allows.
    TimeLimit = 2,
    /// The process drains; the job will run again elsewhere, with this attempt given back.
    Drain = 3,
    /// The job belongs to somebody else by now; nothing may be written.
    LeaseLost = 4,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub claim: Claim,
    pub max_attempts: i16,
    pub keep: bool,
    pub trace: Option<String>,
    pub kind: Arc<KindStats>,
    /// Told to the handler, which may end in its own way for a while.
    pub stop: CancellationToken,
    /// Ends the run whatever the handler does.
    pub taken: CancellationToken,
    ended: AtomicBool,
    reason: AtomicU8,
    started: OnceLock<Instant>,
    stopped: OnceLock<Instant>,
    progress: Mutex<Option<Progress>>,
}

impl Run {
    pub fn new(claim: Claim, max_attempts: i16, keep: bool, trace: Option<String>, kind: Arc<KindStats>) -> Self {
        Self {
            claim,
            max_attempts,
            keep,
            trace,
            kind,
            stop: CancellationToken::new(),
            taken: CancellationToken::new(),
            ended: AtomicBool::new(false),
            reason: AtomicU8::new(0),
            started: OnceLock::new(),
            stopped: OnceLock::new(),
            progress: Mutex::new(None),
        }
    }

    pub fn start(&self) {
        let _ = self.started.set(Instant::now());
    }

    /// How long the handler has been running.
    pub fn age(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// True for the first who says that the run has ended.
    pub fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// Asks the handler to end.
    pub fn stop(&self, reason: Stop) {
        let _ = self.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.stopped.set(Instant::now());
        self.stop.cancel();
    }

    /// How long ago the handler was asked to end.
    pub fn stopped_for(&self) -> Duration {
        self.stopped.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Ends the run now.
    pub fn take(&self, reason: Stop) {
        self.stop(reason);
        self.taken.cancel();
    }

    pub fn reason(&self) -> Option<Stop> {
        match self.reason.load(Ordering::Acquire) {
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::TimeLimit),
            3 => Some(Stop::Drain),
            4 => Some(Stop::LeaseLost),
            _ => None,
        }
    }

    pub fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// The progress that was not written yet.
    pub fn take_progress(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the queue does with a job whose run ended in any other way than plainly done.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub claim: Claim,
    pub ending: Ending,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    /// Run again after the delay, or after the usual backoff; dead when the attempts are used up.
    Retry(Option<Duration>),
    /// Never again.
    Dead,
    /// As if it had not been claimed.
    HandBack,
    /// Delete; leave a row in `finished`.
    Cancelled,
    /// Delete; leave a row in `finished` when the job is marked keep.
    Done,
}

impl Ending {
    pub fn code(self) -> i16 {
        match self {
            Self::Retry(_) => 0,
            Self::Dead => 1,
            Self::HandBack => 2,
            Self::Cancelled => 3,
            Self::Done => 4,
        }
    }

    pub fn delay_seconds(self) -> Option<f64> {
        match self {
            Self::Retry(Some(delay)) => Some(delay.as_secs_f64()),
            _ => None,
        }
    }
}
