//! What devices report: lists, acknowledgements, baselines, cursors and deletion safety.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    support::{App, send},
    tree::{get, put},
};

fn hex_of(text: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(text))
}

fn file(path: &str, text: &str) -> Value {
    json!({"path": path, "hash": hex_of(text), "size": text.len()})
}

struct Device<'a> {
    app: &'a App,
    token: String,
}

impl<'a> Device<'a> {
    async fn new(app: &'a App) -> Self {
        let token = app.sign_up("ada").await;
        app.call(&token, Method::POST, "/api/sync/register", json!({"device_id": "laptop"})).await.expect(200);
        Device { app, token }
    }

    async fn report(&self, files: Vec<Value>, complete: bool) -> Value {
        let body = json!({"device_id": "laptop", "file_list": files, "complete": complete});
        self.app.call(&self.token, Method::POST, "/api/sync/changes", body).await.expect(200).json()
    }

    async fn ack(&self, token: &Value, applied: Vec<Value>, deleted: Vec<Value>) -> Value {
        let body = json!({"device_id": "laptop", "change_token": token, "applied": applied, "deleted": deleted});
        self.app.call(&self.token, Method::POST, "/api/sync/changes/ack", body).await.expect(200).json()
    }

    /// Takes in all that a complete list offers to download.
    async fn take_all(&self, files: Vec<Value>) -> Value {
        let offered = self.report(files, true).await;
        let lines = ["to_download", "identical"].iter().flat_map(|l| offered[l].as_array().unwrap().clone());
        let applied = lines.map(|t| json!({"path": t["path"], "version": t["version"], "hash": t["hash"]})).collect();
        self.ack(&offered["change_token"], applied, vec![]).await
    }
}

fn paths(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|t| t["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_file_that_only_the_device_has_is_uploaded_and_never_deleted() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    put(&app, &device.token, "/server", "s").await.expect(201);
    let offered = device.report(vec![file("/only here", "mine")], true).await;
    assert_eq!(paths(&offered["to_upload"]), ["/only here"]);
    assert_eq!(paths(&offered["to_download"]), ["/server"]);
    assert!(
        offered["to_delete"].as_array().unwrap().is_empty()
            && offered["to_delete_on_server"].as_array().unwrap().is_empty()
    );
    let again = device.report(vec![file("/only here", "mine")], true).await;
    assert_eq!(again["to_upload"], offered["to_upload"], "a report changes nothing");
}

#[tokio::test]
async fn baselines_move_only_for_what_is_acknowledged_and_true() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    for path in ["/a", "/b"] {
        put(&app, &device.token, path, path).await.expect(201);
    }
    let offered = device.report(vec![], true).await;
    let version = |i: usize| offered["to_download"][i]["version"].clone();
    let line = |path: &str, v: Value, text: &str| json!({"path": path, "version": v, "hash": hex_of(text)});
    let token = &offered["change_token"];
    let by_path = |p: &str| paths(&offered["to_download"]).iter().position(|q| *q == p).unwrap();
    let (a, b) = (version(by_path("/a")), version(by_path("/b")));
    let wrong = device
        .ack(
            token,
            vec![line("/a", a.clone(), "other"), line("/b", json!(999), "/b"), line("/c", a.clone(), "/a")],
            vec![],
        )
        .await;
    let codes: Vec<_> = wrong["refused"].as_array().unwrap().iter().map(|r| r["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["ack.hash_differs", "ack.version_unknown", "ack.not_there"]);
    assert_eq!((&wrong["applied"], &wrong["remaining"]), (&json!(0), &json!(2)));
    let half = device.ack(token, vec![line("/a", a, "/a")], vec![]).await;
    assert_eq!(half["remaining"], 1);
    assert_ne!(&half["change_token"], token, "the cursor waits for the rest");
    let whole = device.ack(token, vec![line("/b", b, "/b")], vec![]).await;
    assert_eq!((&whole["remaining"], &whole["change_token"]), (&json!(0), token));
}

#[tokio::test]
async fn deletions_travel_both_ways_once_the_baseline_proves_them() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    for n in 0..4 {
        put(&app, &device.token, &format!("/f{n}"), format!("{n}")).await.expect(201);
    }
    assert_eq!(device.take_all(vec![]).await["remaining"], 0);
    let have = |n: usize| file(&format!("/f{n}"), &n.to_string());
    // The device lost f0, the server f1; f2 was lost on the device and changed on the server: the change wins.
    let delete = app.request(Method::DELETE, "/api/files/content").query(&[("path", "/f1")]).bearer_auth(&device.token);
    send(delete).await.expect(204);
    put(&app, &device.token, "/f2", "new").await.expect(200);
    let offered = device.report(vec![have(1), have(3)], true).await;
    assert_eq!(paths(&offered["to_delete"]), ["/f1"]);
    assert_eq!(paths(&offered["to_delete_on_server"]), ["/f0"]);
    assert_eq!(paths(&offered["to_download"]), ["/f2"]);
    let gone = &offered["to_delete_on_server"][0];
    let fetched = &offered["to_download"][0];
    let applied = vec![
        json!({"path": "/f1", "version": null, "hash": null}),
        json!({"path": "/f2", "version": fetched["version"], "hash": fetched["hash"]}),
    ];
    let acked =
        device.ack(&offered["change_token"], applied, vec![json!({"path": "/f0", "version": gone["version"]})]).await;
    assert_eq!((&acked["deleted"], &acked["remaining"], &acked["refused"]), (&json!(1), &json!(0), &json!([])));
    get(&app, &device.token, "/f0").await.expect(404);
    let stale =
        device.ack(&offered["change_token"], vec![], vec![json!({"path": "/f2", "version": gone["version"]})]).await;
    assert_eq!(stale["refused"][0]["code"], "file.changed");
    let after = device.report(vec![file("/f2", "new"), have(3)], true).await;
    for list in ["to_upload", "to_download", "to_delete", "to_delete_on_server", "conflicts"] {
        assert!(after[list].as_array().unwrap().is_empty(), "{list}: {after}");
    }
}

#[tokio::test]
async fn a_partial_list_says_nothing_of_what_it_does_not_name() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    for path in ["/a", "/b"] {
        put(&app, &device.token, path, path).await.expect(201);
    }
    device.take_all(vec![]).await;
    let offered = device.report(vec![file("/a", "changed")], false).await;
    assert_eq!(paths(&offered["to_upload"]), ["/a"]);
    assert!(offered["to_delete_on_server"].as_array().unwrap().is_empty());
    let gone = json!({"path": "/b", "size": 0, "deleted": true});
    let offered = device.report(vec![gone], false).await;
    assert_eq!(paths(&offered["to_delete_on_server"]), ["/b"]);
}

