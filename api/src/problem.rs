//! Every error that the API answers: one shape, `{code, detail, field?, request_id}`, one mapping from [`Kind`] to a status.
//!
//! Invariant: programs switch on `code`; an internal error logs its chain once and tells the caller nothing of it.

use driftless_domain::error::{Fault, Kind};
use poem::{
    IntoResponse, Response,
    http::{Method, StatusCode},
};
use poem_openapi::{
    ApiResponse, Object,
    error::{
        AuthorizationError, ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError,
        ParseRequestPayloadError,
    },
    payload::Json,
};

use crate::parameters;

tokio::task_local! {
    /// The id of the request that the current task answers.
    pub(crate) static REQUEST_ID: String;
}

/// What went wrong, in words for people and a code for programs.
#[derive(Object, Debug, Clone)]
#[oai(skip_serializing_if_is_none)]
pub struct Problem {
    /// Stable code, like `schedule.time_invalid`.
    pub code: String,
    /// What is wrong and what to do about it.
    pub detail: String,
    /// The field of the request that is at fault.
    pub field: Option<String>,
    /// Names this request in the server's log.
    pub request_id: String,
}

/// An error answer.
#[derive(ApiResponse, Debug)]
pub enum ApiError {
    /// The request can't be read.
    #[oai(status = 400)]
    Malformed(Json<Problem>),
    /// Nobody is signed in, or the token is no good.
    #[oai(status = 401)]
    Unauthenticated(Json<Problem>),
    /// Signed in, but not allowed.
    #[oai(status = 403)]
    Forbidden(Json<Problem>),
    /// No such thing, or not yours.
    #[oai(status = 404)]
    NotFound(Json<Problem>),
    /// The state of the thing rules it out.
    #[oai(status = 409)]
    Conflict(Json<Problem>),
    /// What you refer to is no longer kept; start anew.
    #[oai(status = 410)]
    Gone(Json<Problem>),
    /// A stated precondition does not hold.
    #[oai(status = 412)]
    Precondition(Json<Problem>),
    /// Larger than a limit.
    #[oai(status = 413)]
    TooLarge(Json<Problem>),
    /// The content type is not one that this takes.
    #[oai(status = 415)]
    UnsupportedMediaType(Json<Problem>),
    /// A value that can't be.
    #[oai(status = 422)]
    Invalid(Json<Problem>),
    /// Too many requests, or in use; come back later.
    #[oai(status = 429)]
    Busy(
        Json<Problem>,
        /// Seconds to wait.
        #[oai(header = "Retry-After")]
        Option<u64>,
    ),
    /// A defect of ours.
    #[oai(status = 500)]
    Internal(Json<Problem>),
    /// A part of the server can't be reached just now.
    #[oai(status = 503)]
    Unavailable(
        Json<Problem>,
        /// Seconds to wait.
        #[oai(header = "Retry-After")]
        Option<u64>,
    ),
    /// Quota or disk would be exceeded.
    #[oai(status = 507)]
    OverQuota(Json<Problem>),
}

fn problem(code: &str, detail: String, field: Option<String>) -> Json<Problem> {
    let request_id = REQUEST_ID.try_with(Clone::clone).unwrap_or_default();
    Json(Problem { code: code.to_owned(), detail, field, request_id })
}

/// The text of `e` with the texts of its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}

