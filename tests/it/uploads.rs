//! Uploads in pieces: resumed elsewhere, expired, refused, and what cleanup leaves.

mod kills;

use std::path::Path;

use driftless_domain::{cleanup, sessions, store::PackWriter};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    support::{Answer, App, send, until},
    tree::{get, put},
};

const CHUNK: usize = 64 << 10;

/// Bytes that don't repeat, so that each piece is a chunk of its own.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 3_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u8
        })
        .collect()
}

fn hex_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

async fn register(app: &App, token: &str, device: &str) {
    app.call(token, Method::POST, "/api/sync/register", json!({"device_id": device})).await.expect(200);
}

async fn start(app: &App, token: &str, path: &str, size: usize) -> String {
    let body = json!({"device_id": "laptop", "file_path": path, "total_size": size, "chunk_size": CHUNK});
    let started = app.call(token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
    assert_eq!(started["total_chunks"], size.div_ceil(CHUNK));
    started["upload_id"].as_str().unwrap().to_owned()
}

async fn chunk(app: &App, base: &str, token: &str, id: &str, n: usize, contents: &[u8]) -> Answer {
    let part = contents.chunks(CHUNK).nth(n).unwrap_or_default().to_vec();
    let url = format!("{base}/api/sync/upload/{id}/chunk/{n}?chunk_hash={}", hex_of(&part));
    send(app.http.post(url).bearer_auth(token).body(part)).await
}

async fn post(app: &App, base: &str, token: &str, id: &str, verb: &str) -> Answer {
    send(app.http.post(format!("{base}/api/sync/upload/{id}/{verb}")).bearer_auth(token)).await
}

fn objects(app: &App) -> usize {
    fn count(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    count(&app.data_dir().join("store"))
}

#[tokio::test]
async fn an_upload_cut_at_piece_7_of_20_goes_on_through_another_server() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    let contents = bytes(20 * CHUNK - 100);
    let id = start(&app, &token, "/films/a.bin", contents.len()).await;
    for n in 0..7 {
        chunk(&app, &app.base, &token, &id, n, &contents).await.expect(200);
    }
    let other = app.second_server().await;
    let early = post(&app, &other, &token, &id, "complete").await.expect(409);
    assert_eq!(early.code(), "upload.incomplete");
    let resumed = post(&app, &other, &token, &id, "resume").await.expect(200).json();
    assert_eq!(resumed["missing_chunks"], json!((7..20).collect::<Vec<_>>()));
    // Out of order, one twice, one as a form.
    for n in [19, 7, 7, 9, 8].into_iter().chain(11..19) {
        chunk(&app, &other, &token, &id, n, &contents).await.expect(200);
    }
    let part = contents.chunks(CHUNK).nth(10).unwrap().to_vec();
    let form = reqwest::multipart::Form::new().part("chunk_file", reqwest::multipart::Part::bytes(part));
    let url = format!("{other}/api/sync/upload/{id}/chunk/10");
    let last = send(app.http.post(url).bearer_auth(&token).multipart(form)).await.expect(200).json();
    assert_eq!((&last["completed_chunks"], &last["progress_percent"]), (&json!(20), &json!(100.0)));
    get(&app, &token, "/films/a.bin").await.expect(404);
    let done = post(&app, &other, &token, &id, "complete").await.expect(200).json();
    assert_eq!((&done["path"], &done["conflict"]), (&json!("/films/a.bin"), &json!(false)));
    assert_eq!(post(&app, &app.base, &token, &id, "complete").await.expect(200).json(), done);
    let got = get(&app, &token, "/films/a.bin").await.expect(200);
    assert!(got.body == contents);
    let page = app.call(&token, Method::GET, "/api/files?path=/films", Value::Null).await.expect(200).json();
    assert_eq!(page["entries"][0]["hash"], hex_of(&contents));
}

#[tokio::test]
async fn an_upload_left_for_seven_days_goes_with_its_bytes_and_one_in_use_does_not() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    let (left, used) = (bytes(3 * CHUNK), bytes(9 * CHUNK).split_off(5 * CHUNK));
    let left_id = start(&app, &token, "/left", left.len()).await;
    for n in 0..3 {
        chunk(&app, &app.base, &token, &left_id, n, &left).await.expect(200);
    }
    let used_id = start(&app, &token, "/used", used.len()).await;
    chunk(&app, &app.base, &token, &used_id, 0, &used).await.expect(200);
    assert_eq!(objects(&app), 4);
    assert_eq!(cleanup::run(&app.domain).await.unwrap(), cleanup::Counts::default());

    app.database.move_clock("4 days").await;
    let token = app.sign_in("ada").await;
    chunk(&app, &app.base, &token, &used_id, 1, &used).await.expect(200);
    app.database.move_clock("8 days").await;
    let token = app.sign_in("ada").await;
    let counts = cleanup::run(&app.domain).await.unwrap();
    assert_eq!((counts.uploads, counts.chunks, counts.packs_emptied, counts.packs_removed), (1, 3, 3, 0));
    assert_eq!(objects(&app), 5, "a dead pack's object stays for a day");
    post(&app, &app.base, &token, &left_id, "resume").await.expect(404);
    app.database.move_clock("9 days 1 hour").await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().packs_removed, 3);
    assert_eq!(objects(&app), 2, "the bytes are gone from the disk");
    assert_eq!(cleanup::run(&app.domain).await.unwrap().packs_removed, 0);

    let token = app.sign_in("ada").await;
    for n in 2..4 {
        chunk(&app, &app.base, &token, &used_id, n, &used).await.expect(200);
    }
    post(&app, &app.base, &token, &used_id, "complete").await.expect(200);
    assert!(get(&app, &token, "/used").await.expect(200).body == used);
    let admin = app.sign_up_admin("root").await;
    let page = app.call(&admin, Method::GET, "/api/audit?action=cleanup", Value::Null).await.expect(200).json();
    let counted = |of: &Value| (of["details"]["uploads"].clone(), of["details"]["chunks"].clone());
    let audited: Vec<_> = page["entries"].as_array().unwrap().iter().map(counted).collect();
    let (some, none) = ((json!(1), json!(3)), (json!(0), json!(0)));
    assert_eq!(audited, [none.clone(), none.clone(), some, none]);
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    crate::cleanup::is_whole(&app, &actor).await;
}

