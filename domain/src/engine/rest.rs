//! Whether a device is as it was when a run found nothing to do.
//!
//! Invariant: a plan follows from the tree, the device's settings, the run's rules, the baseline and what the disk says; nothing
//! else. Only runs write a remote's baseline, and the run that begins takes the mark away. So where the mark holds, the
//! plan is empty again. It is never made of files whose fingerprints could hide a change.
//! Left out: where the mark is kept (`runs`).

use driftless_sync::hash::{ContentHash, Hasher};

use crate::{remotes::scan::Scan, runs::Options, tree::Cursor};

/// Another number makes every mark of old worthless: for when a plan can come out otherwise from the same things.
const RULES: u8 = 1;

/// What a run found where it had nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    rules_and_tree: ContentHash,
    disk: ContentHash,
}

impl Rest {
    /// `settings` are of the device. None: the scan can't tell whether a file changes after it.
    pub fn new(settings: ContentHash, options: Options, head: Cursor, scan: &Scan) -> Option<Rest> {
        Some(Rest { rules_and_tree: rules_and_tree(settings, options, head), disk: disk(scan)? })
    }

    /// As it was kept.
    pub fn from_bytes(bytes: &[u8]) -> Option<Rest> {
        let (rules_and_tree, disk) = bytes.split_at_checked(32)?;
        Some(Rest { rules_and_tree: rules_and_tree.try_into().ok()?, disk: disk.try_into().ok()? })
    }

    /// To be kept.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.rules_and_tree.0, self.disk.0].concat()
    }

    /// Whether settings, rules and tree are as they were.
    pub fn is_of(&self, settings: ContentHash, options: Options, head: Cursor) -> bool {
        self.rules_and_tree == rules_and_tree(settings, options, head)
    }

    /// Whether the disk is as it was.
    pub fn has(&self, scan: &Scan) -> bool {
        disk(scan) == Some(self.disk)
    }
}

fn rules_and_tree(settings: ContentHash, options: Options, head: Cursor) -> ContentHash {
    let Options { sync_deletions, resolve_conflicts, direction } = options;
    let mut hasher = Hasher::new();
    hasher.update(&[RULES, u8::from(sync_deletions)]);
    hasher.update(settings.as_bytes());
    hasher.update(head.epoch.as_bytes());
    hasher.update(&head.seq.to_le_bytes());
    hasher.update(format!("{resolve_conflicts:?} {direction:?}").as_bytes());
    hasher.finish()
}

