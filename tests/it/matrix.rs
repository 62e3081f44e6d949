//! The authorization matrix: every operation of openapi.json has a row that says who may call it, and is called by nobody, with
//! each sort of bad token, by a stranger and by its owner. A new operation without a row fails.
//!
//! All that Anna owns is called `annas-...`: a stranger's answer must never hold that, and after all his calls everything of
//! hers must be as it was.

use std::collections::BTreeMap;

use driftless_domain::sessions;
use driftless_queue::NewJob;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{Answer, App, PASSWORD, send};

const DEVICE: &str = "annas-laptop";
const FILE: &str = "/annas-file.txt";
const SECRET: &str = "a secret of at least 32 characters";

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Debug)]
enum For {
    /// Anybody.
    All,
    /// Whoever is signed in; it concerns the caller's own things.
    Self_,
    /// The owner of the thing that it names; to others there is no such thing.
    Owner,
    /// Admins.
    Admins,
}

/// An operation's method and the template of its address.
pub struct Operation {
    pub method: Method,
    pub path: String,
}

/// One operation with a request that its owner may make.
#[derive(Clone)]
pub struct Row {
    pub operation: &'static str,
    of: For,
    pub parameters: Vec<(&'static str, String)>,
    pub query: String,
    pub body: Value,
}

impl Row {
    fn with(mut self, parameter: &'static str, value: &str) -> Self {
        self.parameters.push((parameter, value.to_owned()));
        self
    }

    fn query(mut self, query: &str) -> Self {
        self.query = format!("?{query}");
        self
    }

    /// Whether the request itself names what is Anna's.
    fn names_hers(&self) -> bool {
        format!("{:?}{}{}", self.parameters, self.query, self.body).contains("annas-")
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }

