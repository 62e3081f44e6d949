//! When a schedule fires: daily, weekly or monthly at a wall-clock time in a named zone.
//!
//! Invariant: `next` strictly increases, and each nominal date (the local calendar date that the rule names) comes up exactly
//! once. A time that the clocks skip fires at the first instant after the gap, one that comes twice fires the first time, a day
//! that a month lacks becomes its last day, and a date that the zone never had (Apia, 2011-12-30) is no occurrence.
//! Left out: lateness ([`crate::late`]), on_change schedules, which have no clock, and clocks: "now" is always an argument.
//! The zone data knows no summer time from the year 2100 on; schedules run on standard time then, until the data is renewed.

use std::fmt;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike, Days, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc,
};
use chrono_tz::{GapInfo, Tz};
use serde::{Deserialize, Serialize};

/// Largest jitter in seconds.
pub const MAX_JITTER_SECONDS: u32 = 3600;

/// How often a rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frequency {
    /// On each date.
    Daily,
    /// On one day of the week.
    Weekly,
    /// On one day of the month, clamped to the month's last day.
    Monthly,
}

/// A field of a rule that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not `HH:MM`.
    #[error("the time of day {0:?} is not HH:MM between 00:00 and 23:59")]
    Time(String),
    /// Not 0 to 6.
    #[error("the day of the week {0} is not between 0 (Monday) and 6 (Sunday)")]
    DayOfWeek(i64),
    /// Not 1 to 31.
    #[error("the day of the month {0} is not between 1 and 31")]
    DayOfMonth(i64),
    /// No zone of the IANA database.
    #[error("{0:?} is no time zone of the IANA database, such as Europe/Berlin or UTC")]
    Zone(String),
    /// Not 0 to [`MAX_JITTER_SECONDS`].
    #[error("the jitter of {0} seconds is not between 0 and {MAX_JITTER_SECONDS}")]
    Jitter(i64),
}

impl RuleError {
    /// Stable code of the HTTP API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Time(_) => "schedule.time_invalid",
            Self::DayOfWeek(_) => "schedule.day_of_week_invalid",
            Self::DayOfMonth(_) => "schedule.day_of_month_invalid",
            Self::Zone(_) => "schedule.timezone_unknown",
            Self::Jitter(_) => "schedule.jitter_invalid",
        }
    }

    /// The field of the schedule that it speaks of.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Time(_) => "time_of_day",
            Self::DayOfWeek(_) => "day_of_week",
            Self::DayOfMonth(_) => "day_of_month",
            Self::Zone(_) => "timezone",
            Self::Jitter(_) => "jitter_seconds",
        }
    }
}

/// Reads "HH:MM", two digits each, 00:00 to 23:59.
pub fn parse_time_of_day(text: &str) -> Result<NaiveTime, RuleError> {
    let digits = |part: &str| match part.as_bytes() {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(u32::from(a - b'0') * 10 + u32::from(b - b'0')),
        _ => None,
    };
    text.split_once(':')
        .and_then(|(hours, minutes)| NaiveTime::from_hms_opt(digits(hours)?, digits(minutes)?, 0))
        .ok_or_else(|| RuleError::Time(text.chars().take(20).collect()))
}

/// Reads a zone's IANA name; names are case-sensitive.
pub fn parse_zone(text: &str) -> Result<Tz, RuleError> {
    Tz::from_str(text).map_err(|_| RuleError::Zone(text.chars().take(64).collect()))
}

/// Checks a jitter in seconds.
pub fn parse_jitter(seconds: i64) -> Result<u32, RuleError> {
    u32::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_JITTER_SECONDS).ok_or(RuleError::Jitter(seconds))
}

/// When to fire. All fields are checked, also those that the frequency leaves unused: they count once it is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    frequency: Frequency,
    time_of_day: NaiveTime,
    /// 0 = Monday.
    day_of_week: u32,
    /// 1 to 31.
    day_of_month: u32,
    zone: Tz,
}

/// What made an occurrence differ from what the rule says literally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The month is shorter than day_of_month.
    Clamped,
    /// The clocks skip that time; it fires right after the gap.
    Gap,
    /// The clocks show that time twice; it fires the first time.
    Fold,
}

