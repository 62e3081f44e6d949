//! Device reports: a client says what it holds, hears what to do and says what it did.

mod lists;
mod safety;

use std::time::{Duration, Instant};

use driftless_sync::hash::ContentHash;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, App, send, until, wire::Wire};

const NULL: Value = Value::Null;
const MODIFIED: &str = "2026-11-01T10:00:00Z";

fn hash(contents: &str) -> String {
    ContentHash::of(contents.as_bytes()).to_string()
}

/// Files `/photos/<n / 100>/img <n>.jpg`, whose contents are n.
const TEN_THOUSAND: &str = "
    insert into entries (user_id, id, seq, kind, parent_id, name)
        select u.id, 1, 1, 0, 0, 'photos' from users u
        union all select u.id, 2 + n, 2 + n, 0, 1, n::text from users u, generate_series(0, 100) n
        union all select u.id, 200 + n, 200 + n, 1, 2 + n / 100, 'img ' || n || '.jpg' from users u, generate_series(1, 10000) n;
    insert into versions (user_id, seq, entry_id, kind, size, modified_at, at, sha256)
        select user_id, seq, id, 2 - kind, length((id - 200)::text) * kind, queue.now(), queue.now(),
               case kind when 1 then sha256((id - 200)::text::bytea) end
        from entries;
    update heads set seq = 10200, files = 10000";

/// An app with a user and a client device.
struct Laptop {
    app: App,
    token: String,
}

impl Laptop {
    async fn new() -> Self {
        let app = App::start().await;
        let token = app.sign_up("anna").await;
        let laptop = Laptop { app, token };
        laptop.register("laptop", "/").await;
        laptop
    }

    async fn register(&self, device: &str, base: &str) {
        self.post("/api/sync/register", json!({"device_id": device, "base_path": base})).await.expect(200);
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.app.call(&self.token, Method::POST, path, body).await
    }

    /// Puts a file into the tree as a person; its version.
    async fn put(&self, path: &str, contents: &str) -> i64 {
        let path = format!("/api/files/content?path={path}&modified_at={MODIFIED}");
        let request = self.app.request(Method::PUT, &path).bearer_auth(&self.token);
        let request = request.header("content-type", "application/octet-stream").body(contents.to_owned());
        let answer = send(request).await;
        assert!(answer.status < 300, "{}", answer.text());
        answer.json()["version"].as_i64().unwrap()
    }

    async fn delete(&self, path: &str) {
        self.post("/api/files/delete", json!({"paths": [path]})).await.expect(200);
    }

    async fn report(&self, files: Value, complete: bool) -> Value {
        let body = json!({"device_id": "laptop", "file_list": files, "complete": complete});
        self.post("/api/sync/changes", body).await.expect(200).json()
    }

    async fn ack(&self, token: &Value, applied: Value, deleted: Value) -> Value {
        let body = json!({"device_id": "laptop", "change_token": token, "applied": applied, "deleted": deleted});
        self.post("/api/sync/changes/ack", body).await.expect(200).json()
    }

    /// Makes tree and device agree on these files.
    async fn agree(&self, files: &[(&str, &str)]) -> Vec<i64> {
        let mut versions = Vec::new();
        for (path, contents) in files {
            versions.push(self.put(path, contents).await);
        }
        let answer = self.report(list(files), true).await;
        let acked = self.ack(&answer["change_token"], answer["to_acknowledge"].clone(), json!([])).await;
        assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(files.len()), &json!(0)), "{acked}");
        versions
    }

    /// Makes a schedule, runs it and claims the run; the schedule, the run and the fence.
    async fn claim(&self, schedule: Value) -> (Value, String, Value) {
        let schedule = self.app.schedule(&self.token, schedule).await["schedule_id"].clone();
        let run = self.post(&format!("/api/sync/schedule/{schedule}/run"), NULL).await.expect(202).json();
        let run = run["run_id"].as_str().unwrap().to_owned();
        let waits = async || (self.app.run(&self.token, &run).await["state"] == "waiting_for_device").then_some(());
        until("the run waits for its device", waits).await;
        let claimed = self.post(&format!("/api/sync/runs/{run}/claim"), NULL).await.expect(200).json();
        (schedule, run, claimed["fence"].clone())
    }

    /// Ends a claimed run, whatever there was to do.
    async fn end(&self, (_, run, fence): (Value, String, Value)) {
        let error = json!({"code": "enough", "detail": "of this"});
        self.post(&format!("/api/sync/runs/{run}/report"), json!({"fence": fence, "error": error})).await.expect(200);
        self.post(&format!("/api/sync/runs/{run}/cancel"), NULL).await.expect(200);
    }

    async fn exists(&self, path: &str) -> bool {
        let answer = self.app.call(&self.token, Method::GET, &format!("/api/files/content?path={path}"), NULL).await;
        answer.status == 200
    }

    async fn cursor(&self) -> String {
        let device = self.app.call(&self.token, Method::GET, "/api/sync/devices/laptop", NULL).await.expect(200).json();
        device["cursor"].as_str().or(device["change_token"].as_str()).unwrap().to_owned()
    }
}

