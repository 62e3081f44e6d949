//! What to do with a schedule whose instant has come, perhaps long ago: fire, record as missed, move on.
//!
//! Invariant: each nominal date between the stored instant and now is fired, named as missed, or counted; none disappears.
//! Left out: overlap with a running run, and who creates the rows. Creating, enabling and editing a schedule count from now by
//! [`Rule::next`] and never come here.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::cadence::{Occurrence, Rule};

/// Up to here a firing counts as on time.
pub const ON_TIME: TimeDelta = TimeDelta::minutes(5);
/// Later than this a missed firing is not made up for.
pub const MAKE_UP: TimeDelta = TimeDelta::hours(24);
/// Most missed firings that get a row of their own.
pub const MAX_MISSED_ROWS: usize = 100;

/// What becomes of the newest missed firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedRun {
    /// It runs once, if it is at most [`MAKE_UP`] old.
    RunOnce,
    /// It is recorded as missed.
    Skip,
}

/// Older missed firings that share one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// How many.
    pub count: u64,
    /// The oldest of them.
    pub first: Occurrence,
    /// The newest of them.
    pub last: Occurrence,
}

/// What the dispatcher does with a schedule, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The occurrence that runs now, at most one.
    pub fire: Option<Occurrence>,
    /// The occurrences that get a row `missed` each: the newest, at most [`MAX_MISSED_ROWS`], in order of time.
    pub missed: Vec<Occurrence>,
    /// The missed occurrences before those, in one row with a count.
    pub rest: Option<Rest>,
    /// The first occurrence that is not due yet.
    pub next: Occurrence,
    /// The schedule's new next_run_at: `next` and the jitter.
    pub next_run_at: DateTime<Utc>,
}

