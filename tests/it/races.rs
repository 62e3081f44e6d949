//! Two requests at once over one thing: whichever comes last, nothing is lost, doubled or taken for what it is not.
//!
//! What happens at the same time is brought about by holding the lock that one of the two waits for.

use std::future::poll_fn;

use bytes::Bytes;
use driftless_domain::{
    commit::{self, Base, Batch, Change, Origin},
    error::Fault,
    ingest::Ingest,
    sessions,
};
use driftless_sync::path::TreePath;
use futures::{channel::mpsc, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    support::{App, put_change, send, until},
    tree::{get, put},
};

const PIECE: usize = 64 << 10;

/// Waits until a session of this test's database waits for somebody's lock.
async fn somebody_waits(app: &App) {
    until("somebody waits for the lock", async || {
        let waiting: i64 = app
            .value(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and state = 'active'",
            )
            .await;
        (waiting > 0).then_some(())
    })
    .await;
}

async fn start(app: &App, token: &str, path: &str, size: usize) -> String {
    let body = json!({"file_path": path, "total_size": size, "chunk_size": PIECE});
    let started = app.call(token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
    started["upload_id"].as_str().unwrap().to_owned()
}

async fn piece(app: &App, token: &str, id: &str, n: usize, fill: u8) {
    let url = format!("/api/sync/upload/{id}/chunk/{n}");
    send(app.request(Method::POST, &url).bearer_auth(token).body(vec![fill; PIECE])).await.expect(200);
}

#[tokio::test]
async fn a_piece_that_is_replaced_while_a_later_one_arrives_counts_in_the_hash_of_the_whole() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let id = start(&app, &token, "/f", 2 * PIECE).await;
    piece(&app, &token, &id, 0, 1).await;
    // The second piece is under way, hashed on after the first one ...
    let (mut sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let url = format!("/api/sync/upload/{id}/chunk/1");
    let body = reqwest::Body::wrap_stream(receiver);
    let later = tokio::spawn(send(app.request(Method::POST, &url).bearer_auth(&token).body(body)));
    until("the second piece is being taken in", async || {
        (app.value::<i64>("select count(*) from packs where state = 'writing'").await == 1).then_some(())
    })
    .await;
    // ... when the first one is sent again, with other contents.
    piece(&app, &token, &id, 0, 2).await;
    poll_fn(|context| sender.poll_ready(context)).await.unwrap();
    sender.start_send(Ok(vec![3; PIECE].into())).unwrap();
    drop(sender);
    later.await.unwrap().expect(200);
    let url = format!("/api/sync/upload/{id}/complete");
    app.call(&token, Method::POST, &url, Value::Null).await.expect(200);
    let whole = [vec![2; PIECE], vec![3; PIECE]].concat();
    let got = get(&app, &token, "/f").await.expect(200);
    assert!(got.body == whole);
    let page = app.call(&token, Method::GET, "/api/files", Value::Null).await.expect(200).json();
    assert_eq!(page["entries"][0]["hash"], driftless_sync::hash::ContentHash::of(&whole).to_string());
}

#[tokio::test]
async fn an_upload_that_is_over_when_its_commit_comes_changes_nothing() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    // What a second completion, late, would commit.
    let late = async |id: &str, path: &str| {
        let mut ingest = Ingest::new(&app.domain, &actor);
        let source = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![1; PIECE]))]);
        let contents = ingest.add(source).await.unwrap();
        let change = put_change(path, contents);
        let batch = Batch {
            upload: Some(id.parse().unwrap()),
            ..Batch::with(Origin::Person, vec![change], ingest.finish().await.unwrap())
        };
        commit::apply(&app.domain, &actor, batch).await
    };
    let id = start(&app, &token, "/f", PIECE).await;
    piece(&app, &token, &id, 0, 1).await;
    let url = format!("/api/sync/upload/{id}/complete");
    let done = app.call(&token, Method::POST, &url, Value::Null).await.expect(200).json();
    put(&app, &token, "/f", "newer").await.expect(200);
    assert!(late(&id, "/f").await.is_err(), "completed twice");
    assert_eq!(get(&app, &token, "/f").await.text(), "newer");
    assert_eq!(app.call(&token, Method::POST, &url, Value::Null).await.expect(200).json(), done);

    let id = start(&app, &token, "/given up", PIECE).await;
    piece(&app, &token, &id, 0, 1).await;
    app.call(&token, Method::DELETE, &format!("/api/sync/upload/{id}"), Value::Null).await.expect(204);
    assert!(late(&id, "/given up").await.is_err(), "completed after it was given up");
    get(&app, &token, "/given up").await.expect(404);
}

