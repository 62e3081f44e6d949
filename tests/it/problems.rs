//! Bad input of every sort to every operation: each answer is a Problem that names the fault, and never a fault of ours.
//!
//! What to send comes from openapi.json and from the requests of the matrix, so new operations are covered as they come.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    matrix::{self, Operation, Row},
    support::{Answer, App, send},
};

/// Values that no text field is fond of.
fn odd_texts() -> Vec<String> {
    let long = "x".repeat(10_000);
    [
        "",
        " ",
        "\0",
        "a\0b",
        "../../etc/passwd",
        "/a/../b",
        "' or 1=1 --",
        "💩\u{202e}",
        "-1",
        "99999999999999999999",
        "-9999-01-01T00:00:00Z",
        "+262000-01-01T00:00:00Z",
        &long,
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_parameter_that_can_not_be_is_named_as_in_the_document() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for (method, path, field) in [
        (Method::GET, "/api/sync/runs/nonsense", "run_id"),
        (Method::POST, "/api/sync/schedule/first/run", "schedule_id"),
        (Method::GET, "/api/jobs/nonsense", "job_id"),
    ] {
        let answer = app.call(&token, method, path, Value::Null).await.expect(422).json();
        assert_eq!((&answer["code"], &answer["field"]), (&json!("request.parameter_invalid"), &json!(field)), "{path}");
    }
}

/// What is wrong with an answer that is neither fine nor a whole Problem of the caller's doing.
fn fault(answer: &Answer, what: &str) -> Option<String> {
    // An answer to HEAD has no body.
    if answer.status < 400 || (answer.status < 500 && what.starts_with("head_")) {
        return None;
    }
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let says = |key: &str| problem[key].as_str().is_some_and(|text| !text.is_empty());
    let known = ["code", "detail", "field", "request_id"];
    let whole = answer.header("content-type").starts_with("application/json")
        && says("code")
        && says("detail")
        && problem["request_id"] == answer.header("x-request-id")
        && problem.as_object().is_some_and(|p| p.keys().all(|k| known.contains(&k.as_str())));
    (answer.status >= 500 || !whole).then(|| format!("{what}: {} {}", answer.status, answer.text()))
}

#[track_caller]
fn assert_problem(answer: &Answer, statuses: &[u16], what: &str) {
    assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    assert_eq!(fault(answer, what), None);
}

/// The app with all that an admin called Anna may ask about.
async fn furnished() -> (App, Value, Vec<Row>) {
    let app = App::start().await;
    let token = app.sign_up_admin("anna").await;
    let rows = matrix::rows(&matrix::furnish(&app, &token).await);
    let document = app.get("/api/openapi.json").await.expect(200).json();
    (app, document, rows)
}

/// The properties of the JSON body that an operation takes, with their schemas.
fn properties<'a>(document: &'a Value, operation: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let content = &operation["requestBody"]["content"];
    let Some(media) = content.as_object().and_then(|c| c.iter().find(|(t, _)| t.starts_with("application/json")))
    else {
        return Vec::new();
    };
    let Some(name) = media.1["schema"]["$ref"].as_str().and_then(|r| r.rsplit('/').next()) else { return Vec::new() };
    let schema = &document["components"]["schemas"][name];
    schema["properties"].as_object().unwrap().iter().map(|(name, schema)| (name.as_str(), schema)).collect()
}

fn described<'a>(document: &'a Value, operation: &Operation) -> &'a Value {
    &document["paths"][&operation.path][operation.method.as_str().to_lowercase()]
}

