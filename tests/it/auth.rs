//! Signing in, staying signed in, signing out, and what is refused.

use driftless_domain::{
    Domain,
    accounts::{self, GeneratedPassword},
    db,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, App, PASSWORD, send, until};

async fn me(app: &App, token: &str) -> Answer {
    app.call(token, Method::GET, "/api/auth/me", Value::Null).await
}

async fn refresh(app: &App, token: &str) -> Answer {
    app.post("/api/auth/refresh", json!({"refresh_token": token})).await
}

fn text(answer: &Answer, key: &str) -> String {
    answer.json()[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", answer.text())).to_owned()
}

async fn audited(app: &App, action: &str) -> Vec<(Option<i64>, Option<String>, Value)> {
    let mut tx = app.domain.begin_system().await.unwrap();
    sqlx::query_as("select user_id, actor, details from audit where action = $1 order by id")
        .bind(action)
        .fetch_all(&mut *tx)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_signs_in_and_the_token_says_who() {
    let app = App::start().await;
    app.user("Anna", false).await;
    let signed_in = app.login("anna", PASSWORD).await.expect(200);
    assert_eq!(signed_in.json()["token_type"], "bearer");
    assert_eq!(signed_in.json()["expires_in"], 900);
    assert_eq!(signed_in.json()["user"]["username"], "Anna");
    assert_eq!(signed_in.header("set-cookie"), "");
    let me = me(&app, &text(&signed_in, "access_token")).await.expect(200);
    assert_eq!(me.json(), signed_in.json()["user"]);
    assert_eq!(audited(&app, "sign_in").await[0].1.as_deref(), Some("Anna"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_name_are_refused_alike_and_audited() {
    let app = App::start().await;
    app.user("anna", false).await;
    let shape = |a: Answer| (a.status, a.code(), a.json()["detail"].clone());
    let wrong = shape(app.login("anna", "wrong horse battery").await);
    assert_eq!((wrong.0, wrong.1), (401, "sign_in.refused"));
    for name in ["nobody", "", "a\0b", "anna' or 1=1", &"x".repeat(10_000)] {
        assert_eq!(shape(app.login(name, PASSWORD).await), wrong, "{name:?}");
    }
    let entries = audited(&app, "sign_in_refused").await;
    assert_eq!(entries.len(), 6);
    assert_eq!((entries[0].0.is_some(), entries[0].1.as_deref()), (true, Some("anna")));
    assert_eq!(entries[0].2["address"], "127.0.0.1");
    assert_eq!((entries[1].0, entries[1].1.as_deref()), (None, None), "a name that nobody has is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_works_once_and_its_second_use_ends_the_session() {
    let app = App::start().await;
    app.user("anna", false).await;
    let first = app.login("anna", PASSWORD).await.expect(200);
    let second = refresh(&app, &text(&first, "refresh_token")).await.expect(200);
    me(&app, &text(&second, "access_token")).await.expect(200);
    let reused = refresh(&app, &text(&first, "refresh_token")).await.expect(401);
    assert_eq!(reused.code(), "refresh.reused");
    let dead = refresh(&app, &text(&second, "refresh_token")).await.expect(401);
    assert_eq!(dead.code(), "session.ended");
    assert_eq!(me(&app, &text(&second, "access_token")).await.expect(401).code(), "session.ended");
    assert_eq!(audited(&app, "refresh_token_reused").await.len(), 1);
    assert_eq!(refresh(&app, "nonsense").await.expect(401).code(), "refresh.invalid");
    assert_eq!(app.post("/api/auth/refresh", json!({})).await.expect(401).code(), "refresh.invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_uses_of_one_refresh_token_one_wins_and_the_session_ends() {
    let app = App::start().await;
    app.user("anna", false).await;
    let token = text(&app.login("anna", PASSWORD).await, "refresh_token");
    let answers = futures::future::join_all((0..8).map(|_| refresh(&app, &token))).await;
    let won: Vec<_> = answers.iter().filter(|a| a.status == 200).collect();
    assert_eq!(won.len(), 1);
    assert!(answers.iter().all(|a| a.status == 200 || ["refresh.reused", "session.ended"].contains(&a.code())));
    refresh(&app, &text(won[0], "refresh_token")).await.expect(401);
    assert_eq!(audited(&app, "refresh_token_reused").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_after_30_days_unused_and_after_180_days_in_any_case() {
    let app = App::start().await;
    app.user("anna", false).await;
    let unused = text(&app.login("anna", PASSWORD).await, "refresh_token");
    let mut used = text(&app.login("anna", PASSWORD).await, "refresh_token");
    for month in 1..=6 {
        app.database.move_clock(&format!("{} days", month * 29)).await;
        used = text(&refresh(&app, &used).await.expect(200), "refresh_token");
    }
    assert_eq!(refresh(&app, &unused).await.expect(401).code(), "session.ended");
    app.database.move_clock("181 days").await;
    assert_eq!(refresh(&app, &used).await.expect(401).code(), "session.ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_ends_after_15_minutes_by_the_database_clock() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.database.move_clock("14 minutes").await;
    me(&app, &token).await.expect(200);
    app.database.move_clock("15 minutes 1 second").await;
    until("the token has expired", || async {
        let answer = me(&app, &token).await;
        (answer.status == 401).then(|| assert_eq!(answer.code(), "token.expired"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_the_session_here_at_once_and_soon_in_every_process() {
    let app = App::start().await;
    let other = app.second_server().await;
    let token = app.sign_up("anna").await;
    let there =
        || async { app.http.get(format!("{other}/api/auth/me")).bearer_auth(&token).send().await.unwrap().status() };
    assert_eq!(there().await, 200, "keys made by one process are known to the other");
    app.call(&token, Method::POST, "/api/auth/logout", Value::Null).await.expect(204);
    assert_eq!(me(&app, &token).await.expect(401).code(), "session.ended");
    until("the other process knows", || async { (there().await == 401).then_some(()) }).await;
    assert_eq!(audited(&app, "sign_out").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_ends_all_other_sessions() {
    let app = App::start().await;
    let (here, elsewhere) = (app.sign_up("anna").await, app.sign_in("anna").await);
    let change = |current: &'static str, new: &'static str| {
        let body = json!({"current_password": current, "new_password": new});
        app.call(&here, Method::POST, "/api/auth/change-password", body)
    };
    let wrong = change("not the password", "another horse battery").await.expect(422);
    assert_eq!((wrong.code(), wrong.field()), ("password.wrong", "current_password"));
    let short = change(PASSWORD, "short").await.expect(422);
    assert_eq!((short.code(), short.field()), ("password.length", "new_password"));
    me(&app, &elsewhere).await.expect(200);
    change(PASSWORD, "another horse battery").await.expect(204);
    me(&app, &here).await.expect(200);
    me(&app, &elsewhere).await.expect(401);
    app.login("anna", PASSWORD).await.expect(401);
    app.login("anna", "another horse battery").await.expect(200);
    assert_eq!(audited(&app, "password_changed").await[0].2["sessions_ended"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wrong_passwords_at_once_can_not_slip_past_the_limit() {
    let app = App::start().await;
    app.user("anna", false).await;
    let wrong = json!({"username": "anna", "password": "wrong horse battery"});
    let tries = (0..40).map(|_| send(app.request(Method::POST, "/api/auth/login").json(&wrong)));
    let answers = futures::future::join_all(tries).await;
    let passed: Vec<&str> = answers.iter().map(Answer::code).filter(|code| *code != "sign_in.too_many_tries").collect();
    // A try that passes is counted even if a slow machine has no place to look at its password in time.
    assert!(passed.iter().all(|code| ["sign_in.refused", "sign_in.crowded"].contains(code)), "{passed:?}");
    assert_eq!(passed.len(), 20, "and no more passwords");
    let limited = app.login("anna", PASSWORD).await.expect(429);
    assert_eq!(limited.code(), "sign_in.too_many_tries");
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    assert!(!audited(&app, "sign_in_limited").await.is_empty());
    app.database.move_clock("16 minutes").await;
    app.login("anna", PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_not_try_name_after_name() {
    let app = App::start().await;
    app.user("anna", false).await;
    let mut tx = app.domain.begin_system().await.unwrap();
    sqlx::query("insert into sign_in_failures values ('address:127.0.0.1', 99, queue.now())")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    app.login("anna", PASSWORD).await.expect(200);
    app.login("nobody1", PASSWORD).await.expect(401);
    app.login("nobody2", PASSWORD).await.expect(429);
    app.login("anna", PASSWORD).await.expect(429);
    // Nor shut others out, nor fill the table with names.
    let counted = app.value::<i64>("select count(*) from sign_in_failures where subject ~ 'anna|nobody2'").await;
    assert_eq!(counted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_we_did_not_issue_as_access_tokens_are_refused() {
    let secret = "a secret of at least 32 characters";
    let app = App::start_with(|s| s.jwt_secret = Some(secret.into())).await;
    let good = app.sign_up("anna").await;
    let kid = jsonwebtoken::decode_header(&good).unwrap().kid.unwrap();
    let payload = good.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&base64_url(payload)).unwrap();
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 900);
    let forge = |algorithm, kid: &str, secret: &str, changed: Value| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    me(&app, &forge(Algorithm::HS256, &kid, secret, json!({}))).await.expect(200);
    for token in [
        forge(Algorithm::HS256, &kid, "another secret of 32 characters..", json!({})),
        forge(Algorithm::HS512, &kid, secret, json!({})),
        forge(Algorithm::HS256, "another kid", secret, json!({})),
        forge(Algorithm::HS256, &kid, secret, json!({"aud": "another"})),
        forge(Algorithm::HS256, &kid, secret, json!({"iss": "another"})),
        forge(Algorithm::HS256, &kid, secret, json!({"typ": "refresh"})),
        forge(Algorithm::HS256, &kid, secret, json!({"sub": "999"})),
        format!("{}.{payload}.", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"),
        "nonsense".to_owned(),
    ] {
        assert_eq!(me(&app, &token).await.expect(401).code(), "token.invalid", "{token}");
    }
    let stranger = forge(Algorithm::HS256, &kid, secret, json!({"sid": Uuid::now_v7()}));
    assert_eq!(me(&app, &stranger).await.expect(401).code(), "session.ended");
    let old = forge(Algorithm::HS256, &kid, secret, json!({"exp": 1_000_000_000}));
    assert_eq!(me(&app, &old).await.expect(401).code(), "token.expired");
    let nobody = app.get("/api/auth/me").await.expect(401);
    assert_eq!((nobody.code(), nobody.header("www-authenticate")), ("auth.token_missing", "Bearer"));
}

fn base64_url(text: &str) -> Vec<u8> {
    let value =
        |b: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".iter().position(|c| *c == b);
    let bits: Vec<bool> =
        text.bytes().flat_map(|b| (0..6).rev().map(move |i| value(b).unwrap() >> i & 1 == 1)).collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |n, bit| n << 1 | u8::from(*bit))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_gets_its_refresh_token_in_a_cookie_that_no_script_reads() {
    let app = App::start().await;
    app.user("anna", false).await;
    let body = json!({"username": "anna", "password": PASSWORD, "cookie": true});
    let signed_in = app.post("/api/auth/login", body.clone()).await.expect(200);
    assert!(signed_in.json().get("refresh_token").is_none());
    let cookie = signed_in.header("set-cookie").to_owned();
    assert!(cookie.starts_with("driftless_refresh="), "{cookie}");
    assert!(cookie.ends_with("; Path=/api/auth; Max-Age=2592000; HttpOnly; SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let request = app.request(Method::POST, "/api/auth/refresh").header("cookie", pair).json(&json!({}));
    let refreshed = request.send().await.unwrap();
    assert_eq!(refreshed.status(), 200);
    let next = refreshed.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(next.starts_with("driftless_refresh=") && !next.starts_with(pair), "{next}");
    let body: Value = refreshed.json().await.unwrap();
    assert!(body.get("refresh_token").is_none());
    let token = body["access_token"].as_str().unwrap();
    let out = app.call(token, Method::POST, "/api/auth/logout", Value::Null).await.expect(204);
    assert!(out.header("set-cookie").starts_with("driftless_refresh=; Path=/api/auth; Max-Age=0;"));
    let by_tls = app
        .request(Method::POST, "/api/auth/login")
        .header("x-forwarded-proto", "https")
        .json(&json!({"username": "anna", "password": PASSWORD, "cookie": true}));
    assert!(by_tls.send().await.unwrap().headers()["set-cookie"].to_str().unwrap().ends_with("; Secure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_start_together_one_makes_the_first_admin_and_shows_his_password() {
    let app = App::start().await;
    let starts = (0..4).map(|_| async {
        let pool = db::connect(&app.database.url, 2).await.unwrap();
        accounts::ensure_admin(&Domain::new(pool, app.domain.settings().clone(), None)).await.unwrap()
    });
    let shown: Vec<GeneratedPassword> = futures::future::join_all(starts).await.into_iter().flatten().collect();
    assert_eq!(shown.len(), 1);
    let signed_in = app.login("admin", &shown[0].to_string()).await.expect(200);
    assert_eq!(signed_in.json()["user"]["is_admin"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_takes_the_password_that_was_set() {
    let app = App::start_with(|s| s.admin_password = Some("a password from outside".into())).await;
    assert!(accounts::ensure_admin(&app.domain).await.unwrap().is_none());
    assert!(accounts::ensure_admin(&app.domain).await.unwrap().is_none());
    app.login("admin", "a password from outside").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_set_on_the_command_line_ends_all_sessions() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    accounts::set_password(&app.domain, "Anna", "a password set by an admin").await.unwrap();
    until("the session has ended", || async { (me(&app, &token).await.status == 401).then_some(()) }).await;
    app.login("anna", "a password set by an admin").await.expect(200);
    assert!(matches!(accounts::set_password(&app.domain, "nobody", PASSWORD).await, Err(accounts::Error::Unknown)));
    assert!(matches!(accounts::create(&app.domain, "ANNA", PASSWORD, false).await, Err(accounts::Error::NameTaken)));
    assert!(matches!(accounts::create(&app.domain, "../x", PASSWORD, false).await, Err(accounts::Error::Name)));
}
