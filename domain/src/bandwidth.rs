//! How fast a user's bytes may flow: the settings, and in `meter` what keeps to them.
//!
//! Invariant: limits are bytes a second, per user, direction and process. With throttling enabled they hold in its hours
//! only, which are of DRIFTLESS_ZONE and may wrap around midnight; without it they hold always.

mod meter;

use chrono::{DateTime, Timelike, Utc};
use chrono_tz::Tz;
use serde_json::json;
use sqlx::FromRow;

use crate::{
    Actor, Tx,
    audit::{self, Entry},
    db,
    error::{Fault, Kind},
};

pub use meter::Meter;

/// Which way bytes flow, seen from the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Upload,
    /// From the server.
    Download,
}

/// A user's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow)]
pub struct Limits {
    /// Bytes a second to the server; none is unlimited.
    pub upload_speed_limit: Option<i64>,
    /// Bytes a second from the server; none is unlimited.
    pub download_speed_limit: Option<i64>,
    /// Whether the limits hold in the throttle hours only.
    pub throttle_enabled: bool,
    /// The hour, 0 to 23, in which throttling begins.
    pub throttle_start_hour: i16,
    /// The hour, 0 to 23, with which throttling ends. Equal to the start: the whole day.
    pub throttle_end_hour: i16,
}

impl Limits {
    /// The limit that holds at `now`, in bytes a second.
    pub fn at(&self, direction: Direction, now: DateTime<Utc>, zone: Tz) -> Option<u64> {
        let limit = match direction {
            Direction::Upload => self.upload_speed_limit,
            Direction::Download => self.download_speed_limit,
        };
        let hour = now.with_timezone(&zone).hour();
        limit.filter(|_| self.holds_in(hour)).map(i64::unsigned_abs)
    }

    fn holds_in(&self, hour: u32) -> bool {
        let (start, end) =
            (u32::from(self.throttle_start_hour.unsigned_abs()), u32::from(self.throttle_end_hour.unsigned_abs()));
        !self.throttle_enabled
            || match start.cmp(&end) {
                std::cmp::Ordering::Less => (start..end).contains(&hour),
                std::cmp::Ordering::Equal => true,
                std::cmp::Ordering::Greater => hour >= start || hour < end,
            }
    }

    fn check(&self) -> Result<(), Error> {
        for (field, limit) in
            [("upload_speed_limit", self.upload_speed_limit), ("download_speed_limit", self.download_speed_limit)]
        {
            if limit.is_some_and(|l| l < 1) {
                return Err(Error::Limit { field });
            }
        }
        for (field, hour) in
            [("throttle_start_hour", self.throttle_start_hour), ("throttle_end_hour", self.throttle_end_hour)]
        {
            if !(0..=23).contains(&hour) {
                return Err(Error::Hour { field });
            }
        }
        Ok(())
    }
}