/// What the disk says of every name, but for the times of folders, which decide nothing.
fn disk(scan: &Scan) -> Option<ContentHash> {
    let mut hasher = Hasher::new();
    // Each text with its length before it: else two lists could read alike.
    let text = |hasher: &mut Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    if !scan.leftovers.is_empty() {
        return None;
    }
    for found in &scan.found {
        let file = found.content.is_some();
        if file && !found.settled {
            return None;
        }
        text(&mut hasher, found.path.as_str());
        text(&mut hasher, found.spelling.as_deref().unwrap_or_default());
        hasher.update(&[u8::from(file)]);
        if file {
            let print = &found.stat.print;
            let numbers = [print.size, print.mtime_ns as u64, print.ctime_ns as u64, print.inode];
            numbers.iter().for_each(|number| hasher.update(&number.to_le_bytes()));
            hasher.update(&found.stat.mode.to_le_bytes());
        }
    }
    for unknown in &scan.unknown {
        text(&mut hasher, &unknown.shown);
        text(&mut hasher, unknown.reason.code());
    }
    hasher.update(&(scan.found.len() as u64).to_le_bytes());
    Some(hasher.finish())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        remotes::{
            folder::{Fingerprint, Kind, Stat},
            scan::{Found, Leftover, Reason, UNREAD, Unknown},
        },
        schedules::{Direction, Resolution},
    };
    use driftless_sync::path::TreePath;
    use uuid::Uuid;

    const OPTIONS: Options =
        Options { sync_deletions: true, resolve_conflicts: Resolution::KeepNewest, direction: Direction::Both };

    fn found(path: &str, kind: Kind) -> Found {
        let print = Fingerprint { size: 1, mtime_ns: 2, ctime_ns: 3, inode: 4 };
        Found {
            path: TreePath::parse(path).unwrap(),
            spelling: None,
            stat: Stat { kind, print, dev: 5, mode: 0o644, uid: 6, gid: 7 },
            content: (kind == Kind::File).then_some(UNREAD),
            settled: true,
        }
    }

    fn scan() -> Scan {
        let unknown = Unknown { path: None, shown: "/link".into(), reason: Reason::Link };
        let found = vec![found("/d", Kind::Folder), found("/d/f", Kind::File), found("/g", Kind::File)];
        Scan { found, unknown: vec![unknown], leftovers: Vec::new() }
    }

    fn rest() -> Rest {
        let head = Cursor { epoch: Uuid::nil(), seq: 9 };
        Rest::new(ContentHash::of(b"settings"), OPTIONS, head, &scan()).unwrap()
    }

    #[test]
    fn whatever_can_change_a_plan_ends_the_rest() {
        let rest = rest();
        assert!(rest.has(&scan()) && Rest::from_bytes(&rest.to_bytes()) == Some(rest));
        let changes: [fn(&mut Scan); 12] = [
            |s| s.found[1].stat.print.size += 1,
            |s| s.found[1].stat.print.mtime_ns += 1,
            |s| s.found[1].stat.print.ctime_ns += 1,
            |s| s.found[1].stat.print.inode += 1,
            |s| s.found[1].stat.mode = 0o755,
            |s| s.found[1].spelling = Some("F".into()),
            |s| s.found[0] = found("/e", Kind::Folder),
            |s| s.found[0] = found("/d", Kind::File),
            |s| drop(s.found.pop()),
            |s| s.found.push(found("/h", Kind::Folder)),
            |s| s.unknown[0].reason = Reason::Ignored,
            |s| s.unknown.clear(),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut scan = scan();
            change(&mut scan);
            assert!(!rest.has(&scan), "change {n}");
        }
        let mut touched = scan();
        touched.found[0].stat.print.mtime_ns += 1;
        assert!(rest.has(&touched), "the times of a folder decide nothing");
    }

    #[test]
    fn other_settings_rules_or_trees_end_the_rest() {
        let (rest, settings) = (rest(), ContentHash::of(b"settings"));
        let head = Cursor { epoch: Uuid::nil(), seq: 9 };
        assert!(rest.is_of(settings, OPTIONS, head));
        assert!(!rest.is_of(ContentHash::of(b"others"), OPTIONS, head));
        assert!(!rest.is_of(settings, OPTIONS, Cursor { seq: 10, ..head }));
        assert!(!rest.is_of(settings, OPTIONS, Cursor { epoch: Uuid::max(), ..head }));
        assert!(!rest.is_of(settings, Options { sync_deletions: false, ..OPTIONS }, head));
        assert!(!rest.is_of(settings, Options { resolve_conflicts: Resolution::Ask, ..OPTIONS }, head));
        assert!(!rest.is_of(settings, Options { direction: Direction::Upload, ..OPTIONS }, head));
    }

    #[test]
    fn nothing_rests_while_a_change_could_hide_or_a_leftover_waits() {
        let (mut young, mut waiting) = (scan(), scan());
        young.found[2].settled = false;
        waiting.leftovers.push(Leftover { folder: TreePath::root(), name: "t".into() });
        for scan in [young, waiting] {
            let head = Cursor { epoch: Uuid::nil(), seq: 9 };
            assert_eq!(Rest::new(ContentHash::of(b"settings"), OPTIONS, head, &scan), None);
            assert!(!rest().has(&scan));
        }
    }
}
