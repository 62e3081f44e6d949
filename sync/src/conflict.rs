//! Conflicts: who wins when both sides changed one path, and what the loser is called when both stay.
//!
//! Invariant: identical contents are never a conflict, and whatever loses can be had again: the plan's steps see to that.
//! Left out: finding conflicts ([`crate::plan`]) and the inbox of open ones.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::manifest::File;
use crate::path::{MAX_NAME_BYTES, MAX_PATH_BYTES, TreePath};
use crate::plan::Side;

/// Who wins a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The later modification time; see [`newer`].
    KeepNewest,
    /// The device.
    KeepLocal,
    /// The server.
    KeepServer,
    /// Both stay; the one that [`newer`] does not name gets another name.
    #[serde(alias = "create_version")]
    KeepBoth,
    /// Nobody: it is left as it is on both sides, for a person to decide.
    Ask,
}

/// What collided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collision {
    /// Both sides changed or created the file, and the contents differ.
    BothChanged,
    /// The device deleted what the server changed.
    DeletedOnDevice,
    /// The server deleted what the device changed.
    DeletedOnServer,
    /// A folder on one side, a file on the other.
    FolderAndFile,
}

/// How it ends once the plan's actions are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The path holds this side's contents.
    Keeps(Side),
    /// The path holds this side's contents, and `copy` the other's.
    KeepsBoth {
        /// The side whose contents (or folder) stay under the name.
        winner: Side,
        /// Where the loser is.
        copy: TreePath,
    },
    /// Left as it is on both sides: the policy is to ask, the direction forbids the way out, or no name was left.
    Open,
}

/// One conflict of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The path on which both sides collided.
    pub path: TreePath,
    /// What collided.
    pub collision: Collision,
    /// How it ends.
    pub outcome: Outcome,
}

/// The side with the later modification time. A tie and an implausible time (none, before 1980, more than a day ahead of `now`)
/// go to the server.
pub fn newer(device: &File, server: &File, now: DateTime<Utc>) -> Side {
    let plausible = |file: &File| {
        file.modified_at
            .filter(|at| at.year() >= 1980 && *at <= now + TimeDelta::days(1))
            .map(|at| at.timestamp_micros())
    };
    match (plausible(device), plausible(server)) {
        (Some(device), Some(server)) if device > server => Side::Device,
        _ => Side::Server,
    }
}

/// Longest part of the device's name in a copy's name, in bytes.
const MAX_DEVICE_BYTES: usize = 60;
/// Longest ending (with its dot) that a copy's name keeps as an ending, in bytes.
const MAX_ENDING_BYTES: usize = 40;

/// The loser's name: `name (conflict 2026-11-22 laptop).ext`, and when that is taken, with `number` 2,
/// `name (conflict 2026-11-22 laptop) 2.ext`. The name is shortened so that all fits into [`MAX_NAME_BYTES`].
pub fn keep_both_name(name: &str, date: NaiveDate, device: &str, number: u32) -> String {
    copy_name(name, date, device, number, MAX_NAME_BYTES)
}

/// [`keep_both_name`] beside `path`; none when the folder's path leaves no room for a name.
pub fn keep_both_path(path: &TreePath, date: NaiveDate, device: &str, number: u32) -> Option<TreePath> {
    let folder = path.parent()?;
    let room = MAX_PATH_BYTES.saturating_sub(folder.as_str().len() + 1).min(MAX_NAME_BYTES);
    folder.join(&copy_name(path.name()?, date, device, number, room)).ok()
}

fn copy_name(name: &str, date: NaiveDate, device: &str, number: u32, room: usize) -> String {
    let (stem, ending) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= MAX_ENDING_BYTES => name.split_at(dot),
        _ => (name, ""),
    };
    let device: String = device.chars().map(|c| if c == '/' || c.is_control() { '-' } else { c }).collect();
    let number = if number > 1 { format!(" {number}") } else { String::new() };
    let mark = format!(" (conflict {date} {}){number}", shortened(&device, MAX_DEVICE_BYTES).trim());
    let stem = shortened(stem, room.saturating_sub(mark.len() + ending.len()));
    format!("{stem}{mark}{ending}")
}

fn shortened(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash::ContentHash;
    use proptest::prelude::*;

    fn date() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, 22).unwrap()
    }

    #[test]
    fn the_losers_name_says_what_it_is_and_keeps_the_ending() {
        let name = |name: &str, number| keep_both_name(name, date(), "laptop", number);
        assert_eq!(name("report.txt", 1), "report (conflict 2026-11-22 laptop).txt");
        assert_eq!(name("report.txt", 2), "report (conflict 2026-11-22 laptop) 2.txt");
        assert_eq!(name("Makefile", 1), "Makefile (conflict 2026-11-22 laptop)");
        assert_eq!(name(".profile", 1), ".profile (conflict 2026-11-22 laptop)");
        assert_eq!(keep_both_name("a", date(), "x/y\n", 1), "a (conflict 2026-11-22 x-y-)");
    }

    #[test]
    fn a_folder_too_deep_for_another_name_gives_none() {
        let folder = TreePath::parse(&format!("/{}", vec!["d".repeat(255); 15].join("/"))).unwrap();
        let file = folder.join(&"n".repeat(250)).unwrap();
        let copy = keep_both_path(&file, date(), "laptop", 1).unwrap();
        assert!(copy.as_str().len() <= MAX_PATH_BYTES);
        let tight = folder.join(&"e".repeat(240)).unwrap().join("f").unwrap();
        assert_eq!(keep_both_path(&tight, date(), "laptop", 1), None);
    }

    #[test]
    fn the_later_plausible_time_wins_and_the_server_in_doubt() {
        let now: DateTime<Utc> = "2026-11-22T12:00:00Z".parse().unwrap();
        let file = |at: &str| File {
            hash: ContentHash::of(at.as_bytes()),
            size: 1,
            modified_at: at.parse().ok(),
            executable: None,
        };
        for (device, server, winner) in [
            ("2026-11-22T11:00:00Z", "2026-11-22T10:00:00Z", Side::Device),
            ("2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z", Side::Server),
            ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z", Side::Server),
            ("2026-11-24T10:00:00Z", "2026-11-22T10:00:00Z", Side::Server),
            ("2026-11-22T10:00:00Z", "1979-12-31T23:59:59Z", Side::Server),
            ("2026-11-22T10:00:00Z", "2026-11-24T10:00:00Z", Side::Server),
            ("none", "2026-11-22T10:00:00Z", Side::Server),
        ] {
            assert_eq!(newer(&file(device), &file(server), now), winner, "{device} against {server}");
        }
    }

    proptest! {
        #[test]
        fn a_copys_name_is_always_a_valid_new_name(name in "[^/\\p{Cc}]{1,80}", device in ".{0,80}", number in 1u32..2000) {
            let Ok(name) = crate::path::parse_name(&name) else { return Ok(()) };
            let copy = keep_both_name(&name, date(), &device, number);
            prop_assert!(crate::path::parse_name(&copy).is_ok(), "{copy:?}");
            prop_assert_ne!(copy, name);
        }
    }
}
