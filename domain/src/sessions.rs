//! Signing in, staying signed in, signing out.
//!
//! Invariant: a session is a family of refresh tokens of which one at most is alive; using one that was used before ends the
//! session, for then somebody has a copy. One row update decides who used a token. An access token proves nothing once its
//! session has ended: every process looks again after at most [`LOOK_AGAIN`]. All times are of `queue.now()`.

mod limits;
mod tokens;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Actor, Domain, Tx, accounts,
    accounts::User,
    audit::{self, Entry},
    db,
    error::{Fault, Kind},
};

/// How long a process believes that a session lives before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Why somebody is not signed in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name or the password is wrong; it isn't said which.
    #[error("the name or the password is wrong")]
    Refused,
    /// Too many tries failed for this account or from this address.
    #[error("too many tries to sign in failed; wait before the next one")]
    TooManyTries {
        /// Seconds until the next try is looked at.
        wait: u64,
    },
    /// The access token is not one of ours.
    #[error("the access token is no good")]
    TokenInvalid,
    /// The access token is too old.
    #[error("the access token has expired; refresh it")]
    TokenExpired,
    /// The session has ended: signed out, password changed, or unused for too long.
    #[error("the session has ended; sign in again")]
    Ended,
    /// The refresh token is not one of ours, or its session ended.
    #[error("the refresh token is no good; sign in again")]
    RefreshInvalid,
    /// The refresh token had been used before. The session was ended.
    #[error("the refresh token had been used before, so its session was ended; sign in again")]
    RefreshReused,
    /// The present password, asked for before it is changed, is wrong.
    #[error("the current password is wrong")]
    WrongPassword,
    /// The account or its password.
    #[error(transparent)]
    Account(#[from] accounts::Error),
    /// A signing key can't be used.
    #[error("an access token could not be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::TooManyTries { .. } => Kind::Busy,
            Error::WrongPassword => Kind::Invalid,
            Error::Account(e) => e.kind(),
            Error::Signing(_) => Kind::Internal,
            Error::Database(e) => e.kind(),
            _ => Kind::Unauthenticated,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Refused => "sign_in.refused",
            Error::TooManyTries { .. } => "sign_in.too_many_tries",
            Error::TokenInvalid => "token.invalid",
            Error::TokenExpired => "token.expired",
            Error::Ended => "session.ended",
            Error::RefreshInvalid => "refresh.invalid",
            Error::RefreshReused => "refresh.reused",
            Error::WrongPassword => "password.wrong",
            Error::Account(e) => e.code(),
            Error::Signing(_) => "internal",
            Error::Database(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::WrongPassword => Some("current_password"),
            Error::Account(e) => e.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::TooManyTries { wait } => Some(*wait),
            Error::Account(e) => e.retry_after(),
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// What a sign-in or a refresh gives.
pub struct SignIn {
    /// Shown with every request; good for [`ACCESS_SECONDS`].
    pub access_token: String,
    /// Good for one refresh, within 30 days.
    pub refresh_token: String,
    /// Who is signed in.
    pub user: User,
}

/// Seconds that an access token is good for.
pub const ACCESS_SECONDS: i64 = 15 * 60;

/// Seconds that a refresh token is good for when it isn't used.
pub const REFRESH_SECONDS: i64 = 30 * 24 * 3600;

/// What a process remembers of sessions and keys.
#[derive(Default)]
pub(crate) struct Cache {
    live: Mutex<HashMap<Uuid, Live>>,
    keys: tokens::Keys,
}

/// A session that was alive when the database was asked.
#[derive(Clone)]
struct Live {
    user_id: i64,
    name: String,
    admin: bool,
    now: DateTime<Utc>,
    asked: Instant,
}

impl Cache {
    fn get(&self, session: Uuid) -> Option<Live> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(&session).filter(|l| l.asked.elapsed() < LOOK_AGAIN).cloned()
    }

    fn put(&self, session: Uuid, seen: Live) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.len() >= 10_000 {
            live.retain(|_, l| l.asked.elapsed() < LOOK_AGAIN);
        }
        live.insert(session, seen);
    }

    fn forget(&self, session: Uuid) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }
}

/// Signs a user in. `from` is the address that he calls from, as far as it is known.
pub async fn login(domain: &Domain, name: &str, password: &str, from: Option<IpAddr>) -> Result<SignIn, Error> {
    let name = name.trim();
    // What can't be a name is no user; the database is not asked about it.
    let name = accounts::is_name(name).then_some(name);
    let account = match name {
        Some(name) => credentials(domain, name).await?,
        None => None,
    };
    limits::count_try(domain, name, account.as_ref().map(|(user, _)| user.id), from).await?;
    let hash = account.as_ref().map(|(_, hash)| hash.clone());
    let right = accounts::verify(hash, password).await?;
    match account {
        Some((user, hash)) if right => open(domain, user, hash, from).await,
        account => {
            let mut tx = domain.begin_system().await?;
            refuse(&mut tx, account.map(|(user, _)| user.id), name, from).await?;
            tx.commit().await?;
            Err(Error::Refused)
        }
    }
}

