//! Folder remotes: a folder of this machine and a user's tree are kept in step, whatever happens to either meanwhile.

mod kills;
mod limits;
mod mounts;
mod place;
mod rest;
mod swaps;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use driftless_domain::{
    runs::{self, Progress, Side, State},
    schedules::{Direction, Fields, Resolution},
};

use place::{Place, age, text};

#[tokio::test]
async fn the_first_run_brings_everything_in_and_the_second_changes_nothing() {
    let place = Place::new().await;
    place.write("a.txt", "a");
    place.write("docs/b.txt", "b");
    place.write("docs/empty.txt", "");
    fs::create_dir(place.at("hollow")).unwrap();
    let run = place.sync().await;
    assert_eq!((run.state, run.planned, run.counts.executed), (State::Succeeded, Some(5), 5), "{run:?}");
    assert_eq!((run.counts.uploaded, run.counts.bytes_uploaded, run.counts.folders), (3, 2, 2));
    let all = Progress { files_done: 5, files_total: 5, bytes_done: 2, bytes_total: 2 };
    assert_eq!(run.progress, Some(all), "the last progress shown is not that of the end");
    assert_eq!(
        place.tree().await,
        text(&[("/a.txt", "a"), ("/docs/b.txt", "b"), ("/docs/empty.txt", ""), ("/hollow/", "")])
    );
    let seq = place.head().await;
    let again = place.sync().await;
    assert_eq!((again.state, again.planned, again.counts.executed), (State::Succeeded, Some(0), 0));
    assert_eq!(place.head().await, seq, "a run without changes wrote into the journal");
}

#[tokio::test]
async fn changes_of_either_side_reach_the_other() {
    let place = Place::with_both(&[
        ("/same", "s"),
        ("/edited-here", "1"),
        ("/edited-there", "1"),
        ("/gone-here", "g"),
        ("/gone-there", "h"),
        ("/moved-here", "m1"),
        ("/moved-there", "m2"),
        ("/d/deep", "d"),
    ])
    .await;
    place.write("edited-here", "device");
    place.put("/edited-there", "server").await;
    fs::remove_file(place.at("gone-here")).unwrap();
    place.delete("/gone-there").await;
    fs::create_dir(place.at("to")).unwrap();
    fs::rename(place.at("moved-here"), place.at("to/m1")).unwrap();
    place.shift("/moved-there", "/other/m2").await;
    place.write("new-here", "n");
    place.put("/x/new-there", "t").await;
    let run = place.sync().await;
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    let both = text(&[
        ("/same", "s"),
        ("/edited-here", "device"),
        ("/edited-there", "server"),
        ("/to/", ""),
        ("/to/m1", "m1"),
        ("/other/m2", "m2"),
        ("/d/deep", "d"),
        ("/new-here", "n"),
        ("/x/new-there", "t"),
    ]);
    assert_eq!(
        place.tree().await,
        both.iter().filter(|(path, _)| *path != "/to/").map(|(p, t)| (p.clone(), t.clone())).collect()
    );
    assert_eq!(place.disk(), place.tree().await);
    assert_eq!((run.counts.moved, run.counts.deleted_on_device, run.counts.deleted_on_server), (2, 1, 1));
    assert_eq!((run.counts.uploaded, run.counts.downloaded), (2, 2));
    place.assert_settled().await;
}

#[tokio::test]
async fn a_moved_file_keeps_its_history() {
    let place = Place::with_both(&[("/a", "one")]).await;
    place.write("a", "two");
    place.sync().await;
    fs::rename(place.at("a"), place.at("b")).unwrap();
    place.sync().await;
    assert_eq!(place.history("/b").await, ["two", "one"]);
}

#[tokio::test]
async fn a_conflict_ends_as_the_policy_says_and_the_loser_can_be_restored() {
    for (policy, device_is_newer, winner) in [
        (Resolution::KeepNewest, true, "device"),
        (Resolution::KeepNewest, false, "server"),
        (Resolution::KeepLocal, false, "device"),
        (Resolution::KeepServer, true, "server"),
    ] {
        let place = Place::start(Fields { resolve_conflicts: policy, ..Fields::default() }, "/").await;
        place.fill(&[("/f", "base")]).await;
        place.put("/f", "server").await;
        place.write("f", "device");
        age(&place.at("f"), if device_is_newer { -600 } else { 3600 });
        let run = place.sync().await;
        assert_eq!((run.state, run.counts.conflicts), (State::Succeeded, 1), "{run:?}");
        assert_eq!(place.tree().await, text(&[("/f", winner)]), "{policy:?} {device_is_newer}");
        assert_eq!(place.disk(), place.tree().await);
        let history = place.history("/f").await;
        for lost in ["base", "server", "device"] {
            assert!(history.iter().any(|text| text == lost), "{policy:?}: {lost} is not among {history:?}");
        }
        place.assert_settled().await;
    }
}