#[tokio::test]
async fn bad_pieces_are_problems_with_code_and_field_and_change_nothing() {
    let app = App::start().await;
    let (token, eve) = (app.sign_up("ada").await, app.sign_up("eve").await);
    register(&app, &token, "laptop").await;
    let contents = bytes(2 * CHUNK);
    let id = start(&app, &token, "/f", contents.len()).await;
    let url = |n: &str, query: &str| format!("/api/sync/upload/{id}/chunk/{n}{query}");
    let attempt = async |n: &str, query: &str, body: Vec<u8>| {
        let answer = send(app.request(Method::POST, &url(n, query)).bearer_auth(&token).body(body)).await.expect(422);
        (answer.code(), answer.field())
    };
    // Who is refused before all is read may hear of it while he still writes, and then not what it is: so there is little to write.
    let piece = || contents[..CHUNK].to_vec();
    let zeros = format!("?chunk_hash={}", "0".repeat(64));
    assert_eq!(attempt("2", "", vec![]).await, ("upload.chunk_out_of_range", "chunk_number"));
    assert_eq!(attempt("0", &zeros, piece()).await, ("upload.hash_mismatch", "chunk_hash"));
    assert_eq!(attempt("0", "?chunk_hash=xyz", vec![]).await, ("hash.invalid", "chunk_hash"));
    assert_eq!(attempt("0", "", contents[..9].to_vec()).await.0, "upload.chunk_size_wrong");
    assert_eq!(attempt("0", "", contents[..=CHUNK].to_vec()).await.0, "upload.chunk_size_wrong");
    assert_eq!(attempt("-1", "", vec![]).await.1, "chunk_number");
    for (verb, path) in [(Method::GET, "progress"), (Method::POST, "resume"), (Method::POST, "complete")] {
        let answer = app.call(&eve, verb, &format!("/api/sync/upload/{id}/{path}"), Value::Null).await.expect(404);
        assert_eq!(answer.code(), "upload.not_found");
    }
    app.call(&eve, Method::DELETE, &format!("/api/sync/upload/{id}"), Value::Null).await.expect(404);
    let start = async |body: Value| app.call(&token, Method::POST, "/api/sync/upload/start", body).await;
    for (body, code, field) in [
        (json!({"device_id": "none", "file_path": "/f", "total_size": 1}), "device.not_found", "device_id"),
        (json!({"device_id": "laptop", "file_path": "/../f", "total_size": 1}), "path.dotdot", "file_path"),
        (
            json!({"device_id": "laptop", "file_path": "/f", "total_size": 1, "chunk_size": 1}),
            "upload.chunk_size_invalid",
            "chunk_size",
        ),
        (
            json!({"device_id": "laptop", "file_path": "/f", "file_name": "g", "total_size": 1}),
            "upload.name_differs",
            "file_name",
        ),
        (json!({"device_id": "laptop", "file_path": "/f", "total_size": -1}), "request.field_invalid", "total_size"),
    ] {
        let answer = start(body).await;
        assert_eq!((answer.code(), answer.field()), (code, field));
    }
    let progress = app.call(&token, Method::GET, &format!("/api/sync/upload/{id}/progress"), Value::Null).await;
    assert_eq!(progress.expect(200).json()["completed_chunks"], 0);
    until("refused pieces left nothing on the disk", || async { (objects(&app) == 0).then_some(()) }).await;
}

