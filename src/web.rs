//! The web app, embedded in the binary: its files, and index.html for every address that the app itself resolves.
//!
//! Invariants: a file named by its contents is cached for ever, index.html never; no response allows inline script, and
//! inline style only with the nonce of this very response.
//! A debug build reads `frontend/dist` from disk instead, so that `npm run build` shows without a compile.

use std::borrow::Cow;

use bytes::Bytes;
use poem::{
    Body, Endpoint, IntoResponse, Request, Response, Result,
    http::{Method, StatusCode, header},
};
use rust_embed::{EmbeddedFile, RustEmbed};
use uuid::Uuid;

const INDEX: &str = "index.html";
/// In index.html; becomes a value that nobody can guess, new for each response.
const NONCE_PLACEHOLDER: &str = "__CSP_NONCE__";
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Driftless</title>\
    <h1>The web app is not built</h1>\
    <p>The server runs, and so does its API. Build the app with <code>cargo xtask build</code>, \
    or run <code>npm ci &amp;&amp; npm run build</code> in <code>frontend/</code> and build the server again.</p>";

#[derive(RustEmbed)]
#[folder = "frontend/dist"]
struct Dist;

/// Answers every address that the API does not.
pub struct WebApp;

impl Endpoint for WebApp {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(StatusCode::METHOD_NOT_ALLOWED.into_response());
        }
        let path = request.uri().path().trim_start_matches('/');
        if !path.is_empty()
            && path != INDEX
            && let Some(file) = Dist::get(path)
        {
            return Ok(asset(path, file, &request));
        }
        // The name of a build's file that is gone, after an update: a page instead would be taken for a script.
        if path.starts_with("assets/") {
            return Ok(StatusCode::NOT_FOUND.into_response());
        }
        Ok(index())
    }
}

fn asset(path: &str, file: EmbeddedFile, request: &Request) -> Response {
    let hash = file.metadata.sha256_hash();
    // Weak: the same file also goes out compressed.
    let etag = format!("W/\"{}\"", hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>());
    // Vite puts a hash of the contents into the names below assets/.
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let response = Response::builder()
        .header(header::CACHE_CONTROL, cache)
        .header(header::ETAG, &etag)
        .header(header::VARY, "accept-encoding");
    if request.header(header::IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|tag| tag.trim() == etag)) {
        return response.status(StatusCode::NOT_MODIFIED).finish();
    }
    let body = match file.data {
        Cow::Borrowed(embedded) => Bytes::from_static(embedded),
        Cow::Owned(read) => read.into(),
    };
    response.content_type(file.metadata.mimetype()).body(Body::from_bytes(body))
}

fn index() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let page = match Dist::get(INDEX) {
        Some(file) => String::from_utf8_lossy(&file.data).replace(NONCE_PLACEHOLDER, &nonce),
        None => NOT_BUILT.to_owned(),
    };
    let policy = format!(
        "default-src 'self'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; \
         object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    Response::builder()
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .content_type("text/html; charset=utf-8")
        .body(page)
}