#[tokio::test]
async fn keep_both_leaves_both_contents_on_both_sides() {
    let place = Place::start(Fields { resolve_conflicts: Resolution::KeepBoth, ..Fields::default() }, "/").await;
    place.fill(&[("/d/f.txt", "base")]).await;
    place.put("/d/f.txt", "server").await;
    place.write("d/f.txt", "device");
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.conflicts), (State::Succeeded, 1), "{run:?}");
    let tree = place.tree().await;
    assert_eq!(place.disk(), tree);
    let mut contents: Vec<_> = tree.values().map(String::as_str).collect();
    contents.sort_unstable();
    assert_eq!(contents, ["device", "server"]);
    assert!(tree.keys().any(|path| path.starts_with("/d/f (conflict ") && path.ends_with(" box).txt")), "{tree:?}");
    place.assert_settled().await;
}

#[tokio::test]
async fn a_change_wins_over_a_deletion() {
    let place = Place::with_both(&[("/a", "1"), ("/b", "1"), ("/c", "1")]).await;
    fs::remove_file(place.at("a")).unwrap();
    place.put("/a", "server").await;
    place.delete("/b").await;
    place.write("b", "device");
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.conflicts), (State::Succeeded, 2), "{run:?}");
    assert_eq!(place.tree().await, text(&[("/a", "server"), ("/b", "device"), ("/c", "1")]));
    assert_eq!(place.disk(), place.tree().await);
    place.assert_settled().await;
}

#[tokio::test]
async fn a_folder_against_a_file_keeps_both() {
    let place = Place::with_both(&[("/x", "file"), ("/y", "file")]).await;
    fs::remove_file(place.at("x")).unwrap();
    place.write("x/inside", "i");
    place.put("/x", "changed").await;
    place.delete("/y").await;
    place.put("/y/inside", "i").await;
    place.write("y", "changed");
    let run = place.sync().await;
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    let tree = place.tree().await;
    assert_eq!((tree.get("/x/inside"), tree.get("/y/inside")), (Some(&"i".into()), Some(&"i".into())), "{tree:?}");
    assert_eq!(tree.values().filter(|text| *text == "changed").count(), 2, "{tree:?}");
    assert_eq!(place.disk(), tree);
    place.assert_settled().await;
}

#[tokio::test]
async fn one_direction_leaves_the_other_side_alone() {
    for (direction, tree, disk) in [
        (Direction::Upload, vec![("/here", "h"), ("/there", "t")], vec![("/here", "h")]),
        (Direction::Download, vec![("/there", "t")], vec![("/here", "h"), ("/there", "t")]),
    ] {
        let place = Place::start(Fields { direction, ..Fields::default() }, "/").await;
        place.write("here", "h");
        place.put("/there", "t").await;
        assert_eq!(place.sync().await.state, State::Succeeded);
        assert_eq!((place.tree().await, place.disk()), (text(&tree), text(&disk)));
    }
}

#[tokio::test]
async fn a_base_path_keeps_only_that_folder_in_step() {
    let place = Place::start(Fields::default(), "/box/of things").await;
    place.put("/outside", "o").await;
    place.write("d/f", "x");
    place.sync().await;
    place.put("/box/of things/d/g", "y").await;
    place.sync().await;
    assert_eq!(
        place.tree().await,
        text(&[("/outside", "o"), ("/box/of things/d/f", "x"), ("/box/of things/d/g", "y")])
    );
    assert_eq!(place.disk(), text(&[("/d/f", "x"), ("/d/g", "y")]));
    place.assert_settled().await;
}

