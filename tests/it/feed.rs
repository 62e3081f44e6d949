//! The change feed: cursors, expiry, waiting, and a reader beside many writers.

use std::time::{Duration, Instant};

use driftless_domain::{
    commit::{self, Batch, Change, Origin},
    sessions,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    support::{App, PATIENCE, until},
    tree::put,
};

async fn changes(app: &App, token: &str, cursor: &str, wait: u32) -> Value {
    let path = format!("/api/sync/changes?cursor={cursor}&wait={wait}");
    app.call(token, Method::GET, &path, Value::Null).await.expect(200).json()
}

async fn now(app: &App, token: &str) -> String {
    let page = app.call(token, Method::GET, "/api/sync/changes", Value::Null).await.expect(200).json();
    page["cursor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_change_says_what_the_entry_is_now() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let start = now(&app, &token).await;
    put(&app, &token, "/a/f", "1").await.expect(201);
    put(&app, &token, "/a/f", "22").await.expect(200);
    app.call(&token, Method::POST, "/api/files/move", json!({"from": "/a", "to": "/b"})).await.expect(200);
    let page = changes(&app, &token, &start, 0).await;
    let rows: Vec<_> = page["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["did"].as_str().unwrap(), c["path"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [("folder", "/b"), ("put", "/b/f"), ("put", "/b/f"), ("move", "/b")]);
    assert_eq!(page["changes"][1]["size"], 2, "a change tells the present, not what was");
    assert_eq!(page["changes"][3]["old_path"], "/a");
    let cursor = page["cursor"].as_str().unwrap();
    assert!(changes(&app, &token, cursor, 0).await["changes"].as_array().unwrap().is_empty());
    app.call(&token, Method::POST, "/api/files/delete", json!({"paths": ["/b"]})).await.expect(200);
    let page = changes(&app, &token, cursor, 0).await;
    assert_eq!((&page["changes"][0]["did"], &page["changes"][0]["deleted"]), (&json!("delete"), &json!(true)));
    assert!(
        changes(&app, &token, &start, 0).await["changes"].as_array().unwrap().iter().all(|c| c["deleted"] == true),
        "what lies below a deleted folder is gone, too"
    );
}

#[tokio::test]
async fn a_cursor_that_cannot_be_continued_from_is_gone() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    put(&app, &token, "/f", "1").await.expect(201);
    let cursor = now(&app, &token).await;
    let (epoch, _) = cursor.split_once('.').unwrap();
    let other = "0123456789abcdef0123456789abcdef";
    for bad in [format!("{other}.1"), format!("{epoch}.99")] {
        let path = format!("/api/sync/changes?cursor={bad}");
        let answer = app.call(&token, Method::GET, &path, Value::Null).await.expect(410);
        assert_eq!((answer.code(), answer.field()), ("cursor.expired", "cursor"));
    }
    sqlx::query("update heads set horizon = 5, seq = 10").execute(app.domain.pool()).await.unwrap();
    let path = format!("/api/sync/changes?cursor={epoch}.3");
    app.call(&token, Method::GET, &path, Value::Null).await.expect(410);
    app.call(&token, Method::GET, "/api/sync/changes?cursor=rubbish", Value::Null).await.expect(422);
}

#[tokio::test]
async fn who_waits_is_woken_by_a_commit_here_and_in_another_process() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let other = app.second_server().await;
    for (i, base) in [(1, app.base.clone()), (2, other)] {
        let cursor = now(&app, &token).await;
        let waiting = {
            let request = app.http.get(format!("{base}/api/sync/changes?cursor={cursor}&wait=60")).bearer_auth(&token);
            tokio::spawn(async move { request.send().await.unwrap().json::<Value>().await.unwrap() })
        };
        until("it listens", async || {
            let listening = "select count(*) from pg_stat_activity
                             where datname = current_database() and query ilike 'listen %driftless_heads%'";
            (app.value::<i64>(listening).await >= i).then_some(())
        })
        .await;
        let start = Instant::now();
        put(&app, &token, &format!("/f{i}"), "1").await.expect(201);
        let page = waiting.await.unwrap();
        assert_eq!(page["changes"][0]["path"], format!("/f{i}"));
        assert!(start.elapsed() < Duration::from_secs(30), "woken, not timed out");
    }
    let cursor = now(&app, &token).await;
    assert!(changes(&app, &token, &cursor, 1).await["changes"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_sixteen_writers_sees_each_seq_once_and_in_order() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let start = now(&app, &token).await;
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    let writers: Vec<_> = (0..16)
        .map(|w| {
            let (domain, actor) = (app.domain.clone(), actor.clone());
            tokio::spawn(async move {
                for n in 0..20 {
                    let path = format!("/w{w}/d{n}").parse().unwrap();
                    let batch = Batch::new(Origin::Person, vec![Change::Folder { path, held: None }]);
                    commit::apply(&domain, &actor, batch).await.unwrap();
                }
            })
        })
        .collect();
    let (mut cursor, mut last, mut moved) = (start, 0, Instant::now());
    while last < 16 * 21 {
        assert!(moved.elapsed() < PATIENCE, "the reader stands at {last}");
        let page = changes(&app, &token, &cursor, 1).await;
        if page["cursor"] != cursor {
            moved = Instant::now();
        }
        for change in page["changes"].as_array().unwrap() {
            last += 1;
            assert_eq!(change["seq"], last, "no gap");
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
    for writer in writers {
        writer.await.unwrap();
    }
}
