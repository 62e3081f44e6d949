//! A device at rest: a run that finds all as the one before it left it reads neither tree nor baseline, and sees every change.

use std::{fs, os::unix::fs::PermissionsExt};

use driftless_domain::runs::State;

use super::place::{Place, age, text};

/// Lets the place come to rest.
async fn settle(place: &Place) -> Vec<u8> {
    place.assert_settled().await;
    let noted = place.mark().await.expect("a run that found nothing to do notes it");
    place.assert_settled().await;
    assert_eq!(place.mark().await, Some(noted.clone()), "the next one finds the same");
    noted
}

#[tokio::test]
async fn a_device_at_rest_sees_every_change_of_either_side() {
    let place = Place::with_both(&[("/a", "a"), ("/b", "b"), ("/d/c", "c"), ("/x", "x")]).await;
    settle(&place).await;
    let change_on_device: [(&str, fn(&Place)); 6] = [
        ("contents behind an unchanged size and time", |p| {
            let before = fs::metadata(p.at("a")).unwrap().modified().unwrap();
            fs::write(p.at("a"), "A").unwrap();
            fs::File::options().write(true).open(p.at("a")).unwrap().set_modified(before).unwrap();
        }),
        ("an executable bit", |p| fs::set_permissions(p.at("b"), fs::Permissions::from_mode(0o755)).unwrap()),
        ("a new file", |p| {
            p.write("new", "new");
            age(&p.at("new"), 600);
        }),
        ("an empty folder", |p| fs::create_dir(p.at("empty")).unwrap()),
        ("another name", |p| fs::rename(p.at("d/c"), p.at("d/e")).unwrap()),
        ("a file that is gone", |p| fs::remove_file(p.at("x")).unwrap()),
    ];
    for (what, change) in change_on_device {
        change(&place);
        let run = place.sync().await;
        assert_eq!((run.state, run.planned), (State::Succeeded, Some(1)), "{what}: {:?}", run.plan);
        settle(&place).await;
    }
    let there = text(&[("/a", "A"), ("/b", "b"), ("/d/e", "c"), ("/empty/", ""), ("/new", "new")]);
    assert_eq!((place.tree().await, place.disk()), (there.clone(), there));
    place.put("/b", "from the tree").await;
    assert_eq!(place.sync().await.counts.downloaded, 1);
    age(&place.at("b"), 600);
    place.sync().await;
    settle(&place).await;
    place.delete("/new").await;
    assert_eq!(place.sync().await.counts.deleted_on_device, 1);
    settle(&place).await;
    assert_eq!(place.disk(), text(&[("/a", "A"), ("/b", "from the tree"), ("/d/e", "c"), ("/empty/", "")]));
}

#[tokio::test]
async fn what_is_left_out_is_named_also_by_a_run_at_rest() {
    let place = Place::with_both(&[("/f", "f")]).await;
    std::os::unix::fs::symlink("f", place.at("link")).unwrap();
    let first = place.sync().await;
    settle(&place).await;
    let again = place.sync().await;
    assert_eq!((again.left_out.len(), &again.left_out), (1, &first.left_out));
    assert_eq!((again.counts.skipped, again.plan, again.changes_detected), (1, first.plan, first.changes_detected));
}

#[tokio::test]
async fn new_settings_and_a_run_that_broke_off_end_the_rest() {
    let place = Place::with_both(&[("/f", "f"), ("/g.log", "g")]).await;
    settle(&place).await;
    place.ignore(&["*.log"]).await;
    assert_eq!(place.mark().await, None);
    let run = place.sync().await;
    assert_eq!((run.state, run.left_out.len()), (State::Succeeded, 1), "the new rule holds");

    let rested = settle(&place).await;
    let dry = place.run(true).await;
    assert_eq!((dry.state, place.mark().await), (State::Succeeded, Some(rested.clone())), "a dry run leaves it");
    let (run, execution) = place.begin().await;
    assert_eq!((execution.rested(), place.mark().await), (Some(&rested[..]), None), "it begins with it, and ends it");
    execution.fail("test", "broke off", true).await.unwrap();
    assert_eq!(place.finished(run).await.state, State::Failed);
    assert_eq!(place.mark().await, None);
    settle(&place).await;
}

#[tokio::test]
async fn files_that_are_too_young_for_their_fingerprint_do_not_rest() {
    let place = Place::with_both(&[("/f", "f")]).await;
    // An hour ahead, whatever the machine does meanwhile.
    age(&place.at("f"), -3600);
    place.sync().await;
    for _ in 0..2 {
        place.assert_settled().await;
        assert_eq!(place.mark().await, None);
    }
}
