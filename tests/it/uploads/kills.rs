//! The shipped server is killed in the middle of uploads, by one PUT and in pieces: nothing is half, and the same upload
//! succeeds when it is sent again.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use driftless_domain::{cleanup, verify};
use futures::{FutureExt, StreamExt, stream};
use rand::Rng;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{bytes, hex_of, objects};
use crate::support::{App, binary::Process, send, until};

const PIECE: usize = 1 << 20;

/// The shipped server on the database and the data folder of the app, which is there to look from outside.
fn server(app: &App) -> (Process, String) {
    let settings = [("DRIFTLESS_DATABASE_URL", app.database.url.as_str()), ("DRIFTLESS_MIN_FREE", "0")];
    Process::serve(&app.data_dir(), &settings)
}

/// Kills a server as a power cut does, and lets its lease run out at once. What it had sent to Postgres may be under way
/// still, a beat of its heart, too.
async fn kill(app: &App, server: Process) {
    let pid = server.id();
    server.kill();
    app.database.end_sessions().await;
    sqlx::query("update queue.workers set lease_until = queue.now() - interval '1 s' where pid = $1")
        .bind(pid)
        .execute(app.domain.pool())
        .await
        .unwrap();
}

/// A request that hands out the bytes and then neither ends nor goes on; the flag says that all were asked for.
fn stalls(
    request: reqwest::RequestBuilder,
    contents: Bytes,
) -> (JoinHandle<reqwest::Result<reqwest::Response>>, Arc<AtomicBool>) {
    let handed_out = Arc::new(AtomicBool::new(false));
    let flag = handed_out.clone();
    let pieces: Vec<Bytes> = contents.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
    let stall = stream::once(async move {
        flag.store(true, Relaxed);
        futures::future::pending().await
    });
    let body = Body::wrap_stream(stream::iter(pieces).map(Ok::<_, Infallible>).chain(stall));
    (tokio::spawn(request.body(body).send()), handed_out)
}

async fn count(app: &App, sql: &'static str) -> i64 {
    app.value(sql).await
}