#[tokio::test]
async fn of_two_edits_of_a_device_neither_takes_the_other_back() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    app.device(&token, "laptop").await;
    let mut other = app.domain.pool().begin().await.unwrap();
    sqlx::query("update devices set base_path = '/desk', ignore_rules = '{*.o}'").execute(&mut *other).await.unwrap();
    let edit = app.call(&token, Method::PATCH, "/api/sync/devices/laptop", json!({"device_name": "Mine"}));
    let (edited, ()) = tokio::join!(edit, async {
        somebody_waits(&app).await;
        other.commit().await.unwrap();
    });
    let device = edited.expect(200).json();
    assert_eq!((&device["device_name"], &device["base_path"]), (&json!("Mine"), &json!("/desk")));
    assert_eq!(device["ignore"], json!(["*.o"]));
}

#[tokio::test]
async fn a_device_that_is_removed_while_it_acknowledges_leaves_nothing_behind() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    app.device(&token, "laptop").await;
    put(&app, &token, "/f", "x").await.expect(201);
    let mut commit = app.domain.pool().begin().await.unwrap();
    sqlx::query("select from devices for key share").execute(&mut *commit).await.unwrap();
    let removed = app.call(&token, Method::DELETE, "/api/sync/devices/laptop", Value::Null);
    let (removed, ()) = tokio::join!(removed, async {
        somebody_waits(&app).await;
        sqlx::raw_sql(
            "insert into baselines (user_id, device_id, entry_id, seq, path)
             select user_id, id, 1, 1, '/f' from devices",
        )
        .execute(&mut *commit)
        .await
        .unwrap();
        commit.commit().await.unwrap();
    });
    removed.expect(204);
    assert_eq!(app.value::<i64>("select count(*) from baselines").await, 0);
}

#[tokio::test]
async fn an_upload_that_ends_outside_the_devices_new_folder_is_none_of_the_devices_files() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    app.device(&token, "laptop").await;
    let upload = async |path: &str| {
        let body = json!({"device_id": "laptop", "file_path": path, "total_size": PIECE, "chunk_size": PIECE});
        let started = app.call(&token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
        let id = started["upload_id"].as_str().unwrap().to_owned();
        piece(&app, &token, &id, 0, 1).await;
        format!("/api/sync/upload/{id}/complete")
    };
    let held = "select count(*) from baselines where not starts_with(path, (select base_path from devices))";
    let (before, during, inside) = (upload("/before").await, upload("/during").await, upload("/desk/f").await);
    // Another folder while one is being completed: whoever writes baselines holds the head.
    let mut head = app.domain.pool().begin().await.unwrap();
    sqlx::query("select from heads for no key update").execute(&mut *head).await.unwrap();
    let patched = app.call(&token, Method::PATCH, "/api/sync/devices/laptop", json!({"base_path": "/desk"}));
    let (patched, ()) = tokio::join!(patched, async {
        somebody_waits(&app).await;
        sqlx::raw_sql(
            "insert into baselines (user_id, device_id, entry_id, seq, path) select user_id, id, 1, 1, '/during' from devices",
        )
        .execute(&mut *head)
        .await
        .unwrap();
        head.commit().await.unwrap();
    });
    patched.expect(200);
    assert_eq!(app.value::<i64>(held).await, 0);
    app.call(&token, Method::POST, &during, Value::Null).await.expect(200);
    // And before one is.
    app.call(&token, Method::POST, &before, Value::Null).await.expect(200);
    app.call(&token, Method::POST, &inside, Value::Null).await.expect(200);
    assert_eq!((app.value::<i64>(held).await, app.value::<i64>("select count(*) from baselines").await), (0, 1));
    for path in ["/before", "/during", "/desk/f"] {
        get(&app, &token, path).await.expect(200);
    }
}

