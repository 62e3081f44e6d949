//! Periodic jobs. A tick of this process's clock is a wake-up only: which tick of a rule is due is told by the database's
//! clock, and of all processes the one that moves `last_tick` on inserts the job.

use std::time::{SystemTime, UNIX_EPOCH};

use apalis_cron::{CronScheduler, Schedule, Tick};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use driftless_domain::{Domain, db};
use driftless_queue::{NewJob, crons};
use driftless_sync::cadence::{Frequency, Rule};
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// The queue of periodic jobs.
pub const QUEUE: &str = "system";
/// The sweep over runs, each minute.
pub const RESCUE: &str = "rescue_runs";
/// The daily cleanup, at 03:00 of DRIFTLESS_ZONE.
pub const CLEANUP: &str = "cleanup";

/// Ticks until `stop`. What was missed while nobody ran is caught up once at the start.
pub async fn run(domain: Domain, stop: CancellationToken) {
    let mut ticks = CronScheduler::new(EachMinute).into_stream();
    loop {
        if let Err(e) = tick(&domain).await {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "periodic jobs could not be queued; trying again in a minute"
            );
        }
        tokio::select! {
            () = stop.cancelled() => return,
            next = ticks.next() => if !matches!(next, Some(Ok(_))) {
                // A tick that passed while nobody looked (a suspended machine) would come up as this error for ever.
                ticks = CronScheduler::new(EachMinute).into_stream();
            }
        }
    }
}

/// Queues the job of each cron whose newest tick nobody has fired.
pub async fn tick(domain: &Domain) -> Result<(), db::Error> {
    for cron in crons(domain) {
        let mut tx = domain.begin_system().await?;
        let now = tx.now().await?;
        let job = NewJob::new(QUEUE, cron.kind, &json!({})).unique_key(cron.kind);
        let last = crons::register(&mut tx, cron.kind, &cron.words, &job).await?;
        let newest = cron.rhythm.newest(now);
        let fired = newest > last && crons::fire(&mut tx, cron.kind, newest, &job).await?;
        tx.commit().await?;
        if fired {
            domain.waker().wake(QUEUE);
        }
    }
    Ok(())
}

struct Cron {
    kind: &'static str,
    words: String,
    rhythm: Rhythm,
}

enum Rhythm {
    Minutely,
    Daily(Rule),
}

fn crons(domain: &Domain) -> [Cron; 2] {
    let zone = domain.settings().zone.name();
    let daily = Rule::new(Frequency::Daily, "03:00", 0, 1, zone).expect("03:00 of a zone that was parsed is a rule");
    [
        Cron { kind: RESCUE, words: "each minute".into(), rhythm: Rhythm::Minutely },
        Cron { kind: CLEANUP, words: format!("daily at 03:00 {zone}"), rhythm: Rhythm::Daily(daily) },
    ]
}

impl Rhythm {
    /// The newest tick that is not in the future.
    fn newest(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Rhythm::Minutely => now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now),
            Rhythm::Daily(rule) => {
                // Three days always hold one: no zone has skipped more than one date in a row.
                let ticks = rule.upcoming(now - TimeDelta::days(3), 5);
                ticks.iter().map(|o| o.at).filter(|at| *at <= now).max().unwrap_or(now - TimeDelta::days(3))
            }
        }
    }
}

/// Wakes at each full minute of this machine's clock.
struct EachMinute;

impl Schedule<apalis_cron::timezone::Utc> for EachMinute {
    fn next_tick(&mut self, _: &apalis_cron::timezone::Utc) -> Option<Tick<apalis_cron::timezone::Utc>> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Tick::new((seconds / 60 + 1) * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_tick_is_never_ahead_and_never_older_than_its_rhythm() {
        let rule = Rule::new(Frequency::Daily, "03:00", 0, 1, "Europe/Berlin").expect("a rule");
        for (now, newest) in [
            ("2026-11-22T02:00:00Z", "2026-11-22T02:00:00Z"),
            ("2026-11-22T01:59:59Z", "2026-11-21T02:00:00Z"),
            // 03:00 comes an hour earlier in UTC from this day on.
            ("2027-03-28T01:00:00Z", "2027-03-28T01:00:00Z"),
        ] {
            let now: DateTime<Utc> = now.parse().expect("a time");
            assert_eq!(Rhythm::Daily(rule).newest(now).to_rfc3339(), newest.replace('Z', "+00:00"));
        }
        let now: DateTime<Utc> = "2026-11-22T02:00:59.5Z".parse().expect("a time");
        assert_eq!(Rhythm::Minutely.newest(now).to_rfc3339(), "2026-11-22T02:00:00+00:00");
    }
}
