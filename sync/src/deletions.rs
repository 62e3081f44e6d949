//! Deletion safety: whether unattended deletions may be carried out or wait for a person.
//!
//! Invariant: of what a plan deletes, all is carried out or nothing is; a mistake on one side never empties the other unseen.
//! Left out: counting the last hour, and what a signed-in person deletes, which goes to trash and is never held.

use std::collections::HashSet;

use crate::manifest::Manifest;
use crate::plan::{Deletion, Plan, Side};

/// More files than this in an hour, by one device, are held.
pub const MAX_FILES_AN_HOUR: u64 = 1000;
/// Fewer than this are never "more than half of the files".
pub const MIN_FILES_FOR_HALF: u64 = 10;

/// What a plan would take from one side. Only files count, and no half of a move does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Files that this device's unattended deletions took in the last hour, from this side.
    pub last_hour: u64,
    /// Files that the plan deletes on this side, without those a person approved.
    pub planned: u64,
    /// Files that this side holds before the plan.
    pub total: u64,
    /// The device is suddenly empty: its baseline had files and its listing has none.
    pub emptied: bool,
}

/// What happens to a plan's deletions; the rest of the plan is carried out either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are carried out.
    Allowed,
    /// They wait for a person.
    Held,
}

/// Judges one side's loss.
pub fn judge(loss: Loss) -> Verdict {
    let count = loss.last_hour + loss.planned;
    let too_many = count > MAX_FILES_AN_HOUR || (count >= MIN_FILES_FOR_HALF && count * 2 > loss.total);
    if loss.planned > 0 && (too_many || loss.emptied) { Verdict::Held } else { Verdict::Allowed }
}

/// What both sides hold before a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Files on the device.
    pub device: u64,
    /// Files in the tree.
    pub server: u64,
    /// The device is suddenly empty: its baseline had files and its listing has none.
    pub emptied: bool,
}

impl Totals {
    /// Of whole listings.
    pub fn of(base: &Manifest, device: &Manifest, server: &Manifest) -> Self {
        let [base, device, server] = [base, device, server].map(|listing| listing.files() as u64);
        Totals { device, server, emptied: device == 0 && base > 0 }
    }
}

/// Takes the deletions out of a plan when they are too many, and returns them; none when all may be carried out. `last_hour`
/// counts the files that this device's unattended deletions took in the last hour. What a person approved is neither counted
/// nor taken out.
pub fn hold(plan: &mut Plan, totals: Totals, last_hour: u64, approved: &HashSet<Deletion>) -> Vec<Deletion> {
    let planned = |side| plan.deletions().filter(|d| d.on == side && !approved.contains(d)).count() as u64;
    let loss = |side, total| Loss { last_hour, planned: planned(side), total, emptied: totals.emptied };
    let (on_device, on_server) = (loss(Side::Device, totals.device), loss(Side::Server, totals.server));
    // The device's count knows no sides; half of the files does.
    let on_both = Loss { planned: on_device.planned + on_server.planned, total: u64::MAX, ..on_server };
    if [on_device, on_server, on_both].into_iter().any(|loss| judge(loss) == Verdict::Held) {
        plan.hold_deletions(approved)
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_or_more_than_half_or_all_of_them_are_held() {
        for (last_hour, planned, total, emptied, verdict) in [
            (0, 0, 0, true, Verdict::Allowed),
            (5000, 0, 10, false, Verdict::Allowed),
            (0, 1000, 100_000, false, Verdict::Allowed),
            (0, 1001, 100_000, false, Verdict::Held),
            (1000, 1, 100_000, false, Verdict::Held),
            (0, 9, 9, false, Verdict::Allowed),
            (0, 10, 20, false, Verdict::Allowed),
            (0, 10, 19, false, Verdict::Held),
            (9, 1, 19, false, Verdict::Held),
            (0, 1, 1, true, Verdict::Held),
        ] {
            let loss = Loss { last_hour, planned, total, emptied };
            assert_eq!(judge(loss), verdict, "{loss:?}");
        }
    }
}
