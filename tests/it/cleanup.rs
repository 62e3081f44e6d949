//! The daily cleanup and the collector, alone and beside everything else; and looking for damage.

use std::path::PathBuf;

use bytes::Bytes;
use driftless_domain::{
    Actor, Domain, cleanup,
    commit::{self, Batch, Change, Origin},
    contents,
    error::Fault,
    ingest::{Contents, Ingest, Ingested},
    sessions, verify,
};
use driftless_sync::{
    hash::{ContentHash, Hasher},
    path::TreePath,
};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, App, put_change, send, until};

const NULL: Value = Value::Null;

async fn put(app: &App, token: &str, path: &str, bytes: &[u8]) -> Answer {
    let request = app.request(Method::PUT, &format!("/api/files/content?path={path}")).bearer_auth(token);
    send(request.header("content-type", "application/octet-stream").body(bytes.to_vec())).await
}

/// Begins an upload of two pieces and sends the first; its id.
async fn half_an_upload(app: &App, token: &str, name: &str) -> String {
    let body = json!({"file_path": format!("/{name}"), "file_name": name, "total_size": 100_000, "chunk_size": 65_536});
    let id = app.call(token, Method::POST, "/api/sync/upload/start", body).await.expect(200).json();
    let id = id["upload_id"].as_str().unwrap().to_owned();
    let piece: Vec<u8> = name.bytes().cycle().take(65_536).collect();
    let hash = ContentHash::of(&piece);
    let path = format!("/api/sync/upload/{id}/chunk/0?chunk_hash={hash}");
    let piece = async || {
        let request = app.request(Method::POST, &path).bearer_auth(token);
        send(request.header("content-type", "application/octet-stream").body(piece.clone())).await
    };
    again(piece).await.expect(200);
    id
}

/// As clients do: asks again where the answer says so.
async fn again(ask: impl AsyncFn() -> Answer) -> Answer {
    until("there is an answer", async || Some(ask().await).filter(|answer| answer.status != 503)).await
}

/// All objects of the store.
fn objects(app: &App) -> Vec<PathBuf> {
    fn walk(folder: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(app.domain.settings().store.clone(), &mut found);
    found
}

async fn actor(app: &App, token: &str) -> Actor {
    sessions::authenticate(&app.domain, token).await.unwrap()
}

async fn ingest(app: &App, actor: &Actor, bytes: &[u8]) -> (Contents, Ingested) {
    let mut ingest = Ingest::new(&app.domain, actor);
    let source = stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(bytes))]);
    let contents = ingest.add(source).await.unwrap();
    (contents, ingest.finish().await.unwrap())
}

fn change(path: &str, contents: Contents) -> Vec<Change> {
    vec![put_change(path, contents)]
}

async fn chunks(app: &App) -> i64 {
    sqlx::query_scalar("select count(*) from chunks").fetch_one(app.domain.pool()).await.unwrap()
}

