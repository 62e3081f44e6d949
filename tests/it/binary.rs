//! The binary as an operator meets it: its answers, its refusals, and how it stops.

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Database,
    binary::{DataDir, Process, driftless, run},
    ready, until,
};

fn settings<'a>(database: &'a Database, data: &'a str) -> [(&'a str, &'a str); 2] {
    [("DRIFTLESS_DATABASE_URL", &database.url), ("DRIFTLESS_DATA_DIR", data)]
}

#[tokio::test]
async fn the_server_answers_health_the_web_app_and_its_documents_until_a_signal_stops_it() {
    let (database, data) = (Database::create().await, DataDir::new());
    let (process, base) = Process::serve(&data.path(), &[("DRIFTLESS_DATABASE_URL", &database.url)]);
    ready(&base).await;
    for path in ["/healthz", "/", "/sync", "/docs", "/api/openapi.json"] {
        let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{path}");
    }
    let status = process.terminate();
    assert!(status.success(), "{status}");
    database.drop_now().await;
}

#[tokio::test]
async fn pages_of_the_app_are_never_cached_and_allow_no_inline_script() {
    let (database, data) = (Database::create().await, DataDir::new());
    let (_process, base) = Process::serve(&data.path(), &[("DRIFTLESS_DATABASE_URL", &database.url)]);
    let page = reqwest::get(format!("{base}/any/deep/link?x=1")).await.unwrap();
    assert_eq!(page.headers()["cache-control"], "no-store");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let zipped = reqwest::Client::new().get(&base).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    let gone = reqwest::get(format!("{base}/assets/of-an-older-build.js")).await.unwrap();
    assert_eq!(gone.status(), 404);
    drop(_process);
    database.drop_now().await;
}

