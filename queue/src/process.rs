//! A process that works: its row in `queue.workers`, its feeds, and the tasks that keep them going.
//!
//! Each start has a new token, and so has each life after a lost lease: claims of an earlier life can't be mistaken for ours.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error, JobId, feed::Feed, heartbeat, lane, look, run::Run, run::Stop, stats::Metrics, stats::Stats, sweep,
};

/// Connections for lanes, looks and sweeps of one process; the heartbeat and the listener have their own.
const CONNECTIONS: u32 = 5;

/// How long handlers may run on after the process was told to end.
pub const DRAIN_GRACE: Duration = Duration::from_secs(20);

/// How long a run may take to end after it was asked to.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

/// A process none of whose tasks has moved for this long lets its lease go: its jobs are better off elsewhere.
const NUMB_AFTER: Duration = Duration::from_secs(60);

/// This process as a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Process {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// Host and boot id: no two processes ever have the same.
    pub name: String,
    pub host: String,
    pub pool: PgPool,
    pub numb_after: Duration,
    pub stats: Stats,
    /// Ends lanes and tasks.
    pub closed: CancellationToken,
    /// The heart has ended: nobody renews the lease any more, nor registers anew.
    pub stilled: CancellationToken,
    /// Look at the table now.
    pub look: Notify,
    /// There is something to sweep.
    pub sweep: Notify,
    /// The heartbeats that came without a gap: the first and the last of them.
    pub beats: Mutex<Option<(Instant, Instant)>>,
    /// A connection broke, and nobody has got straight with the database since: nothing may be claimed.
    pub disturbed: AtomicBool,
    /// When a task of this process last moved.
    moved: Mutex<Instant>,
    token: RwLock<Uuid>,
    feeds: RwLock<Vec<Arc<Feed>>>,
    reconcile_at: Mutex<Vec<Instant>>,
    lives: AtomicU64,
}

impl Process {
    /// Registers this process as a worker and starts its heartbeat, its listener and its sweep.
    ///
    /// Uses connections of its own, made with the settings of `pool` and beside it. They need a direct connection or a pooler in session mode.
    ///
    /// # Errors
    /// [`Error::Database`] when the database does not take the registration.
    pub async fn start(pool: &PgPool) -> Result<Self, Error> {
        Self::start_numb_after(pool, NUMB_AFTER).await
    }

    /// As [`Process::start`], for tests that can't wait a minute until a process with blocked threads gives up its lease.
    ///
    /// # Errors
    /// [`Error::Database`] when the database does not take the registration.
    #[doc(hidden)]
    pub async fn start_numb_after(pool: &PgPool, numb_after: Duration) -> Result<Self, Error> {
        let options = connect_options(&pool.connect_options());
        let host = host_name();
        let boot = Uuid::now_v7().simple().to_string();
        let shared = Arc::new(Shared {
            name: format!("{host}-{}", &boot[20..]),
            host,
            pool: PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                // Both lanes' and the look's: the first jobs shall not wait for them.
                .min_connections(3)
                .acquire_timeout(Duration::from_secs(5))
                .test_before_acquire(false)
                .connect_lazy_with(options.clone()),
            numb_after,
            stats: Stats::default(),
            closed: CancellationToken::new(),
            stilled: CancellationToken::new(),
            look: Notify::new(),
            sweep: Notify::new(),
            beats: Mutex::new(None),
            disturbed: AtomicBool::new(false),
            moved: Mutex::new(Instant::now()),
            token: RwLock::new(Uuid::now_v7()),
            feeds: RwLock::default(),
            reconcile_at: Mutex::default(),
            lives: AtomicU64::new(1),
        });
        heartbeat::start(&shared, options).await?;
        look::start(&shared);
        sweep::start(&shared);
        Ok(Self { shared })
    }

    /// The name under which this process stands in the list of workers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The token of its lease: names this process in `queue.workers` while it lives. It changes when a lease was lost.
    #[must_use]
    pub fn token(&self) -> Uuid {
        self.shared.token()
    }

