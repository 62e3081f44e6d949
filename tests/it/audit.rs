//! The audit: entries, who sees them, the chain, and the lines.

use std::{fs, path::Path};

use driftless_domain::{
    Domain,
    audit::{self, Broken, Entry},
    db, sessions,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{App, until};

async fn record(domain: &Domain, n: i64) {
    let mut tx = domain.begin_system().await.unwrap();
    audit::record(&mut tx, Entry::new("tested").about("test", n).details(json!({"z": 1, "a": {"n": n}})))
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// All lines of a data folder, in order. The last one of a file may be on its way yet.
fn lines(data: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(data.join("audit")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "log"));
    files.sort();
    let text: String = files.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn newest(data: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(data.join("audit")).unwrap().map(|e| e.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

/// Each entry once, in the order of the chain, from the first.
fn assert_dense(lines: &[Value], count: i64) {
    let numbers: Vec<_> = lines.iter().map(|l| l["chain_seq"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
}

/// Another process on the same database, with this data folder.
async fn process(app: &App, data: &Path) -> Domain {
    let mut settings = app.domain.settings().clone();
    settings.data_dir = data.to_owned();
    Domain::new(db::connect(&app.database.url, 5).await.unwrap(), settings, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_shows_in_the_api_and_as_one_line_within_a_second() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let stop = CancellationToken::new();
    let sealer = tokio::spawn(audit::run_sealer(app.domain.clone(), stop.clone()));
    until("the sealer has begun", || async { app.data_dir().join("audit").exists().then_some(()) }).await;
    let actor = sessions::authenticate(&app.domain, &token).await.unwrap();
    // A machine that stands still makes one late: then there is another.
    let line = until("a line is there within a second", async || {
        let before = lines(&app.data_dir()).len();
        let mut tx = app.domain.begin(&actor).await.unwrap();
        let entry = Entry::new("sync_schedule_execution").by(&actor).about("sync_schedule", "laptop");
        audit::record(&mut tx, entry.details(json!({"run_id": "r", "changes_detected": 3})).error("run.failed"))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let committed = std::time::Instant::now();
        let of_action = |l: &Value| l["action"] == "sync_schedule_execution";
        let line = until("the line is there", async || lines(&app.data_dir()).into_iter().skip(before).find(of_action));
        let line = line.await;
        (committed.elapsed().as_millis() < 1_000).then_some(line)
    })
    .await;
    let listed =
        app.call(&token, Method::GET, "/api/audit?action=sync_schedule_execution", Value::Null).await.expect(200);
    let listed = &listed.json()["entries"][0];
    for key in [
        "id",
        "user_id",
        "actor",
        "action",
        "resource_type",
        "resource_id",
        "details",
        "level",
        "code",
        "chain_seq",
        "hash",
    ] {
        assert_eq!(line[key], listed[key], "{key}");
    }
    assert_eq!(line["user_id"], actor.user_id());
    assert_eq!(line["resource_type"], "sync_schedule");
    assert_eq!(line["resource_id"], "laptop");
    assert_eq!(line["details"], json!({"run_id": "r", "changes_detected": 3}));
    assert_eq!((&line["level"], &line["code"]), (&json!("error"), &json!("run.failed")));
    assert_eq!(line["chain_seq"], listed["chain_seq"]);
    assert!(lines(&app.data_dir()).iter().any(|l| l["action"] == "sign_in" && l.get("code").is_none()));
    stop.cancel();
    sealer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_stands_exactly_when_its_act_does() {
    let app = App::start().await;
    let mut tx = app.domain.begin_system().await.unwrap();
    audit::record(&mut tx, Entry::new("tested")).await.unwrap();
    drop(tx);
    record(&app.domain, 1).await;
    assert_eq!(audit::seal(&app.domain).await.unwrap(), 1);
    assert_dense(&lines(&app.data_dir()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_their_own_entries_and_admins_all() {
    let app = App::start().await;
    let (anna, bert, admin) = (app.sign_up("anna").await, app.sign_up("bert").await, app.sign_up_admin("root").await);
    let actors = |token: String| {
        let app = &app;
        async move {
            let page = app.call(&token, Method::GET, "/api/audit?action=sign_in", Value::Null).await.expect(200).json();
            let names = page["entries"].as_array().unwrap().iter().map(|e| e["actor"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        }
    };
    assert_eq!(actors(anna.clone()).await, ["anna"]);
    assert_eq!(actors(bert).await, ["bert"]);
    assert_eq!(actors(admin).await, ["root", "bert", "anna"], "the newest first");
    // The policy alone, without any WHERE.
    let actor = sessions::authenticate(&app.domain, &anna).await.unwrap();
    let mut tx = app.domain.begin(&actor).await.unwrap();
    let seen: Vec<i64> = sqlx::query_scalar("select distinct user_id from audit").fetch_all(&mut *tx).await.unwrap();
    assert_eq!(seen, [actor.user_id()]);
    let forged = sqlx::query("insert into audit (user_id, action, level) values ($1, 'forged', 'info')");
    assert!(forged.bind(actor.user_id() + 1).execute(&mut *tx).await.is_err());
    let mut tx = app.domain.begin(&actor).await.unwrap();
    assert!(sqlx::query("delete from audit").execute(&mut *tx).await.is_err(), "nobody deletes entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_filters_hold_each_entry_once() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    for n in 0..7 {
        record(&app.domain, n).await;
    }
    let (mut seen, mut query) = (Vec::new(), "/api/audit?action=tested&limit=3".to_owned());
    loop {
        let page = app.call(&admin, Method::GET, &query, Value::Null).await.expect(200).json();
        seen.extend(page["entries"].as_array().unwrap().iter().map(|e| e["resource_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("/api/audit?action=tested&limit=3&cursor={cursor}");
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
    let count = |query: &'static str| {
        let (app, admin) = (&app, &admin);
        async move {
            let page =
                app.call(admin, Method::GET, &format!("/api/audit?{query}"), Value::Null).await.expect(200).json();
            page["entries"].as_array().unwrap().len()
        }
    };
    assert_eq!(count("level=warning").await, 0);
    assert_eq!(count("action=tested&since=2020-01-01T00:00:00Z").await, 7);
    assert_eq!(count("since=9998-01-01T00:00:00Z").await, 0);
    for (query, field) in [
        ("cursor=x", "cursor"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("level=loud", "level"),
        ("since=yesterday", "since"),
        ("action=%00", "action"),
    ] {
        let answer = app.call(&admin, Method::GET, &format!("/api/audit?{query}"), Value::Null).await.expect(422);
        assert_eq!(answer.field(), field, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_data_folder_write_each_line_once_in_order() {
    let app = App::start().await;
    let own = tempfile::TempDir::new().unwrap();
    let others =
        [process(&app, &app.data_dir()).await, process(&app, &app.data_dir()).await, process(&app, own.path()).await];
    let stop = CancellationToken::new();
    let sealers: Vec<_> =
        others.iter().chain([&app.domain]).map(|d| tokio::spawn(audit::run_sealer(d.clone(), stop.clone()))).collect();
    futures::future::join_all((0..8).map(|n| {
        let domain = app.domain.clone();
        async move {
            for i in 0..50 {
                record(&domain, n * 50 + i).await;
            }
        }
    }))
    .await;
    for data in [app.data_dir().as_path(), own.path()] {
        until("all lines are there", || async { (lines(data).len() >= 400).then_some(()) }).await;
    }
    stop.cancel();
    futures::future::join_all(sealers).await;
    assert_dense(&lines(&app.data_dir()), 400);
    assert_eq!(lines(own.path()), lines(&app.data_dir()), "a data folder of one's own holds all");
    let verified = audit::verify(&app.domain).await.unwrap();
    assert_eq!((verified.entries, verified.lines), (400, 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_between_chain_and_file_neither_loses_nor_doubles_a_line() {
    let app = App::start().await;
    for n in 0..5 {
        record(&app.domain, n).await;
    }
    audit::seal(&app.domain).await.unwrap();
    let whole = fs::read(newest(&app.data_dir())).unwrap();
    // Whatever had reached the disk: any prefix of the file, even none of it.
    for kept in [0, 1, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(newest(&app.data_dir()), &whole[..kept]).unwrap();
        audit::seal(&app.domain).await.unwrap();
        assert_eq!(fs::read(newest(&app.data_dir())).unwrap(), whole, "{kept} bytes were kept");
    }
    fs::write(newest(&app.data_dir()), [&whole[..], b"{\"half a li"].concat()).unwrap();
    record(&app.domain, 5).await;
    audit::seal(&app.domain).await.unwrap();
    assert_dense(&lines(&app.data_dir()), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_day_gets_a_new_file_and_old_files_may_go() {
    let app = App::start().await;
    record(&app.domain, 1).await;
    audit::seal(&app.domain).await.unwrap();
    let old = newest(&app.data_dir());
    app.database.move_clock("1 day").await;
    record(&app.domain, 2).await;
    audit::seal(&app.domain).await.unwrap();
    assert_ne!(newest(&app.data_dir()), old);
    assert_dense(&lines(&app.data_dir()), 2);
    fs::remove_file(old).unwrap();
    record(&app.domain, 3).await;
    audit::seal(&app.domain).await.unwrap();
    assert_eq!(lines(&app.data_dir()).len(), 2);
    assert_eq!(audit::verify(&app.domain).await.unwrap().lines, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_with_rows_or_lines_is_found() {
    let app = App::start().await;
    for n in 0..5 {
        record(&app.domain, n).await;
    }
    audit::seal(&app.domain).await.unwrap();
    let file = newest(&app.data_dir());
    let whole = fs::read_to_string(&file).unwrap();
    let first = whole.lines().next().unwrap();
    for (changed, line) in [
        (whole.replacen("\"n\":0", "\"n\":9", 1), 1),
        (whole.replace("\"n\":2", "\"n\":9"), 3),
        (whole.replacen(&format!("{first}\n"), "", 1).replacen("\"n\":1", "\"n\":7", 1), 1),
        (whole.replace("{\"action\"", "{\"acti"), 1),
    ] {
        fs::write(&file, changed).unwrap();
        match audit::verify(&app.domain).await {
            Err(Broken::Line { line: found, .. }) => assert_eq!(found, line),
            other => panic!("{other:?}"),
        }
    }
    fs::write(&file, &whole).unwrap();
    let tamper = async |statement: &'static str| {
        let mut tx = app.domain.begin_system().await.unwrap();
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        audit::verify(&app.domain).await
    };
    let found = tamper("update audit set user_id = 7 where chain_seq = 4").await;
    assert!(matches!(found, Err(Broken::Changed(4))), "{found:?}");
    let found = tamper("delete from audit where chain_seq = 2").await;
    assert!(matches!(found, Err(Broken::Missing(2))), "{found:?}");
    let found = tamper("delete from audit").await;
    assert!(matches!(found, Err(Broken::Line { .. })), "the lines still tell of them: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_history_that_the_database_lost_are_set_aside() {
    let app = App::start().await;
    record(&app.domain, 1).await;
    audit::seal(&app.domain).await.unwrap();
    let before = newest(&app.data_dir());
    let mut tx = app.domain.begin_system().await.unwrap();
    sqlx::query("delete from audit").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    record(&app.domain, 2).await;
    audit::seal(&app.domain).await.unwrap();
    assert_dense(&lines(&app.data_dir()), 1);
    assert_eq!(lines(&app.data_dir())[0]["resource_id"], "2");
    assert!(before.with_extension("log.aside").exists());
    audit::verify(&app.domain).await.unwrap();
}
