//! Users and their passwords.
//!
//! Invariant: a password is only ever kept as its Argon2id hash, and hashing never holds up the threads that serve requests:
//! it runs on the blocking pool, as many at once as there are processors. Names are ASCII, so that comparing them without
//! case means the same everywhere, and hold nothing that means something in a path: folders are named after users. Left out:
//! signing in (`sessions`).

use std::{
    fmt,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{self, phc::PasswordHash},
};
use chrono::{DateTime, Utc};
use rand::Rng;
use serde_json::json;
use sqlx::FromRow;
use tokio::sync::Semaphore;

use crate::{
    Actor, Domain, Tx,
    audit::{self, Entry},
    db,
    error::{Fault, Kind},
};

/// A person with an account.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct User {
    /// The user's id.
    pub id: i64,
    /// The name to sign in with.
    pub name: String,
    /// Whether the user administers the server.
    pub is_admin: bool,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
}

/// Why an account could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name has other characters than a name may have, or too many.
    #[error("a name has 1 to 64 letters, digits, dots, dashes or underscores, and begins with a letter or digit")]
    Name,
    /// Another account has the name.
    #[error("there is a user of that name already")]
    NameTaken,
    /// There is no such account.
    #[error("there is no such user")]
    Unknown,
    /// The password is too short or too long.
    #[error("a password has 12 to 128 characters")]
    Password {
        /// The field of the request that holds it.
        field: &'static str,
    },
    /// More passwords wait to be checked than this process can check in time.
    #[error("too many passwords are being checked just now")]
    Crowded,
    /// A hash could not be made or is not one.
    #[error("a password hash could not be made or read")]
    Hash(#[source] password_hash::Error),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Self {
        match db::constraint(&cause) {
            Some("users_name") => Error::NameTaken,
            _ => Error::Database(cause.into()),
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Name | Error::Password { .. } => Kind::Invalid,
            Error::NameTaken => Kind::Conflict,
            Error::Unknown => Kind::NotFound,
            Error::Crowded => Kind::Busy,
            Error::Hash(_) => Kind::Internal,
            Error::Database(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Name => "user.name_invalid",
            Error::NameTaken => "user.name_taken",
            Error::Unknown => "user.not_found",
            Error::Password { .. } => "password.length",
            Error::Crowded => "sign_in.crowded",
            Error::Hash(_) => "internal",
            Error::Database(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Name | Error::NameTaken => Some("username"),
            Error::Password { field } => Some(field),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Crowded => Some(2),
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Makes an account. For the command line: nobody can sign up over the network.
pub async fn create(domain: &Domain, name: &str, password: &str, admin: bool) -> Result<User, Error> {
    if !is_name(name) {
        return Err(Error::Name);
    }
    check_length(password, "password")?;
    let hash = hash(password).await?;
    let mut tx = domain.begin_system().await?;
    let user: User = sqlx::query_as(
        "insert into users (name, password_hash, is_admin) values ($1, $2, $3) returning id, name, is_admin, created_at",
    )
    .bind(name)
    .bind(hash)
    .bind(admin)
    .fetch_one(&mut *tx)
    .await?;
    record_created(&mut tx, &user).await?;
    tx.commit().await?;
    Ok(user)
}

/// Sets a user's password and ends all his sessions. For the command line: it asks for no old password.
pub async fn set_password(domain: &Domain, name: &str, password: &str) -> Result<(), Error> {
    check_length(password, "password")?;
    let hash = hash(password).await?;
    let mut tx = domain.begin_system().await?;
    let id: Option<i64> =
        sqlx::query_scalar("update users set password_hash = $2 where lower(name) = lower($1) returning id")
            .bind(name)
            .bind(hash)
            .fetch_optional(&mut *tx)
            .await?;
    let id = id.ok_or(Error::Unknown)?;
    sqlx::query(
        "update sessions set ended_at = queue.now(), ended_why = 'password_changed'
         where user_id = $1 and ended_at is null",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    audit::record(&mut tx, Entry::new("password_set").of(id).done_by("command line").about("user", id)).await?;
    tx.commit().await?;
    Ok(())
}

/// The actor's own account.
pub async fn me(domain: &Domain, actor: &Actor) -> Result<User, Error> {
    let mut tx = domain.begin_system().await?;
    sqlx::query_as("select id, name, is_admin, created_at from users where id = $1")
        .bind(actor.user_id)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(Error::Unknown)
}

/// A password made by the server, to be shown once.
pub struct GeneratedPassword(String);

impl fmt::Display for GeneratedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GeneratedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GeneratedPassword(..)")
    }
}

/// Makes the user `admin` when there is no user at all, with DRIFTLESS_ADMIN_PASSWORD or a password made here, which is
/// answered to be shown. Safe to call from many processes at once: one of them makes it.
pub async fn ensure_admin(domain: &Domain) -> Result<Option<GeneratedPassword>, Error> {
    if has_users(domain).await? {
        return Ok(None);
    }
    let set = domain.settings().admin_password.as_ref().map(|p| p.reveal().to_owned());
    let made = set.is_none().then(generate);
    let password = set.or_else(|| made.clone()).unwrap_or_default();
    let hash = hash(&password).await?;
    let mut tx = domain.begin_system().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('driftless.first_admin', 0))").execute(&mut *tx).await?;
    let user: Option<User> = sqlx::query_as(
        "insert into users (name, password_hash, is_admin) select 'admin', $1, true where not exists (select from users)
         returning id, name, is_admin, created_at",
    )
    .bind(hash)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(user) = user else { return Ok(None) };
    record_created(&mut tx, &user).await?;
    tx.commit().await?;
    Ok(made.map(GeneratedPassword))
}

async fn has_users(domain: &Domain) -> Result<bool, Error> {
    let mut tx = domain.begin_system().await?;
    Ok(sqlx::query_scalar("select exists (select from users)").fetch_one(&mut *tx).await?)
}

async fn record_created(tx: &mut Tx, user: &User) -> Result<(), db::Error> {
    let details = json!({"name": user.name, "is_admin": user.is_admin});
    let entry = Entry::new("user_created").of(user.id).done_by("command line").about("user", user.id);
    audit::record(tx, entry.details(details)).await
}

// Twenty characters that can't be taken for one another: 99 random bits, easy to type.
fn generate() -> String {
    const LETTERS: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";
    let mut rng = rand::rng();
    let mut part = || (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect::<String>();
    [part(), part(), part(), part()].join("-")
}

/// Whether `text` can be the name of a user at all.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Refuses a password that is too short or too long; `field` names it in the request.
pub(crate) fn check_length(password: &str, field: &'static str) -> Result<(), Error> {
    if (12..=128).contains(&password.chars().count()) { Ok(()) } else { Err(Error::Password { field }) }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(19_456, 2, 1, None).expect("the parameters are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The Argon2id hash of a password, in the form that says its own parameters.
pub(crate) async fn hash(password: &str) -> Result<String, Error> {
    let password = password.to_owned();
    on_hashing_pool(move || argon2().hash_password(password.as_bytes()).map(|h| h.to_string()))
        .await?
        .map_err(Error::Hash)
}

/// Whether `password` is the one that `hash` was made of. Without a hash (there is no such user) it takes as long and is
/// false, so that the time tells nobody which names exist.
pub(crate) async fn verify(hash: Option<String>, password: &str) -> Result<bool, Error> {
    // Of a random password that nobody kept.
    const NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Rdes9LGRrQMXHBnB1QQ0aZ0Zy1bAXf4nP7fK0xqL8mE";
    let password = password.to_owned();
    on_hashing_pool(move || {
        let known = hash.is_some();
        let hash = PasswordHash::new(hash.as_deref().unwrap_or(NOBODY)).map_err(|e| Error::Hash(e.into()))?;
        match argon2().verify_password(password.as_bytes(), &hash) {
            Ok(()) => Ok(known),
            Err(password_hash::Error::PasswordInvalid) => Ok(false),
            Err(e) => Err(Error::Hash(e)),
        }
    })
    .await?
}

async fn on_hashing_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    static PLACES: LazyLock<Arc<Semaphore>> =
        LazyLock::new(|| Arc::new(Semaphore::new(thread::available_parallelism().map_or(2, usize::from))));
    const PATIENCE: Duration = Duration::from_secs(5);
    let place = tokio::time::timeout(PATIENCE, PLACES.clone().acquire_owned()).await.map_err(|_| Error::Crowded)?;
    // The place travels with the work: a caller who goes away must not let another hash begin beside it.
    let work = move || {
        let _place = place;
        work()
    };
    Ok(tokio::task::spawn_blocking(work).await.expect("hashing does not panic and is never aborted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_says_its_parameters_and_knows_its_password() {
        let hash = hash("correct horse battery").await.expect("hashing works");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify(Some(hash.clone()), "correct horse battery").await.expect("a hash of ours"));
        assert!(!verify(Some(hash), "incorrect horse battery").await.expect("a hash of ours"));
    }

    #[tokio::test]
    async fn an_unknown_name_is_checked_against_a_hash_of_nobody() {
        assert!(!verify(None, "correct horse battery").await.expect("the hash of nobody can be read"));
    }

    #[test]
    fn names_are_plain_and_safe_in_paths() {
        for name in ["admin", "Anna.B", "x", "7up", "a-b_c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".x", "-x", "a b", "a/b", "ä", "a\0", "a\n", &"x".repeat(65)] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn made_passwords_differ_and_are_long_enough() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        assert!(check_length(&a, "password").is_ok(), "{a}");
        assert!(!format!("{:?}", GeneratedPassword(a.clone())).contains(&a));
    }
}