#[tokio::test]
async fn requests_under_way_are_finished_when_the_server_is_told_to_stop() {
    let (database, data) = (Database::create().await, DataDir::new());
    let (mut process, base) = Process::serve(&data.path(), &[("DRIFTLESS_DATABASE_URL", &database.url)]);
    let body = r#"{"username": "nobody", "password": "wrong"}"#;
    let head = format!(
        "POST /api/auth/login HTTP/1.1\r\nhost: driftless\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut connection = TcpStream::connect(base.strip_prefix("http://").unwrap()).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body, so the request is under way.
    let mut go_on = [0; 25];
    connection.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    process.signal(Signal::TERM);
    until("the server says that it stops", || async { process.err().contains("stopping").then_some(()) }).await;
    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("an answer, not a broken connection");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(process.ended().success());
    database.drop_now().await;
}

#[test]
fn a_wrong_setting_stops_the_start_with_a_sentence_that_names_it() {
    let cases = [
        ("DRIFTLESS_LISTEN", "8000"),
        ("DRIFTLESS_DATABASE_URL", "mysql://localhost/x"),
        ("DRIFTLESS_STORE", "s3://bucket"),
        ("DRIFTLESS_JWT_SECRET", "short"),
        ("DRIFTLESS_ADMIN_PASSWORD", "short"),
        ("DRIFTLESS_REMOTE_ROOTS", "relative"),
        ("DRIFTLESS_ZONE", "Berlin"),
        ("DRIFTLESS_MIN_FREE", "much"),
        ("DRIFTLESS_DEVICE_PATIENCE", "a day"),
        ("DRIFTLESS_METRICS_LISTEN", "9100"),
        ("DRIFTLESS_LOG", "driftless=loudly"),
        ("DRIFTLESS_PG_BIN", "/nonexistent"),
    ];
    for (name, value) in cases {
        let data = DataDir::new();
        let folder = data.path();
        let settings =
            [("DRIFTLESS_DATA_DIR", folder.to_str().unwrap()), ("DRIFTLESS_LISTEN", "127.0.0.1:0"), (name, value)];
        let ended = run(driftless(&["serve"], &settings), "");
        assert_eq!(ended.status.code(), Some(1), "{name}: {}", ended.err);
        assert!(ended.err.starts_with("driftless: ") && ended.err.contains(name), "{name}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let ended = run(driftless(&["serve"], &[("DRIFTLESS_LISTEN", &listen)]), "");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.err.contains("DRIFTLESS_LISTEN") && ended.err.contains(&listen), "{}", ended.err);
}

#[tokio::test]
async fn a_store_that_can_not_be_written_stops_the_start() {
    let (database, data) = (Database::create().await, DataDir::new());
    let folder = data.path();
    let [url, data] = settings(&database, folder.to_str().unwrap());
    // No folder can be made there, not even by root.
    let store = ("DRIFTLESS_STORE", "file:/proc/driftless");
    for command in ["serve", "work"] {
        let ended = run(driftless(&[command], &[url, data, store, ("DRIFTLESS_LISTEN", "127.0.0.1:0")]), "");
        assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
        assert!(ended.err.contains("DRIFTLESS_STORE: cannot write to /proc/driftless"), "{}", ended.err);
    }
    database.drop_now().await;
}

#[tokio::test]
async fn a_start_that_waits_for_its_database_ends_when_it_is_told_to() {
    let data = DataDir::new();
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let url = format!("postgres://driftless@{}/x", silent.local_addr().unwrap());
    let settings = [
        ("DRIFTLESS_DATABASE_URL", url.as_str()),
        ("DRIFTLESS_DATA_DIR", data.path().to_str().unwrap()),
        ("DRIFTLESS_LISTEN", "127.0.0.1:0"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    for command in ["serve", "work"] {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut process = Process::start(driftless(&[command], &settings));
        // It has asked for the database, so it hears signals by now.
        let (asked, _) = until("it asks for its database", async || silent.accept().ok()).await;
        let told = std::time::Instant::now();
        process.signal(Signal::TERM);
        let status = process.ended();
        assert!(status.success() && told.elapsed().as_secs() < 20, "{command}: {status}, {:?}", told.elapsed());
        drop(asked);
    }
}

#[tokio::test]
async fn migrating_twice_is_as_good_as_once() {
    let (database, data) = (Database::create().await, DataDir::new());
    let folder = data.path();
    for _ in 0..2 {
        let ended = run(driftless(&["migrate"], &settings(&database, folder.to_str().unwrap())), "");
        assert!(ended.status.success(), "{}", ended.err);
        assert_eq!(ended.out, "the database is up to date\n");
    }
    database.drop_now().await;
}

#[tokio::test]
async fn a_worker_that_is_to_stop_when_idle_stops_by_itself() {
    let (database, data) = (Database::create().await, DataDir::new());
    let folder = data.path();
    let ended = run(driftless(&["work", "--until-idle"], &settings(&database, folder.to_str().unwrap())), "");
    assert!(ended.status.success(), "{}", ended.err);
    database.drop_now().await;
}

#[test]
fn the_openapi_document_needs_neither_settings_nor_database() {
    let ended = run(driftless(&["openapi"], &[("DRIFTLESS_DATABASE_URL", "nonsense")]), "");
    assert!(ended.status.success(), "{}", ended.err);
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document["info"]["title"], "Driftless");
}

#[tokio::test]
async fn users_are_made_and_mended_from_the_shell() {
    let (database, data) = (Database::create().await, DataDir::new());
    let folder = data.path();
    let user = |arguments: &[&str], password: &str| {
        run(driftless(&[&["user"], arguments].concat(), &settings(&database, folder.to_str().unwrap())), password)
    };
    let made = user(&["add", "eva", "--admin"], "correct horse battery\n");
    assert_eq!((made.status.code(), made.out.as_str()), (Some(0), "user eva may sign in\n"), "{}", made.err);
    let refused = [
        (&["add", "eva"][..], "correct horse battery\n", "there is a user of that name already"),
        (&["add", "otto"], "short\n", "a password has 12 to 128 characters"),
        (&["add", "../otto"], "correct horse battery\n", "a name has"),
        (&["add", "otto"], "", "no password on standard input"),
        (&["password", "otto"], "correct horse battery\n", "there is no such user"),
    ];
    for (arguments, password, sentence) in refused {
        let ended = user(arguments, password);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        assert!(ended.err.contains(sentence), "{arguments:?}: {}", ended.err);
    }
    let mended = user(&["password", "eva"], "another good password\n");
    assert!(mended.status.success(), "{}", mended.err);
    let (_process, base) = Process::serve(&folder, &[("DRIFTLESS_DATABASE_URL", &database.url)]);
    for (password, status) in [("correct horse battery", 401), ("another good password", 200)] {
        assert_eq!(sign_in(&base, "eva", password).await, status, "{password}");
    }
    drop(_process);
    database.drop_now().await;
}

#[tokio::test]
async fn the_first_start_prints_one_sign_in_once() {
    let (database, data) = (Database::create().await, DataDir::new());
    let more = [("DRIFTLESS_DATABASE_URL", database.url.as_str())];
    let (first, base) = Process::serve(&data.path(), &more);
    let said = first.wait_for_line("Sign in as admin with the password ");
    let password = said.split(' ').next().unwrap();
    assert_eq!(sign_in(&base, "admin", password).await, 200, "{said}");
    first.terminate();
    let (second, _) = Process::serve(&data.path(), &more);
    let said = second.out();
    second.terminate();
    assert!(!said.contains("password"), "{said}");
    database.drop_now().await;
}

#[tokio::test]
async fn a_password_from_the_settings_is_not_printed() {
    let (database, data) = (Database::create().await, DataDir::new());
    let more =
        [("DRIFTLESS_DATABASE_URL", database.url.as_str()), ("DRIFTLESS_ADMIN_PASSWORD", "correct horse battery")];
    let (process, _) = Process::serve(&data.path(), &more);
    let said = process.out() + &process.err();
    process.terminate();
    assert!(!said.contains("correct horse"), "{said}");
    database.drop_now().await;
}

/// The status that signing in answers.
async fn sign_in(base: &str, name: &str, password: &str) -> u16 {
    let body = serde_json::json!({"username": name, "password": password});
    let request = reqwest::Client::new().post(format!("{base}/api/auth/login")).json(&body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_audit_verifies_from_the_shell_until_somebody_touches_it() {
    let (database, data) = (Database::create().await, DataDir::new());
    let folder = data.path();
    let settings = settings(&database, folder.to_str().unwrap());
    let (process, _) = Process::serve(&folder, &[("DRIFTLESS_DATABASE_URL", &database.url)]);
    assert!(process.terminate().success(), "stopping seals what is left");
    let held = run(driftless(&["audit", "verify"], &settings), "");
    assert!(
        held.status.success() && held.out.starts_with("the audit holds: 1 entries and 1 lines"),
        "{}{}",
        held.out,
        held.err
    );
    let mut files = std::fs::read_dir(folder.join("audit")).unwrap().map(|e| e.unwrap().path());
    let log = files.find(|p| p.extension().is_some_and(|e| e == "log")).unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace("user_created", "user_forgiven")).unwrap();
    let touched = run(driftless(&["audit", "verify"], &settings), "");
    assert_eq!(touched.status.code(), Some(1));
    assert!(touched.err.contains("line 1"), "{}", touched.err);
    database.drop_now().await;
}
