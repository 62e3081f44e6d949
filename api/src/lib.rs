//! The HTTP API: parse, one call into the domain, answer. OpenAPI is generated from the same code that serves.
//!
//! Invariant: nothing here decides; an `if` about the business belongs in the domain.

mod bearer;
mod body;
mod caller;
mod conditions;
mod metrics;
mod parameters;
mod problem;
mod routes;
mod stream_body;

use std::time::{Duration, Instant};

use driftless_domain::{Domain, db};
use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Route, get, handler,
    http::{HeaderValue, StatusCode},
    web::{Data, Json},
};
use poem_openapi::OpenApiService;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use problem::Problem;

/// Whether this process has been told to stop; `/readyz` says so, and waiting requests end.
#[derive(Clone)]
pub struct Draining(pub CancellationToken);

fn service() -> OpenApiService<routes::Routes, ()> {
    OpenApiService::new(routes::routes(), "Driftless", env!("CARGO_PKG_VERSION"))
        .description(
            "Self-hosted file sync whose every background action is a durable job. Sign in with POST /api/auth/login and send \
             the access token as a bearer token. Every error is a Problem: programs switch on its code.",
        )
        .url_prefix("/api")
}

/// The OpenAPI document, for `driftless openapi`.
pub fn openapi() -> String {
    let mut text = service().spec();
    text.push('\n');
    text
}

/// The whole server: the API below /api, its documentation, health, and `web` for everything else.
pub fn app<W>(domain: Domain, draining: CancellationToken, web: W) -> impl Endpoint
where
    W: IntoEndpoint,
    W::Endpoint: 'static,
{
    let service = service();
    let (spec, docs) = (service.spec_endpoint(), service.swagger_ui());
    let api = Route::new().at("/openapi.json", spec).nest("/", service);
    let routes = watched(Route::new().nest("/api", api).nest("/docs", docs)).nest("/", web);
    routes.data(domain).data(Draining(draining)).around(observe)
}

/// Health and metrics alone, for a process that serves nothing else.
pub fn probes(domain: Domain, draining: CancellationToken) -> impl Endpoint {
    watched(Route::new()).data(domain).data(Draining(draining)).around(observe)
}

/// What monitoring asks for.
fn watched(routes: Route) -> Route {
    routes.at("/healthz", get(healthz)).at("/readyz", get(readyz)).at("/metrics", get(metrics::scrape))
}

/// The process answers.
#[handler]
fn healthz() -> &'static str {
    "ok"
}

/// The process can do its work: database reachable, migrated, not draining.
#[handler]
async fn readyz(Data(domain): Data<&Domain>, Data(draining): Data<&Draining>) -> Response {
    let not_ready =
        |why: &str| Json(serde_json::json!({"ready": false, "why": why})).with_status(StatusCode::SERVICE_UNAVAILABLE);
    if draining.0.is_cancelled() {
        return not_ready("draining").into_response();
    }
    match tokio::time::timeout(Duration::from_secs(2), db::is_migrated(domain.pool())).await {
        Ok(true) => Json(serde_json::json!({"ready": true})).into_response(),
        Ok(false) => not_ready("the database can't be reached or its migrations have not run").into_response(),
        Err(_) => not_ready("the database does not answer").into_response(),
    }
}

/// Around every request: an id for the log and the answer, one log line, and the headers that every answer carries.
async fn observe<E: Endpoint>(next: std::sync::Arc<E>, request: Request) -> poem::Result<Response> {
    let id = Uuid::now_v7().simple().to_string();
    // Only then may a browser be told never to come without TLS again.
    let behind_tls = request.header("x-forwarded-proto") == Some("https");
    let (method, path, start) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let is_api = path.starts_with("/api/");
    let answer = async {
        match next.call(request).await {
            Ok(answer) => answer.into_response(),
            Err(failed) => problem::answer(failed, &method, &path).await,
        }
    };
    let mut response = problem::REQUEST_ID.scope(id.clone(), answer).await;
    let status = response.status().as_u16();
    tracing::debug!(%method, path, status, ms = start.elapsed().as_millis() as u64, request_id = id, "answered");
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    if is_api {
        // Answers are data: nothing in them is to run, and none is to be kept unless its handler knows better.
        headers
            .entry("content-security-policy")
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
    }
    if behind_tls {
        headers.insert("strict-transport-security", HeaderValue::from_static("max-age=31536000"));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}