/// Nothing dangles, and every version reads back as what it says it is.
pub async fn is_whole(app: &App, actor: &Actor) {
    let found = verify::verify(&app.domain, true).await.unwrap();
    assert_eq!((found.broken, &found.problems), (0, &vec![]));
    let versions: Vec<i64> = sqlx::query_scalar("select seq from versions where sha256 is not null order by seq")
        .fetch_all(app.domain.pool())
        .await
        .unwrap();
    for version in versions {
        let mut tx = app.domain.begin(actor).await.unwrap();
        let reader = contents::open(&mut tx, &app.domain, actor, version).await.unwrap();
        drop(tx);
        let mut hasher = Hasher::new();
        let mut pieces = std::pin::pin!(reader.all());
        while let Some(piece) = pieces.next().await {
            hasher.update(&piece.unwrap());
        }
        assert_eq!(hasher.finish(), reader.file.hash, "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_holds_a_chunk_first_keeps_it_from_the_collector() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let upload = half_an_upload(&app, &token, "gone").await;
    let there = chunks(&app).await;
    // Held as a commit holds what it refers to, while the upload goes.
    let mut commit = app.domain.begin_system().await.unwrap();
    sqlx::query("select from chunks for key share").execute(&mut *commit).await.unwrap();
    app.call(&token, Method::DELETE, &format!("/api/sync/upload/{upload}"), NULL).await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().chunks, 0);
    // It commits its reference: the chunk is safe for as long as that stands.
    let holder = Uuid::now_v7();
    sqlx::query("insert into pins select user_id, $1, row_number() over (), sha256, length from chunks")
        .bind(holder)
        .execute(&mut *commit)
        .await
        .unwrap();
    commit.commit().await.unwrap();
    assert_eq!((cleanup::run(&app.domain).await.unwrap().chunks, chunks(&app).await), (0, there));
    sqlx::query("delete from pins where holder = $1").bind(holder).execute(app.domain.pool()).await.unwrap();
    assert_eq!(cleanup::run(&app.domain).await.unwrap().chunks, there.unsigned_abs());
    assert_eq!(chunks(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_after_the_collector_finds_the_chunk_gone_and_sends_it_again() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let actor = actor(&app, &token).await;
    let upload = half_an_upload(&app, &token, "piece").await;
    app.call(&token, Method::DELETE, &format!("/api/sync/upload/{upload}"), NULL).await;
    let piece: Vec<u8> = "piece".bytes().cycle().take(65_536).collect();
    // The collector has locked the chunk and is about to delete it when somebody puts the same contents.
    let mut collector = app.domain.begin_system().await.unwrap();
    sqlx::query("select from chunks for update").execute(&mut *collector).await.unwrap();
    let puts = put(&app, &token, "/again", &piece);
    let collects = async {
        let waiting = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        let waits = async || sqlx::query_scalar(waiting).fetch_one(app.domain.pool()).await.unwrap();
        until("the put waits", async || if waits().await { Some(()) } else { None }).await;
        sqlx::query("delete from chunks").execute(&mut *collector).await.unwrap();
        sqlx::query("update packs set chunks = 0, state = 'dead', dead_at = queue.now()")
            .execute(&mut *collector)
            .await
            .unwrap();
        collector.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(puts, collects);
    assert!(answer.status < 300, "{}", answer.text());

    // Contents that are not stored, and not along either, are named; sent again they are taken.
    let (contents, ingested) = ingest(&app, &actor, b"only a promise").await;
    drop(ingested);
    let origin = Origin::Person;
    let refused = commit::apply(&app.domain, &actor, Batch::new(origin, change("/promise", contents.clone()))).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code(), "chunks.missing");
    let (_, ingested) = ingest(&app, &actor, b"only a promise").await;
    commit::apply(&app.domain, &actor, Batch::with(origin, change("/promise", contents), ingested)).await.unwrap();
    is_whole(&app, &actor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_uploads_and_the_collector_side_by_side_lose_nothing() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let actor = actor(&app, &token).await;
    let payload = |n: usize| -> Vec<u8> { format!("contents {n} ").bytes().cycle().take(3000 + n).collect() };
    let (app_, token_, actor_) = (&app, &token, &actor);
    let writers = (0..4).map(|writer| async move {
        for n in 0..25 {
            let path = format!("/{}/{}", writer, n % 5);
            let answer = again(async || put(app_, token_, &path, &payload((writer * 7 + n * 3) % 11)).await).await;
            assert!(answer.status < 300 || answer.code() == "chunks.missing", "{}", answer.text());
        }
    });
    // Uploads of the very contents that others commit: giving them up makes and unmakes references all the time.
    let uploaders = (0..2).map(|uploader| async move {
        for n in 0..12 {
            let id = half_an_upload(app_, token_, &format!("u{}", (uploader + n) % 3)).await;
            app_.call(token_, Method::DELETE, &format!("/api/sync/upload/{id}"), NULL).await;
            let (_, ingested) = ingest(app_, actor_, &payload((uploader + n) % 11)).await;
            drop(ingested);
        }
    });
    let collector = async {
        let mut collected = 0;
        for _ in 0..40 {
            collected += cleanup::run(&app.domain).await.unwrap().chunks;
        }
        collected
    };
    let (_, _, collected) =
        tokio::join!(futures::future::join_all(writers), futures::future::join_all(uploaders), collector);
    let rest = cleanup::run(&app.domain).await.unwrap().chunks;
    assert!(collected + rest > 0, "the collector had something to do");
    is_whole(&app, &actor).await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().objects_unknown, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_left_half_done_goes() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    put(&app, &token, "/kept", b"kept").await.expect(201);
    let user = actor(&app, &token).await.user_id();
    let (dead, ingest) = (Uuid::now_v7(), Uuid::now_v7());
    for owner in [dead, app.domain.process()] {
        sqlx::query("insert into packs (user_id, name, state, owner) values ($1, $2, 'writing', $3)")
            .bind(user)
            .bind(Uuid::now_v7())
            .bind(owner)
            .execute(app.domain.pool())
            .await
            .unwrap();
    }
    sqlx::query("insert into ingests (id, user_id, owner) values ($1, $2, $3)")
        .bind(ingest)
        .bind(user)
        .bind(dead)
        .execute(app.domain.pool())
        .await
        .unwrap();
    sqlx::query("insert into pins select user_id, $1, 1, sha256, length from chunks")
        .bind(ingest)
        .execute(app.domain.pool())
        .await
        .unwrap();
    app.is_alive().await;
    let counts = cleanup::run(&app.domain).await.unwrap();
    assert_eq!((counts.ingests, counts.packs_abandoned, counts.chunks), (1, 1, 0), "{counts:?}");
    let pins: i64 = sqlx::query_scalar("select count(*) from pins").fetch_one(app.domain.pool()).await.unwrap();
    assert_eq!(pins, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_deletion_goes_when_every_device_has_heard_it_or_after_ninety_days() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.call(&token, Method::POST, "/api/sync/register", json!({"device_id": "laptop"})).await.expect(200);
    let version = put(&app, &token, "/a", b"a").await.expect(201).json()["version"].as_i64().unwrap();
    let hash = ContentHash::of(b"a").to_string();
    let report =
        json!({"device_id": "laptop", "file_list": [{"path": "/a", "hash": hash, "size": 1}], "complete": true});
    let answer = app.call(&token, Method::POST, "/api/sync/changes", report).await.expect(200).json();
    let behind = answer["change_token"].as_str().unwrap().to_owned();
    let ack = json!({"device_id": "laptop", "change_token": behind,
                     "applied": [{"path": "/a", "version": version, "hash": hash}]});
    app.call(&token, Method::POST, "/api/sync/changes/ack", ack).await.expect(200);
    // One deletion that the device hears of, and is gone with the day.
    put(&app, &token, "/b", b"b").await.expect(201);
    app.call(&token, Method::POST, "/api/files/delete", json!({"paths": ["/b"]})).await.expect(200);
    let report =
        json!({"device_id": "laptop", "file_list": [{"path": "/a", "hash": hash, "size": 1}], "complete": true});
    let answer = app.call(&token, Method::POST, "/api/sync/changes", report).await.expect(200).json();
    let behind = answer["change_token"].as_str().unwrap().to_owned();
    let ack = json!({"device_id": "laptop", "change_token": behind});
    let acked = app.call(&token, Method::POST, "/api/sync/changes/ack", ack).await.expect(200).json();
    assert_eq!((&acked["remaining"], &acked["change_token"]), (&json!(0), &json!(behind)));
    assert_eq!(cleanup::run(&app.domain).await.unwrap().tombstones, 0, "pages without a device may still ask");
    app.call(&token, Method::POST, "/api/files/delete", json!({"paths": ["/a"]})).await.expect(200);
    app.database.move_clock("25 hours").await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().tombstones, 1, "the device has passed this one only");
    app.database.move_clock("89 days").await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().tombstones, 0);
    let token = app.sign_in("anna").await;
    let changes = format!("/api/sync/changes?cursor={behind}");
    let page = app.call(&token, Method::GET, &changes, NULL).await.expect(200).json();
    assert_eq!((&page["changes"][0]["path"], &page["changes"][0]["deleted"]), (&json!("/a"), &json!(true)));
    app.database.move_clock("91 days").await;
    assert_eq!(cleanup::run(&app.domain).await.unwrap().tombstones, 1);
    let token = app.sign_in("anna").await;
    assert_eq!(app.call(&token, Method::GET, &changes, NULL).await.expect(410).code(), "cursor.expired");
    // The file itself is still in the trash.
    app.call(&token, Method::POST, "/api/sync/history/restore", json!({"path": "/a", "version": version}))
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_starts_it_at_once_and_sees_what_it_did() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    let worker = {
        let (domain, stop) = (app.domain.clone(), app.stop.clone());
        let process = app.domain.worker().unwrap().clone();
        tokio::spawn(async move { driftless_jobs::run(domain, &process, stop).await })
    };
    let done = async || {
        let page = app.call(&admin, Method::GET, "/api/audit?action=cleanup", NULL).await.expect(200).json();
        page["entries"].as_array().unwrap().len()
    };
    let path = "/api/jobs/crons/cleanup/run";
    until("the cron is known", async || (app.call(&admin, Method::POST, path, NULL).await.status < 300).then_some(()))
        .await;
    until("it has run", async || (done().await > 0).then_some(())).await;
    let page = app.call(&admin, Method::GET, "/api/audit?action=cleanup", NULL).await.expect(200).json();
    assert_eq!(page["entries"][0]["details"]["uploads"], 0, "{page}");
    app.stop.cancel();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_named() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    put(&app, &token, "/a", b"what will be damaged").await.expect(201);
    let found = verify::verify(&app.domain, true).await.unwrap();
    assert_eq!((found.users, found.packs, found.chunks, found.broken), (1, 1, 1, 0));
    let object = objects(&app).pop().unwrap();
    std::fs::write(&object, b"what has been damagex").unwrap();
    assert_eq!(verify::verify(&app.domain, false).await.unwrap().broken, 0, "only reading tells");
    assert_eq!(verify::verify(&app.domain, true).await.unwrap().broken, 1);
    std::fs::remove_file(&object).unwrap();
    assert_eq!(verify::verify(&app.domain, false).await.unwrap().broken, 1);
    sqlx::query("delete from chunks").execute(app.domain.pool()).await.unwrap();
    let found = verify::verify(&app.domain, false).await.unwrap();
    assert!(found.problems[0].contains("is needed and not stored"), "{:?}", found.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_no_pack_names_is_named_and_stays() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    put(&app, &token, "/a", b"a").await.expect(201);
    let stranger = Uuid::now_v7();
    let object = objects(&app).pop().unwrap();
    let shard = format!("{:02x}", stranger.as_bytes()[15]);
    let at = object.parent().unwrap().with_file_name(shard).join(stranger.to_string());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, b"whose?").unwrap();
    let counts = cleanup::run(&app.domain).await.unwrap();
    assert_eq!((counts.objects_unknown, counts.unknown), (1, vec![stranger]));
    assert!(at.exists() && object.exists());
    let admin = app.sign_up_admin("root").await;
    let page = app.call(&admin, Method::GET, "/api/audit?action=cleanup", NULL).await.expect(200).json();
    let entry = &page["entries"][0];
    assert_eq!((&entry["level"], &entry["details"]["unknown"]), (&json!("warning"), &json!([stranger])), "{entry}");
    let found = verify::verify(&app.domain, false).await.unwrap();
    assert_eq!((found.broken, found.unknown), (0, vec![stranger]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_fails_says_so_in_the_audit_and_the_next_goes_on() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    put(&app, &token, "/a", b"a").await.expect(201);
    let packs = app.domain.settings().store.join("packs");
    let aside = packs.with_file_name("aside");
    std::fs::rename(&packs, &aside).unwrap();
    std::fs::write(&packs, b"not a folder").unwrap();
    let error = cleanup::run(&app.domain).await.unwrap_err();
    std::fs::remove_file(&packs).unwrap();
    std::fs::rename(&aside, &packs).unwrap();
    assert_eq!(cleanup::run(&app.domain).await.unwrap().objects_unknown, 0);
    let admin = app.sign_up_admin("root").await;
    let page = app.call(&admin, Method::GET, "/api/audit?action=cleanup", NULL).await.expect(200).json();
    let levels: Vec<_> = page["entries"].as_array().unwrap().iter().map(|e| (&e["level"], &e["code"])).collect();
    assert_eq!(levels, [(&json!("info"), &NULL), (&json!("error"), &json!(error.code()))], "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_dead_objects_go_at_once_but_not_under_a_download() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    half_an_upload(&app, &token, "left").await;
    put(&app, &token, "/read", b"being read").await.expect(201);
    app.sql("delete from pins; delete from uploads").await;
    let mut settings = app.domain.settings().clone();
    settings.min_free = Some(u64::MAX);
    let full = Domain::new(app.domain.pool().clone(), settings, Some(app.domain.worker().unwrap().clone()));
    let actor = actor(&app, &token).await;
    let mut tx = full.begin(&actor).await.unwrap();
    let reader = contents::open_path(&mut tx, &full, &actor, &TreePath::parse("/read").unwrap()).await.unwrap();
    drop(tx);
    let counts = cleanup::run(&full).await.unwrap();
    assert_eq!((counts.packs_emptied, counts.packs_removed, objects(&app).len()), (1, 0, 2), "somebody reads");
    drop(reader);
    assert_eq!((cleanup::run(&full).await.unwrap().packs_removed, objects(&app).len()), (1, 1));
    is_whole(&app, &actor).await;
}