#[tokio::test]
async fn what_the_whole_hashes_to_is_computed_and_a_piece_that_was_replaced_counts() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    let (old, new) = (bytes(3 * CHUNK), bytes(6 * CHUNK).split_off(3 * CHUNK));
    let body = json!({"device_id": "laptop", "file_path": "/f", "total_size": old.len(), "chunk_size": CHUNK, "hash": hex_of(&new)});
    let started = app.call(&token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
    let id = started["upload_id"].as_str().unwrap();
    for n in 0..3 {
        chunk(&app, &app.base, &token, id, n, &old).await.expect(200);
    }
    let refused = post(&app, &app.base, &token, id, "complete").await.expect(422);
    assert_eq!((refused.code(), refused.field()), ("upload.hash_mismatch", "hash"));
    for n in 0..3 {
        chunk(&app, &app.base, &token, id, n, &new).await.expect(200);
    }
    post(&app, &app.base, &token, id, "complete").await.expect(200);
    assert!(get(&app, &token, "/f").await.body == new);
}

#[tokio::test]
async fn an_upload_over_what_moved_on_is_kept_beside_it() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    put(&app, &token, "/notes.txt", "the server's").await.expect(201);
    let id = start(&app, &token, "/notes.txt", 5).await;
    chunk(&app, &app.base, &token, &id, 0, b"ours!").await.expect(200);
    let done = post(&app, &app.base, &token, &id, "complete").await.expect(200).json();
    let copy = done["path"].as_str().unwrap();
    assert!(
        done["conflict"] == true && copy.starts_with("/notes (conflict ") && copy.ends_with(" laptop).txt"),
        "{copy}"
    );
    assert_eq!(get(&app, &token, "/notes.txt").await.text(), "the server's");
    assert_eq!(get(&app, &token, copy).await.text(), "ours!");
    // With the right base it replaces.
    let version =
        get(&app, &token, "/notes.txt").await.header("etag")[2..].trim_end_matches('"').parse::<i64>().unwrap();
    let body = json!({"device_id": "laptop", "file_path": "/notes.txt", "total_size": 5, "base_version": version});
    let started = app.call(&token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
    let id = started["upload_id"].as_str().unwrap();
    chunk(&app, &app.base, &token, id, 0, b"ours!").await.expect(200);
    let done = post(&app, &app.base, &token, id, "complete").await.expect(200).json();
    assert_eq!((&done["path"], &done["conflict"]), (&json!("/notes.txt"), &json!(false)));
}

#[tokio::test]
async fn so_many_uploads_may_be_open_and_so_many_bodies_come_at_once() {
    let app = App::start().await;
    let (token, other) = (app.sign_up("ada").await, app.sign_up("eve").await);
    app.sql(
        "insert into uploads (id, user_id, path, total_size, chunk_size)
         select gen_random_uuid(), id, '/f', 1, 65536 from users, generate_series(1, 1000) where name = 'ada'",
    )
    .await;
    let open = json!({"file_path": "/f", "total_size": 1});
    let refused = app.call(&token, Method::POST, "/api/sync/upload/start", open.clone()).await.expect(429);
    assert_eq!((refused.code(), refused.header("retry-after")), ("upload.too_many", "60"));
    // Those that are over can't be given up any more, and count for nothing.
    app.sql("update uploads set last_activity_at = queue.now() - interval '8 days'").await;
    app.call(&token, Method::POST, "/api/sync/upload/start", open).await.expect(200);

    // More bodies than have a place: the last ones wait for theirs, nobody else does, and who goes away takes none with him.
    let silent = || reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = |path: &str| app.request(Method::PUT, path).bearer_auth(&token);
    let under_way: Vec<_> = (0..80)
        .map(|n| tokio::spawn(request(&format!("/api/files/content?path=/{n}")).body(silent()).send()))
        .collect();
    put(&app, &other, "/f", "x").await.expect(201);
    under_way.iter().for_each(|upload| upload.abort());
    put(&app, &token, "/more", "y").await.expect(201);
}