#[tokio::test]
async fn nothing_is_pending_after_a_run_that_left_nothing_undone() {
    let place = Place::with_both(&[("/a", "1"), ("/gone", "g")]).await;
    assert_eq!(place.pending().await, 0, "its own changes are none to wait for");
    place.put("/a", "2").await;
    place.delete("/gone").await;
    assert_eq!(place.pending().await, 2);
    place.write("b", "new");
    place.write(".DS_Store", "ignored");
    place.sync().await;
    assert_eq!(place.pending().await, 0);
    place.sync().await;
    assert_eq!(place.pending().await, 0);
    // What lies where a link stands now is not taken in.
    place.put("/b", "newer").await;
    fs::remove_file(place.at("b")).unwrap();
    std::os::unix::fs::symlink("a", place.at("b")).unwrap();
    assert_eq!(place.sync().await.state, State::Succeeded);
    assert_eq!(place.pending().await, 1);
    fs::remove_file(place.at("b")).unwrap();
    place.sync().await;
    assert_eq!((place.pending().await, place.disk().get("/b").map(String::as_str)), (0, Some("newer")));
}

#[tokio::test]
async fn time_and_executable_bit_travel_both_ways() {
    let place = Place::with_both(&[("/tool", "#!"), ("/plain", "p")]).await;
    fs::set_permissions(place.at("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    age(&place.at("plain"), 86_400);
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.uploaded, run.counts.executed), (State::Succeeded, 0, 2), "{run:?}");
    let (_, executable) = place.look("/tool").await;
    assert!(executable);
    let (at, _) = place.look("/plain").await;
    let on_disk = fs::metadata(place.at("plain")).unwrap().modified().unwrap();
    assert_eq!(at.timestamp(), chrono::DateTime::<chrono::Utc>::from(on_disk).timestamp());
    fs::remove_file(place.at("tool")).unwrap();
    fs::create_dir(place.at("sub")).unwrap();
    place.shift("/tool", "/sub/tool").await;
    place.sync().await;
    assert_eq!(fs::metadata(place.at("sub/tool")).unwrap().permissions().mode() & 0o111, 0o111);
    place.assert_settled().await;
}

#[tokio::test]
async fn the_device_spelling_of_a_name_is_kept() {
    let place = Place::with_both(&[]).await;
    place.write("cafe\u{301}/re\u{301}sume\u{301}", "1");
    place.sync().await;
    assert_eq!(place.tree().await, text(&[("/caf\u{e9}/r\u{e9}sum\u{e9}", "1")]));
    place.put("/caf\u{e9}/r\u{e9}sum\u{e9}", "2").await;
    place.put("/caf\u{e9}/new", "n").await;
    place.sync().await;
    assert_eq!(fs::read_to_string(place.at("cafe\u{301}/re\u{301}sume\u{301}")).unwrap(), "2");
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(place.at("cafe\u{301}")).unwrap().count(), 2);
    place.assert_settled().await;
}

#[tokio::test]
async fn what_is_skipped_or_ignored_is_named_and_never_deleted() {
    let place = Place::with_both(&[("/real", "r"), ("/turned", "t"), ("/litter.tmp.txt", "l")]).await;
    fs::remove_file(place.at("turned")).unwrap();
    std::os::unix::fs::symlink("real", place.at("turned")).unwrap();
    place.write("x.tmp", "ignored");
    place.write(".DS_Store", "ignored");
    place.put("/Thumbs.db", "on the server only").await;
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.executed), (State::Succeeded, 0), "{run:?}");
    let left: Vec<_> = run.left_out.iter().map(|l| (l.path.as_str(), l.reason.as_str())).collect();
    assert_eq!(left, [("/turned", "file.link"), ("/.DS_Store", "name.ignored"), ("/x.tmp", "name.ignored")]);
    assert!(place.tree().await.contains_key("/turned"), "a link in its place is no proof that the file is gone");
    assert!(!place.at("Thumbs.db").exists());
}

#[tokio::test]
async fn a_dry_run_tells_the_plan_and_does_nothing() {
    let place = Place::with_both(&[("/a", "1")]).await;
    place.write("new", "n");
    place.put("/b", "2").await;
    let seq = place.head().await;
    let run = place.run(true).await;
    assert_eq!((run.state, run.counts.executed), (State::Succeeded, 0), "{run:?}");
    let plan = run.plan.unwrap();
    assert_eq!(
        (plan["counts"]["uploads"].as_i64(), plan["counts"]["downloads"].as_i64()),
        (Some(1), Some(1)),
        "{plan}"
    );
    assert_eq!(plan["actions"].as_array().unwrap().len(), 2);
    assert_eq!((place.head().await, place.at("b").exists()), (seq, false));
}

