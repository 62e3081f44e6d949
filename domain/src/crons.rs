//! Which periodic jobs there are, and when each is due.
//!
//! Left out: ticking and queueing, which the worker does, and what the jobs do.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use driftless_sync::cadence::{Frequency, Rule};

use crate::config::Settings;

/// The queue of periodic jobs.
pub const QUEUE: &str = "system";
/// The sweep over runs, each minute.
pub const RESCUE: &str = "rescue_runs";
/// The daily cleanup, at 03:00 of DRIFTLESS_ZONE.
pub const CLEANUP: &str = "cleanup";

/// A periodic job.
#[derive(Debug)]
pub struct Cron {
    /// Kind of its jobs, and its name.
    pub kind: &'static str,
    /// When it is due.
    pub rhythm: Rhythm,
}

/// When a periodic job is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// Each full minute.
    Minutely,
    /// At the rule's time of each day.
    Daily(Rule),
}

/// All of them.
pub fn all(settings: &Settings) -> [Cron; 2] {
    let zone = settings.zone.name();
    let daily = Rule::new(Frequency::Daily, "03:00", 0, 1, zone).expect("03:00 of a zone that was parsed is a rule");
    [Cron { kind: RESCUE, rhythm: Rhythm::Minutely }, Cron { kind: CLEANUP, rhythm: Rhythm::Daily(daily) }]
}

impl Cron {
    /// Its rule in words.
    pub fn words(&self) -> String {
        match &self.rhythm {
            Rhythm::Minutely => "each minute".into(),
            Rhythm::Daily(rule) => format!("daily at {} {}", rule.time_of_day().format("%H:%M"), rule.zone()),
        }
    }

    /// The newest tick that is not after `now`.
    pub fn newest(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match &self.rhythm {
            Rhythm::Minutely => minute(now),
            Rhythm::Daily(rule) => {
                // Three days always hold one: no zone has skipped more than one date in a row.
                let ticks = rule.upcoming(now - TimeDelta::days(3), 5);
                ticks.iter().map(|o| o.at).filter(|at| *at <= now).max().unwrap_or(now - TimeDelta::days(3))
            }
        }
    }

    /// The next tick after `now`.
    pub fn next(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match &self.rhythm {
            Rhythm::Minutely => minute(now) + TimeDelta::minutes(1),
            Rhythm::Daily(rule) => rule.next(now).at,
        }
    }
}

fn minute(now: DateTime<Utc>) -> DateTime<Utc> {
    now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(rhythm: Rhythm) -> Cron {
        Cron { kind: "x", rhythm }
    }

    #[test]
    fn ticks_lie_around_now_each_in_its_rhythm() {
        let rule = Rule::new(Frequency::Daily, "03:00", 0, 1, "Europe/Berlin").expect("a rule");
        let daily = cron(Rhythm::Daily(rule));
        let minutely = cron(Rhythm::Minutely);
        for (cron, now, newest, next) in [
            (&daily, "2026-11-22T02:00:00Z", "2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z"),
            (&daily, "2026-11-22T01:59:59Z", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
            // 03:00 comes an hour earlier in UTC from this day on.
            (&daily, "2027-03-27T02:00:00Z", "2027-03-27T02:00:00Z", "2027-03-28T01:00:00Z"),
            (&daily, "2027-03-28T01:00:00Z", "2027-03-28T01:00:00Z", "2027-03-29T01:00:00Z"),
            (&minutely, "2026-11-22T02:00:59.5Z", "2026-11-22T02:00:00Z", "2026-11-22T02:01:00Z"),
            (&minutely, "2026-11-22T02:00:00Z", "2026-11-22T02:00:00Z", "2026-11-22T02:01:00Z"),
        ] {
            let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
            assert_eq!((cron.newest(at(now)), cron.next(at(now))), (at(newest), at(next)), "{now}");
        }
    }
}