#[tokio::test]
async fn both_changed_is_a_conflict_and_equal_contents_are_none() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    put(&app, &device.token, "/same", "equal").await.expect(201);
    put(&app, &device.token, "/both", "server").await.expect(201);
    let offered = device.report(vec![file("/same", "equal"), file("/both", "device")], true).await;
    assert_eq!(paths(&offered["identical"]), ["/same"]);
    assert_eq!(paths(&offered["conflicts"]), ["/both"]);
    assert_eq!(offered["conflicts"][0]["winner"], "server");
    assert_eq!(paths(&offered["to_download"]), ["/both"]);
    assert_eq!(offered["to_upload"][0]["from"], "/both");
    assert_eq!(offered["to_upload"][0]["path"], offered["conflicts"][0]["copy"]);
}

#[tokio::test]
async fn a_device_that_is_suddenly_empty_deletes_nothing_until_a_person_agrees() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    for n in 0..12 {
        put(&app, &device.token, &format!("/f{n}"), format!("{n}")).await.expect(201);
    }
    let mine: Vec<Value> = Vec::new();
    assert_eq!(device.take_all(mine).await["remaining"], 0);
    let offered = device.report(vec![], true).await;
    assert!(offered["to_delete_on_server"].as_array().unwrap().is_empty());
    let run = offered["run_id"].as_str().expect("a run is held");
    assert_eq!(device.report(vec![], true).await["run_id"], run, "one held run is enough");
    let state =
        app.call(&device.token, Method::GET, &format!("/api/sync/runs/{run}"), Value::Null).await.expect(200).json();
    assert_eq!(state["state"], "held");
    // A device that does not ask first is held by the acknowledgement.
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select path, seq from baselines order by path").fetch_all(app.domain.pool()).await.unwrap();
    let deleted = rows.iter().map(|(path, version)| json!({"path": path, "version": version})).collect();
    let acked = device.ack(&offered["change_token"], vec![], deleted).await;
    assert_eq!((&acked["deleted"], acked["run_id"].as_str()), (&json!(0), Some(run)));
    get(&app, &device.token, "/f7").await.expect(200);
}

#[tokio::test]
async fn a_list_in_parts_is_decided_with_the_last_one() {
    let app = App::start().await;
    let device = Device::new(&app).await;
    let part = async |n: i32, last: bool, path: &str| {
        let body = json!({"device_id": "laptop", "file_list": [file(path, path)], "complete": true, "list_id": "l", "part": n, "last": last});
        app.call(&device.token, Method::POST, "/api/sync/changes", body).await
    };
    let first = part(0, false, "/a").await.expect(200).json();
    assert!(first["to_upload"].as_array().unwrap().is_empty() && first["change_token"].is_null());
    let hole = part(2, true, "/c").await.expect(422);
    assert_eq!((hole.code(), hole.field()), ("file_list.parts_missing", "part"));
    part(1, false, "/b").await.expect(200);
    let all = part(2, true, "/c").await.expect(200).json();
    assert_eq!(paths(&all["to_upload"]), ["/a", "/b", "/c"]);
    let twice = json!({"device_id": "laptop", "file_list": [file("/a", "1"), file("/a", "2")]});
    let answer = app.call(&device.token, Method::POST, "/api/sync/changes", twice).await.expect(422);
    assert_eq!((answer.code(), answer.field()), ("file_list.twice", "file_list[1].path"));
    let none = json!({"device_id": "nobody", "file_list": []});
    app.call(&device.token, Method::POST, "/api/sync/changes", none).await.expect(404);
}