#[tokio::test]
async fn a_schedule_for_a_device_that_is_just_removed_is_no_fault_of_ours() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    app.device(&token, "laptop").await;
    let mut removing = app.domain.pool().begin().await.unwrap();
    sqlx::query("delete from devices").execute(&mut *removing).await.unwrap();
    let made = app.call(&token, Method::POST, "/api/sync/schedule/create", json!({"device_id": "laptop"}));
    let (made, ()) = tokio::join!(made, async {
        somebody_waits(&app).await;
        removing.commit().await.unwrap();
    });
    let made = made.expect(503);
    assert_eq!((made.code(), made.header("retry-after")), ("database.contended", "1"));
}

#[tokio::test]
async fn news_of_a_deletion_that_is_just_forgotten_are_never_passed_over() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    put(&app, &token, "/a", "x").await.expect(201);
    put(&app, &token, "/b", "x").await.expect(201);
    let page = app.call(&token, Method::GET, "/api/sync/changes", Value::Null).await.expect(200).json();
    let cursor = page["cursor"].as_str().unwrap().to_owned();
    app.call(&token, Method::POST, "/api/files/delete", json!({"paths": ["/a"]})).await.expect(200);
    put(&app, &token, "/c", "x").await.expect(201);
    // What the cleanup does when the deletion is old, between two looks of the reader.
    let mut cleanup = app.domain.pool().begin().await.unwrap();
    sqlx::raw_sql(
        "lock table versions in access exclusive mode;
         update heads set horizon = (select seq from versions where kind = 4);
         delete from versions where kind = 4;",
    )
    .execute(&mut *cleanup)
    .await
    .unwrap();
    let url = format!("/api/sync/changes?cursor={cursor}");
    let read = app.call(&token, Method::GET, &url, Value::Null);
    let (read, ()) = tokio::join!(read, async {
        somebody_waits(&app).await;
        cleanup.commit().await.unwrap();
    });
    assert_eq!(read.expect(410).code(), "cursor.expired");
}

#[tokio::test]
async fn changes_whose_commit_may_or_may_not_have_been_done_are_not_tried_again_unasked() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    for path in ["/a", "/b", "/c"] {
        put(&app, &token, path, "x").await.expect(201);
    }
    // The connection breaks while the first transaction commits; numbers of a sequence are never taken back.
    app.sql(
        "create sequence commits;
         grant usage on sequence commits to driftless_app;
         create function cut() returns trigger language plpgsql security definer set search_path = public
             as $$ begin if nextval('commits') = 1 then perform pg_terminate_backend(pg_backend_pid()); end if; return null; end $$;
         create constraint trigger cut after insert on versions deferrable initially deferred for each row execute function cut();",
    )
    .await;
    let remove = |path: &str| Change::Delete {
        path: TreePath::parse(path).unwrap(),
        base: Base::Any,
        recursive: false,
        half_of_move: false,
    };
    // Nothing else runs here before all three wait, so they share a transaction.
    let removed =
        join_all(["/a", "/b", "/c"].map(|path| commit::apply_one(&app.domain, &actor, Origin::Person, remove(path))))
            .await;
    for one in removed {
        assert_eq!(one.map_err(|e| e.code()), Err("commit.interrupted"));
    }
    for path in ["/a", "/b", "/c"] {
        get(&app, &token, path).await.expect(200);
        let request = app.request(Method::DELETE, "/api/files/content").query(&[("path", path)]).bearer_auth(&token);
        send(request).await.expect(204);
    }
}