    /// What this process did since it started.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let running = self.shared.feeds().iter().map(|feed| feed.running_count() as u64).sum();
        self.shared.stats.read(running)
    }

    /// Opens a feed for a queue and starts its lanes.
    pub(crate) fn feed(&self, queue: &str, concurrency: usize, time_limit: Duration) -> Arc<Feed> {
        let feed = Arc::new(Feed::new(queue, concurrency, time_limit));
        self.shared.feeds.write().unwrap_or_else(PoisonError::into_inner).push(feed.clone());
        lane::start(&self.shared, &feed);
        self.shared.look.notify_one();
        feed
    }

    /// Returns when the queues of this process have had nothing due or running for `quiet`, in any process.
    pub async fn until_idle(&self, quiet: Duration) {
        // Counted in looks, not by the clock: a process that stood still meanwhile has seen nothing.
        let pause = (quiet / 8).min(Duration::from_millis(250));
        let (mut looks, enough) = (0.0, quiet.as_secs_f64() / pause.as_secs_f64());
        while looks < enough {
            tokio::time::sleep(pause).await;
            let feeds = self.shared.feeds();
            let here = feeds.iter().all(|feed| feed.is_empty());
            let queues: Vec<_> = feeds.iter().map(|feed| feed.queue.as_str()).collect();
            let idle = here && matches!(look::is_empty(&self.shared.pool, &queues, quiet).await, Ok(true));
            looks = if idle { looks + 1.0 } else { 0.0 };
        }
    }

    /// Stops claiming, lets handlers finish for `grace`, hands back what is left without burning an attempt, and leaves.
    ///
    /// Handlers are told to stop two seconds before their time is over. Ends also when the database does not answer: its
    /// jobs then run again when the lease is over.
    pub async fn drain(&self, grace: Duration) {
        const LAST_CALL: Duration = Duration::from_secs(2);
        let feeds = self.shared.feeds();
        for feed in &feeds {
            feed.drain();
        }
        let idle = || feeds.iter().all(|feed| feed.running_count() == 0);
        let settled = || idle() && feeds.iter().all(|feed| feed.is_settled());
        if !until(grace.saturating_sub(LAST_CALL), idle).await {
            self.each_run(|run| run.stop(Stop::Drain));
            if !until(grace.min(LAST_CALL), idle).await {
                self.each_run(|run| run.take(Stop::Drain));
            }
        }
        if !until(Duration::from_secs(10), settled).await {
            tracing::warn!("the database did not take the last acknowledgements; those jobs will run again");
        }
        look::write_counts(&self.shared).await;
        self.shared.closed.cancel();
        if let Err(error) = heartbeat::leave(&self.shared).await {
            tracing::debug!(%error, "could not sign off; the lease ends by itself");
        }
    }

    fn each_run(&self, f: impl Fn(&Run)) {
        self.shared.each_run(f);
    }
}

impl Shared {
    pub fn token(&self) -> Uuid {
        *self.token.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by a task that moves at least each few seconds, unless handlers block every thread.
    pub fn note_move(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn moved_ago(&self) -> Duration {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        self.feeds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn each_run(&self, f: impl Fn(&Run)) {
        for feed in self.feeds() {
            for run in feed.running() {
                f(&run);
            }
        }
    }

    pub fn find(&self, id: JobId) -> Option<Arc<Run>> {
        self.feeds().iter().find_map(|feed| feed.find(id))
    }

    /// The lease is gone and the jobs with it: cancels all handlers and begins a new life under a new token.
    pub fn begin_new_life(&self) -> Uuid {
        let token = Uuid::now_v7();
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        self.lives.fetch_add(1, Relaxed);
        for feed in self.feeds() {
            feed.lose_all();
        }
        token
    }

    /// An answer of the database may have been lost: look for jobs claimed unknowingly, now and once more when no statement that
    /// was on its way then can still come true.
    pub fn reconcile_soon(&self) {
        let now = Instant::now();
        let mut due = self.reconcile_at.lock().unwrap_or_else(PoisonError::into_inner);
        *due = vec![now, now + lane::STATEMENT_TIMEOUT + Duration::from_secs(2)];
        drop(due);
        self.sweep.notify_one();
    }

    /// True once for each time that [`Shared::reconcile_soon`] has asked for.
    pub fn takes_reconcile(&self) -> bool {
        let mut due = self.reconcile_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = due.len();
        due.retain(|at| *at > Instant::now());
        due.len() < before
    }
}

/// Waits until `done`, at most `limit`; says whether it came true.
async fn until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Settings of all connections of the queue.
///
/// The planner's choices are taken away: prepared plans live long, may be made while the tables are empty, and only index scans in
/// the order of the ready index stay right when they grow. Commits are not waited for: an acknowledgement lost in a crash of
/// Postgres means that a job runs once more, which it may always do; a lost claim means that it was not claimed. (Enqueueing and the handlers' own
/// transactions run on the caller's connections, with the caller's settings.)
fn connect_options(options: &PgConnectOptions) -> PgConnectOptions {
    use sqlx::ConnectOptions;
    options.clone().application_name("driftless-queue").disable_statement_logging().options([
        ("synchronous_commit", "off"),
        ("statement_timeout", "10s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
    ])
}

fn host_name() -> String {
    let system = rustix::system::uname();
    match system.nodename().to_string_lossy() {
        name if name.is_empty() => "worker".to_owned(),
        name => name.into_owned(),
    }
}
