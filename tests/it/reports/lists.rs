//! What a list proves and what it does not: unknown, absent, moved on meanwhile, a folder in a file's place.

use super::*;

const TOUCHED: &str = "2026-11-03T10:00:00Z";

fn nothing() -> [Vec<&'static str>; 6] {
    Default::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_between_report_and_acknowledgement_does_not_come_back() {
    let laptop = Laptop::new().await;
    let version = laptop.put("/a", "a").await;
    let answer = laptop.report(json!([]), true).await;
    assert_eq!(paths(&answer["to_download"]), ["/a"]);
    laptop.delete("/a").await;
    let applied = json!([{"path": "/a", "version": version, "hash": hash("a")}]);
    let acked = laptop.ack(&answer["change_token"], applied.clone(), json!([])).await;
    assert_eq!((&acked["applied"], &acked["not_accepted"]), (&json!(1), &json!([])), "{acked}");
    let answer = laptop.report(list(&[("/a", "a")]), true).await;
    let expected: [Vec<&str>; 6] = [vec![], vec![], vec!["/a"], vec![], vec![], vec![]];
    assert_eq!(told(&answer), expected, "the device deletes it, too");
    let done = json!([{"path": "/a", "version": null, "hash": null}]);
    let acked = laptop.ack(&answer["change_token"], done, json!([])).await;
    assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(1), &json!(0)), "{acked}");
    // What was gone before the token was not offered by it.
    let acked = laptop.ack(&answer["change_token"], applied, json!([])).await;
    assert_eq!(acked["not_accepted"], json!([{"path": "/a", "code": "ack.not_offered"}]));
    assert_eq!(told(&laptop.report(json!([]), true).await), nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_made_anew_at_the_place_of_a_deleted_one_is_one_file_to_the_device() {
    let laptop = Laptop::new().await;
    laptop.agree(&[("/a", "before"), ("/b", "b")]).await;
    laptop.delete("/a").await;
    let version = laptop.put("/a", "after").await;
    let answer = laptop.report(list(&[("/a", "before"), ("/b", "b")]), true).await;
    assert_eq!((paths(&answer["to_download"]), paths(&answer["to_delete"])), (vec!["/a"], vec![]), "{answer}");
    let applied = json!([{"path": "/a", "version": version, "hash": hash("after")}]);
    let acked = laptop.ack(&answer["change_token"], applied, json!([])).await;
    assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(1), &json!(0)), "{acked}");
    assert_eq!(laptop.app.value::<i64>("select count(*) from baselines where path = '/a'").await, 1);
    assert_eq!(told(&laptop.report(list(&[("/a", "after"), ("/b", "b")]), true).await), nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_contents_with_another_time_only_want_to_be_acknowledged() {
    let laptop = Laptop::new().await;
    laptop.put("/a", "a").await;
    let held = json!([{"path": "/a", "hash": hash("a"), "size": 1, "modified_at": TOUCHED}]);
    for complete in [true, false] {
        let answer = laptop.report(held.clone(), complete).await;
        let expected: [Vec<&str>; 6] = [vec![], vec![], vec![], vec![], vec![], vec!["/a"]];
        assert_eq!(told(&answer), expected);
    }
    let answer = laptop.report(held.clone(), true).await;
    laptop.ack(&answer["change_token"], answer["to_acknowledge"].clone(), json!([])).await;
    assert_eq!(told(&laptop.report(held, true).await), nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touched_file_without_a_hash_is_asked_for_it_where_all_depends_on_its_contents() {
    let laptop = Laptop::new().await;
    laptop.agree(&[("/deleted", "1"), ("/grown", "1"), ("/same", "1")]).await;
    laptop.delete("/deleted").await;
    laptop.put("/grown", "much more").await;
    let touched = |path: &str| json!({"path": path, "size": 1, "modified_at": TOUCHED});
    let answer = laptop.report(json!([touched("/deleted"), touched("/grown"), touched("/same")]), true).await;
    let wanted = ["/deleted", "/grown"].map(|path| json!({"path": path, "reason": "hash.wanted"}));
    assert_eq!(answer["left_out"], json!(wanted));
    let expected: [Vec<&str>; 6] = [vec!["/same"], vec![], vec![], vec![], vec![], vec![]];
    assert_eq!(told(&answer), expected, "where the tree is as agreed, sending it does no harm");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_list_speaks_of_what_it_lists_and_is_no_measure_of_what_there_is() {
    let laptop = Laptop::new().await;
    let names: Vec<String> = (0..40).map(|n| format!("/f{n:02}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    laptop.agree(&files).await;
    laptop.put("/new in the tree", "x").await;
    let gone = |n: usize| names[..n].iter().map(|path| json!({"path": path, "deleted": true})).collect::<Value>();
    // One, all that are listed; eleven, a quarter of what there is.
    for n in [1, 11] {
        let answer = laptop.report(gone(n), false).await;
        assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"]).len()), (&json!(0), n), "{answer}");
        assert_eq!(paths(&answer["to_download"]), <[&str; 0]>::default());
    }
    let answer = laptop.report(gone(21), false).await;
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"])), (&json!(21), vec![]), "more than half");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_one_side_and_a_file_on_the_other_collide() {
    let laptop = Laptop::new().await;
    laptop.put("/tree has a folder/f", "f").await;
    laptop.put("/tree has a file", "theirs").await;
    let files = list(&[("/tree has a folder", "mine"), ("/tree has a file/g", "g")]);
    for complete in [true, false] {
        let answer = laptop.report(files.clone(), complete).await;
        let conflicts = answer["conflicts"].as_array().unwrap();
        let kinds: Vec<_> =
            conflicts.iter().map(|c| (c["path"].as_str().unwrap(), c["kind"].as_str().unwrap())).collect();
        assert_eq!(kinds, [("/tree has a file", "folder_and_file"), ("/tree has a folder", "folder_and_file")]);
        let (theirs, mine) = (conflicts[0]["copy_path"].as_str().unwrap(), conflicts[1]["copy_path"].as_str().unwrap());
        let uploads = answer["to_upload"].as_array().unwrap();
        let named =
            |path: &str| uploads.iter().find(|u| u["path"] == path).unwrap_or_else(|| panic!("{path}: {answer}"));
        assert_eq!(named(theirs)["from_server"], "/tree has a file");
        assert_eq!(named(mine)["from"], "/tree has a folder");
        assert_eq!(named("/tree has a file/g")["hash"], hash("g"));
        assert_eq!(uploads.len(), 3, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_could_not_look_at_is_left_alone_with_all_below() {
    let laptop = Laptop::new().await;
    laptop.agree(&[("/d/a", "a"), ("/d/e/b", "b"), ("/c", "c"), ("/dd", "dd")]).await;
    laptop.put("/d/e/b", "changed").await;
    let body = json!({"device_id": "laptop", "file_list": list(&[("/c", "c")]), "complete": true, "unknown": ["/d"]});
    let answer = laptop.post("/api/sync/changes", body).await.expect(200).json();
    let expected: [Vec<&str>; 6] = [vec![], vec![], vec![], vec!["/dd"], vec![], vec![]];
    assert_eq!(told(&answer), expected);
    // In whatever part it is said.
    let part = async |n: i32, unknown: Value| {
        let body = json!({"device_id": "laptop", "file_list": [], "complete": true, "unknown": unknown,
                          "list_id": "x", "part": n, "last": n == 2});
        laptop.post("/api/sync/changes", body).await.expect(200).json()
    };
    part(1, json!(["/d", "/dd"])).await;
    assert_eq!(told(&part(2, json!(["/c"])).await), nothing());
    for (unknown, code) in [("x", "path."), ("/a/../b", "path.")] {
        let body = json!({"device_id": "laptop", "file_list": [], "unknown": ["/fine", unknown]});
        let answer = laptop.post("/api/sync/changes", body).await.expect(422);
        assert!(answer.code().starts_with(code) && answer.field() == "unknown[1]", "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_run_decides_about_conflicts_deletions_and_direction() {
    let laptop = Laptop::new().await;
    let versions = laptop.agree(&[("/gone", "1"), ("/both", "1"), ("/theirs", "1")]).await;
    laptop.put("/both", "tree").await;
    laptop.put("/theirs", "tree").await;
    let held = list(&[("/both", "device"), ("/theirs", "1")]);
    let both = laptop.report(held.clone(), true).await;
    assert_eq!((paths(&both["to_upload"]).len(), paths(&both["to_delete_on_server"])), (1, vec!["/gone"]), "a copy");
    laptop.app.work().await;
    let options = json!({"device_id": "laptop", "sync_deletions": false, "resolve_conflicts": "keep_local"});
    let fence = laptop.claim(options).await;
    let answer = laptop.report(held.clone(), true).await;
    let expected: [Vec<&str>; 6] = [vec!["/both"], vec!["/gone", "/theirs"], vec![], vec![], vec!["/both"], vec![]];
    assert_eq!(told(&answer), expected);
    assert_eq!((&answer["conflicts"][0]["winner"], paths(&answer["to_upload"])), (&json!("device"), vec!["/both"]));
    let deleted = json!([{"path": "/gone", "version": versions[0]}]);
    let acked = laptop.ack(&answer["change_token"], json!([]), deleted).await;
    assert_eq!(acked["not_accepted"], json!([{"path": "/gone", "code": "ack.not_allowed"}]));
    laptop.end(fence).await;
    let fence =
        laptop.claim(json!({"device_id": "laptop", "direction": "upload", "resolve_conflicts": "keep_local"})).await;
    let answer = laptop.report(held, true).await;
    assert_eq!((paths(&answer["to_upload"]), paths(&answer["to_download"])), (vec!["/both"], vec![]), "{answer}");
    laptop.end(fence).await;
    laptop.app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_does_not_report() {
    let roots = tempfile::TempDir::with_prefix("driftless-roots-").unwrap();
    let path = roots.path().to_owned();
    let app = App::start_with(|settings| settings.remote_roots = vec![path.clone()]).await;
    let token = app.sign_up_admin("anna").await;
    std::fs::create_dir(path.join("box")).unwrap();
    let body = json!({"device_id": "box", "kind": "remote", "remote": {"type": "folder", "path": path.join("box")}});
    let registered = app.call(&token, Method::POST, "/api/sync/register", body).await.expect(200).json();
    let report = json!({"device_id": "box", "file_list": [], "complete": true});
    let answer = app.call(&token, Method::POST, "/api/sync/changes", report).await.expect(409);
    assert_eq!(answer.code(), "device.not_a_client");
    let ack = json!({"device_id": "box", "change_token": registered["change_token"]});
    let answer = app.call(&token, Method::POST, "/api/sync/changes/ack", ack).await.expect(409);
    assert_eq!(answer.code(), "device.not_a_client");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_cut_at_ten_thousand_and_says_so() {
    let laptop = Laptop::new().await;
    let mut answer = NULL;
    for (n, range) in [(2, 10_000..10_001), (1, 0..10_000)] {
        let files: Value = range.map(|n| file(&format!("/{n:05}"), "x")).collect();
        let body = json!({"device_id": "laptop", "file_list": files, "complete": true, "list_id": "all", "part": n, "last": n == 2});
        answer = laptop.post("/api/sync/changes", body).await.expect(200).json();
    }
    assert_eq!((answer["to_upload"].as_array().unwrap().len(), &answer["truncated"]), (10_000, &json!(true)));
}