impl Note {
    /// As the HTTP API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clamped => "clamped",
            Self::Gap => "gap",
            Self::Fold => "fold",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One firing of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// The local calendar date that the rule names; at most one occurrence of a rule has it.
    pub nominal_date: NaiveDate,
    /// The instant, before jitter.
    pub at: DateTime<Utc>,
    /// What the clocks of the zone show at that instant.
    pub local: NaiveDateTime,
    /// Why it is not literally what the rule says. A gap or fold outdoes a clamped day.
    pub note: Option<Note>,
}

impl Rule {
    /// Checks and takes the fields of a schedule. `day_of_week` is 0 = Monday to 6, `day_of_month` 1 to 31.
    pub fn new(
        frequency: Frequency,
        time_of_day: &str,
        day_of_week: i64,
        day_of_month: i64,
        timezone: &str,
    ) -> Result<Self, RuleError> {
        let within = |value: i64, low: u32, high: u32| u32::try_from(value).ok().filter(|v| (low..=high).contains(v));
        Ok(Self {
            frequency,
            time_of_day: parse_time_of_day(time_of_day)?,
            day_of_week: within(day_of_week, 0, 6).ok_or(RuleError::DayOfWeek(day_of_week))?,
            day_of_month: within(day_of_month, 1, 31).ok_or(RuleError::DayOfMonth(day_of_month))?,
            zone: parse_zone(timezone)?,
        })
    }

    /// The zone whose clocks count.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The time of the day in that zone.
    pub fn time_of_day(&self) -> NaiveTime {
        self.time_of_day
    }

    /// The first occurrence later than `after`, both before jitter.
    ///
    /// # Panics
    /// At the end of the calendar, some 260,000 years from now.
    pub fn next(&self, after: DateTime<Utc>) -> Occurrence {
        // The firing of the day before can lie after `after` too: a gap over midnight moves it into this day.
        let mut date = self.local_date(after).pred_opt().expect(CALENDAR);
        loop {
            date = self.nominal_from(date);
            match self.on(date) {
                Some(occurrence) if occurrence.at > after => return occurrence,
                _ => date = date.succ_opt().expect(CALENDAR),
            }
        }
    }

    /// The next `count` occurrences later than `after`.
    pub fn upcoming(&self, after: DateTime<Utc>, count: usize) -> Vec<Occurrence> {
        std::iter::successors(Some(self.next(after)), |last| Some(self.next(last.at))).take(count).collect()
    }

    /// The occurrence of this nominal date; none when the rule does not name it, or the zone never had it.
    pub fn on(&self, date: NaiveDate) -> Option<Occurrence> {
        if self.nominal_from(date) != date {
            return None;
        }
        let wanted = date.and_time(self.time_of_day);
        let clamped = self.frequency == Frequency::Monthly && date.day() < self.day_of_month;
        let (at, note) = match self.zone.from_local_datetime(&wanted) {
            MappedLocalTime::Single(at) => (at, None),
            MappedLocalTime::Ambiguous(first, _) => (first, Some(Note::Fold)),
            MappedLocalTime::None => (self.after_gap(wanted)?, Some(Note::Gap)),
        };
        let note = note.or(clamped.then_some(Note::Clamped));
        Some(Occurrence { nominal_date: date, at: at.to_utc(), local: at.naive_local(), note })
    }

    /// The first date from `date` on that the rule names.
    fn nominal_from(&self, date: NaiveDate) -> NaiveDate {
        match self.frequency {
            Frequency::Daily => date,
            Frequency::Weekly => {
                let ahead = (self.day_of_week + 7 - date.weekday().num_days_from_monday()) % 7;
                date.checked_add_days(Days::new(ahead.into())).expect(CALENDAR)
            }
            Frequency::Monthly => {
                let named = self.day_in_month_of(date);
                if named >= date {
                    return named;
                }
                let first = date.with_day(1).and_then(|first| first.checked_add_months(chrono::Months::new(1)));
                self.day_in_month_of(first.expect(CALENDAR))
            }
        }
    }

