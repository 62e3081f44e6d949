//! Bandwidth limits: setting them, and that bytes really flow no faster.

use std::time::{Duration, Instant};

use driftless_domain::{bandwidth::Direction, sessions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{App, send, until};

const LIMIT: &str = "/api/sync/bandwidth/limit";

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_answered_and_each_users_own() {
    let app = App::start().await;
    let (anna, bert) = (app.sign_up("anna").await, app.sign_up("bert").await);
    let unlimited = json!({"upload_speed_limit": null, "download_speed_limit": null, "throttle_enabled": false,
                           "throttle_start_hour": 0, "throttle_end_hour": 0});
    assert_eq!(app.call(&anna, Method::GET, LIMIT, Value::Null).await.expect(200).json(), unlimited);
    let mine = json!({"upload_speed_limit": 1000, "download_speed_limit": null, "throttle_enabled": true,
                      "throttle_start_hour": 22, "throttle_end_hour": 6});
    assert_eq!(app.call(&anna, Method::POST, LIMIT, mine.clone()).await.expect(200).json(), mine);
    assert_eq!(app.call(&anna, Method::GET, LIMIT, Value::Null).await.expect(200).json(), mine);
    assert_eq!(app.call(&bert, Method::GET, LIMIT, Value::Null).await.expect(200).json(), unlimited);
    assert_eq!(
        app.call(&anna, Method::POST, LIMIT, json!({})).await.expect(200).json(),
        unlimited,
        "all are set at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_hours_that_can_not_be_are_refused_by_field_and_change_nothing() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for (field, value) in [
        ("upload_speed_limit", json!(-1)),
        ("upload_speed_limit", json!(0)),
        ("download_speed_limit", json!(-9_000_000_000_i64)),
        ("download_speed_limit", json!("fast")),
        ("throttle_enabled", json!("yes")),
        ("throttle_start_hour", json!(24)),
        ("throttle_start_hour", json!(70_000)),
        ("throttle_end_hour", json!(-1)),
    ] {
        let mut body = json!({"upload_speed_limit": 5, "throttle_enabled": true});
        body[field] = value.clone();
        let answer = app.call(&token, Method::POST, LIMIT, body).await.expect(422);
        assert_eq!(answer.field(), field, "{value}");
    }
    let kept = app.call(&token, Method::GET, LIMIT, Value::Null).await.expect(200).json();
    assert_eq!(kept["upload_speed_limit"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_user_share_his_limit_and_others_are_not_held_up() {
    let app = App::start().await;
    let (anna, bert) = (app.sign_up("anna").await, app.sign_up("bert").await);
    app.call(&anna, Method::POST, LIMIT, json!({"upload_speed_limit": 100_000})).await.expect(200);
    let anna = sessions::authenticate(&app.domain, &anna).await.unwrap().user_id();
    let bert = sessions::authenticate(&app.domain, &bert).await.unwrap().user_id();
    // A machine that stands still makes it late: then it is measured again.
    until("they get their share, and no less", async || {
        let begin = Instant::now();
        let stream = || app.domain.meter().take(anna, Direction::Upload, 75_000);
        futures::join!(stream(), stream());
        // 150,000 bytes at 100,000 a second, of which a quarter of a second's worth is free after a pause; as much is paid for by
        // whoever comes next.
        let took = begin.elapsed().as_secs_f64();
        assert!(took > 0.9, "{took}");
        (took < 3.0).then_some(())
    })
    .await;
    until("others are not held up", async || {
        let begin = Instant::now();
        app.domain.meter().take(anna, Direction::Download, 1 << 30).await;
        app.domain.meter().take(bert, Direction::Upload, 1 << 30).await;
        (begin.elapsed() < Duration::from_secs(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_reaches_streams_under_way_within_seconds() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.call(&token, Method::POST, LIMIT, json!({"download_speed_limit": 1_000})).await.expect(200);
    let anna = sessions::authenticate(&app.domain, &token).await.unwrap().user_id();
    let domain = app.domain.clone();
    let stream = tokio::spawn(async move { domain.meter().take(anna, Direction::Download, 1 << 30).await });
    app.call(&token, Method::POST, LIMIT, json!({})).await.expect(200);
    until("the stream has ended", || async { stream.is_finished().then_some(()) }).await;
}

/// Sends `request` and answers how long it took, the body of its answer included.
async fn timed(request: reqwest::RequestBuilder) -> (f64, Vec<u8>) {
    let begin = Instant::now();
    let answer = send(request).await;
    assert_eq!(answer.status / 100, 2, "{}", answer.text());
    (begin.elapsed().as_secs_f64(), answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_of_the_api_keeps_to_the_limit() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let limits = json!({"upload_speed_limit": 200_000, "download_speed_limit": 200_000});
    app.call(&token, Method::POST, LIMIT, limits).await.expect(200);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let at = |method, url: &str, path: &str| app.request(method, url).query(&[("path", path)]).bearer_auth(&token);
    timed(at(Method::PUT, "/api/files/content", "/in/a").body(bytes.clone())).await;
    let (_, tar) = timed(at(Method::GET, "/api/files/archive", "/in")).await;
    let upload = json!({"device_id": "laptop", "file_path": "/b", "total_size": bytes.len(), "chunk_size": 262_144});
    let started = app.call(&token, Method::POST, "/api/sync/upload/start", upload).await.expect(200).json();
    let chunk = format!("/api/sync/upload/{}/chunk/0", started["upload_id"].as_str().unwrap());
    let doors = [
        ("PUT content", at(Method::PUT, "/api/files/content", "/c").body(bytes.clone())),
        ("GET content", at(Method::GET, "/api/files/content", "/in/a")),
        ("a chunk", app.request(Method::POST, &chunk).bearer_auth(&token).body(bytes.clone())),
        ("PUT archive", at(Method::PUT, "/api/files/archive", "/copy").body(tar)),
        ("GET archive", at(Method::GET, "/api/files/archive", "/in")),
    ];
    for (door, request) in doors {
        let (took, _) = timed(request).await;
        // A second's worth: a quarter of one is free after a pause, and another is owed by whoever comes next.
        assert!(took > 0.45, "{door} let a second's worth of bytes through in {took} s");
    }
}