/// Calls as Anna, who signs in again whenever an operation ended her session.
async fn call(app: &App, token: &mut String, operation: &Operation, row: &Row) -> Answer {
    let answer = send(row.request(app, operation).bearer_auth(&*token)).await;
    if answer.status != 401 || !answer.text().contains("session.ended") {
        return answer;
    }
    *token = app.sign_in("anna").await;
    send(row.request(app, operation).bearer_auth(&*token)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_or_of_another_shape_is_a_problem_everywhere() {
    let (app, document, rows) = furnished().await;
    let operations = matrix::operations(&document);
    for row in &rows {
        let operation = &operations[row.operation];
        if properties(&document, described(&document, operation)).is_empty() {
            continue;
        }
        let token = app.sign_in("anna").await;
        let request = |kind: &str, body: &str| {
            let request = row.clone().body(Value::Null).request(&app, operation).bearer_auth(&token);
            send(request.header("content-type", kind).body(body.to_owned()))
        };
        for body in ["", "{", "\u{feff}{}", "{\"a\":}", "nonsense"] {
            let answer = request("application/json", body).await;
            assert_problem(&answer, &[400], &format!("{} with {body:?}", row.operation));
            assert_eq!(answer.code(), "request.body_invalid", "{}", row.operation);
        }
        for body in ["[]", "7", "\"x\"", "null", "true"] {
            let answer = request("application/json", body).await;
            assert_problem(&answer, &[422], &format!("{} with {body}", row.operation));
        }
        let answer = request("text/plain", "{}").await;
        assert_problem(&answer, &[400, 415], &format!("{} as text/plain", row.operation));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_a_wrong_type_is_named() {
    let (app, document, rows) = furnished().await;
    let (operations, mut token) = (matrix::operations(&document), app.sign_in("anna").await);
    for row in &rows {
        let operation = &operations[row.operation];
        for (property, schema) in properties(&document, described(&document, operation)) {
            let wrong = match schema["type"].as_str() {
                Some("string") => json!([]),
                Some("array" | "object") => json!(5),
                Some("integer" | "number" | "boolean") => json!("x"),
                _ => continue,
            };
            let mut body = row.body.clone();
            body[property] = wrong;
            let answer = call(&app, &mut token, operation, &row.clone().body(body)).await;
            let what = format!("{} with a wrong {property}", row.operation);
            assert_problem(&answer, &[422], &what);
            assert!(answer.field().starts_with(property), "{what}: {}", answer.text());
        }
    }
    matrix::park_jobs(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_in_any_field_parameter_or_path_are_never_a_fault_of_ours() {
    let (app, document, rows) = furnished().await;
    let (operations, mut token) = (matrix::operations(&document), app.sign_in("anna").await);
    let mut faults = Vec::new();
    for row in &rows {
        let operation = &operations[row.operation];
        let described = described(&document, operation);
        for (property, schema) in properties(&document, described) {
            let odd: Vec<Value> = match schema["type"].as_str() {
                Some("integer" | "number") => [i64::MIN, -1, 0, 70_000, i64::MAX].map(Value::from).to_vec(),
                Some("boolean" | "array" | "object") => vec![Value::Null],
                _ => odd_texts().into_iter().map(Value::from).collect(),
            };
            for value in odd {
                let mut body = row.body.clone();
                body[property] = value.clone();
                let answer = call(&app, &mut token, operation, &row.clone().body(body)).await;
                faults.extend(fault(&answer, &format!("{} with {property} {value:.40}", row.operation)));
            }
        }
        for parameter in described["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            for value in odd_texts() {
                let mut changed = row.clone();
                if parameter["in"] == "path" {
                    let value = if value.is_empty() { "%20".to_owned() } else { escaped(&value) };
                    changed.parameters.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, v)| *v = value.clone());
                } else if parameter["in"] == "query" {
                    let rest = row.query.trim_start_matches('?').split('&');
                    let rest = rest.filter(|pair| !pair.is_empty() && !pair.starts_with(&format!("{name}=")));
                    let all: Vec<_> = rest.map(str::to_owned).chain([format!("{name}={}", escaped(&value))]).collect();
                    changed.query = format!("?{}", all.join("&"));
                }
                let answer = call(&app, &mut token, operation, &changed).await;
                faults.extend(fault(&answer, &format!("{} with {name} {value:.40}", row.operation)));
            }
        }
    }
    matrix::park_jobs(&app).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_has_not_signed_in_makes_the_server_hold_much() {
    let app = App::start().await;
    let large = format!("[{}0]", "0,".repeat(100_000));
    for path in ["/api/auth/login", "/api/auth/refresh"] {
        let request = app.request(Method::POST, path).header("content-type", "application/json");
        let answer = send(request.body(large.clone())).await;
        assert_problem(&answer, &[413], path);
        assert_eq!(answer.code(), "request.too_large");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modification_time_that_can_not_be_kept_is_refused_by_name() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for time in ["-9999-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "+10000-01-01T00:00:00Z"] {
        let request = app.request(Method::PUT, "/api/files/content").query(&[("path", "/f"), ("modified_at", time)]);
        let put = send(request.bearer_auth(&token).body("x")).await;
        let body = json!({"file_path": "/f", "total_size": 1, "modified_at": time});
        let started = app.call(&token, Method::POST, "/api/sync/upload/start", body).await;
        for answer in [put, started] {
            assert_problem(&answer, &[422], time);
            assert_eq!((answer.code(), answer.field()), ("time.out_of_range", "modified_at"));
        }
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods_are_problems() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for (method, path, status, code) in [
        (Method::GET, "/api/nothing", 404, "route.not_found"),
        (Method::POST, "/api/auth/nothing", 404, "route.not_found"),
        (Method::GET, "/api/..%2f..%2fetc%2fpasswd", 404, "route.not_found"),
        (Method::GET, "/api/%FF%FE", 400, "request.invalid"),
        (Method::PATCH, "/api/auth/login", 405, "route.method_not_allowed"),
    ] {
        for answer in
            [app.call(&token, method.clone(), path, Value::Null).await, send(app.request(method.clone(), path)).await]
        {
            assert_problem(&answer, &[status], path);
            assert_eq!(answer.code(), code, "{path}");
        }
    }
    for header in ["Bearer", "Bearer ", "Basic YTpi", "bearer x y", "\u{1}"] {
        let Ok(value) = reqwest::header::HeaderValue::from_str(header) else { continue };
        let answer = send(app.request(Method::GET, "/api/auth/me").header("authorization", value)).await;
        assert_problem(&answer, &[401], header);
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_the_security_headers() {
    let app = App::start().await;
    for path in ["/healthz", "/api/openapi.json", "/api/auth/me", "/api/nothing", "/docs"] {
        let answer = app.get(path).await;
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
        {
            assert_eq!(answer.header(name), value, "{path}");
        }
        assert_eq!(answer.header("strict-transport-security"), "", "{path} without TLS");
        let by_tls = send(app.request(Method::GET, path).header("x-forwarded-proto", "https")).await;
        assert!(by_tls.header("strict-transport-security").contains("max-age="), "{path}");
        let foreign = send(app.request(Method::GET, path).header("origin", "https://elsewhere.example")).await;
        assert_eq!(foreign.header("access-control-allow-origin"), "", "{path}");
    }
    for path in ["/api/auth/me", "/api/nothing"] {
        let policy = app.get(path).await.header("content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(app.get(path).await.header("cache-control"), "no-store", "{path}");
    }
}
