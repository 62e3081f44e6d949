//! The tree over HTTP: contents with conditions and ranges, folders, moves, trash, history, isolation.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, App, send};

/// Puts contents at a path.
pub async fn put(app: &App, token: &str, path: &str, contents: impl Into<Vec<u8>>) -> Answer {
    put_with(app, token, path, contents, &[]).await
}

async fn put_with(
    app: &App,
    token: &str,
    path: &str,
    contents: impl Into<Vec<u8>>,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = content(app, token, Method::PUT, path).body(contents.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(request).await
}

fn content(app: &App, token: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
    app.request(method, "/api/files/content").query(&[("path", path)]).bearer_auth(token)
}

pub async fn get(app: &App, token: &str, path: &str) -> Answer {
    send(content(app, token, Method::GET, path)).await
}

async fn get_with(app: &App, token: &str, path: &str, header: &str, value: &str) -> Answer {
    send(content(app, token, Method::GET, path).header(header, value)).await
}

/// Names in a folder.
async fn names(app: &App, token: &str, path: &str) -> Vec<String> {
    let page = app.call(token, Method::GET, &format!("/api/files?path={path}"), Value::Null).await.expect(200).json();
    page["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
}

fn large() -> Vec<u8> {
    let mut state = 7_u64;
    (0..5_000_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u8
        })
        .collect()
}

#[tokio::test]
async fn what_is_put_is_got_again_small_large_and_empty() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let large = large();
    for (path, contents) in [("/a/b/small.txt", b"hello".to_vec()), ("/large.bin", large.clone()), ("/empty", vec![])] {
        let made = put(&app, &token, path, contents.clone()).await.expect(201);
        assert_eq!(made.json()["size"], contents.len());
        let got = get(&app, &token, path).await.expect(200);
        assert!(got.body == contents, "{path}");
        assert_eq!(got.header("etag"), made.header("etag"));
        assert_eq!(got.header("content-length"), contents.len().to_string());
        assert!(got.header("content-disposition").starts_with("attachment"));
    }
    let again = put(&app, &token, "/large.bin", large).await.expect(200);
    assert_eq!(
        again.json()["version"],
        get(&app, &token, "/large.bin").await.header("etag")[2..3].parse::<i64>().unwrap()
    );
    assert_eq!(names(&app, &token, "/").await, ["a", "empty", "large.bin"]);
    assert_eq!(names(&app, &token, "/a/b").await, ["small.txt"]);
}

#[tokio::test]
async fn ranges_and_conditions_are_answered_as_the_rfc_says() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let large = large();
    put(&app, &token, "/f", large.clone()).await.expect(201);
    let etag = get(&app, &token, "/f").await.header("etag").to_owned();
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=1000000-3500000", 1_000_000, 3_500_001),
        ("bytes=-7", 4_999_993, 5_000_000),
        ("bytes=4999999-", 4_999_999, 5_000_000),
    ] {
        let part = get_with(&app, &token, "/f", "range", range).await.expect(206);
        assert!(part.body == large[from..to], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/5000000", to - 1));
    }
    let outside = get_with(&app, &token, "/f", "range", "bytes=5000000-").await.expect(416);
    assert_eq!(outside.header("content-range"), "bytes */5000000");
    assert_eq!(outside.code(), "contents.out_of_range");
    get_with(&app, &token, "/f", "if-none-match", &etag).await.expect(304);
    get_with(&app, &token, "/f", "if-match", "\"v999\"").await.expect(412);
    let head = send(content(&app, &token, Method::HEAD, "/f")).await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("5000000", 0));

    put_with(&app, &token, "/f", "x", &[("if-none-match", "*")]).await.expect(412);
    put_with(&app, &token, "/f", "x", &[("if-match", "\"v999\"")]).await.expect(412);
    put_with(&app, &token, "/new", "x", &[("if-match", "*")]).await.expect(412);
    assert!(get(&app, &token, "/f").await.body == large, "a write whose condition fails changes nothing");
    get(&app, &token, "/new").await.expect(404);
    put_with(&app, &token, "/f", "x", &[("if-match", &etag)]).await.expect(200);
    put_with(&app, &token, "/f", "y", &[("if-match", &etag)]).await.expect(412);
    put_with(&app, &token, "/new", "x", &[("if-none-match", "*")]).await.expect(201);
    let stale = send(content(&app, &token, Method::DELETE, "/f").header("if-match", &etag)).await.expect(412);
    assert_eq!(stale.code(), "file.precondition");
    send(content(&app, &token, Method::DELETE, "/f")).await.expect(204);
    get(&app, &token, "/f").await.expect(404);
}