    fn day_in_month_of(&self, date: NaiveDate) -> NaiveDate {
        let day = self.day_of_month.min(date.num_days_in_month().into());
        date.with_day(day).expect("the day is clamped to the month")
    }

    /// The first instant after the gap in which `wanted` lies; none when the gap swallows the whole date.
    fn after_gap(&self, wanted: NaiveDateTime) -> Option<DateTime<Tz>> {
        // The gap's first local time, read with the offset that ends there, is the instant of the change.
        let (begin, offset) = GapInfo::new(&wanted, &self.zone)?.begin?;
        let change = begin.checked_sub_offset(chrono::Offset::fix(&offset))?.and_utc().with_timezone(&self.zone);
        let midnight = wanted.date().and_time(NaiveTime::MIN);
        let date_exists = begin > midnight || change.naive_local().date() == wanted.date();
        date_exists.then_some(change)
    }

    fn local_date(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// The occurrence that a row with this instant (before jitter) stands for. Usually the one at that very instant; when the
    /// zone's rules have changed since it was computed, the one of the same date.
    pub(crate) fn at_or_of_same_date(&self, at: DateTime<Utc>) -> Occurrence {
        let literal = self.next(at - TimeDelta::nanoseconds(1));
        if literal.at == at {
            return literal;
        }
        let mut date = self.local_date(at);
        loop {
            date = self.nominal_from(date);
            match self.on(date) {
                Some(occurrence) => return occurrence,
                None => date = date.succ_opt().expect(CALENDAR),
            }
        }
    }
}

const CALENDAR: &str = "the calendar reaches some 260,000 years ahead";

/// How long a schedule's firings wait after their instants, so that many schedules of one minute spread out: FNV-1a64 of the
/// schedule's id (its eight bytes, the highest first) modulo `jitter_seconds` + 1, in seconds. Always the same for a schedule.
pub fn jitter(schedule_id: i64, jitter_seconds: u32) -> TimeDelta {
    let hash = fnv1a64(&schedule_id.to_be_bytes());
    TimeDelta::seconds((hash % (u64::from(jitter_seconds) + 1)) as i64)
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(frequency: Frequency, time: &str, week: i64, month: i64, zone: &str) -> Rule {
        Rule::new(frequency, time, week, month, zone).unwrap()
    }
    fn daily(time: &str, zone: &str) -> Rule {
        rule(Frequency::Daily, time, 0, 1, zone)
    }
    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }
    fn instants(rule: &Rule, after: &str, count: usize) -> Vec<String> {
        let show = |o: &Occurrence| format!("{} {} {:?}", o.nominal_date, o.at.format("%FT%TZ"), o.note);
        rule.upcoming(utc(after), count).iter().map(show).collect()
    }

    #[test]
    fn a_time_still_ahead_counts_today_and_one_just_reached_does_not() {
        let rule = daily("02:00", "UTC");
        assert_eq!(rule.next(utc("2026-11-22T01:59:59.999Z")).at, utc("2026-11-22T02:00:00Z"));
        assert_eq!(rule.next(utc("2026-11-22T02:00:00Z")).at, utc("2026-11-23T02:00:00Z"));
    }

    #[test]
    fn weekly_later_today_is_today() {
        // 2026-11-22 is a Sunday.
        let rule = rule(Frequency::Weekly, "12:00", 6, 1, "Europe/Berlin");
        assert_eq!(rule.next(utc("2026-11-22T10:00:00Z")).at, utc("2026-11-22T11:00:00Z"));
        assert_eq!(rule.next(utc("2026-11-22T11:00:00Z")).at, utc("2026-11-29T11:00:00Z"));
    }

    #[test]
    fn the_31st_fires_in_every_month() {
        let rule = rule(Frequency::Monthly, "02:00", 0, 31, "UTC");
        let got = instants(&rule, "2027-12-31T03:00:00Z", 4);
        assert_eq!(
            got,
            [
                "2028-01-31 2028-01-31T02:00:00Z None",
                "2028-02-29 2028-02-29T02:00:00Z Some(Clamped)",
                "2028-03-31 2028-03-31T02:00:00Z None",
                "2028-04-30 2028-04-30T02:00:00Z Some(Clamped)",
            ]
        );
    }

