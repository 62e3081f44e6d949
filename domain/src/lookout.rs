//! What nobody tells this process: schedules that fall due, and audit entries that others recorded. One statement a second, and
//! at the instant at which the next schedule is due, serves all who wait for such things here.
//!
//! Invariant: level-triggered. Every look is passed on, whether it shows anything new or not, so whoever could not do his part
//! finds it again with the next; and so no notification has to arrive for anything to happen within a second. What this very
//! process knows it says itself ([`Lookout::recorded`], [`Lookout::look_again`]). Left out: the queue's jobs (the queue has a
//! look of its own) and users' heads (`feed`), which are looked at only while somebody waits for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{FromRow, PgPool};
use tokio::sync::{Notify, watch};

/// The longest pause between two looks.
const RHYTHM: Duration = Duration::from_secs(1);

/// What one look showed.
#[derive(Debug, Clone, Copy, Default, FromRow)]
pub(crate) struct Seen {
    /// Seconds until the first schedule is due; not above 0 when one is, nothing without schedules.
    due_in: Option<f64>,
    /// Entries of the audit wait to be sealed.
    pub unsealed: bool,
    /// The last number of the audit's chain.
    pub sealed: i64,
}

impl Seen {
    /// A schedule is due.
    pub fn is_due(&self) -> bool {
        self.due_in.is_some_and(|seconds| seconds <= 0.0)
    }

    /// How long nothing changes by itself: until the next schedule, which one that is due is not.
    fn pause(&self) -> Duration {
        let ahead = self.due_in.filter(|seconds| *seconds > 0.0);
        ahead.map_or(RHYTHM, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(RHYTHM).min(RHYTHM))
    }
}

/// A process's lookout. Cheap to clone; looks from the first [`Lookout::follow`] on.
#[derive(Clone, Default)]
pub(crate) struct Lookout(Arc<Parts>);

#[derive(Default)]
struct Parts {
    seen: watch::Sender<Seen>,
    again: Notify,
    recorded: Notify,
    looking: AtomicBool,
}

impl Lookout {
    /// What the looks show from now on, until `pool` closes.
    pub fn follow(&self, pool: &PgPool) -> watch::Receiver<Seen> {
        let seen = self.0.seen.subscribe();
        if !self.0.looking.swap(true, Relaxed) {
            tokio::spawn(look_for_ever(self.clone(), pool.clone()));
        }
        seen
    }

    /// Looks at once: what was done may have brought the next thing to do nearer than a second.
    pub fn look_again(&self) {
        self.0.again.notify_one();
    }

    /// A commit of this process brought entries to seal.
    pub fn recorded(&self) {
        self.0.recorded.notify_one();
    }

    /// Returns when this process has recorded something since the last call.
    pub async fn until_recorded(&self) {
        self.0.recorded.notified().await;
    }
}

async fn look_for_ever(lookout: Lookout, pool: PgPool) {
    let mut failing = false;
    while !pool.is_closed() {
        let looked = look(&pool).await;
        if let (Err(error), false) = (&looked, failing) {
            tracing::warn!(%error, "nothing can be seen of schedules and the audit just now");
        }
        failing = looked.is_err();
        let pause = looked.as_ref().map_or(RHYTHM, Seen::pause);
        if let Ok(seen) = looked {
            lookout.0.seen.send_replace(seen);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lookout.0.again.notified() => {}
        }
    }
}

/// Four probes of indexes; nothing is locked.
async fn look(pool: &PgPool) -> Result<Seen, sqlx::Error> {
    sqlx::query_as(
        "select extract(epoch from (select min(next_run_at) from due) - queue.now())::float8 as due_in,
                exists (select from audit where chain_seq is null) as unsealed,
                (select coalesce(max(chain_seq), 0) from audit) as sealed",
    )
    .fetch_one(pool)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_comes_at_the_next_due_instant_and_at_least_each_second() {
        let seen = |due_in| Seen { due_in, ..Seen::default() };
        assert_eq!(seen(None).pause(), RHYTHM);
        assert_eq!(seen(Some(0.25)).pause(), Duration::from_millis(250));
        assert_eq!(seen(Some(1e18)).pause(), RHYTHM);
        // What is due is being fired, perhaps by another process: nothing to spin on.
        assert_eq!((seen(Some(0.0)).is_due(), seen(Some(0.0)).pause()), (true, RHYTHM));
        assert!(!seen(Some(0.25)).is_due() && !seen(None).is_due());
    }
}
