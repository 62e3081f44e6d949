//! What takes the place of something else in the folder, between two runs or under a run's hands.

use std::{fs, os::unix::fs::symlink};

use driftless_domain::runs::State;

use super::place::{Place, text};

#[tokio::test]
async fn a_folder_that_a_killed_worker_took_aside_comes_to_light_and_is_synced() {
    let place = Place::with_both(&[("/f", "f")]).await;
    place.write("g", "g");
    let run = place.sync().await;
    let aside = place.at(&format!(".driftless-tmp-{}-{}", run.id.simple(), place.entry("/f").await));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("inside"), "somebody's").unwrap();
    assert_eq!(place.sync().await.state, State::Succeeded);
    assert!(!aside.exists());
    assert_eq!(place.sync().await.state, State::Succeeded);
    let tree = place.tree().await;
    assert!(tree.iter().any(|(path, text)| path.ends_with("/inside") && text == "somebody's"), "{tree:?}");
    place.assert_settled().await;
}

#[tokio::test]
async fn a_link_in_a_folders_place_leads_nowhere_and_deletes_nothing() {
    let place = Place::with_both(&[("/d/a", "1"), ("/d/e/b", "2"), ("/f", "3")]).await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), "not ours").unwrap();
    fs::remove_dir_all(place.at("d")).unwrap();
    symlink(outside.path(), place.at("d")).unwrap();
    fs::remove_file(place.at("f")).unwrap();
    symlink(outside.path().join("a"), place.at("f")).unwrap();
    place.put("/d/new", "n").await;
    place.put("/d/a", "changed").await;
    place.delete("/d/e/b").await;
    place.put("/f", "changed").await;
    let run = place.sync().await;
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    let left: Vec<_> = run.left_out.iter().map(|l| (l.path.as_str(), l.reason.as_str())).collect();
    assert_eq!(left, [("/d", "file.link"), ("/f", "file.link")]);
    assert_eq!(
        place.tree().await,
        text(&[("/d/a", "changed"), ("/d/e/", ""), ("/d/new", "n"), ("/f", "changed")]),
        "what is behind a link is not gone"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.path().join("a")).unwrap(), "not ours");
}

#[tokio::test]
async fn a_folder_in_a_files_place_and_a_file_in_a_folders_both_stay() {
    let place = Place::with_both(&[("/f", "file"), ("/d/a", "1"), ("/d/b", "2"), ("/k", "k")]).await;
    fs::remove_file(place.at("f")).unwrap();
    place.write("f/inside", "new");
    fs::remove_dir_all(place.at("d")).unwrap();
    place.write("d", "a file now");
    place.put("/d/a", "changed meanwhile").await;
    place.put("/f", "changed meanwhile").await;
    for _ in 0..3 {
        let run = place.sync().await;
        assert!(matches!(run.state, State::Succeeded | State::Held), "{run:?}");
    }
    let tree = place.tree().await;
    for kept in ["new", "a file now", "changed meanwhile", "k"] {
        assert!(tree.values().any(|text| text == kept), "{kept} is not in {tree:?}");
    }
    assert_eq!(place.disk(), tree);
    place.assert_settled().await;
}

#[tokio::test]
async fn two_forms_of_one_name_are_one_file_and_the_other_is_named() {
    let place = Place::new().await;
    place.write("caf\u{e9}", "composed");
    place.write("cafe\u{301}", "apart");
    let run = place.sync().await;
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    assert_eq!(run.left_out.iter().map(|l| l.reason.as_str()).collect::<Vec<_>>(), ["name.clash"]);
    assert_eq!(place.tree().await.len(), 1);
    // The one that was synced goes: the other takes its place, and nothing is deleted.
    fs::remove_file(place.at("cafe\u{301}")).unwrap();
    let run = place.sync().await;
    assert_eq!(run.state, State::Succeeded, "{run:?}");
    assert_eq!(place.tree().await, text(&[("/caf\u{e9}", "composed")]));
    place.put("/caf\u{e9}", "from the tree").await;
    place.sync().await;
    assert_eq!(fs::read_to_string(place.at("caf\u{e9}")).unwrap(), "from the tree");
    assert_eq!(place.disk().len(), 1);
    place.assert_settled().await;
}