    /// The request, without a token.
    pub fn request(&self, app: &App, operation: &Operation) -> RequestBuilder {
        let mut path = operation.path.clone();
        for (name, value) in &self.parameters {
            let (before, hole) = (path.clone(), format!("{{{name}}}"));
            path = path.replace(&hole, value);
            assert_ne!(path, before, "{} has no {hole}", self.operation);
        }
        assert!(!path.contains('{'), "the row of {} leaves a parameter of {path} open", self.operation);
        let request = app.request(operation.method.clone(), &format!("{path}{}", self.query));
        match &self.body {
            Value::Null => request,
            Value::String(raw) => request.header("content-type", "application/octet-stream").body(raw.clone()),
            body => request.json(body),
        }
    }
}

fn row(operation: &'static str, of: For) -> Row {
    Row { operation, of, parameters: Vec::new(), query: String::new(), body: Value::Null }
}

/// What Anna owns, and what only admins see.
pub struct Things {
    schedule: String,
    run: String,
    upload: String,
    job: String,
}

/// Gives the user of `token` one of each thing.
pub async fn furnish(app: &App, token: &str) -> Things {
    let limit = json!({"upload_speed_limit": 1_000_000_000});
    app.call(token, Method::POST, "/api/sync/bandwidth/limit", limit).await.expect(200);
    let post = async |path: &str, body: Value| {
        let answer = app.call(token, Method::POST, path, body).await;
        assert!(answer.status < 300, "{path}: {}", answer.text());
        answer.json()
    };
    post("/api/sync/register", json!({"device_id": DEVICE})).await;
    let schedule = post("/api/sync/schedule/create", json!({"device_id": DEVICE})).await;
    let schedule = schedule["schedule_id"].to_string();
    let run = post(&format!("/api/sync/schedule/{schedule}/run"), Value::Null).await;
    let put = app.request(Method::PUT, &format!("/api/files/content?path={FILE}")).bearer_auth(token);
    let put = send(put.header("content-type", "application/octet-stream").body("her contents")).await;
    assert!(put.status < 300, "{}", put.text());
    let upload = json!({"device_id": DEVICE, "file_path": "/annas-upload.txt", "total_size": 10});
    let upload = post("/api/sync/upload/start", upload).await;
    let mut tx = app.domain.begin_system().await.unwrap();
    let job = tx.enqueue(&NewJob::new("annas-queue", "nothing", &json!({}))).await.unwrap().unwrap().0.to_string();
    tx.commit().await.unwrap();
    park_jobs(app).await;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    Things { schedule, run: text(&run["run_id"]), upload: text(&upload["upload_id"]), job }
}

/// No worker runs here: jobs are put off, so that the app's end finds nothing left to do.
pub async fn park_jobs(app: &App) {
    let mut tx = app.domain.begin_system().await.unwrap();
    let park = "update queue.jobs set run_at = queue.now() + interval '1 hour', ready = false";
    sqlx::query(park).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// In this order the owner makes the calls, so what takes something away comes last.
pub fn rows(annas: &Things) -> Vec<Row> {
    let last = vec![row("logout", For::Self_)];
    [rows_of_accounts(), rows_of_files(annas), rows_of_devices(annas), rows_of_jobs(annas), last].concat()
}

fn rows_of_accounts() -> Vec<Row> {
    let passwords = json!({"current_password": "not the password", "new_password": PASSWORD});
    vec![
        row("login", For::All).body(json!({"username": "nobody", "password": PASSWORD})),
        row("refresh", For::All).body(json!({"refresh_token": "nonsense"})),
        row("get_me", For::Self_),
        row("change_password", For::Self_).body(passwords),
        row("list_audit", For::Self_),
        row("get_bandwidth_limit", For::Self_),
        row("set_bandwidth_limit", For::Self_).body(json!({})),
    ]
}

fn rows_of_devices(annas: &Things) -> Vec<Row> {
    let device = |operation| row(operation, For::Owner).with("device_id", DEVICE);
    let schedule = |operation| row(operation, For::Owner).with("schedule_id", &annas.schedule);
    let run = |operation| row(operation, For::Owner).with("run_id", &annas.run);
    let progress = json!({"fence": 1, "files_done": 0, "files_total": 1, "bytes_done": 0, "bytes_total": 1});
    vec![
        row("register_device", For::Self_).body(json!({"device_id": "another"})),
        row("list_devices", For::Self_),
        device("get_device"),
        device("patch_device").body(json!({"device_name": "annas-renamed"})),
        device("get_device_status"),
        row("create_schedule", For::Owner).body(json!({"device_id": DEVICE})),
        row("list_schedules", For::Self_),
        row("preview_schedule", For::Self_).body(json!({})),
        schedule("get_schedule"),
        schedule("patch_schedule").body(json!({"time_of_day": "03:00"})),
        schedule("enable_schedule"),
        schedule("disable_schedule"),
        schedule("run_schedule_now"),
        row("list_runs", For::Self_),
        run("get_run"),
        run("list_held_deletions"),
        run("claim_run"),
        run("report_run_progress").body(progress),
        run("report_run").body(json!({"fence": 1})),
        run("approve_run"),
        run("discard_run"),
        run("cancel_run"),
        schedule("delete_schedule"),
        row("report_changes", For::Owner).body(json!({"device_id": DEVICE, "file_list": []})),
        row("ack_changes", For::Owner)
            .body(json!({"device_id": DEVICE, "change_token": format!("{}.0", "0".repeat(32))})),
        device("delete_device"),
    ]
}

fn rows_of_files(annas: &Things) -> Vec<Row> {
    let hers = |operation| row(operation, For::Owner).query(&format!("path={FILE}"));
    let upload = |operation| row(operation, For::Owner).with("upload_id", &annas.upload);
    let empty_tar = json!("\0".repeat(1024));
    vec![
        row("list_files", For::Self_),
        row("get_state", For::Self_),
        row("list_changes", For::Self_),
        row("create_folder", For::Self_).body(json!({"path": "/folder"})),
        row("put_content", For::Self_).query("path=/own.txt").body(json!("contents")),
        row("put_archive", For::Self_).body(empty_tar),
        row("get_archive", For::Self_),
        hers("get_content"),
        hers("head_content"),
        hers("list_versions"),
        row("restore_version", For::Owner).body(json!({"path": FILE})),
        row("move_file", For::Owner).body(json!({"from": FILE, "to": "/annas-moved.txt"})),
        row("delete_files", For::Self_).body(json!({"paths": [FILE]})),
        row("delete_content", For::Owner).query("path=/annas-moved.txt"),
        row("start_upload", For::Self_).body(json!({"file_path": "/big", "total_size": 10})),
        upload("upload_chunk").with("chunk_number", "0").body(json!("0123456789")),
        upload("get_upload_progress"),
        upload("resume_upload"),
        upload("complete_upload"),
        upload("cancel_upload"),
    ]
}

fn rows_of_jobs(annas: &Things) -> Vec<Row> {
    let job = |operation| row(operation, For::Admins).with("job_id", &annas.job);
    vec![
        row("list_jobs", For::Admins),
        row("get_job_stats", For::Admins),
        row("list_queues", For::Admins),
        row("list_workers", For::Admins),
        row("list_crons", For::Admins),
        job("get_job"),
        row("pause_queue", For::Admins).with("queue", "annas-queue"),
        row("resume_queue", For::Admins).with("queue", "annas-queue"),
        row("run_cron", For::Admins).with("name", "none"),
        job("retry_job"),
        job("discard_job"),
        job("cancel_job"),
    ]
}

/// All operations of the document, by their ids.
pub fn operations(document: &Value) -> BTreeMap<String, Operation> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            let id = described["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id"));
            let operation = Operation { method: method.to_uppercase().parse().unwrap(), path: path.clone() };
            assert!(found.insert(id.to_owned(), operation).is_none(), "{id} is there twice");
        }
    }
    found
}