    #[test]
    fn a_skipped_time_fires_right_after_the_gap() {
        let got = instants(&daily("02:30", "America/New_York"), "2027-03-13T12:00:00Z", 2);
        assert_eq!(got, ["2027-03-14 2027-03-14T07:00:00Z Some(Gap)", "2027-03-15 2027-03-15T06:30:00Z None"]);
        let local = daily("02:30", "America/New_York").next(utc("2027-03-13T12:00:00Z")).local;
        assert_eq!(local.format("%FT%R").to_string(), "2027-03-14T03:00");
    }

    #[test]
    fn a_repeated_time_fires_the_first_time_only() {
        let got = instants(&daily("01:30", "America/New_York"), "2027-11-06T12:00:00Z", 2);
        assert_eq!(got, ["2027-11-07 2027-11-07T05:30:00Z Some(Fold)", "2027-11-08 2027-11-08T06:30:00Z None"]);
    }

    #[test]
    fn a_date_that_the_zone_never_had_is_no_occurrence() {
        let got = instants(&daily("12:00", "Pacific/Apia"), "2011-12-29T00:00:00Z", 2);
        assert_eq!(got, ["2011-12-29 2011-12-29T22:00:00Z None", "2011-12-31 2011-12-30T22:00:00Z None"]);
        let friday = rule(Frequency::Weekly, "12:00", 4, 1, "Pacific/Apia");
        let dates: Vec<_> =
            friday.upcoming(utc("2011-12-20T00:00:00Z"), 2).iter().map(|o| o.nominal_date.to_string()).collect();
        assert_eq!(dates, ["2011-12-23", "2012-01-06"]);
    }

    #[test]
    fn from_2100_on_the_zone_data_has_no_summer_time() {
        let rule = daily("12:00", "Europe/Berlin");
        assert_eq!(rule.next(utc("2099-07-01T00:00:00Z")).at, utc("2099-07-01T10:00:00Z"));
        assert_eq!(rule.next(utc("2100-07-01T00:00:00Z")).at, utc("2100-07-01T11:00:00Z"));
    }

    #[test]
    fn wrong_fields_are_refused_with_code_and_field() {
        use Frequency::Daily;
        for (time, week, month, zone, code, field) in [
            ("25:00", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("12:60", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("2:00", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("+2:00", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("02:00:00", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("", 0, 1, "UTC", "schedule.time_invalid", "time_of_day"),
            ("02:00", 7, 1, "UTC", "schedule.day_of_week_invalid", "day_of_week"),
            ("02:00", -1, 1, "UTC", "schedule.day_of_week_invalid", "day_of_week"),
            ("02:00", 0, 32, "UTC", "schedule.day_of_month_invalid", "day_of_month"),
            ("02:00", 0, 0, "UTC", "schedule.day_of_month_invalid", "day_of_month"),
            ("02:00", 0, 1, "Mars/Olympus", "schedule.timezone_unknown", "timezone"),
        ] {
            let error = Rule::new(Daily, time, week, month, zone).unwrap_err();
            assert_eq!((error.code(), error.field()), (code, field), "{error}");
        }
        assert_eq!(parse_jitter(3601).unwrap_err().code(), "schedule.jitter_invalid");
        assert_eq!(parse_jitter(-1).unwrap_err().field(), "jitter_seconds");
        assert_eq!(parse_jitter(3600), Ok(3600));
    }

    #[test]
    fn jitter_is_fixed_for_a_schedule_and_stays_within_its_bound() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
        for id in 0..1000 {
            assert_eq!(jitter(id, 0), TimeDelta::zero());
            assert!((0..=60).contains(&jitter(id, 60).num_seconds()));
            assert_eq!(jitter(id, 60), jitter(id, 60));
        }
        let all: std::collections::HashSet<_> = (0..1000).map(|id| jitter(id, 60)).collect();
        assert_eq!(all.len(), 61);
    }
}