#[tokio::test]
async fn a_digest_that_does_not_match_changes_nothing() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let right = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    put_with(&app, &token, "/f", "hello", &[("content-digest", right)]).await.expect(201);
    let wrong = put_with(&app, &token, "/f", "hullo", &[("content-digest", right)]).await.expect(422);
    assert_eq!(wrong.code(), "contents.digest_mismatch");
    put_with(&app, &token, "/f", "hullo", &[("content-digest", "sha-256=:abc:")]).await.expect(422);
    assert_eq!(get(&app, &token, "/f").await.text(), "hello");
}

#[tokio::test]
async fn folders_move_with_all_that_is_in_them_and_come_back_from_the_trash() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    for path in ["/docs/a.txt", "/docs/deep/b.txt"] {
        put(&app, &token, path, path).await.expect(201);
    }
    let call = async |path: &str, body: Value| app.call(&token, Method::POST, path, body).await;
    call("/api/files/folder", json!({"path": "/docs"})).await.expect(200);
    call("/api/files/folder", json!({"path": "/docs/a.txt"})).await.expect(409);
    call("/api/files/move", json!({"from": "/docs", "to": "/papers/2026"})).await.expect(200);
    assert_eq!(get(&app, &token, "/papers/2026/deep/b.txt").await.expect(200).text(), "/docs/deep/b.txt");
    get(&app, &token, "/docs/a.txt").await.expect(404);
    let inside = call("/api/files/move", json!({"from": "/papers", "to": "/papers/2026/x"})).await.expect(422);
    assert_eq!(inside.code(), "file.into_itself");
    call("/api/files/move", json!({"from": "/nothing", "to": "/x"})).await.expect(404);
    put(&app, &token, "/taken", "t").await.expect(201);
    call("/api/files/move", json!({"from": "/taken", "to": "/papers"})).await.expect(409);

    let deleted =
        call("/api/files/delete", json!({"paths": ["/papers", "/nothing", "/taken"]})).await.expect(200).json();
    assert_eq!(deleted["deleted"], json!(["/papers", "/taken"]));
    assert_eq!(deleted["refused"][0]["code"], "file.not_found");
    assert!(names(&app, &token, "/").await.is_empty());
    let counted: (i64, i64) =
        sqlx::query_as("select files, bytes from heads").fetch_one(app.domain.pool()).await.unwrap();
    assert_eq!(counted, (0, 0));

    // One file out of a deleted folder, then the folder itself.
    call("/api/sync/history/restore", json!({"path": "/papers/2026/a.txt"})).await.expect(200);
    assert_eq!(get(&app, &token, "/papers/2026/a.txt").await.expect(200).text(), "/docs/a.txt");
    call("/api/files/move", json!({"from": "/papers", "to": "/aside"})).await.expect(200);
    call("/api/sync/history/restore", json!({"path": "/papers"})).await.expect(200);
    assert_eq!(get(&app, &token, "/papers/2026/deep/b.txt").await.expect(200).text(), "/docs/deep/b.txt");
    get(&app, &token, "/papers/2026/a.txt").await.expect(404);
    let counted: i64 = sqlx::query_scalar("select files from heads").fetch_one(app.domain.pool()).await.unwrap();
    assert_eq!(counted, 2);
    let audited: i64 =
        sqlx::query_scalar("select count(*) from audit where action in ('file_deleted', 'file_restored')")
            .fetch_one(app.domain.pool())
            .await
            .unwrap();
    assert_eq!(audited, 4);
}

#[tokio::test]
async fn every_version_can_be_had_again() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    for text in ["one", "two", "three"] {
        put(&app, &token, "/f", text).await;
    }
    let history = app.call(&token, Method::GET, "/api/sync/history?path=/f", Value::Null).await.expect(200).json();
    let versions = history["versions"].as_array().unwrap();
    assert_eq!(versions.iter().map(|v| v["did"].as_str().unwrap()).collect::<Vec<_>>(), ["put", "put", "put"]);
    let first = versions[2]["version"].as_i64().unwrap();
    let restore =
        |v: i64| app.call(&token, Method::POST, "/api/sync/history/restore", json!({"path": "/f", "version": v}));
    let restored = restore(first).await.expect(200).json();
    assert!(restored["version"].as_i64().unwrap() > first, "restoring makes a new version");
    assert_eq!(get(&app, &token, "/f").await.text(), "one");
    restore(9_999).await.expect(404);
    send(content(&app, &token, Method::DELETE, "/f")).await.expect(204);
    restore(versions[1]["version"].as_i64().unwrap()).await.expect(200);
    assert_eq!(get(&app, &token, "/f").await.text(), "two");
}

