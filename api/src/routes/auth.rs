//! Signing in and out. With `cookie` the refresh token travels in a cookie that no script can read, for web pages.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    accounts::{self, User},
    sessions::{self, SignIn},
};
use poem::{Request, web::Data};
use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};

use super::Tag;
use crate::{
    bearer::Bearer,
    body::{JsonBody, StrangersBody},
    caller,
    problem::ApiError,
};

const COOKIE: &str = "driftless_refresh";

/// Who signs in.
#[derive(Object)]
struct LoginRequest {
    /// The name of the account; case does not matter.
    username: String,
    /// Its password.
    password: String,
    /// For web pages: the refresh token comes as the HttpOnly cookie `driftless_refresh` and not in the answer.
    #[oai(default)]
    cookie: bool,
}

/// A refresh token to trade.
#[derive(Object)]
struct RefreshRequest {
    /// The refresh token; absent when the cookie `driftless_refresh` carries it.
    refresh_token: Option<String>,
}

/// A change of password.
#[derive(Object)]
struct ChangePasswordRequest {
    /// The password as it is.
    current_password: String,
    /// The password as it is to be, 12 to 128 characters.
    new_password: String,
}

/// A user.
#[derive(Object)]
struct Account {
    /// The user's id.
    id: i64,
    /// The name to sign in with.
    username: String,
    /// Whether the user administers the server.
    is_admin: bool,
    /// When the account was made.
    created_at: DateTime<Utc>,
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Account { id: user.id, username: user.name, is_admin: user.is_admin, created_at: user.created_at }
    }
}

/// The tokens of a session.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Tokens {
    /// Send it as `Authorization: Bearer ...`.
    access_token: String,
    /// Always `bearer`.
    token_type: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    /// Good for one refresh, within 30 days. Absent when it is in the cookie.
    refresh_token: Option<String>,
    /// Who is signed in.
    user: Account,
}

#[derive(ApiResponse)]
enum SignedIn {
    /// Signed in.
    #[oai(status = 200)]
    Done(
        Json<Tokens>,
        /// The cookie with the refresh token, if it was asked for.
        #[oai(header = "Set-Cookie")]
        Option<String>,
    ),
}

impl SignedIn {
    fn new(given: SignIn, cookie: Option<String>) -> Self {
        let tokens = Tokens {
            access_token: given.access_token,
            token_type: "bearer".to_owned(),
            expires_in: sessions::ACCESS_SECONDS,
            refresh_token: cookie.is_none().then_some(given.refresh_token),
            user: given.user.into(),
        };
        SignedIn::Done(Json(tokens), cookie)
    }
}

#[derive(ApiResponse)]
enum SignedOut {
    /// Signed out.
    #[oai(status = 204)]
    Done(
        /// Takes the cookie away.
        #[oai(header = "Set-Cookie")]
        String,
    ),
}

#[derive(ApiResponse)]
enum PasswordChanged {
    /// Changed; all other sessions have ended.
    #[oai(status = 204)]
    Done,
}

fn set_cookie(request: &Request, token: &str, seconds: i64) -> String {
    let secure = if caller::is_https(request) { "; Secure" } else { "" };
    format!("{COOKIE}={token}; Path=/api/auth; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

pub(crate) struct Auth;

#[OpenApi(prefix_path = "/auth", tag = "Tag::Accounts")]
impl Auth {
    /// Sign in
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        domain: Data<&Domain>,
        request: &Request,
        body: StrangersBody<LoginRequest>,
    ) -> Result<SignedIn, ApiError> {
        let LoginRequest { username, password, cookie } = body.0;
        let given = sessions::login(&domain, &username, &password, caller::address(request)).await?;
        let cookie = cookie.then(|| set_cookie(request, &given.refresh_token, sessions::REFRESH_SECONDS));
        Ok(SignedIn::new(given, cookie))
    }

    /// Trade a refresh token for new tokens
    ///
    /// The token that was sent is dead afterwards; sending it again ends the session.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        domain: Data<&Domain>,
        request: &Request,
        body: StrangersBody<RefreshRequest>,
    ) -> Result<SignedIn, ApiError> {
        let sent = body.0.refresh_token;
        let by_cookie = sent.is_none();
        let token = sent.as_deref().or_else(|| caller::cookie(request, COOKIE)).unwrap_or_default();
        let given = sessions::refresh(&domain, token).await?;
        let cookie = by_cookie.then(|| set_cookie(request, &given.refresh_token, sessions::REFRESH_SECONDS));
        Ok(SignedIn::new(given, cookie))
    }

    /// Sign out
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(&self, auth: Bearer, domain: Data<&Domain>, request: &Request) -> Result<SignedOut, ApiError> {
        sessions::logout(&domain, &auth.0).await?;
        Ok(SignedOut::Done(set_cookie(request, "", 0)))
    }

    /// Who is signed in
    #[oai(path = "/me", method = "get", operation_id = "get_me")]
    async fn get_me(&self, auth: Bearer, domain: Data<&Domain>) -> Result<Json<Account>, ApiError> {
        Ok(Json(accounts::me(&domain, &auth.0).await?.into()))
    }

    /// Change the password
    ///
    /// Ends all other sessions of the user.
    #[oai(path = "/change-password", method = "post", operation_id = "change_password")]
    async fn change_password(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        body: JsonBody<ChangePasswordRequest>,
    ) -> Result<PasswordChanged, ApiError> {
        let ChangePasswordRequest { current_password, new_password } = body.0;
        let from = caller::address(request);
        sessions::change_password(&domain, &auth.0, &current_password, &new_password, from).await?;
        Ok(PasswordChanged::Done)
    }
}