/// Decides for a schedule with the stored `next_run_at` (with jitter). `jitter` is [`crate::cadence::jitter`] of the schedule.
/// When nothing is due yet, nothing fires and `next_run_at` comes back; or, when the zone's rules have changed since it was
/// computed, the instant as it is now.
pub fn decide(
    rule: &Rule,
    next_run_at: DateTime<Utc>,
    jitter: TimeDelta,
    now: DateTime<Utc>,
    policy: MissedRun,
) -> Decision {
    let mut due = Vec::new();
    let mut next = rule.at_or_of_same_date(next_run_at - jitter);
    while next.at + jitter <= now {
        due.push(next);
        next = rule.next(next.at);
    }
    let fire = due.pop_if(|newest| {
        let late = now - (newest.at + jitter);
        late <= ON_TIME || (policy == MissedRun::RunOnce && late <= MAKE_UP)
    });
    let missed = due.split_off(due.len().saturating_sub(MAX_MISSED_ROWS));
    let rest = match due.as_slice() {
        [] => None,
        older @ [first, ..] => Some(Rest { count: older.len() as u64, first: *first, last: older[older.len() - 1] }),
    };
    Decision { fire, missed, rest, next, next_run_at: next.at + jitter }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cadence::Frequency;
    use proptest::prelude::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }
    fn daily() -> Rule {
        Rule::new(Frequency::Daily, "02:00", 0, 1, "UTC").unwrap()
    }
    fn dates(occurrences: &[Occurrence]) -> Vec<String> {
        occurrences.iter().map(|o| o.nominal_date.to_string()).collect()
    }

    #[test]
    fn on_time_or_five_minutes_late_it_fires_whatever_the_policy() {
        for now in ["2026-11-22T02:00:00Z", "2026-11-22T02:05:00Z"] {
            let got = decide(&daily(), utc("2026-11-22T02:00:00Z"), TimeDelta::zero(), utc(now), MissedRun::Skip);
            assert_eq!(got.fire.unwrap().at, utc("2026-11-22T02:00:00Z"));
            assert_eq!((got.missed.len(), got.next_run_at), (0, utc("2026-11-23T02:00:00Z")));
        }
    }

    #[test]
    fn nothing_fires_before_its_instant_and_jitter() {
        let jitter = TimeDelta::seconds(30);
        let at = utc("2026-11-22T02:00:30Z");
        let got = decide(&daily(), at, jitter, utc("2026-11-22T02:00:29Z"), MissedRun::RunOnce);
        assert_eq!((got.fire, got.next_run_at), (None, at));
        let got = decide(&daily(), at, jitter, at, MissedRun::RunOnce);
        assert_eq!((got.fire.unwrap().at, got.next_run_at), (utc("2026-11-22T02:00:00Z"), utc("2026-11-23T02:00:30Z")));
    }

    #[test]
    fn late_is_made_up_for_once_and_the_others_are_missed() {
        let got = decide(
            &daily(),
            utc("2026-11-20T02:00:00Z"),
            TimeDelta::zero(),
            utc("2026-11-22T10:00:00Z"),
            MissedRun::RunOnce,
        );
        assert_eq!(got.fire.unwrap().nominal_date.to_string(), "2026-11-22");
        assert_eq!(dates(&got.missed), ["2026-11-20", "2026-11-21"]);
        assert_eq!(got.next_run_at, utc("2026-11-23T02:00:00Z"));
        let got = decide(
            &daily(),
            utc("2026-11-20T02:00:00Z"),
            TimeDelta::zero(),
            utc("2026-11-22T10:00:00Z"),
            MissedRun::Skip,
        );
        assert_eq!((got.fire, got.missed.len()), (None, 3));
    }

    #[test]
    fn what_is_older_than_a_day_is_not_made_up_for() {
        let weekly = Rule::new(Frequency::Weekly, "02:00", 6, 1, "UTC").unwrap();
        let got = decide(
            &weekly,
            utc("2026-11-22T02:00:00Z"),
            TimeDelta::zero(),
            utc("2026-11-23T02:00:01Z"),
            MissedRun::RunOnce,
        );
        assert_eq!((got.fire, dates(&got.missed)), (None, vec!["2026-11-22".to_owned()]));
    }

    #[test]
    fn a_long_silence_gets_a_hundred_rows_and_one_with_a_count() {
        let got = decide(
            &daily(),
            utc("2025-11-22T02:00:00Z"),
            TimeDelta::zero(),
            utc("2026-11-22T02:00:00Z"),
            MissedRun::Skip,
        );
        assert_eq!(got.missed.len(), 100);
        let rest = got.rest.unwrap();
        assert_eq!((rest.count, rest.first.nominal_date.to_string()), (265, "2025-11-22".to_owned()));
        assert_eq!(rest.last.nominal_date.succ_opt(), Some(got.missed[0].nominal_date));
        assert!(got.fire.is_some());
    }

    #[test]
    fn an_instant_of_older_zone_data_still_fires_its_date() {
        // Stored as if Berlin had an hour more then: neither date may vanish, neither may fire twice.
        let rule = Rule::new(Frequency::Daily, "02:00", 0, 1, "Europe/Berlin").unwrap();
        for stored in ["2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z"] {
            let got = decide(&rule, utc(stored), TimeDelta::zero(), utc("2026-11-22T02:00:00Z"), MissedRun::RunOnce);
            assert_eq!(got.fire.unwrap().nominal_date.to_string(), "2026-11-22");
            assert_eq!(got.next_run_at, utc("2026-11-23T01:00:00Z"));
        }
    }

    proptest! {
        #[test]
        fn every_nominal_date_is_fired_missed_or_counted(
            start in 1_600_000_000i64..1_700_000_000, silence in 0i64..40_000_000, jitter in 0i64..3600,
            frequency in prop_oneof![Just(Frequency::Daily), Just(Frequency::Weekly), Just(Frequency::Monthly)], run_once: bool,
            zone in prop_oneof![Just("UTC"), Just("America/New_York"), Just("Australia/Lord_Howe")],
        ) {
            let rule = Rule::new(frequency, "02:30", 3, 31, zone).unwrap();
            let jitter = TimeDelta::seconds(jitter);
            let first = rule.next(DateTime::from_timestamp(start, 0).unwrap());
            let now = DateTime::from_timestamp(start + silence, 0).unwrap();
            let policy = if run_once { MissedRun::RunOnce } else { MissedRun::Skip };
            let got = decide(&rule, first.at + jitter, jitter, now, policy);

            let expected = std::iter::successors(Some(first), |o| Some(rule.next(o.at))).take_while(|o| o.at + jitter <= now).count();
            let counted = got.rest.map_or(0, |rest| rest.count as usize);
            prop_assert_eq!(expected, got.missed.len() + counted + usize::from(got.fire.is_some()));
            prop_assert!(got.next_run_at > now || expected == 0);
            prop_assert!(got.missed.len() <= MAX_MISSED_ROWS);
        }
    }
}