fn file(path: &str, contents: &str) -> Value {
    json!({"path": path, "hash": hash(contents), "size": contents.len(), "modified_at": MODIFIED})
}

fn list(files: &[(&str, &str)]) -> Value {
    files.iter().map(|(path, contents)| file(path, contents)).collect()
}

fn paths(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap()).collect()
}

/// The paths of to_upload, to_download, to_delete, to_delete_on_server, conflicts and to_acknowledge.
fn told(answer: &Value) -> [Vec<&str>; 6] {
    ["to_upload", "to_download", "to_delete", "to_delete_on_server", "conflicts", "to_acknowledge"]
        .map(|name| paths(&answer[name]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_side_has_goes_to_the_other_and_nothing_is_deleted() {
    let laptop = Laptop::new().await;
    laptop.put("/docs/theirs.txt", "theirs").await;
    laptop.put("/same.txt", "same").await;
    laptop.put("/both.txt", "theirs").await;
    laptop.post("/api/files/folder", json!({"path": "/empty"})).await.expect(200);
    let files = list(&[("/mine.txt", "mine"), ("/same.txt", "same"), ("/both.txt", "mine")]);
    let answer = laptop.report(files.clone(), true).await;
    let copy = answer["conflicts"][0]["copy_path"].as_str().unwrap();
    assert!(copy.starts_with("/both (conflict ") && copy.ends_with(" laptop).txt"), "{copy}");
    let expected: [Vec<&str>; 6] = [
        vec![copy, "/mine.txt"],
        vec!["/both.txt", "/docs/theirs.txt"],
        vec![],
        vec![],
        vec!["/both.txt"],
        vec!["/same.txt"],
    ];
    assert_eq!(told(&answer), expected);
    assert_eq!(answer["to_upload"][0]["from"], "/both.txt");
    assert_eq!(answer["conflicts"][0]["winner"], "server");
    // It changed nothing, so it is the same again.
    assert_eq!(laptop.report(files, true).await, answer);
    assert!(!laptop.exists("/mine.txt").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_holds_for_files_that_both_sides_had_agreed_on() {
    let laptop = Laptop::new().await;
    let files = [("/a", "1"), ("/b", "1"), ("/c", "1"), ("/d", "1"), ("/e", "1"), ("/f", "1"), ("/g", "1")];
    let files = files.map(|(path, _)| (path, path));
    let versions = laptop.agree(&files).await;
    let cursor = laptop.cursor().await;
    // b: changed on the device. c: changed in the tree. d: deleted on the device. e: deleted in the tree.
    // f: deleted on the device, changed in the tree. g: changed on the device, deleted in the tree.
    let c = laptop.put("/c", "c2").await;
    laptop.delete("/e").await;
    laptop.put("/f", "f2").await;
    laptop.delete("/g").await;
    let held = list(&[("/a", "/a"), ("/b", "b2"), ("/c", "/c"), ("/e", "/e"), ("/g", "g2")]);
    let answer = laptop.report(held, true).await;
    let expected: [Vec<&str>; 6] =
        [vec!["/b", "/g"], vec!["/c", "/f"], vec!["/e"], vec!["/d"], vec!["/f", "/g"], vec![]];
    assert_eq!(told(&answer), expected);
    assert_eq!(answer["to_upload"][0]["base_version"], versions[1]);
    assert_eq!(
        (&answer["to_download"][0]["version"], &answer["to_download"][0]["hash"]),
        (&json!(c), &json!(hash("c2")))
    );
    assert_eq!(answer["to_delete_on_server"][0]["version"], versions[3]);
    assert_eq!(laptop.cursor().await, cursor);

    // An incomplete list speaks of what it lists: nothing about d and f.
    let some = json!([file("/c", "/c"), {"path": "/d", "deleted": true}, file("/new", "new")]);
    let answer = laptop.report(some, false).await;
    let expected: [Vec<&str>; 6] = [vec!["/new"], vec!["/c"], vec![], vec!["/d"], vec![], vec![]];
    assert_eq!(told(&answer), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_told_as_its_two_halves_and_counts_as_no_deletion() {
    let laptop = Laptop::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("/old/{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let versions = laptop.agree(&files).await;
    let moved: Vec<String> = (0..12).map(|n| format!("/new/{n}")).collect();
    let now: Vec<(&str, &str)> = moved.iter().zip(&names).map(|(path, old)| (path.as_str(), old.as_str())).collect();
    let answer = laptop.report(list(&now), true).await;
    assert_eq!((&answer["held"], answer["to_upload"].as_array().unwrap().len()), (&json!(0), 12));
    assert_eq!(
        (&answer["to_upload"][0]["moved_from"], &answer["to_delete_on_server"][0]["moved_to"]),
        (&json!("/old/0"), &json!("/new/0"))
    );
    // The client uploads the new places, then has the old ones deleted.
    let mut applied = Vec::new();
    for (path, contents) in &now {
        applied.push(json!({"path": path, "version": laptop.put(path, contents).await, "hash": hash(contents)}));
    }
    let after = laptop.report(list(&now), true).await;
    let deleted: Vec<Value> =
        names.iter().zip(&versions).map(|(path, version)| json!({"path": path, "version": version})).collect();
    let acked = laptop.ack(&after["change_token"], json!(applied), json!(deleted)).await;
    assert_eq!((&acked["applied"], &acked["deleted"], &acked["not_accepted"]), (&json!(12), &json!(12), &json!([])));
    let answer = laptop.report(list(&now), true).await;
    assert_eq!(told(&answer), <[Vec<&str>; 6]>::default());
    // And the other way: the tree moves one.
    laptop.post("/api/files/move", json!({"from": "/new/0", "to": "/there"})).await.expect(200);
    let answer = laptop.report(list(&now), true).await;
    assert_eq!((paths(&answer["to_download"]), paths(&answer["to_delete"])), (vec!["/there"], vec!["/new/0"]));
    assert_eq!(answer["to_download"][0]["moved_from"], "/new/0");
    let there = &answer["to_download"][0];
    let applied = json!([
        {"path": "/there", "version": there["version"], "hash": there["hash"]},
        {"path": "/new/0", "version": null, "hash": null},
    ]);
    let acked = laptop.ack(&answer["change_token"], applied, json!([])).await;
    assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(2), &json!(0)), "{acked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_hash_is_told_by_size_and_time_or_left_alone() {
    let laptop = Laptop::new().await;
    laptop.agree(&[("/same", "same"), ("/edited", "before")]).await;
    laptop.put("/unclear", "12345").await;
    laptop.put("/differs", "12345").await;
    let bare = |path: &str, size: u64, at: &str| json!({"path": path, "size": size, "modified_at": at});
    let files = json!([
        bare("/same", 4, MODIFIED),
        bare("/edited", 6, "2026-11-02T10:00:00Z"),
        bare("/unclear", 5, MODIFIED),
        bare("/differs", 6, MODIFIED),
        bare("/new", 3, MODIFIED),
    ]);
    let answer = laptop.report(files, true).await;
    let uploads = paths(&answer["to_upload"]);
    assert!(uploads[0].starts_with("/differs (conflict") && uploads[1..] == ["/edited", "/new"], "{uploads:?}");
    assert!(answer["to_upload"].as_array().unwrap().iter().all(|upload| upload["hash"].is_null()));
    assert_eq!((paths(&answer["to_download"]), paths(&answer["to_delete"])), (vec!["/differs"], vec![]));
    assert_eq!(answer["left_out"], json!([{"path": "/unclear", "reason": "hash.wanted"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_moves_only_what_was_offered_and_says_what_remains() {
    let laptop = Laptop::new().await;
    let a = laptop.put("/a", "a").await;
    let b = laptop.put("/b", "b").await;
    let answer = laptop.report(json!([]), true).await;
    let (token, start) = (&answer["change_token"], laptop.cursor().await);
    let wrong = json!([
        {"path": "/a", "version": a, "hash": hash("not a")},
        {"path": "/a", "version": b, "hash": hash("b")},
        {"path": "/b", "version": a, "hash": hash("b")},
        {"path": "/b", "version": 99, "hash": hash("b")},
        {"path": "/a", "version": null, "hash": null},
    ]);
    let acked = laptop.ack(token, wrong, json!([{"path": "/b", "version": a}])).await;
    assert_eq!(
        (&acked["applied"], &acked["deleted"], &acked["remaining"]),
        (&json!(1), &json!(0), &json!(2)),
        "{acked}"
    );
    assert_eq!(paths(&acked["not_accepted"]), ["/a", "/a", "/b", "/b", "/b"]);
    assert_eq!(laptop.report(json!([]), true).await, answer, "nothing moved");

    let one = json!([{"path": "/a", "version": a, "hash": hash("a")}]);
    for _ in 0..2 {
        let acked = laptop.ack(token, one.clone(), json!([])).await;
        assert_eq!(
            (&acked["applied"], &acked["remaining"], &acked["change_token"]),
            (&json!(1), &json!(1), &json!(start))
        );
    }
    let other = json!([{"path": "/b", "version": b, "hash": hash("b")}]);
    let acked = laptop.ack(token, other, json!([])).await;
    assert_eq!((&acked["remaining"], &acked["change_token"]), (&json!(0), token));
    assert_eq!(&json!(laptop.cursor().await), token);
    // The tree moved on after the token: the old version is still what was offered, and the new one is offered next.
    let b2 = laptop.put("/b", "b2").await;
    laptop.ack(token, json!([{"path": "/b", "version": b, "hash": hash("b")}]), json!([])).await;
    let answer = laptop.report(list(&[("/a", "a"), ("/b", "b")]), true).await;
    assert_eq!((paths(&answer["to_download"]), &answer["to_download"][0]["version"]), (vec!["/b"], &json!(b2)));
    assert!(answer["conflicts"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_carried_out_once_while_the_version_is_current() {
    let laptop = Laptop::new().await;
    let versions = laptop.agree(&[("/a", "a"), ("/b", "b"), ("/keep", "keep")]).await;
    let answer = laptop.report(list(&[("/keep", "keep")]), true).await;
    assert_eq!(paths(&answer["to_delete_on_server"]), ["/a", "/b"]);
    laptop.put("/b", "b2").await;
    let deleted = json!([{"path": "/a", "version": versions[0]}, {"path": "/b", "version": versions[1]}]);
    let acked = laptop.ack(&answer["change_token"], json!([]), deleted.clone()).await;
    assert_eq!(
        (&acked["deleted"], &acked["not_accepted"]),
        (&json!(1), &json!([{"path": "/b", "code": "ack.not_current"}]))
    );
    assert!(!laptop.exists("/a").await && laptop.exists("/b").await);
    let again = laptop.ack(&answer["change_token"], json!([]), deleted).await;
    assert_eq!((&again["deleted"], paths(&again["not_accepted"])), (&json!(0), vec!["/b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_deletions_are_held_until_a_person_approves_exactly_these() {
    let laptop = Laptop::new().await;
    let names: Vec<String> = (0..20).map(|n| format!("/f{n:02}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let versions = laptop.agree(&files).await;
    let left = list(&files[15..]);
    let answer = laptop.report(left.clone(), true).await;
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"])), (&json!(15), vec![]));
    let run = answer["run_id"].as_str().unwrap().to_owned();
    assert_eq!(laptop.report(left.clone(), true).await, answer, "the same run again");
    let deleted: Vec<Value> =
        names.iter().zip(&versions).take(15).map(|(path, version)| json!({"path": path, "version": version})).collect();
    let acked = laptop.ack(&answer["change_token"], json!([]), json!(deleted)).await;
    assert_eq!(
        (&acked["deleted"], &acked["run_id"], acked["not_accepted"].as_array().unwrap().len()),
        (&json!(0), &json!(run), 15)
    );
    let held =
        laptop.app.call(&laptop.token, Method::GET, &format!("/api/sync/runs/{run}/held"), NULL).await.expect(200);
    assert_eq!(held.json()["deletions"].as_array().unwrap().len(), 15);

    let worker = {
        let (domain, stop) = (laptop.app.domain.clone(), laptop.app.stop.clone());
        let process = laptop.app.domain.worker().unwrap().clone();
        tokio::spawn(async move { driftless_jobs::run(domain, &process, stop).await })
    };
    laptop.post(&format!("/api/sync/runs/{run}/approve"), NULL).await.expect(200);
    let state = async || {
        let run = laptop.app.call(&laptop.token, Method::GET, &format!("/api/sync/runs/{run}"), NULL).await.json();
        (run["state"] == "waiting_for_device").then_some(())
    };
    until("the run waits for its device", state).await;
    let claimed = laptop.post(&format!("/api/sync/runs/{run}/claim"), NULL).await.expect(200).json();
    // One more than was approved: the approved ones pass, it does not count them.
    let answer = laptop.report(left, true).await;
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"]).len()), (&json!(0), 15));
    let acked = laptop.ack(&answer["change_token"], json!([]), json!(deleted)).await;
    assert_eq!(acked["deleted"], 15, "{acked}");
    let report = json!({"fence": claimed["fence"], "planned": 15, "counts": {"executed": 15, "deleted_on_server": 15}});
    let run = laptop.post(&format!("/api/sync/runs/{run}/report"), report).await.expect(200).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    laptop.app.stop.cancel();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_parts_is_decided_when_all_of_it_is_here_in_any_order() {
    let laptop = Laptop::new().await;
    laptop.agree(&[("/a", "a"), ("/b", "b"), ("/c", "c")]).await;
    let part = async |n: i32, last: bool, path: &str| {
        let body = json!({"device_id": "laptop", "file_list": [file(path, &path[1..])], "complete": true,
                          "list_id": "monday", "part": n, "last": last});
        laptop.post("/api/sync/changes", body).await.expect(200).json()
    };
    let third = part(3, true, "/c").await;
    assert_eq!((&third["decided"], &third["missing_parts"]), (&json!(false), &json!([1, 2])));
    let first = part(1, false, "/a").await;
    assert_eq!((&first["decided"], &first["missing_parts"]), (&json!(false), &json!([2])));
    assert_eq!(part(1, false, "/a").await["missing_parts"], json!([2]), "again");
    let whole = part(2, false, "/b").await;
    assert_eq!((&whole["decided"], told(&whole)), (&json!(true), <[Vec<&str>; 6]>::default()));
    assert_eq!(part(3, true, "/c").await["decided"], true, "the last again");
    let body = json!({"device_id": "laptop", "file_list": [], "complete": true, "list_id": "monday", "part": 4});
    assert_eq!(laptop.post("/api/sync/changes", body).await.expect(409).code(), "report.parts_differ");
    laptop.app.database.move_clock("25 hours").await;
    let token = laptop.app.sign_in("anna").await;
    let body =
        json!({"device_id": "laptop", "file_list": [], "complete": true, "list_id": "monday", "part": 3, "last": true});
    let answer = laptop.app.call(&token, Method::POST, "/api/sync/changes", body).await.expect(200).json();
    assert_eq!(answer["missing_parts"], json!([1, 2]), "a day later the others are forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_are_compared_and_acknowledged_at_once() {
    let laptop = Laptop::new().await;
    laptop.app.sql(TEN_THOUSAND).await;
    let list = |text: &str| -> Value {
        (1..=10_000).map(|n| file(&format!("/photos/{}/img {n}.jpg", n / 100), &format!("{text}{n}"))).collect()
    };
    // By statements, whose number does not depend on the machine; those of the process itself are among them.
    let wire = Wire::to(&laptop.app.database.url).await;
    let base = laptop.app.second_server_on(&wire.url).await;
    let at_once = async |what: &str, path: &str, body: Value| {
        let begin = Instant::now();
        let request = laptop.app.http.post(format!("{base}{path}")).bearer_auth(&laptop.token).json(&body);
        let answer = send(request).await.expect(200).json();
        let (took, statements) = (begin.elapsed(), wire.sent(begin).len());
        println!("{what}: {took:?}, {statements} statements");
        assert!(statements < 500, "{what}: {statements} statements");
        assert!(took < Duration::from_secs(60), "{what}: {took:?}");
        answer
    };
    let report = |text, complete| json!({"device_id": "laptop", "file_list": list(text), "complete": complete});
    let found = at_once("known files", "/api/sync/changes", report("", true)).await;
    assert_eq!((told(&found)[5].len(), told(&found)[..5].concat()), (10_000, vec![]));
    let body =
        json!({"device_id": "laptop", "change_token": found["change_token"], "applied": found["to_acknowledge"]});
    let acked = at_once("acknowledging", "/api/sync/changes/ack", body).await;
    assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(10_000), &json!(0)));
    let settled = at_once("settled files", "/api/sync/changes", report("", true)).await;
    assert_eq!(told(&settled).concat(), <[&str; 0]>::default());
    for complete in [true, false] {
        let changed = at_once("changed files", "/api/sync/changes", report("new ", complete)).await;
        assert_eq!(told(&changed)[0].len(), 10_000);
    }
    let versions: Value = found["to_acknowledge"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| json!({"path": item["path"], "version": item["version"]}))
        .collect();
    let body = json!({"device_id": "laptop", "change_token": found["change_token"], "deleted": versions});
    let acked = at_once("deleting all", "/api/sync/changes/ack", body.clone()).await;
    assert_eq!((&acked["deleted"], acked["not_accepted"].as_array().unwrap().len()), (&json!(0), 10_000));
    laptop.app.sql("update runs set state = 'waiting_for_device', approved_at = queue.now()").await;
    let acked = at_once("deleting all, approved", "/api/sync/changes/ack", body).await;
    assert_eq!((&acked["deleted"], &acked["not_accepted"]), (&json!(10_000), &json!([])));
    let body = json!({"device_id": "laptop", "file_list": vec![file("/x", "x"); 10_001]});
    assert_eq!(laptop.post("/api/sync/changes", body).await.expect(422).code(), "report.too_many_files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_below_a_folder_speaks_relative_to_it() {
    let laptop = Laptop::new().await;
    laptop.register("phone", "/photos").await;
    laptop.put("/photos/2026/a.jpg", "a").await;
    laptop.put("/other", "other").await;
    let body = json!({"device_id": "phone", "file_list": [file("/b.jpg", "b")], "complete": true});
    let answer = laptop.post("/api/sync/changes", body).await.expect(200).json();
    assert_eq!((paths(&answer["to_upload"]), paths(&answer["to_download"])), (vec!["/b.jpg"], vec!["/2026/a.jpg"]));
    let body = json!({"device_id": "phone", "file_list": [], "complete": true, "base_path": "/photos/2026"});
    let answer = laptop.post("/api/sync/changes", body).await.expect(200).json();
    assert_eq!(paths(&answer["to_download"]), ["/a.jpg"]);
    let download = &answer["to_download"][0];
    let body = json!({"device_id": "phone", "base_path": "/photos/2026", "change_token": answer["change_token"],
                      "applied": [{"path": "/a.jpg", "version": download["version"], "hash": download["hash"]}]});
    let acked = laptop.post("/api/sync/changes/ack", body).await.expect(200).json();
    assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(1), &json!(0)));
    let body = json!({"device_id": "phone", "file_list": [], "base_path": "/"});
    assert_eq!(laptop.post("/api/sync/changes", body).await.expect(409).code(), "device.base_path_differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_and_other_peoples_devices_are_refused_with_code_and_field() {
    let laptop = Laptop::new().await;
    let ben = laptop.app.sign_up("ben").await;
    let report = json!({"device_id": "laptop", "file_list": []});
    let answer = laptop.app.call(&ben, Method::POST, "/api/sync/changes", report).await.expect(404);
    assert_eq!(answer.code(), "device.not_found");
    let good = laptop.report(json!([]), true).await["change_token"].clone();
    let ack = json!({"device_id": "laptop", "change_token": good});
    let answer = laptop.app.call(&ben, Method::POST, "/api/sync/changes/ack", ack).await.expect(404);
    assert_eq!(answer.code(), "device.not_found");
    for (field, value, status, code, at) in [
        ("file_list", json!([{"path": "../x"}]), 422, "path.", "file_list[0].path"),
        ("file_list", json!([{"path": "/a/../b"}]), 422, "path.", "file_list[0].path"),
        ("file_list", json!([{"path": "/"}]), 422, "path.is_root", "file_list[0].path"),
        ("file_list", json!([{"path": "/a", "hash": "xyz"}]), 422, "hash.invalid", "file_list[0].hash"),
        ("file_list", json!([{"path": "/a", "size": -1}]), 422, "report.size_invalid", "file_list[0].size"),
        ("file_list", json!("x"), 422, "request.field_invalid", "file_list"),
        ("part", json!(1), 422, "report.list_id_invalid", "list_id"),
        ("list_id", json!("x"), 422, "report.part_invalid", "part"),
        ("base_path", json!("x"), 422, "path.", "base_path"),
        ("device_id", json!("nobody"), 404, "device.not_found", ""),
        ("device_id", json!("x".repeat(10_000)), 404, "device.not_found", ""),
    ] {
        let mut body = json!({"device_id": "laptop", "file_list": [], "complete": true});
        body[field] = value.clone();
        let answer = laptop.post("/api/sync/changes", body).await.expect(status);
        assert!(answer.code().starts_with(code), "{value}: {}", answer.text());
        assert_eq!(answer.field(), at, "{value}");
    }
    let token = good.as_str().unwrap();
    let (epoch, _) = token.split_once('.').unwrap();
    let strange = format!("{}.0", "0".repeat(32));
    for (field, value, status, code, at) in [
        ("change_token", json!("x"), 422, "cursor.invalid", "change_token"),
        ("change_token", json!(strange), 410, "cursor.expired", "change_token"),
        ("change_token", json!(format!("{epoch}.77")), 410, "cursor.expired", "change_token"),
        ("applied", json!([{"path": "/a", "version": 1}]), 422, "ack.hash_missing", "applied[0].hash"),
        ("applied", json!([{"path": "/a", "hash": hash("a")}]), 422, "ack.version_missing", "applied[0].version"),
        ("deleted", json!([{"path": "a", "version": 1}]), 422, "path.", "deleted[0].path"),
    ] {
        let mut body = json!({"device_id": "laptop", "change_token": good});
        body[field] = value.clone();
        let answer = laptop.post("/api/sync/changes/ack", body).await.expect(status);
        assert!(answer.code().starts_with(code), "{value}: {}", answer.text());
        assert_eq!(answer.field(), at, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_files_are_left_alone_on_both_sides() {
    let laptop = Laptop::new().await;
    laptop
        .app
        .call(&laptop.token, Method::PATCH, "/api/sync/devices/laptop", json!({"ignore": ["/cache/"]}))
        .await
        .expect(200);
    laptop.put("/cache/theirs", "x").await;
    let answer = laptop.report(list(&[("/cache/mine", "y"), ("/a.tmp", "z")]), true).await;
    assert_eq!(told(&answer), <[Vec<&str>; 6]>::default());
    assert_eq!(paths(&answer["left_out"]), ["/cache/mine", "/a.tmp"]);
    let acked = laptop.ack(&answer["change_token"], json!([]), json!([])).await;
    assert_eq!((&acked["remaining"], &acked["change_token"]), (&json!(0), &answer["change_token"]));
}
