//! Speaking to the test app over HTTP.

use driftless_domain::accounts;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::App;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// The code of a Problem.
    pub fn code(&self) -> &'static str {
        self.json()["code"].as_str().unwrap_or("").to_owned().leak()
    }

    /// The field of a Problem.
    pub fn field(&self) -> &'static str {
        self.json()["field"].as_str().unwrap_or("").to_owned().leak()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Fails unless the answer has this status; for chaining.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// Sends a request and takes in the whole answer.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("the test app answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.bytes().await.expect("the answer is whole").to_vec() }
}

/// Waits until the server at `base` says that it is ready.
pub async fn ready(base: &str) {
    super::until("the server is ready", async || {
        let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// Sends a request again as long as there is no place to hash its password in, as its answer says.
async fn patiently(request: impl Fn() -> RequestBuilder) -> Answer {
    super::until("there is a place to hash in", async || {
        let answer = send(request()).await;
        (answer.status != 429 || answer.code() != "sign_in.crowded").then_some(answer)
    })
    .await
}

/// The password of every user that [`App::sign_up`] makes.
pub const PASSWORD: &str = "correct horse battery";

impl App {
    /// Makes a user. Passwords are hashed a few at a time in a process: while other tests hash many, this waits.
    pub async fn user(&self, name: &str, is_admin: bool) {
        super::until("there is a place to hash in", async || {
            match accounts::create(&self.domain, name, PASSWORD, is_admin).await {
                Err(accounts::Error::Crowded) => None,
                made => Some(made.unwrap()),
            }
        })
        .await;
    }

    /// Makes a user and signs him in: his access token.
    pub async fn sign_up(&self, name: &str) -> String {
        self.user(name, false).await;
        self.sign_in(name).await
    }

    /// Makes an admin and signs him in.
    pub async fn sign_up_admin(&self, name: &str) -> String {
        self.user(name, true).await;
        self.sign_in(name).await
    }

    /// A new session of a user: its access token.
    pub async fn sign_in(&self, name: &str) -> String {
        let answer = self.login(name, PASSWORD).await.expect(200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn login(&self, name: &str, password: &str) -> Answer {
        self.post("/api/auth/login", json!({"username": name, "password": password})).await
    }

    /// A request by nobody.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        patiently(|| self.request(Method::POST, path).json(&body)).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// A request as the user of `token`, with a JSON body unless it is null.
    pub async fn call(&self, token: &str, method: Method, path: &str, body: Value) -> Answer {
        patiently(|| {
            let request = self.request(method.clone(), path).bearer_auth(token);
            if body.is_null() { request } else { request.json(&body) }
        })
        .await
    }
}

impl App {
    /// Registers a client device.
    pub async fn device(&self, token: &str, device_id: &str) {
        self.call(token, Method::POST, "/api/sync/register", json!({"device_id": device_id})).await.expect(200);
    }

    /// Makes a schedule; answers it. Unless `body` says when, it fires half a day from now: not while a test looks.
    pub async fn schedule(&self, token: &str, mut body: Value) -> Value {
        if body.get("time_of_day").is_none() {
            let now: chrono::DateTime<chrono::Utc> = self.value("select queue.now()").await;
            body["time_of_day"] = json!((now + chrono::TimeDelta::hours(12)).format("%H:%M").to_string());
        }
        self.call(token, Method::POST, "/api/sync/schedule/create", body).await.expect(200).json()
    }
}

impl App {
    /// A run as its owner sees it.
    pub async fn run(&self, token: &str, id: &str) -> Value {
        self.call(token, Method::GET, &format!("/api/sync/runs/{id}"), Value::Null).await.expect(200).json()
    }

    /// Waits until the server says that it is ready: on a busy machine it may take its database for gone for a moment.
    pub async fn ready(&self) {
        ready(&self.base).await;
    }

    /// Waits until no job is due or running.
    pub async fn idle(&self) {
        super::until("the jobs are done", async || {
            let left: i64 = self
                .value("select count(*) from queue.jobs where lease_token is not null or run_at <= queue.now()")
                .await;
            (left == 0).then_some(())
        })
        .await;
    }
}
