//! Waking the workers of a queue after a commit: at most one NOTIFY a queue each 10 ms, in no transaction of anybody's.
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

/// The shortest time between two notifications for one queue.
const PAUSE: Duration = Duration::from_millis(10);

/// Sends wake-ups for queues. Cheap to clone; clones share the coalescing.
#[derive(Clone, Debug)]
pub struct Waker {
    pool: PgPool,
    /// When the last notification of a queue goes or went out.
    last: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Waker {
    /// A waker that notifies through a connection of `pool`.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, last: Arc::default() }
    }

    /// Tells the workers of `queue` to look. Call it after the commit that made jobs; returns at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn wake(&self, queue: &str) {
        let Some(delay) = self.book(queue) else {
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
    fn book(&self, queue: &str) -> Option<Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match last.get_mut(queue) {
            Some(at) if *at > now => None,
            Some(at) => {
                let next = (*at + PAUSE).max(now);
                *at = next;
                Some(next - now)
            }
            None => {
                last.insert(queue.to_owned(), now);
                Some(Duration::ZERO)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_wake_ups_books_two_notifications() {
        let pool = PgPool::connect_lazy("postgres://nobody@localhost/none").expect("a URL that parses");
        let waker = Waker::new(pool);
        let booked: Vec<_> = (0..100).filter_map(|_| waker.book("q")).collect();
        assert_eq!(booked.first(), Some(&Duration::ZERO));
        assert!(booked.len() <= 3, "{booked:?}");
        assert_eq!(waker.book("other"), Some(Duration::ZERO));
    }
}