/// Tokens that no operation takes, with the code that refuses each.
async fn bad_tokens(app: &App) -> Vec<(&'static str, String, &'static str)> {
    let signed_in = app.login("anna", PASSWORD).await.expect(200).json();
    let good = signed_in["access_token"].as_str().unwrap();
    let header = Header { kid: jsonwebtoken::decode_header(good).unwrap().kid, ..Header::default() };
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(good).unwrap().claims;
    let forge = |key: &str, value: Value| {
        let mut claims = claims.clone();
        claims[key] = value;
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    };
    let ended = app.sign_in("anna").await;
    app.call(&ended, Method::POST, "/api/auth/logout", Value::Null).await.expect(204);
    vec![
        ("expired", forge("exp", json!(1_000_000_000)), "token.expired"),
        ("wrong audience", forge("aud", json!("another")), "token.invalid"),
        ("another kind", forge("typ", json!("device")), "token.invalid"),
        ("another user's session", forge("sub", json!("1")), "token.invalid"),
        ("refresh token", signed_in["refresh_token"].as_str().unwrap().to_owned(), "token.invalid"),
        ("ended session", ended, "session.ended"),
    ]
}

/// All rows of all tables that are a user's, as text. His sign-ins and his counted tries are no work of his visitors.
async fn belongings(app: &App, user_id: i64) -> BTreeMap<String, Vec<String>> {
    let mut tx = app.domain.begin_system().await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.columns where table_schema = 'public' and column_name = 'user_id'",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let rows = format!("select t::text from {table} t where user_id = {user_id} order by 1");
        all.insert(table, sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut *tx).await.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_lets_in_whom_its_row_says_and_nobody_else() {
    let app = App::start_with(|s| s.jwt_secret = Some(SECRET.into())).await;
    // The first user's id is 1, which a token below claims to be.
    app.sign_up_admin("root").await;
    let token = app.sign_up("anna").await;
    app.user("bert", false).await;
    let annas = furnish(&app, &token).await;
    let document = app.get("/api/openapi.json").await.expect(200).json();
    let (operations, rows) = (operations(&document), rows(&annas));
    let mut named: Vec<_> = rows.iter().map(|r| r.operation.to_owned()).collect();
    named.sort();
    assert_eq!(named, operations.keys().cloned().collect::<Vec<_>>(), "rows (left) and operations (right) must agree");

    let bad = bad_tokens(&app).await;
    let anna = sessions::authenticate(&app.domain, &token).await.unwrap().user_id();
    let (before, mut faults) = (belongings(&app, anna).await, Vec::new());
    for row in &rows {
        let operation = &operations[row.operation];
        refuses_bad_tokens(&app, operation, row, &bad).await;
        let answer = as_user(&app, "bert", operation, row).await;
        let expected = match row.of {
            For::Owner => answer.status == 404,
            For::Admins => answer.status == 403,
            For::All | For::Self_ => ![401, 403, 404].contains(&answer.status) || row.of == For::All,
        };
        assert!(
            expected && answer.status < 500,
            "{} by a stranger: {} {}",
            row.operation,
            answer.status,
            answer.text()
        );
        assert!(
            row.names_hers() || !answer.text().contains("annas-"),
            "{} tells a stranger of her: {}",
            row.operation,
            answer.text()
        );
    }
    let after = belongings(&app, anna).await;
    for (table, rows) in &before {
        assert_eq!(rows, &after[table], "a stranger changed her {table}");
    }
    for row in rows.iter().filter(|r| r.of != For::All) {
        let owner = if row.of == For::Admins { "root" } else { "anna" };
        let answer = as_user(&app, owner, &operations[row.operation], row).await;
        let found = answer.status != 404 || (row.of == For::Admins && answer.code() != "route.not_found");
        let let_in = ![401, 403].contains(&answer.status) && answer.status < 500 && found;
        if !let_in {
            faults.push(format!("{} by {owner}: {} {}", row.operation, answer.status, answer.text()));
        }
    }
    park_jobs(&app).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn as_user(app: &App, name: &str, operation: &Operation, row: &Row) -> Answer {
    // A session for each call, since some end theirs.
    let token = app.sign_in(name).await;
    send(row.request(app, operation).bearer_auth(token)).await
}

async fn refuses_bad_tokens(app: &App, operation: &Operation, row: &Row, bad: &[(&'static str, String, &'static str)]) {
    if row.of == For::All {
        return;
    }
    let refused = |answer: Answer, code: &'static str, by: &str| {
        // An answer to HEAD has no body.
        let said = if operation.method == Method::HEAD { code } else { answer.code() };
        assert_eq!((answer.status, said), (401, code), "{} by {by}", row.operation);
    };
    refused(send(row.request(app, operation)).await, "auth.token_missing", "nobody");
    for (sort, token, code) in bad {
        refused(send(row.request(app, operation).bearer_auth(token)).await, code, sort);
    }
}