#[tokio::test]
async fn bad_paths_are_problems_that_name_the_field_and_change_nothing() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    for (path, code) in [
        ("/../etc/passwd", "path.dotdot"),
        ("/a/./b", "path.dot"),
        ("relative", "path.relative"),
        ("", "path.empty"),
        ("/a//b", "path.empty_segment"),
        ("/a\0b", "path.control"),
        (&format!("/{}", "n".repeat(256)), "path.name_too_long"),
    ] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = send(content(&app, &token, method, path)).await.expect(422);
            assert_eq!((answer.code(), answer.field()), (code, "path"), "{path:?}");
        }
        let body = json!({"from": "/x", "to": path});
        let answer = app.call(&token, Method::POST, "/api/files/move", body).await.expect(422);
        assert_eq!((answer.code(), answer.field()), (code, "to"));
    }
    put(&app, &token, "/", "x").await.expect(422);
    put(&app, &token, "/file", "x").await.expect(201);
    assert_eq!(put(&app, &token, "/file/below", "x").await.expect(409).code(), "file.not_a_folder");
    app.call(&token, Method::POST, "/api/files/folder", json!({"path": "/dir"})).await.expect(200);
    assert_eq!(put(&app, &token, "/dir", "x").await.expect(409).code(), "file.is_a_folder");
    assert_eq!(names(&app, &token, "/").await, ["dir", "file"]);
}

#[tokio::test]
async fn what_comes_out_of_the_trash_keeps_to_the_limits_of_paths() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let long = |name: &str, times: usize| format!("/{}", name.repeat(250)).repeat(times);
    put(&app, &token, &format!("/p/b{}", long("x", 10)), "deep").await.expect(201);
    send(content(&app, &token, Method::DELETE, "/p/b")).await.expect(204);
    let to = long("y", 8);
    app.call(&token, Method::POST, "/api/files/move", json!({"from": "/p", "to": to})).await.expect(200);
    let restored =
        app.call(&token, Method::POST, "/api/sync/history/restore", json!({"path": format!("{to}/b")})).await;
    assert_eq!(restored.expect(422).code(), "path.too_long");
    app.call(&token, Method::POST, "/api/files/move", json!({"from": to, "to": "/p"})).await.expect(200);
    app.call(&token, Method::POST, "/api/sync/history/restore", json!({"path": "/p/b"})).await.expect(200);
    assert_eq!(get(&app, &token, &format!("/p/b{}", long("x", 10))).await.text(), "deep");
}

#[tokio::test]
async fn nobody_sees_or_touches_anothers_files() {
    let app = App::start().await;
    let (ada, eve) = (app.sign_up("ada").await, app.sign_up("eve").await);
    put(&app, &ada, "/secret", "s").await.expect(201);
    get(&app, &eve, "/secret").await.expect(404);
    send(content(&app, &eve, Method::DELETE, "/secret")).await.expect(404);
    put(&app, &eve, "/secret", "mine").await.expect(201);
    assert_eq!(get(&app, &ada, "/secret").await.text(), "s");
    // Row level security holds where a WHERE is forgotten.
    let eve_id: i64 =
        sqlx::query_scalar("select id from users where name = 'eve'").fetch_one(app.domain.pool()).await.unwrap();
    let mut tx = app.domain.pool().begin().await.unwrap();
    sqlx::query("select set_config('role', 'driftless_app', true), set_config('driftless.user_id', $1, true)")
        .bind(eve_id.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    for table in
        ["heads", "packs", "chunks", "entries", "versions", "uploads", "pins", "baselines", "deletions", "ingests"]
    {
        let others: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table} where user_id <> {eve_id}")))
                .fetch_one(&mut *tx)
                .await
                .unwrap();
        assert_eq!(others, 0, "{table}");
    }
    let seen: i64 = sqlx::query_scalar("select count(*) from entries").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 1);
}
