//! Waking the workers of a queue after a commit: at most one NOTIFY a queue each 10 ms, in no transaction of anybody's. Over time,
//! that is: a few may follow each other at once, else one that came late would hold up all that come regularly after it.
//!
//! A lost wake-up costs at most a second, the rhythm in which every process looks by itself; so nothing here is retried.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgPool;

/// NOTIFY channel; the payload is the name of the queue.
pub(crate) const WAKE_CHANNEL: &str = "driftless_queue_wake";

/// The mean time between the notifications for one queue is no shorter.
const PAUSE: Duration = Duration::from_millis(10);

/// How many may go out at once after a silence.
const BURST: u32 = 4;

/// The notifications of one queue.
#[derive(Debug)]
struct Booked {
    /// When the last one goes or went out.
    last: Instant,
    /// When the allowance is full again: each notification moves it on by [`PAUSE`].
    full: Instant,
}

/// Sends wake-ups for queues. Cheap to clone; clones share the coalescing.
#[derive(Clone, Debug)]
pub struct Waker {
    pool: PgPool,
    booked: Arc<Mutex<HashMap<String, Booked>>>,
}

impl Waker {
    /// A waker that notifies through a connection of `pool`.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, booked: Arc::default() }
    }

    /// Tells the workers of `queue` to look. Call it after the commit that made jobs; returns at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn wake(&self, queue: &str) {
        let Some(delay) = self.book(queue, Instant::now()) else {
            return;
        };
        let (pool, queue) = (self.pool.clone(), queue.to_owned());
        tokio::spawn(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let sent = sqlx::query("select pg_notify($1, $2)").bind(WAKE_CHANNEL).bind(&queue).execute(&pool).await;
            if let Err(error) = sent {
                tracing::debug!(queue, %error, "wake-up not sent; workers look within a second");
            }
        });
    }

    /// How long to wait before sending; None when a notification that has not gone out yet covers this call too.
    fn book(&self, queue: &str, now: Instant) -> Option<Duration> {
        let mut queues = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(booked) = queues.get_mut(queue) else {
            queues.insert(queue.to_owned(), Booked { last: now, full: now + PAUSE });
            return Some(Duration::ZERO);
        };
        if booked.last > now {
            return None;
        }
        let spent = booked.full.saturating_duration_since(now);
        let delay = spent.saturating_sub(PAUSE * (BURST - 1));
        booked.last = now + delay;
        booked.full = booked.full.max(now) + PAUSE;
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_wake_ups_books_a_few_notifications() {
        let pool = PgPool::connect_lazy("postgres://nobody@localhost/none").expect("a URL that parses");
        let waker = Waker::new(pool);
        let now = Instant::now();
        let booked: Vec<_> = (0..100).filter_map(|_| waker.book("q", now)).collect();
        assert_eq!(booked, [Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO, PAUSE]);
        assert_eq!(waker.book("q", now + PAUSE / 2), None, "the delayed one speaks for all until it goes out");
        assert_eq!(waker.book("other", now), Some(Duration::ZERO));
    }
}