impl<E: Fault> From<E> for ApiError {
    fn from(e: E) -> Self {
        let answer = |detail: String| problem(e.code(), detail, e.field().map(str::to_owned));
        let p = answer(e.to_string());
        match e.kind() {
            Kind::Invalid => ApiError::Invalid(p),
            Kind::Unauthenticated => ApiError::Unauthenticated(p),
            Kind::Forbidden => ApiError::Forbidden(p),
            Kind::NotFound => ApiError::NotFound(p),
            Kind::Conflict => ApiError::Conflict(p),
            Kind::Gone => ApiError::Gone(p),
            Kind::Precondition => ApiError::Precondition(p),
            Kind::TooLarge => ApiError::TooLarge(p),
            Kind::OverQuota => ApiError::OverQuota(p),
            Kind::Busy => ApiError::Busy(p, e.retry_after()),
            Kind::Unavailable => {
                tracing::warn!(request_id = p.request_id, error = chain(&e), "unavailable");
                ApiError::Unavailable(p, e.retry_after())
            }
            Kind::Internal => {
                tracing::error!(request_id = p.request_id, error = chain(&e), "request failed");
                let detail = "something went wrong on our side; the server's log tells more under this request_id";
                ApiError::Internal(problem("internal", detail.to_owned(), None))
            }
        }
    }
}

impl Problem {
    /// A problem of this request, where [`ApiError`] has no status for it.
    pub(crate) fn new(code: &str, detail: String) -> Self {
        problem(code, detail, None).0
    }
}

impl ApiError {
    /// The request could be read no further than this.
    pub(crate) fn malformed(code: &str, detail: impl Into<String>) -> Self {
        ApiError::Malformed(problem(code, detail.into(), None))
    }

    /// A value that can't be, before any rule of the domain was asked.
    pub(crate) fn invalid(code: &str, detail: impl Into<String>, field: Option<String>) -> Self {
        ApiError::Invalid(problem(code, detail.into(), field))
    }

    /// The body is larger than this door takes.
    pub(crate) fn too_large(limit: usize) -> Self {
        ApiError::TooLarge(problem(
            "request.too_large",
            format!("the body must not be larger than {limit} bytes"),
            None,
        ))
    }
}

/// Turns what failed before a handler ran (unknown route, bad parameter, no token) into a [`Problem`].
pub(crate) async fn answer(e: poem::Error, method: &Method, path: &str) -> Response {
    if e.is_from_response() {
        return with_challenge(e.into_response());
    }
    let allow = (e.status() == StatusCode::METHOD_NOT_ALLOWED).then(|| e.to_string());
    let text = e.to_string();
    let api_error = if let Some(p) = e.downcast_ref::<ParseParamError>() {
        ApiError::invalid("request.parameter_invalid", &p.reason, Some(p.name.to_owned()))
    } else if let Some(p) = e.downcast_ref::<ParsePathError>() {
        ApiError::invalid("request.parameter_invalid", &p.reason, parameters::name(method, path, p.name))
    } else if let Some(p) = e.downcast_ref::<ParseRequestPayloadError>() {
        ApiError::malformed("request.body_invalid", &p.reason)
    } else if let Some(p) = e.downcast_ref::<ParseMultipartError>() {
        ApiError::malformed("request.body_invalid", &p.reason)
    } else if e.is::<AuthorizationError>() {
        ApiError::Unauthenticated(problem(
            "auth.token_missing",
            "sign in and send the token as a bearer token".into(),
            None,
        ))
    } else if e.is::<ContentTypeError>() {
        ApiError::UnsupportedMediaType(problem("request.content_type", text, None))
    } else {
        return other(e.status(), allow.unwrap_or(text));
    };
    with_challenge(api_error.into_response())
}

fn other(status: StatusCode, text: String) -> Response {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => {
            ("route.not_found", "there is nothing at this address; /docs lists what there is".into())
        }
        StatusCode::METHOD_NOT_ALLOWED => ("route.method_not_allowed", "this address does not take that method".into()),
        StatusCode::PAYLOAD_TOO_LARGE => ("request.too_large", "the body is larger than this takes".into()),
        s if s.is_client_error() => ("request.invalid", text),
        _ => {
            tracing::error!(error = text, "request failed");
            ("internal", "something went wrong on our side".into())
        }
    };
    problem(code, detail, None).with_status(status).into_response()
}

fn with_challenge(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert("www-authenticate", poem::http::HeaderValue::from_static("Bearer"));
    }
    response
}