async fn credentials(domain: &Domain, name: &str) -> Result<Option<(User, String)>, Error> {
    let mut tx = domain.begin_system().await?;
    let row: Option<(i64, String, bool, DateTime<Utc>, String)> =
        sqlx::query_as("select id, name, is_admin, created_at, password_hash from users where lower(name) = lower($1)")
            .bind(name)
            .fetch_optional(&mut *tx)
            .await?;
    Ok(row.map(|(id, name, is_admin, created_at, hash)| (User { id, name, is_admin, created_at }, hash)))
}

async fn refuse(tx: &mut Tx, user_id: Option<i64>, name: Option<&str>, from: Option<IpAddr>) -> Result<(), db::Error> {
    let mut entry = Entry::new("sign_in_refused").warning().details(origin(from));
    if let (Some(id), Some(name)) = (user_id, name) {
        // A name that nobody has is not kept: people type their password into the wrong field.
        entry = entry.of(id).done_by(name).about("user", id);
    }
    audit::record(tx, entry).await
}

fn origin(from: Option<IpAddr>) -> Value {
    from.map_or_else(|| json!({}), |address| json!({"address": address.to_string()}))
}

/// Begins a session for a user whose password was right.
async fn open(domain: &Domain, user: User, hash: String, from: Option<IpAddr>) -> Result<SignIn, Error> {
    let key = tokens::signing_key(domain).await?;
    let mut tx = domain.begin_system().await?;
    // The password may have been changed while it was being checked; then this session must not begin.
    let current: Option<i64> =
        sqlx::query_scalar("select id from users where id = $1 and password_hash = $2 for share")
            .bind(user.id)
            .bind(hash)
            .fetch_optional(&mut *tx)
            .await?;
    if current.is_none() {
        refuse(&mut tx, Some(user.id), Some(&user.name), from).await?;
        tx.commit().await?;
        return Err(Error::Refused);
    }
    let session = Uuid::now_v7();
    sqlx::query("insert into sessions (id, user_id) values ($1, $2)")
        .bind(session)
        .bind(user.id)
        .execute(&mut *tx)
        .await?;
    let refresh_token = add_refresh_token(&mut tx, session).await?;
    limits::take_back_try(&mut tx, &user.name, from).await?;
    let entry = Entry::new("sign_in").of(user.id).done_by(&user.name).about("user", user.id);
    audit::record(&mut tx, entry.details(origin(from))).await?;
    let now = tx.now().await?;
    tx.commit().await?;
    let access_token = key.sign(user.id, session, now)?;
    Ok(SignIn { access_token, refresh_token, user })
}

async fn add_refresh_token(tx: &mut Tx, session: Uuid) -> Result<String, Error> {
    let token = tokens::random_token();
    sqlx::query("insert into refresh_tokens (hash, session_id) values ($1, $2)")
        .bind(fingerprint(&token))
        .bind(session)
        .execute(&mut **tx)
        .await?;
    Ok(token)
}

