//! Owns the proof that schedules fire when the clocks of the world say so: every zone, each date from 1970 to 2099, compared
//! with Python's zoneinfo on the same release of the zone database.
//!
//! Invariant: `next` strictly increases and hits each nominal date once; both sides' digests are equal.
//! Needs python3 (3.9 or later) with pip: it fetches the package tzdata once, into the target folder.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chrono::{NaiveDate, TimeDelta, TimeZone};
use chrono_tz::{IANA_TZDB_VERSION, TZ_VARIANTS};
use driftless_sync::cadence::{Frequency, Occurrence, Rule};
use driftless_sync::hash::ContentHash;
use serde::Deserialize;

/// Frequency, time, day of the week, day of the month. The same list stands in cadence_zoneinfo.py.
const CHAINS: [(Frequency, &str, i64, i64); 4] = [
    (Frequency::Daily, "02:30", 0, 1),
    (Frequency::Weekly, "00:00", 6, 1),
    (Frequency::Monthly, "01:59", 0, 31),
    (Frequency::Monthly, "00:30", 0, 1),
];
const TIMES: [&str; 12] =
    ["00:00", "00:15", "00:59", "01:00", "01:30", "01:59", "02:00", "02:30", "03:00", "12:00", "23:30", "23:59"];

/// One line of cadence_zoneinfo.py.
#[derive(Deserialize)]
struct Expected {
    zone: String,
    chains: Vec<ContentHash>,
    around: Vec<i64>,
    changes: ContentHash,
}

#[test]
fn every_zone_fires_as_python_zoneinfo_says() {
    let mut python = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cadence_zoneinfo.py"))
        .arg(IANA_TZDB_VERSION)
        .env("PYTHONPATH", zone_data())
        .env("PYTHONTZPATH", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed to compare with its zoneinfo: install Python 3.9 or later");
    let names: Vec<_> = TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
    python.stdin.take().unwrap().write_all(names.join("\n").as_bytes()).unwrap();

    let lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let expected: Vec<Expected> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(python.wait().unwrap().success(), "cadence_zoneinfo.py failed, see above");
    assert_eq!(expected.len(), names.len());

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let parts = expected.chunks(expected.len().div_ceil(threads));
        let running: Vec<_> = parts.map(|part| scope.spawn(|| part.iter().flat_map(differences).collect())).collect();
        running.into_iter().flat_map(|thread| -> Vec<String> { thread.join().unwrap() }).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn differences(expected: &Expected) -> Vec<String> {
    let zone = &expected.zone;
    let mut wrong = Vec::new();
    for ((frequency, time, week, month), digest) in CHAINS.iter().zip(&expected.chains) {
        let rule = Rule::new(*frequency, time, *week, *month, zone).unwrap();
        if chain(&rule) != *digest {
            wrong.push(format!("{zone}: {frequency:?} at {time} differs"));
        }
    }
    if around_changes(zone, &expected.around) != expected.changes {
        wrong.push(format!("{zone}: a date around a change of offset differs"));
    }
    wrong
}

/// Follows `next` from 1970 to 2099.
fn chain(rule: &Rule) -> ContentHash {
    let first = rule.zone().from_utc_datetime(&date(1970, 1, 1).and_hms_opt(0, 0, 0).unwrap()).to_utc();
    let mut digest = Digest::default();
    let mut last: Option<Occurrence> = None;
    let mut after = first - TimeDelta::days(2);
    loop {
        let occurrence = rule.next(after);
        if occurrence.nominal_date > date(2099, 12, 31) {
            return digest.finish();
        }
        assert!(occurrence.at > after, "{rule:?}: {occurrence:?} is not later than {after}");
        if let Some(last) = last {
            assert!(occurrence.nominal_date > last.nominal_date, "{rule:?}: {occurrence:?} comes twice");
        }
        if occurrence.nominal_date >= date(1970, 1, 1) {
            digest.push(&occurrence);
        }
        after = occurrence.at;
        last = Some(occurrence);
    }
}

fn around_changes(zone: &str, days: &[i64]) -> ContentHash {
    let mut digest = Digest::default();
    for time in TIMES {
        let rule = Rule::new(Frequency::Daily, time, 0, 1, zone).unwrap();
        for day in days {
            let Some(occurrence) = rule.on(date(1970, 1, 1) + TimeDelta::days(*day)) else { continue };
            assert_eq!(rule.next(occurrence.at - TimeDelta::seconds(1)), occurrence, "{rule:?}");
            digest.push(&occurrence);
        }
    }
    digest.finish()
}

fn date(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap()
}

#[derive(Default)]
struct Digest(Vec<u8>);

impl Digest {
    fn push(&mut self, occurrence: &Occurrence) {
        let day = (occurrence.nominal_date - date(1970, 1, 1)).num_days();
        self.0.extend_from_slice(&day.to_le_bytes());
        self.0.extend_from_slice(&occurrence.at.timestamp().to_le_bytes());
    }

    fn finish(self) -> ContentHash {
        ContentHash::of(&self.0)
    }
}

/// The folder of the PyPI package tzdata, of the release that chrono-tz was built from.
fn zone_data() -> PathBuf {
    let (year, letter) = IANA_TZDB_VERSION.split_at(4);
    let number = letter.bytes().next().unwrap() - b'a' + 1;
    let package = format!("tzdata-{year}.{number}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&package);
    if !folder.join("tzdata").is_dir() {
        // Installed beside and renamed, so that a killed test leaves no half package.
        let fresh = folder.with_extension(format!("new-{}", std::process::id()));
        let status = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                // The network may fail for a moment.
                "--retries=10",
                "--timeout=60",
                "--no-deps",
                "--disable-pip-version-check",
                "--target",
            ])
            .args([fresh.as_os_str(), package.replace('-', "==").as_ref()])
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .status()
            .expect("python3 is needed to compare with its zoneinfo: install Python 3.9 or later");
        assert!(status.success(), "python3 -m pip could not install {package}; is pip there, and a network?");
        let renamed = std::fs::rename(&fresh, &folder);
        assert!(renamed.is_ok() || folder.join("tzdata").is_dir(), "{renamed:?}");
    }
    folder
}
