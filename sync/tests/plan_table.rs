//! Owns the plan's tables as examples: one row, one test, and what each comes to.
//!
//! A tree is written as words: `/a=x` is a file with contents x, `/a/` a folder, `/a=x@9` a file modified at minute 9, `/a=x#7` one
//! with inode (device), entry id (server) or both (base) 7.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use driftless_sync::conflict::Policy;
use driftless_sync::deletions;
use driftless_sync::hash::ContentHash;
use driftless_sync::manifest::{Content, File, Manifest, Node};
use driftless_sync::path::TreePath;
use driftless_sync::plan::{Direction, Plan, Record, Rules, Step, plan};

fn start() -> DateTime<Utc> {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn tree(words: &str) -> Manifest {
    let entry = |word: &str| {
        if let Some(folder) = word.strip_suffix('/') {
            return (TreePath::parse(folder).unwrap(), Node::new(Content::Folder));
        }
        let (path, rest) = word.split_once('=').unwrap();
        let (rest, number) = rest.split_once('#').map_or((rest, None), |(rest, number)| (rest, number.parse().ok()));
        let (contents, minute) =
            rest.split_once('@').map_or((rest, 0), |(rest, minute)| (rest, minute.parse().unwrap()));
        let hash = ContentHash::of(contents.as_bytes());
        let modified_at = Some(start() + TimeDelta::minutes(minute));
        let file = File { hash, size: contents.len() as u64, modified_at, executable: Some(false) };
        let node = Node { inode: number, entry: number.map(|n| n as i64), ..Node::new(Content::File(file)) };
        (TreePath::parse(path).unwrap(), node)
    };
    let (unknown, known): (Vec<&str>, Vec<&str>) = words.split_whitespace().partition(|word| word.starts_with('?'));
    Manifest {
        entries: known.into_iter().map(entry).collect(),
        unknown: unknown.into_iter().map(|word| TreePath::parse(&word[1..]).unwrap()).collect(),
    }
}

fn rules() -> Rules {
    Rules {
        direction: Direction::Both,
        policy: Policy::KeepNewest,
        sync_deletions: true,
        now: start() + TimeDelta::hours(1),
        device_name: "laptop".into(),
    }
}

fn show(plan: &Plan) -> Vec<String> {
    let action = |action: &driftless_sync::plan::Action| {
        let step = match &action.step {
            Step::CreateFolder => "folder".to_owned(),
            Step::Write { from, ingest, .. } => {
                let from = if from.1 == action.path { String::new() } else { format!(" from {:?} {}", from.0, from.1) };
                format!("write{from}{}", if *ingest { " after ingest" } else { "" })
            }
            Step::SetMetadata { .. } => "metadata".to_owned(),
            Step::Move { from, .. } => format!("move from {from}"),
            Step::DeleteFile(_) => "delete".to_owned(),
            Step::DeleteFolder => "delete folder".to_owned(),
        };
        format!("{:?} {}: {step}", action.on, action.path)
    };
    let record = |record: &Record| match record {
        Record::Agree { path, .. } => format!("agree {path}"),
        Record::Forget { path } => format!("forget {path}"),
    };
    plan.records.iter().map(record).chain(plan.actions.iter().map(action)).collect()
}

fn planned(base: &str, device: &str, server: &str, rules: &Rules) -> Vec<String> {
    show(&plan(&tree(base), &tree(device), &tree(server), rules))
}

#[test]
fn each_row_of_the_table() {
    for (base, device, server, expected) in [
        ("/f=1", "/f=1", "/f=1", &[][..]),
        ("/f=1", "/f=2", "/f=1", &["Server /f: write"]),
        ("", "/f=1", "", &["Server /f: write"]),
        ("/f=1", "/f=1", "/f=2", &["Device /f: write"]),
        ("", "", "/f=1", &["Device /f: write"]),
        ("/f=1", "/f=2", "/f=2", &["agree /f"]),
        ("", "/f=2", "/f=2", &["agree /f"]),
        ("/f=1", "", "/f=1", &["Server /f: delete"]),
        ("/f=1", "/f=1", "", &["Device /f: delete"]),
        ("/f=1", "", "", &["forget /f"]),
        ("/f=1", "", "/f=2", &["Device /f: write"]),
        ("/f=1", "/f=2", "", &["Server /f: write"]),
        ("/f=1", "?/f", "/f=2", &[]),
        ("/d/ /d/f=1", "?/d", "", &[]),
        ("/f=1", "/f=2", "?/f", &[]),
        ("", "/d/", "", &["Server /d: folder"]),
        ("/d/", "", "/d/", &["Server /d: delete folder"]),
    ] {
        assert_eq!(planned(base, device, server, &rules()), expected, "{base:?} {device:?} {server:?}");
    }
}

#[test]
fn without_deletions_the_device_gets_back_and_keeps_what_it_has() {
    let rules = Rules { sync_deletions: false, ..rules() };
    for (base, device, server, expected) in [
        ("/d/ /d/f=1", "", "/d/ /d/f=1", &["Device /d: folder", "Device /d/f: write"][..]),
        ("/d/ /d/f=1", "/d/ /d/f=1", "", &[]),
        ("/f=1", "/g=1", "/f=1", &["Device /f: write", "Server /g: write"]),
    ] {
        assert_eq!(planned(base, device, server, &rules), expected, "{base:?} {device:?} {server:?}");
    }
}

#[test]
fn each_policy_settles_a_conflict_its_way() {
    let copy = "/f (conflict 2026-11-22 laptop)";
    let upload = format!("Server {copy}: write from Device /f");
    let rename = format!("Device {copy}: move from /f");
    let keep = format!("Server {copy}: write from Server /f");
    let fetch = format!("Device {copy}: write");
    for (policy, device, server, expected) in [
        (Policy::KeepNewest, "/f=2@5", "/f=3@4", &["Server /f: write"][..]),
        (Policy::KeepNewest, "/f=2@5", "/f=3@6", &["Device /f: write after ingest"]),
        (Policy::KeepNewest, "/f=2@5", "/f=3@5", &["Device /f: write after ingest"]),
        (Policy::KeepLocal, "/f=2@5", "/f=3@6", &["Server /f: write"]),
        (Policy::KeepServer, "/f=2@5", "/f=3@4", &["Device /f: write after ingest"]),
        (Policy::KeepBoth, "/f=2@5", "/f=3@6", &[&upload, &rename, "Device /f: write"]),
        (Policy::KeepBoth, "/f=2@6", "/f=3@5", &[&keep, &fetch, "Server /f: write"]),
        (Policy::Ask, "/f=2@5", "/f=3@6", &[]),
    ] {
        assert_eq!(planned("/f=1", device, server, &Rules { policy, ..rules() }), expected, "{policy:?}");
    }
}

#[test]
fn a_copys_name_steps_aside_for_what_is_there() {
    let rules = Rules { policy: Policy::KeepBoth, ..rules() };
    // Words have no blanks, so the name is taken by hand.
    let taken = TreePath::parse("/f (conflict 2026-11-22 laptop).txt").unwrap();
    let mut device = tree("/f.txt=2");
    device.entries.push((taken, tree("/x=other").entries.remove(0).1));
    let plan = plan(&tree(""), &device, &tree("/f.txt=3"), &rules);
    assert!(
        show(&plan).contains(&"Device /f (conflict 2026-11-22 laptop) 2.txt: move from /f.txt".to_owned()),
        "{plan:#?}"
    );
}

#[test]
fn a_copy_that_a_run_left_behind_is_taken_again_but_a_deleted_one_is_not() {
    let rules = Rules { policy: Policy::KeepBoth, ..rules() };
    let copy = |listing: &str| {
        let mut manifest = tree(&format!("{listing} /copy=2"));
        manifest.entries[1].0 = TreePath::parse("/f (conflict 2026-11-22 laptop)").unwrap();
        manifest
    };
    let left_behind = show(&plan(&tree("/f=1"), &tree("/f=2"), &copy("/f=3"), &rules));
    assert_eq!(left_behind, ["Device /f (conflict 2026-11-22 laptop): move from /f", "Device /f: write"]);
    let deleted = show(&plan(&copy("/f=1"), &tree("/f=2"), &copy("/f=3"), &rules));
    assert!(deleted.contains(&"Device /f (conflict 2026-11-22 laptop) 2: move from /f".to_owned()), "{deleted:?}");
    assert!(deleted.contains(&"Server /f (conflict 2026-11-22 laptop): delete".to_owned()), "{deleted:?}");
}

#[test]
fn one_way_leaves_the_other_side_alone() {
    for (direction, policy, base, device, server, expected) in [
        (Direction::Upload, Policy::KeepNewest, "/f=1", "/f=1", "/f=2", &[][..]),
        (Direction::Upload, Policy::KeepNewest, "/f=1", "/f=1", "", &[]),
        (Direction::Upload, Policy::KeepNewest, "/f=1", "", "/f=1", &["Server /f: delete"]),
        (Direction::Upload, Policy::KeepServer, "/f=1", "/f=2", "/f=3", &[]),
        (Direction::Download, Policy::KeepNewest, "/f=1", "/f=2", "/f=1", &[]),
        (Direction::Download, Policy::KeepLocal, "/f=1", "/f=2", "/f=3", &[]),
        (Direction::Download, Policy::KeepNewest, "/f=1", "", "/f=1", &[]),
    ] {
        let rules = Rules { direction, policy, ..rules() };
        assert_eq!(planned(base, device, server, &rules), expected, "{direction:?} {policy:?} {device:?} {server:?}");
    }
}

#[test]
fn a_file_that_changed_its_place_is_moved() {
    for (base, device, server, expected) in [
        ("/a=1", "/b=1", "/a=1", &["Server /b: move from /a"][..]),
        ("/a=1", "/a=1", "/b=1", &["Device /b: move from /a"]),
        ("/a=1", "/d/b=1", "/a=1", &["Server /d: folder", "Server /d/b: move from /a"]),
        ("/d/ /d/a=1", "/b=1", "/d/ /d/a=1", &["Server /b: move from /d/a", "Server /d: delete folder"]),
        // Equal contents: the inode tells which is which, else the name.
        ("/a=1#1 /b=1#2", "/x=1#2 /y=1#1", "/a=1 /b=1", &["Server /x: move from /b", "Server /y: move from /a"]),
        (
            "/a=1 /b=1",
            "/d/a=1 /d/b=1",
            "/a=1 /b=1",
            &["Server /d: folder", "Server /d/a: move from /a", "Server /d/b: move from /b"],
        ),
        // The inode alone is no proof: it went to the next file.
        ("/a=1#1", "/b=2#1", "/a=1", &["Server /b: write", "Server /a: delete"]),
        // Moved on one side, changed on the other: the change wins.
        ("/a=1", "/b=1", "/a=2", &["Device /a: write", "Server /b: write"]),
        // Moved and its time set.
        ("/a=1", "/b=1@5", "/a=1", &["Server /b: move from /a", "Server /b: metadata"]),
    ] {
        assert_eq!(planned(base, device, server, &rules()), expected, "{base:?} {device:?} {server:?}");
    }
}

#[test]
fn a_change_of_metadata_alone_travels_and_is_no_conflict() {
    for (base, device, server, expected) in [
        ("/f=1", "/f=1@5", "/f=1", &["Server /f: metadata"][..]),
        ("/f=1", "/f=1", "/f=1@5", &["Device /f: metadata"]),
        ("/f=1", "/f=1@5", "/f=1@6", &["Device /f: metadata"]),
        ("", "/f=1@7", "/f=1@6", &["Server /f: metadata"]),
        ("/f=1", "/f=1@5", "", &["Device /f: delete"]),
    ] {
        let plan = plan(&tree(base), &tree(device), &tree(server), &rules());
        assert_eq!(show(&plan), expected, "{base:?} {device:?} {server:?}");
        assert!(plan.conflicts.is_empty());
    }
}

#[test]
fn a_side_that_keeps_no_times_makes_no_changes_of_them() {
    let mut device = tree("/f=1");
    if let Content::File(file) = &mut device.entries[0].1.content {
        (file.modified_at, file.executable) = (None, None);
    }
    assert!(plan(&tree("/f=1"), &device, &tree("/f=1"), &rules()).is_empty());
}

#[test]
fn of_a_folder_against_a_file_both_stay() {
    let copy = "/x (conflict 2026-11-22 laptop)";
    let on_device = [
        format!("Server {copy}: write from Device /x"),
        format!("Device {copy}: move from /x"),
        "Device /x: folder".into(),
    ];
    let got = planned("", "/x=1", "/x/ /x/f=2", &rules());
    assert_eq!(got[..3], on_device);
    assert_eq!(got[3..], ["Device /x/f: write"]);
    // The folder's contents were agreed on: replacing the folder by a file deletes none of them.
    let got = planned("/x/ /x/f=2", "/x=1", "/x/ /x/f=2", &rules());
    assert!(!got.iter().any(|step| step.contains("delete")), "{got:?}");
    let got = planned("/x=1", "/x/", "/x=1", &rules());
    let on_server = [
        "forget /x".to_owned(),
        format!("Server {copy}: move from /x"),
        format!("Device {copy}: write"),
        "Server /x: folder".into(),
    ];
    assert_eq!(got, on_server);
}

#[test]
fn a_folder_stays_while_anything_below_stays_or_is_unknown() {
    for (base, device, server, expected) in [
        (
            "/d/ /d/a=1 /d/b=1",
            "",
            "/d/ /d/a=1 /d/b=2",
            &["Device /d: folder", "Device /d/b: write", "Server /d/a: delete"][..],
        ),
        ("/d/ /d/e/ /d/a=1", "/d/ /d/e/ /d/a=1 ?/d/e/u", "", &["Device /d/a: delete"]),
        ("/d/ /d/a=1", "", "/d/ /d/a=1 ?/d/u", &["Server /d/a: delete"]),
    ] {
        assert_eq!(planned(base, device, server, &rules()), expected, "{base:?} {device:?} {server:?}");
    }
}

#[test]
fn a_path_listed_twice_is_unknown() {
    assert_eq!(planned("/f=1", "/f=2 /f=3", "/f=1", &rules()), [""; 0]);
    assert_eq!(planned("", "/f=2 /f/x=3", "", &rules()), [""; 0]);
}

#[test]
fn approval_covers_exactly_the_listed_deletions() {
    let (base, device) = (tree("/d/ /d/a=1 /d/b=2 /c=3"), tree(""));
    let mut first = plan(&base, &device, &base, &rules());
    let held = first.hold_deletions(&HashSet::new());
    assert_eq!(held.len(), 3);
    assert!(show(&first).is_empty(), "{first:?}");
    // Not approved: /c.
    let approved: HashSet<_> = held.into_iter().filter(|deletion| deletion.path.as_str() != "/c").collect();
    let mut second = plan(&base, &device, &base, &rules());
    assert_eq!(second.hold_deletions(&approved).len(), 1);
    assert_eq!(show(&second), ["Server /d/a: delete", "Server /d/b: delete", "Server /d: delete folder"]);
}

#[test]
fn too_many_deletions_are_held_and_the_rest_is_carried_out() {
    let words = |range: std::ops::Range<u32>| range.map(|n| format!("/f{n}={n}")).collect::<Vec<_>>().join(" ");
    let none = HashSet::new();
    for (left, last_hour, held) in [(11, 0, 0), (10, 0, 0), (9, 0, 11), (11, 1000, 9), (0, 0, 20)] {
        let (base, device) = (tree(&words(0..20)), tree(&format!("{} /new=new", words(0..left))));
        let device = if left == 0 { tree("") } else { device };
        let mut made = plan(&base, &device, &base, &rules());
        let got = deletions::hold(&mut made, deletions::Totals::of(&base, &device, &base), last_hour, &none);
        assert_eq!(got.len(), held, "{left} left");
        assert_eq!(made.counts().uploads, u64::from(left > 0));
    }
    // A single file, but it was all that the device had.
    let (base, device) = (tree("/f=1"), tree(""));
    let mut made = plan(&base, &device, &base, &rules());
    let got = deletions::hold(&mut made, deletions::Totals::of(&base, &device, &base), 0, &none);
    assert_eq!(got.len(), 1);
    let mut again = plan(&base, &device, &base, &rules());
    assert!(
        deletions::hold(&mut again, deletions::Totals::of(&base, &device, &base), 0, &got.into_iter().collect())
            .is_empty()
    );
    assert_eq!(show(&again), ["Server /f: delete"]);
}