#[tokio::test]
async fn too_many_deletions_wait_for_a_person_and_approval_covers_exactly_those() {
    let files: Vec<(String, String)> = (0..20).map(|n| (format!("/f{n:02}"), format!("{n}"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let place = Place::with_both(&files).await;
    for n in 0..12 {
        fs::remove_file(place.at(&format!("f{n:02}"))).unwrap();
    }
    place.write("new", "n");
    let run = place.sync().await;
    assert_eq!((run.state, run.held_count, run.counts.uploaded), (State::Held, 12, 1), "{run:?}");
    assert_eq!(place.tree().await.len(), 21, "the rest of the plan is carried out, no deletion is");
    let held = place.held(&run).await;
    assert!(held.iter().all(|h| h.side == Side::Server));
    assert_eq!(held[0].path, "/f00");
    // A file that changed after the hold is not covered any more; one that is back is no deletion.
    place.put("/f00", "changed since").await;
    place.write("f01", "1");
    place.approve(&run).await;
    let run = place.resume(&run).await;
    assert_eq!((run.state, run.counts.deleted_on_server), (State::Succeeded, 10), "{run:?}");
    let tree = place.tree().await;
    assert_eq!((tree.len(), tree["/f00"].as_str(), tree["/f01"].as_str()), (11, "changed since", "1"));
    assert_eq!(place.disk(), tree);
    place.assert_settled().await;
}

#[tokio::test]
async fn a_discarded_hold_deletes_nothing() {
    let place = Place::with_both(&[("/only", "o")]).await;
    fs::remove_file(place.at("only")).unwrap();
    let run = place.sync().await;
    assert_eq!((run.state, run.held_count), (State::Held, 1), "an emptied folder is always held: {run:?}");
    place.discard(&run).await;
    assert_eq!(place.tree().await, text(&[("/only", "o")]));
}

#[tokio::test]
async fn a_root_that_is_not_there_holds_the_run_and_deletes_nothing() {
    let place = Place::with_both(&[("/a", "1"), ("/b", "2")]).await;
    let away = place.root().with_extension("away");
    fs::rename(place.root(), &away).unwrap();
    let run = place.sync().await;
    assert_eq!((run.state, run.left_out[0].reason.as_str()), (State::Held, "remote.folder_missing"), "{run:?}");
    fs::create_dir(place.root()).unwrap();
    place.approve(&run).await;
    let run = place.resume(&run).await;
    assert_eq!((run.state, run.left_out[0].reason.as_str()), (State::Held, "remote.folder_replaced"), "{run:?}");
    fs::remove_dir(place.root()).unwrap();
    fs::rename(&away, place.root()).unwrap();
    place.approve(&run).await;
    assert_eq!(place.resume(&run).await.state, State::Succeeded);
    assert_eq!(place.tree().await.len(), 2);
    fs::write(place.roots().join(".driftless-root"), uuid::Uuid::new_v4().to_string()).unwrap();
    let run = place.sync().await;
    assert_eq!((run.state, run.left_out[0].reason.as_str()), (State::Held, "remote.root_not_ours"), "{run:?}");
    assert_eq!(place.tree().await.len(), 2);
}

#[tokio::test]
async fn a_file_that_is_saved_all_the_time_is_never_lost_or_cut() {
    let place = Place::with_both(&[("/log", "start")]).await;
    let (path, stop) = (place.at("log"), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let writer = {
        let (path, stop) = (path.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut saved = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                saved += 1;
                // As editors save: a new file in the place of the old one.
                let draft = path.with_extension("draft.tmp");
                fs::write(&draft, format!("save {saved} {}", "x".repeat(2000))).unwrap();
                fs::rename(&draft, &path).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
            saved
        })
    };
    for n in 0..15 {
        place.put("/log", &format!("server {n}")).await;
        place.sync().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let saved = writer.join().unwrap();
    place.sync().await;
    assert_eq!(place.disk(), place.tree().await);
    let mut seen = place.history("/log").await;
    seen.extend(place.tree().await.into_values());
    let last = format!("save {saved} {}", "x".repeat(2000));
    assert!(seen.contains(&last), "the last save is neither current nor in the history");
    assert!(
        seen.iter().all(|t| t == "start" || t.starts_with("server ") || (t.starts_with("save ") && t.len() > 2000))
    );
    place.assert_no_temporaries();
}

#[tokio::test]
async fn a_no_op_executor_makes_the_run_fail() {
    let place = Place::with_both(&[("/a", "1")]).await;
    place.write("b", "2");
    let (run, execution) = place.begin().await;
    execution.planned(1, 1, serde_json::Value::Null).await.unwrap();
    let state = execution.succeed(&runs::Counts::default(), &[], None).await.unwrap();
    assert_eq!(state, State::Failed);
    let run = place.finished(run).await;
    assert_eq!(run.error.unwrap().0, "run.incomplete");
}

#[tokio::test]
async fn a_real_tree_comes_in_whole_and_goes_out_equal() {
    let place = Place::with_both(&[]).await;
    place.copy_real_files();
    place.grow_odd_names();
    let files = walk(&place.root());
    assert!(files.0 >= 5000, "only {} files are here", files.0);
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.uploaded), (State::Succeeded, files.0), "{:?}", run.error);
    assert_eq!(run.left_out.iter().filter(|l| l.reason == "file.link").count().min(1000), files.1.min(1000));
    let again = place.sync().await;
    assert_eq!((again.planned, again.counts.executed), (Some(0), 0));
    // Another device of the same tree gets all of it.
    let other = place.another("copy").await;
    let run = other.sync().await;
    assert_eq!((run.state, run.counts.downloaded), (State::Succeeded, files.0), "{:?}", run.error);
    place.compare(&other);
    other.assert_settled().await;
}

/// Regular files and links below a folder.
fn walk(folder: &Path) -> (i64, usize) {
    let (mut files, mut links) = (0, 0);
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            let below = walk(&entry.path());
            (files, links) = (files + below.0, links + below.1);
        } else if kind.is_symlink() {
            links += 1;
        } else {
            files += 1;
        }
    }
    (files, links)
}