fn fingerprint(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Trades a refresh token for a new pair. The old one is dead; seeing it again ends the session.
pub async fn refresh(domain: &Domain, token: &str) -> Result<SignIn, Error> {
    let key = tokens::signing_key(domain).await?;
    let hash = fingerprint(token);
    let mut tx = domain.begin_system().await?;
    let used: Option<(Uuid, DateTime<Utc>)> = sqlx::query_as(
        "update refresh_tokens set used_at = queue.now() where hash = $1 and used_at is null
         returning session_id, created_at",
    )
    .bind(&hash)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((session, made_at)) = used else { return Err(end_if_reused(domain, tx, &hash).await?) };
    let family: Option<(i64, String, bool, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
        "select u.id, u.name, u.is_admin, u.created_at, s.created_at from sessions s join users u on u.id = s.user_id
         where s.id = $1 and s.ended_at is null for update of s",
    )
    .bind(session)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((id, name, is_admin, created_at, began_at)) = family else { return Err(Error::Ended) };
    let now = tx.now().await?;
    if now - made_at > TimeDelta::days(30) || now - began_at > TimeDelta::days(180) {
        end(&mut tx, session, "expired").await?;
        tx.commit().await?;
        return Err(Error::Ended);
    }
    let refresh_token = add_refresh_token(&mut tx, session).await?;
    sqlx::query("update sessions set last_used_at = queue.now() where id = $1").bind(session).execute(&mut *tx).await?;
    tx.commit().await?;
    let access_token = key.sign(id, session, now)?;
    Ok(SignIn { access_token, refresh_token, user: User { id, name, is_admin, created_at } })
}

/// A token that could not be used: if it once was good, somebody has a copy, and its session ends.
async fn end_if_reused(domain: &Domain, mut tx: Tx, hash: &[u8]) -> Result<Error, Error> {
    let family: Option<(Uuid, i64)> = sqlx::query_as(
        "select s.id, s.user_id from refresh_tokens t join sessions s on s.id = t.session_id where t.hash = $1",
    )
    .bind(hash)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((session, user_id)) = family else { return Ok(Error::RefreshInvalid) };
    if !end(&mut tx, session, "reuse").await? {
        return Ok(Error::Ended);
    }
    let entry = Entry::new("refresh_token_reused").of(user_id).about("session", session).warning();
    audit::record(&mut tx, entry).await?;
    tx.commit().await?;
    domain.sessions().forget(session);
    Ok(Error::RefreshReused)
}

async fn end(tx: &mut Tx, session: Uuid, why: &str) -> Result<bool, Error> {
    let ended =
        sqlx::query("update sessions set ended_at = queue.now(), ended_why = $2 where id = $1 and ended_at is null")
            .bind(session)
            .bind(why)
            .execute(&mut **tx)
            .await?;
    Ok(ended.rows_affected() > 0)
}

/// Ends the session that the actor came by.
pub async fn logout(domain: &Domain, actor: &Actor) -> Result<(), Error> {
    let Some(session) = actor.session else { return Ok(()) };
    let mut tx = domain.begin_system().await?;
    if end(&mut tx, session, "logout").await? {
        audit::record(&mut tx, Entry::new("sign_out").by(actor).about("session", session)).await?;
    }
    tx.commit().await?;
    domain.sessions().forget(session);
    Ok(())
}

/// Changes the actor's password and ends all his other sessions.
pub async fn change_password(
    domain: &Domain,
    actor: &Actor,
    current: &str,
    new: &str,
    from: Option<IpAddr>,
) -> Result<(), Error> {
    accounts::check_length(new, "new_password")?;
    let Some((user, old_hash)) = credentials(domain, &actor.name).await? else { return Err(Error::Ended) };
    // Whoever got hold of an access token must not be able to try passwords at will.
    limits::count_try(domain, Some(&user.name), Some(user.id), from).await?;
    if !accounts::verify(Some(old_hash.clone()), current).await? {
        let mut tx = domain.begin_system().await?;
        let entry = Entry::new("password_change_refused").by(actor).about("user", user.id).warning();
        audit::record(&mut tx, entry.details(origin(from))).await?;
        tx.commit().await?;
        return Err(Error::WrongPassword);
    }
    let new_hash = accounts::hash(new).await?;
    let mut tx = domain.begin_system().await?;
    let changed = sqlx::query("update users set password_hash = $3 where id = $1 and password_hash = $2")
        .bind(user.id)
        .bind(old_hash)
        .bind(new_hash)
        .execute(&mut *tx)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(Error::WrongPassword);
    }
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "update sessions set ended_at = queue.now(), ended_why = 'password_changed'
         where user_id = $1 and ended_at is null and id is distinct from $2 returning id",
    )
    .bind(user.id)
    .bind(actor.session)
    .fetch_all(&mut *tx)
    .await?;
    limits::take_back_try(&mut tx, &user.name, from).await?;
    let entry = Entry::new("password_changed").by(actor).about("user", user.id);
    audit::record(&mut tx, entry.details(json!({"sessions_ended": ended.len()}))).await?;
    tx.commit().await?;
    for session in ended {
        domain.sessions().forget(session);
    }
    Ok(())
}

/// Who shows this access token. The one door to an [`Actor`] for whatever comes over the network.
pub async fn authenticate(domain: &Domain, token: &str) -> Result<Actor, Error> {
    let claims = tokens::read(domain, token).await?;
    let live = match domain.sessions().get(claims.sid) {
        Some(live) => live,
        None => look_up(domain, claims.sid).await?,
    };
    if live.user_id.to_string() != claims.sub {
        return Err(Error::TokenInvalid);
    }
    let now = live.now.timestamp() + live.asked.elapsed().as_secs().cast_signed();
    if claims.exp <= now {
        return Err(Error::TokenExpired);
    }
    Ok(Actor { user_id: live.user_id, name: live.name, admin: live.admin, session: Some(claims.sid) })
}

async fn look_up(domain: &Domain, session: Uuid) -> Result<Live, Error> {
    let asked = Instant::now();
    let mut tx = domain.begin_system().await?;
    let row: Option<(i64, String, bool, DateTime<Utc>)> = sqlx::query_as(
        "select u.id, u.name, u.is_admin, queue.now() from sessions s join users u on u.id = s.user_id
         where s.id = $1 and s.ended_at is null",
    )
    .bind(session)
    .fetch_optional(&mut *tx)
    .await?;
    let (user_id, name, admin, now) = row.ok_or(Error::Ended)?;
    let live = Live { user_id, name, admin, now, asked };
    domain.sessions().put(session, live.clone());
    Ok(live)
}

/// Removes sessions that ended or were last used long ago, used tokens too old to tell anything, and counts of failed tries
/// that no longer matter. For the daily cleanup; answers how many sessions went.
pub async fn sweep(tx: &mut Tx) -> Result<u64, Error> {
    let sessions = sqlx::query(
        "delete from sessions where coalesce(ended_at, last_used_at + interval '30 days') < queue.now() - interval '30 days'",
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query("delete from refresh_tokens where used_at < queue.now() - interval '30 days'")
        .execute(&mut **tx)
        .await?;
    sqlx::query("delete from sign_in_failures where window_start < queue.now() - interval '1 day'")
        .execute(&mut **tx)
        .await?;
    Ok(sessions.rows_affected())
}