/// Why limits could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A limit that nothing could flow under.
    #[error("a limit is at least 1 byte a second; null means unlimited")]
    Limit {
        /// The field at fault.
        field: &'static str,
    },
    /// Not an hour of the day.
    #[error("an hour is 0 to 23")]
    Hour {
        /// The field at fault.
        field: &'static str,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            _ => Kind::Invalid,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Limit { .. } => "bandwidth.limit_invalid",
            Error::Hour { .. } => "bandwidth.hour_invalid",
            Error::Database(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Limit { field } | Error::Hour { field } => Some(field),
            Error::Database(_) => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// The actor's limits; without any set, nothing is limited.
pub async fn get(tx: &mut Tx, actor: &Actor) -> Result<Limits, Error> {
    let limits = sqlx::query_as(
        "select upload_speed_limit, download_speed_limit, throttle_enabled, throttle_start_hour, throttle_end_hour
         from bandwidth_limits where user_id = $1",
    )
    .bind(actor.user_id)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(limits.unwrap_or_default())
}

/// Sets all of the actor's limits. Transfers under way keep to them within 5 s of the commit.
pub async fn set(tx: &mut Tx, actor: &Actor, limits: Limits) -> Result<Limits, Error> {
    limits.check()?;
    let kept: Limits = sqlx::query_as(
        "insert into bandwidth_limits (user_id, upload_speed_limit, download_speed_limit, throttle_enabled,
                                       throttle_start_hour, throttle_end_hour) values ($1, $2, $3, $4, $5, $6)
         on conflict (user_id) do update set
           upload_speed_limit = excluded.upload_speed_limit, download_speed_limit = excluded.download_speed_limit,
           throttle_enabled = excluded.throttle_enabled, throttle_start_hour = excluded.throttle_start_hour,
           throttle_end_hour = excluded.throttle_end_hour, updated_at = queue.now()
         returning upload_speed_limit, download_speed_limit, throttle_enabled, throttle_start_hour, throttle_end_hour",
    )
    .bind(actor.user_id)
    .bind(limits.upload_speed_limit)
    .bind(limits.download_speed_limit)
    .bind(limits.throttle_enabled)
    .bind(limits.throttle_start_hour)
    .bind(limits.throttle_end_hour)
    .fetch_one(&mut **tx)
    .await?;
    let details = json!({
        "upload_speed_limit": kept.upload_speed_limit,
        "download_speed_limit": kept.download_speed_limit,
        "throttle_enabled": kept.throttle_enabled,
        "throttle_start_hour": kept.throttle_start_hour,
        "throttle_end_hour": kept.throttle_end_hour,
    });
    let entry = Entry::new("bandwidth_limit_set").by(actor).about("user", actor.user_id);
    audit::record(tx, entry.details(details)).await?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(enabled: bool, start: i16, end: i16) -> Limits {
        Limits {
            upload_speed_limit: Some(1000),
            throttle_enabled: enabled,
            throttle_start_hour: start,
            throttle_end_hour: end,
            ..Limits::default()
        }
    }

    #[test]
    fn throttle_hours_leave_out_their_end_and_may_wrap_around_midnight() {
        for (start, end, inside, outside) in [
            (9, 17, vec![9, 16], vec![8, 17, 0]),
            (22, 6, vec![22, 23, 0, 5], vec![6, 12, 21]),
            (7, 7, vec![0, 7, 23], vec![]),
        ] {
            let l = limits(true, start, end);
            assert!(inside.iter().all(|h| l.holds_in(*h)), "{start}..{end}");
            assert!(!outside.iter().any(|h| l.holds_in(*h)), "{start}..{end}");
        }
        assert!((0..24).all(|h| limits(false, 9, 17).holds_in(h)));
    }

    #[test]
    fn the_hour_is_of_the_zone_and_an_absent_limit_never_holds() {
        let now = "2026-07-01T22:30:00Z".parse().expect("a time");
        let l = limits(true, 0, 1);
        assert_eq!(l.at(Direction::Upload, now, Tz::UTC), None);
        assert_eq!(l.at(Direction::Upload, now, Tz::Europe__Berlin), Some(1000), "00:30 there");
        assert_eq!(l.at(Direction::Download, now, Tz::Europe__Berlin), None);
    }

    #[test]
    fn zero_and_negative_limits_and_hours_of_no_day_are_refused_by_field() {
        let field = |l: Limits| l.check().expect_err("can't be").field().map(str::to_owned);
        assert_eq!(
            field(Limits { upload_speed_limit: Some(0), ..limits(false, 0, 0) }).as_deref(),
            Some("upload_speed_limit")
        );
        assert_eq!(
            field(Limits { download_speed_limit: Some(-5), ..limits(false, 0, 0) }).as_deref(),
            Some("download_speed_limit")
        );
        assert_eq!(field(limits(true, 24, 0)).as_deref(), Some("throttle_start_hour"));
        assert_eq!(field(limits(false, 0, -1)).as_deref(), Some("throttle_end_hour"));
    }
}