#[tokio::test]
async fn nothing_is_taken_below_the_disks_floor_and_reading_goes_on() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    put(&app, &token, "/f", "before").await.expect(201);
    let full = App::start_with(|s| s.min_free = Some(u64::MAX)).await;
    let other = full.sign_up("ada").await;
    assert_eq!(put(&full, &other, "/f", "x").await.expect(507).code(), "store.full");
    full.call(&other, Method::GET, "/api/files", Value::Null).await.expect(200);
    get(&full, &other, "/f").await.expect(404);
    assert_eq!(get(&app, &token, "/f").await.text(), "before");
}

#[tokio::test]
async fn the_collector_takes_what_nothing_names_and_never_what_a_commit_is_about_to_name() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    // Collector second: the chunk is named again before it runs.
    let contents = bytes(1000);
    let id = start(&app, &token, "/a", contents.len()).await;
    chunk(&app, &app.base, &token, &id, 0, &contents).await.expect(200);
    app.call(&token, Method::DELETE, &format!("/api/sync/upload/{id}"), Value::Null).await.expect(204);
    put(&app, &token, "/kept", contents.clone()).await.expect(201);
    assert_eq!(cleanup::run(&app.domain).await.unwrap().chunks, 0);
    assert!(get(&app, &token, "/kept").await.body == contents);
    // A commit holds the chunk: the collector passes it by.
    let other = bytes(2000);
    let id = start(&app, &token, "/b", other.len()).await;
    chunk(&app, &app.base, &token, &id, 0, &other).await.expect(200);
    app.call(&token, Method::DELETE, &format!("/api/sync/upload/{id}"), Value::Null).await.expect(204);
    let mut commit = app.domain.pool().begin().await.unwrap();
    sqlx::query("select from chunks where length = 2000 for key share").execute(&mut *commit).await.unwrap();
    assert_eq!(cleanup::run(&app.domain).await.unwrap().chunks, 0);
    commit.rollback().await.unwrap();
    // Collector first: the chunk is gone, and the same bytes are stored anew.
    assert_eq!(cleanup::run(&app.domain).await.unwrap().chunks, 1);
    put(&app, &token, "/b", other.clone()).await.expect(201);
    assert!(get(&app, &token, "/b").await.body == other);
}

#[tokio::test]
async fn a_pack_whose_writer_is_gone_is_taken_away() {
    let app = App::start().await;
    let token = app.sign_up("ada").await;
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    let mut writer = PackWriter::begin(&app.domain, &actor).await.unwrap();
    writer.write(vec![7; 100].into()).await.unwrap();
    // Leaked, as a process that is killed leaks it.
    std::mem::forget(writer);
    app.database.move_clock("2 hours").await;
    app.is_alive().await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().packs_abandoned, 0, "its process still lives");
    sqlx::query("update packs set owner = gen_random_uuid()").execute(app.domain.pool()).await.unwrap();
    assert_eq!(cleanup::run(&app.domain).await.unwrap().packs_abandoned, 1);
    app.database.move_clock("27 hours").await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().packs_removed, 1);
    assert_eq!(objects(&app), 0);
}

#[tokio::test]
async fn what_takes_long_to_hash_is_completed_by_a_job() {
    let app = App::start_with(|settings| settings.hash_in_request = 4 * CHUNK as u64).await;
    let token = app.sign_up("ada").await;
    register(&app, &token, "laptop").await;
    let contents = bytes(30 * CHUNK - 5);
    let id = start(&app, &token, "/films/long", contents.len()).await;
    // The first comes last, so that nothing could be hashed on the way but what that one catches up.
    for n in (0..30).rev() {
        chunk(&app, &app.base, &token, &id, n, &contents).await.expect(200);
    }
    let accepted = post(&app, &app.base, &token, &id, "complete").await.expect(202).json();
    assert_eq!((&accepted["upload_id"], accepted["job_id"].is_i64()), (&json!(id), true), "{accepted}");
    get(&app, &token, "/films/long").await.expect(404);
    let again = post(&app, &app.base, &token, &id, "complete").await.expect(202);
    assert!(again.json()["job_id"].is_null(), "one job is enough");
    let piece = chunk(&app, &app.base, &token, &id, 0, b"").await.expect(409);
    let given_up = app.call(&token, Method::DELETE, &format!("/api/sync/upload/{id}"), Value::Null).await.expect(409);
    assert_eq!([piece.code(), given_up.code()], ["upload.completing"; 2]);
    app.work().await;
    let done = until("the job has completed it", async || {
        let answer = post(&app, &app.base, &token, &id, "complete").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!((&done["path"], &done["conflict"]), (&json!("/films/long"), &json!(false)));
    assert!(get(&app, &token, "/films/long").await.expect(200).body == contents);
    app.idle().await;
}
