//! The authorization matrix: every operation of openapi.json has a row that says who may call it, and is called by nobody, with
//! each sort of bad token, by a stranger and by its owner. A new operation without a row fails.
//!
//! All that Anna owns is called `annas-...`: a stranger's answer must never hold that, and after all his calls everything of
//! hers must be as it was.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use driftless_domain::{accounts, sessions};
use driftless_queue::NewJob;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{Answer, App, PASSWORD, send};

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
    job: String,
}

/// Gives the user of `token` one of each thing.
pub async fn furnish(app: &App, token: &str) -> Things {
    let limit = json!({"upload_speed_limit": 1_000_000_000});
    app.call(token, Method::POST, "/api/sync/bandwidth/limit", limit).await.expect(200);
    let mut tx = app.domain.begin_system().await.unwrap();
    let mut job = NewJob::new("annas-queue", "nothing", &json!({}));
    job.run_at = Some(tx.now().await.unwrap() + TimeDelta::hours(1));
    let job = tx.enqueue(&job).await.unwrap().unwrap().0.to_string();
    tx.commit().await.unwrap();
    Things { job }
}

/// In this order the owner makes the calls, so what takes something away comes last.
pub fn rows(annas: &Things) -> Vec<Row> {
    let passwords = json!({"current_password": "not the password", "new_password": PASSWORD});
    vec![
        row("login", For::All).body(json!({"username": "nobody", "password": PASSWORD})),
        row("refresh", For::All).body(json!({"refresh_token": "nonsense"})),
        row("get_me", For::Self_),
        row("change_password", For::Self_).body(passwords),
        row("list_audit", For::Self_),
        row("get_bandwidth_limit", For::Self_),
        row("set_bandwidth_limit", For::Self_).body(json!({})),
        row("list_jobs", For::Admins),
        row("get_job_stats", For::Admins),
        row("list_queues", For::Admins),
        row("list_workers", For::Admins),
        row("list_crons", For::Admins),
        row("get_job", For::Admins).with("job_id", &annas.job),
        row("pause_queue", For::Admins).with("queue", "annas-queue"),
        row("resume_queue", For::Admins).with("queue", "annas-queue"),
        row("run_cron", For::Admins).with("name", "none"),
        row("retry_job", For::Admins).with("job_id", &annas.job),
        row("cancel_job", For::Admins).with("job_id", &annas.job),
        row("logout", For::Self_),
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
    accounts::create(&app.domain, "bert", PASSWORD, false).await.unwrap();
    let annas = furnish(&app, &token).await;
    let document = app.get("/api/openapi.json").await.expect(200).json();
    let (operations, rows) = (operations(&document), rows(&annas));
    let mut named: Vec<_> = rows.iter().map(|r| r.operation.to_owned()).collect();
    named.sort();
    assert_eq!(named, operations.keys().cloned().collect::<Vec<_>>(), "rows (left) and operations (right) must agree");

    let bad = bad_tokens(&app).await;
    let anna = sessions::authenticate(&app.domain, &token).await.unwrap().user_id();
    let before = belongings(&app, anna).await;
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
        assert!(!answer.text().contains("annas-"), "{} tells a stranger of her: {}", row.operation, answer.text());
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
        assert!(let_in, "{} by {owner}: {} {}", row.operation, answer.status, answer.text());
    }
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
    let nobody = send(row.request(app, operation)).await;
    assert_eq!((nobody.status, nobody.code()), (401, "auth.token_missing"), "{} by nobody", row.operation);
    for (sort, token, code) in bad {
        let answer = send(row.request(app, operation).bearer_auth(token)).await;
        assert_eq!((answer.status, answer.code()), (401, *code), "{} with a token that is {sort}", row.operation);
    }
}