#[tokio::test]
async fn each_step_of_replacing_that_a_kill_interrupts_is_made_good() {
    // What lies on the disk after each step: the file's own name, and one of our names beside it.
    for (step, name, ours, whole) in [
        ("while writing", Some("old"), Some("half of ne"), false),
        ("when written", Some("old"), Some("new"), true),
        ("when exchanged", Some("new"), Some("old"), true),
        ("when exchanged with a file saved in the last moment", Some("new"), Some("saved"), true),
        ("when the old one is gone", Some("new"), None, true),
    ] {
        let place = Place::with_both(&[("/d/f", "old"), ("/d/g", "g")]).await;
        let run = place.sync().await;
        place.put("/d/f", "new").await;
        interrupt(&place, &run, name, ours, whole).await;
        assert_eq!(place.sync().await.state, State::Succeeded, "{step}");
        assert_eq!(place.disk(), text(&[("/d/f", "new"), ("/d/g", "g")]), "{step}");
        assert_eq!(place.tree().await, place.disk(), "{step}");
        let history = place.history("/d/f").await;
        assert_eq!(history.iter().any(|t| t == "saved"), ours == Some("saved"), "{step}: {history:?}");
        assert!(!history.iter().any(|t| t.starts_with("half")), "{step}: {history:?}");
        place.assert_settled().await;
    }
}

#[tokio::test]
async fn each_step_of_deleting_that_a_kill_interrupts_is_made_good() {
    for (step, name, ours) in [
        ("when aside", None, Some("old")),
        ("when aside with a file saved in the last moment", None, Some("saved")),
        ("when aside, and saved anew", Some("anew"), Some("old")),
        ("when gone", None, None),
    ] {
        let place = Place::with_both(&[("/f", "old"), ("/g", "g")]).await;
        let run = place.sync().await;
        let entry = place.entry("/f").await;
        place.delete("/f").await;
        interrupt_entry(&place, &run, "f", entry, name, ours, true);
        assert_eq!(place.sync().await.state, State::Succeeded, "{step}");
        let left = name.map_or_else(|| text(&[("/g", "g")]), |name| text(&[("/f", name), ("/g", "g")]));
        assert_eq!((place.disk(), place.tree().await), (left.clone(), left), "{step}");
        assert_eq!(place.ever("/f").await.iter().any(|t| t == "saved"), ours == Some("saved"), "{step}");
        place.assert_settled().await;
    }
}