/// Nothing is left of what was never committed, on the disk or in the database, once cleanup has run and a day has passed.
async fn assert_clean(app: &App, packs_left: usize) {
    cleanup::run(&app.domain).await.unwrap();
    app.database.move_clock("26 hours").await;
    cleanup::run(&app.domain).await.unwrap();
    assert_eq!(count(app, "select count(*) from packs where state <> 'live'").await, 0);
    assert_eq!(count(app, "select (select count(*) from pins) + (select count(*) from ingests)").await, 0);
    assert_eq!(objects(app), packs_left);
    let found = verify::verify(&app.domain, true).await.unwrap();
    assert_eq!(found.broken, 0, "{:?}", found.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_during_a_put_leaves_nothing_half() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    // More than two packs, so that the first is recorded and held by pins when the last kill comes.
    let contents = Bytes::from(bytes(136 << 20));
    let held = "select count(*) from packs where state = 'live'";
    for (sent, stored) in [(100_000, None), (9 << 20, Some("select count(*) from packs")), (136 << 20, Some(held))] {
        let (process, base) = server(&app);
        let request = app.http.put(format!("{base}/api/files/content?path=/big")).bearer_auth(&token);
        let (request, handed_out) = stalls(request, contents.slice(..sent));
        until("the server has taken the bytes in", async || {
            let there = match stored {
                Some(sql) => count(&app, sql).await > 0,
                None => true,
            };
            (handed_out.load(Relaxed) && there).then_some(())
        })
        .await;
        kill(&app, process).await;
        assert!(request.await.unwrap().is_err(), "nobody answered");
        let there = app.call(&token, Method::GET, "/api/files/content?path=/big", Value::Null).await;
        assert_eq!(there.status, 404, "after {sent} bytes");
        assert_eq!(count(&app, "select count(*) from entries").await, 0);
    }
    assert_clean(&app, 0).await;
    let token = app.sign_in("ada").await;
    let (process, base) = server(&app);
    let request = app.http.put(format!("{base}/api/files/content?path=/big")).bearer_auth(&token);
    send(request.body(contents.clone())).await.expect(201);
    let whole = app.http.get(format!("{base}/api/files/content?path=/big")).bearer_auth(&token).send().await.unwrap();
    assert!(whole.bytes().await.unwrap() == contents, "what came back is not what was sent");
    assert!(process.terminate().success());
    let packs = objects(&app);
    assert_clean(&app, packs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_during_pieces_loses_none_that_it_has_answered() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let contents = Bytes::from(bytes(24 * PIECE - 5));
    let new = json!({"file_path": "/big", "total_size": contents.len(), "chunk_size": PIECE});
    let started = app.call(&token, Method::POST, "/api/sync/upload/start", new).await.expect(200).json();
    let id = started["upload_id"].as_str().unwrap();
    let part = |n: usize| contents.slice(n * PIECE..contents.len().min((n + 1) * PIECE));
    let mut answered = Vec::new();
    for kills in 0..4 {
        let (process, base) = server(&app);
        let place = |n: usize| format!("{base}/api/sync/upload/{id}/chunk/{n}?chunk_hash={}", hex_of(&part(n)));
        // One piece half, and others one after the other until the kill.
        let half = 23 - kills;
        let request = app.http.post(place(half)).bearer_auth(&token);
        let (request, handed_out) = stalls(request, part(half).slice(..PIECE / 2));
        let handed_out = until("half a piece is sent", async || handed_out.load(Relaxed).then_some(()));
        let moment = Duration::from_millis(rand::rng().random_range(0..400));
        let mut kill_now = Box::pin(handed_out.then(|()| tokio::time::sleep(moment)));
        for n in (0..20).filter(|n| !answered.contains(n)).collect::<Vec<_>>() {
            let send = send(app.http.post(place(n)).bearer_auth(&token).body(part(n)));
            tokio::select! {
                answer = send => drop(answer.expect(200)),
                () = &mut kill_now => break,
            }
            answered.push(n);
        }
        kill(&app, process).await;
        assert!(request.await.unwrap().is_err(), "half a piece was taken for a whole one");
        let resume = format!("/api/sync/upload/{id}/resume");
        let resumed = app.call(&token, Method::POST, &resume, Value::Null).await.expect(200).json();
        let missing: Vec<usize> = serde_json::from_value(resumed["missing_chunks"].clone()).unwrap();
        assert!(answered.iter().all(|n| !missing.contains(n)), "an answered piece is gone");
        assert!((20..24).all(|n| missing.contains(&n)), "a piece that was never whole is there");
        let early = app.call(&token, Method::POST, &format!("/api/sync/upload/{id}/complete"), Value::Null).await;
        assert_eq!(early.expect(409).code(), "upload.incomplete");
        assert_eq!(count(&app, "select count(*) from entries").await, 0);
        // A piece may have been recorded although its answer got lost.
        answered = (0..24).filter(|n| !missing.contains(n)).collect();
    }
    let (process, base) = server(&app);
    for n in (0..24).filter(|n| !answered.contains(n)) {
        let url = format!("{base}/api/sync/upload/{id}/chunk/{n}");
        send(app.http.post(url).bearer_auth(&token).body(part(n))).await.expect(200);
    }
    let url = format!("{base}/api/sync/upload/{id}/complete?hash={}", hex_of(&contents));
    send(app.http.post(url).bearer_auth(&token)).await.expect(200);
    let whole = app.http.get(format!("{base}/api/files/content?path=/big")).bearer_auth(&token).send().await.unwrap();
    assert!(whole.bytes().await.unwrap() == contents, "what came back is not what was sent");
    assert!(process.terminate().success());
    assert_clean(&app, 24).await;
}
