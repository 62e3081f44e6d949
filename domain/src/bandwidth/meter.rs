//! The meter that every door with a stream of bytes passes them through.
//!
//! Invariant: in any stretch of time a user's streams of one direction together get no more than rate × time, plus a quarter
//! of a second's worth. Waiting streams take turns, for each takes a small piece at a time. Limits are read again after at most
//! [`READ_AGAIN`]; when they can't be read the last known ones stay.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use sqlx::PgPool;
use tokio::time::Instant;

use super::{Direction, Limits};

const READ_AGAIN: Duration = Duration::from_secs(5);

/// The meters of all users who stream through this process.
pub struct Meter {
    pool: PgPool,
    zone: Tz,
    users: Mutex<HashMap<i64, Arc<UserMeter>>>,
}

/// One user's limits as last read, and when each direction is next free.
struct UserMeter {
    /// Held while reading, so that one stream reads for all.
    read: tokio::sync::Mutex<Option<Read>>,
    free: Mutex<[Instant; 2]>,
    touched: Mutex<Instant>,
}

#[derive(Clone)]
struct Read {
    limits: Limits,
    now: DateTime<Utc>,
    at: Instant,
}

impl Meter {
    pub(crate) fn new(pool: PgPool, zone: Tz) -> Self {
        Meter { pool, zone, users: Mutex::default() }
    }

    /// Waits until `bytes` more may flow. Call it for each piece of a stream, before the piece is passed on.
    pub async fn take(&self, user_id: i64, direction: Direction, bytes: usize) {
        let user = self.user(user_id);
        let mut left = bytes as u64;
        while left > 0 {
            let Some(rate) = self.rate(&user, user_id, direction).await else { return };
            let piece = left.min((rate / 4).max(1));
            let turn = user.reserve(direction, piece, rate, Instant::now());
            tokio::time::sleep_until(turn).await;
            left -= piece;
        }
    }

    fn user(&self, user_id: i64) -> Arc<UserMeter> {
        let now = Instant::now();
        let mut users = guard(&self.users);
        if users.len() >= 1_000 && !users.contains_key(&user_id) {
            users.retain(|_, u| now - *guard(&u.touched) < Duration::from_secs(600));
        }
        let user = users.entry(user_id).or_insert_with(|| {
            Arc::new(UserMeter {
                read: tokio::sync::Mutex::default(),
                free: Mutex::new([now; 2]),
                touched: Mutex::new(now),
            })
        });
        *guard(&user.touched) = now;
        user.clone()
    }

    async fn rate(&self, user: &UserMeter, user_id: i64, direction: Direction) -> Option<u64> {
        let mut read = user.read.lock().await;
        if read.as_ref().is_none_or(|r| r.at.elapsed() >= READ_AGAIN) {
            match self.read(user_id).await {
                Ok(new) => *read = Some(new),
                Err(error) => {
                    tracing::warn!(user_id, error = &error as &dyn std::error::Error, "bandwidth limits can't be read");
                    // The last known limits hold for another while; without any, nothing is limited.
                    if let Some(known) = read.as_mut() {
                        let passed = known.at.elapsed();
                        known.now += TimeDelta::from_std(passed).unwrap_or_default();
                        known.at += passed;
                    }
                }
            }
        }
        let read = read.as_ref()?;
        let now = read.now + TimeDelta::from_std(read.at.elapsed()).unwrap_or_default();
        read.limits.at(direction, now, self.zone)
    }

    async fn read(&self, user_id: i64) -> Result<Read, sqlx::Error> {
        type Row = (DateTime<Utc>, Option<i64>, Option<i64>, Option<bool>, Option<i16>, Option<i16>);
        let (now, upload, download, enabled, start, end): Row = sqlx::query_as(
            "select queue.now(), b.upload_speed_limit, b.download_speed_limit, b.throttle_enabled,
                    b.throttle_start_hour, b.throttle_end_hour
             from (select) as one left join bandwidth_limits b on b.user_id = $1",
        )
        .bind(user_id)
        .fetch_one(&self.pool)
        .await?;
        let limits = Limits {
            upload_speed_limit: upload,
            download_speed_limit: download,
            throttle_enabled: enabled.unwrap_or_default(),
            throttle_start_hour: start.unwrap_or_default(),
            throttle_end_hour: end.unwrap_or_default(),
        };
        Ok(Read { limits, now, at: Instant::now() })
    }
}

impl UserMeter {
    /// Books the next free stretch for `bytes` at `rate` and answers when it begins. What wasn't used is lost but for a
    /// quarter of a second, so that a pause doesn't buy a burst.
    fn reserve(&self, direction: Direction, bytes: u64, rate: u64, now: Instant) -> Instant {
        let mut free = guard(&self.free);
        let slot = &mut free[match direction {
            Direction::Upload => 0,
            Direction::Download => 1,
        }];
        let start = (*slot).max(now.checked_sub(Duration::from_millis(250)).unwrap_or(now));
        *slot = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        start
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the last of `pieces` quarter-second pieces may flow, after a first one at `begin`.
    fn last_turn(meter: &UserMeter, pieces: u32, begin: Instant) -> Duration {
        let mut now = begin;
        for _ in 0..pieces {
            now = now.max(meter.reserve(Direction::Upload, 250, 1000, now));
        }
        now - begin
    }

    fn meter(now: Instant) -> UserMeter {
        UserMeter { read: tokio::sync::Mutex::default(), free: Mutex::new([now; 2]), touched: Mutex::new(now) }
    }

    #[test]
    fn many_pieces_take_as_long_as_their_rate_says() {
        let begin = Instant::now();
        let took = last_turn(&meter(begin), 41, begin).as_secs_f64();
        assert!((9.74..=10.01).contains(&took), "10,000 bytes at 1,000 a second took {took} s");
    }

    #[test]
    fn a_pause_buys_no_burst_beyond_a_quarter_of_a_second() {
        let begin = Instant::now();
        let took = last_turn(&meter(begin), 9, begin + Duration::from_secs(3600));
        assert_eq!(took, Duration::from_millis(1_750));
    }
}