async fn interrupt(place: &Place, run: &runs::Run, name: Option<&str>, ours: Option<&str>, whole: bool) {
    let entry = place.entry("/d/f").await;
    interrupt_entry(place, run, "d/f", entry, name, ours, whole);
}

fn interrupt_entry(
    place: &Place,
    run: &runs::Run,
    path: &str,
    entry: i64,
    name: Option<&str>,
    ours: Option<&str>,
    whole: bool,
) {
    let suffix = if whole { "" } else { "-w" };
    let aside = place.at(path).with_file_name(format!(".driftless-tmp-{}-{entry}{suffix}", run.id.simple()));
    match (name, ours) {
        (Some("old"), _) => {}
        // The very file moves aside.
        (_, Some("old")) => fs::rename(place.at(path), &aside).unwrap(),
        _ => fs::remove_file(place.at(path)).unwrap(),
    }
    if let Some(name) = name.filter(|name| *name != "old") {
        place.write(path, name);
    }
    if let Some(ours) = ours.filter(|ours| *ours != "old") {
        fs::write(aside, ours).unwrap();
    }
}

#[tokio::test]
async fn large_files_travel_both_ways_in_pieces() {
    let place = Place::new().await;
    let long = |seed: u8, length: u32| -> String {
        (0..length)
            .map(|n| char::from((b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26) ^ (seed % 2)))
            .collect()
    };
    let (first, second) = (long(0, 9_000_000), long(1, 5_000_000));
    for n in 0..6 {
        place.write(&format!("large{n}"), &first);
    }
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.bytes_uploaded), (State::Succeeded, 54_000_000), "{run:?}");
    for n in 0..6 {
        place.put(&format!("/large{n}"), &second).await;
    }
    let run = place.sync().await;
    assert_eq!((run.state, run.counts.bytes_downloaded), (State::Succeeded, 30_000_000), "{run:?}");
    assert!(place.disk().values().all(|text| *text == second));
    place.assert_settled().await;
}

#[tokio::test]
async fn temporaries_of_strangers_stay_for_a_day() {
    let place = Place::with_both(&[("/f", "f")]).await;
    let stranger = place.at(&format!(".driftless-tmp-{}-1", uuid::Uuid::new_v4().simple()));
    fs::write(&stranger, "another installation's").unwrap();
    assert_eq!(place.sync().await.state, State::Succeeded);
    assert!(stranger.exists());
    assert_eq!(place.tree().await, text(&[("/f", "f")]));
}

#[tokio::test]
async fn a_person_can_end_a_run_between_two_steps() {
    let place = Place::with_both(&[("/f", "f")]).await;
    for n in 0..50 {
        place.write(&format!("new/{n}"), &n.to_string());
    }
    let run = place.cancelled_before_its_first_step().await;
    assert_eq!(run.state, State::Cancelled, "{run:?}");
    assert_eq!(place.sync().await.state, State::Succeeded);
    assert_eq!(place.tree().await.len(), 51);
}

#[tokio::test]
async fn an_unreadable_folder_is_unknown_to_the_shipped_worker() {
    let place = Place::with_both(&[("/open/f", "1"), ("/closed/f", "2"), ("/secret", "3")]).await;
    let close = |mode| {
        for name in ["closed", "secret"] {
            fs::set_permissions(place.at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    close(0);
    place.put("/closed/g", "new").await;
    place.write("open/h", "4");
    // Root reads everything, so the worker is somebody else: the folder is his, the closed parts are not readable.
    let run = place.sync_as_nobody().await;
    close(0o755);
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    let left: Vec<_> = run.left_out.iter().map(|l| (l.path.as_str(), l.reason.as_str())).collect();
    assert_eq!(left, [("/closed", "file.unreadable"), ("/secret", "file.unreadable")]);
    let tree = text(&[("/open/f", "1"), ("/open/h", "4"), ("/closed/f", "2"), ("/closed/g", "new"), ("/secret", "3")]);
    assert_eq!(place.tree().await, tree, "what can't be read is not gone");
    assert!(!place.at("closed/g").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_at_any_moment_loses_doubles_and_halves_nothing() {
    let kills = std::env::var("DRIFTLESS_TEST_KILLS").map_or(4, |text| text.parse().unwrap());
    kills::hold(kills).await;
}
