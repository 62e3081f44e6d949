//! The audit: what happened, who did it, and the proof that nothing was taken out or changed afterwards.
//!
//! Invariant: an entry is written plain by the transaction that acts ([`record`]), so it stands exactly when the act does.
//! One sealer at a time then gives `chain_seq` and `hash` in order (`chain`), and each data folder's JSON lines follow the
//! sealed rows (`lines`): the database is the truth, the files catch up, and so no line is lost or doubled whenever a
//! process dies. A chain inside the acting transactions would cap the whole server at the speed of one row lock.

mod chain;
mod lines;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sqlx::{FromRow, Postgres, QueryBuilder};
use tokio_util::sync::CancellationToken;

use crate::{
    Actor, Domain, Tx, db,
    error::{Fault, Kind},
};

pub use chain::{Broken, Verified, verify};

/// How serious an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look, like a refused sign-in.
    Warning,
    /// Something failed; the entry has a code.
    Error,
}

impl Level {
    /// The name in rows, lines and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Something that happened, about to be recorded.
#[derive(Debug, Clone)]
pub struct Entry {
    action: &'static str,
    user_id: Option<i64>,
    actor: Option<String>,
    resource_type: Option<&'static str>,
    resource_id: Option<String>,
    details: Value,
    level: Level,
    code: Option<String>,
}

impl Entry {
    /// An entry of level info; `action` is in snake_case, like `device_registered`.
    pub fn new(action: &'static str) -> Self {
        Entry {
            action,
            user_id: None,
            actor: None,
            resource_type: None,
            resource_id: None,
            details: json!({}),
            level: Level::Info,
            code: None,
        }
    }

    /// Done by this user, who will see the entry.
    pub fn by(mut self, actor: &Actor) -> Self {
        self.actor = Some(actor.name.clone());
        self.of(actor.user_id)
    }

    /// Concerns this user, who will see the entry, whoever did it (a schedule, the server).
    pub fn of(mut self, user_id: i64) -> Self {
        self.user_id = Some(user_id);
        self
    }

    /// Who did it when that is no actor: a name typed at sign-in, `system`, `command line`.
    pub fn done_by(mut self, name: impl Into<String>) -> Self {
        self.actor = Some(name.into());
        self
    }

    /// What it was done to.
    pub fn about(mut self, resource_type: &'static str, resource_id: impl ToString) -> Self {
        self.resource_type = Some(resource_type);
        self.resource_id = Some(resource_id.to_string());
        self
    }

    /// Facts about it; a JSON object.
    pub fn details(mut self, details: Value) -> Self {
        debug_assert!(details.is_object(), "details are an object");
        self.details = details;
        self
    }

    /// Worth a look.
    pub fn warning(mut self) -> Self {
        self.level = Level::Warning;
        self
    }

    /// It failed, and why, as a stable code.
    pub fn error(mut self, code: impl Into<String>) -> Self {
        self.level = Level::Error;
        self.code = Some(code.into());
        self
    }
}

/// Records `entry` in the acting transaction, be it a user's or the system's.
pub async fn record(tx: &mut Tx, entry: Entry) -> Result<(), db::Error> {
    sqlx::query(
        "insert into audit (user_id, actor, action, resource_type, resource_id, details, level, code)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(entry.user_id)
    .bind(entry.actor)
    .bind(entry.action)
    .bind(entry.resource_type)
    .bind(entry.resource_id)
    .bind(entry.details)
    .bind(entry.level.as_str())
    .bind(entry.code)
    .execute(&mut **tx)
    .await?;
    tx.note_recorded();
    Ok(())
}

/// Records many entries with one statement, in their order.
pub async fn record_all(tx: &mut Tx, entries: Vec<Entry>) -> Result<(), db::Error> {
    fn column<'a, T>(entries: &'a [Entry], f: impl Fn(&'a Entry) -> T) -> Vec<T> {
        entries.iter().map(f).collect()
    }
    sqlx::query(
        "insert into audit (user_id, actor, action, resource_type, resource_id, details, level, code)
         select user_id, actor, action, resource_type, resource_id, details, level, code
         from unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::text[])
              with ordinality as e(user_id, actor, action, resource_type, resource_id, details, level, code, n) order by n",
    )
    .bind(column(&entries, |e| e.user_id))
    .bind(column(&entries, |e| e.actor.as_deref()))
    .bind(column(&entries, |e| e.action))
    .bind(column(&entries, |e| e.resource_type))
    .bind(column(&entries, |e| e.resource_id.as_deref()))
    .bind(column(&entries, |e| &e.details))
    .bind(column(&entries, |e| e.level.as_str()))
    .bind(column(&entries, |e| e.code.as_deref()))
    .execute(&mut **tx)
    .await?;
    tx.note_recorded();
    Ok(())
}

/// An entry as it was recorded.
#[derive(Debug, Clone, FromRow)]
pub struct Recorded {
    /// Its number; a later entry may have been committed before an earlier one.
    pub id: i64,
    /// Whose entry it is; none when no account is concerned.
    pub user_id: Option<i64>,
    /// Who did it, by name.
    pub actor: Option<String>,
    /// What was done.
    pub action: String,
    /// The sort of thing that it was done to.
    pub resource_type: Option<String>,
    /// Which one.
    pub resource_id: Option<String>,
    /// Facts about it.
    pub details: Value,
    /// info, warning or error.
    pub level: String,
    /// Why it failed.
    pub code: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// Its place in the chain; none for the moment until the sealer has seen it.
    pub chain_seq: Option<i64>,
    /// The chain's hash up to and with this entry.
    pub hash: Option<Vec<u8>>,
}

const COLUMNS: &str =
    "id, user_id, actor, action, resource_type, resource_id, details, level, code, at, chain_seq, hash";

impl Recorded {
    /// What the hash covers and the line shows, at place `chain_seq` of the chain.
    fn body(&self, chain_seq: i64) -> Value {
        let mut body = Map::new();
        let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
        put("chain_seq", json!(chain_seq));
        put("id", json!(self.id));
        put("user_id", json!(self.user_id));
        put("actor", json!(self.actor));
        put("action", json!(self.action));
        put("resource_type", json!(self.resource_type));
        put("resource_id", json!(self.resource_id));
        put("details", self.details.clone());
        put("level", json!(self.level));
        put("at", json!(self.at.to_rfc3339_opts(SecondsFormat::Micros, true)));
        if let Some(code) = &self.code {
            put("code", json!(code));
        }
        Value::Object(body)
    }
}

/// JSON with sorted keys and no spaces: equal values give equal bytes, whoever writes them.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let parts: Vec<_> =
                sorted.iter().map(|(k, v)| format!("{}:{}", Value::String((*k).clone()), canonical(v))).collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

const FAR_AHEAD: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("the year 9999 can be named");

/// Which entries to list.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only this action.
    pub action: Option<String>,
    /// Only this level.
    pub level: Option<Level>,
    /// Only from this time on.
    pub since: Option<DateTime<Utc>>,
    /// Where the previous page ended.
    pub cursor: Option<String>,
    /// At most this many, 1 to 1,000.
    pub limit: u32,
}

/// A page of entries, the newest first.
#[derive(Debug)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Recorded>,
    /// Where the next page begins; none at the end.
    pub next_cursor: Option<String>,
}

/// Why entries could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cursor is not one of ours.
    #[error("the cursor is not one that a page of the audit gave")]
    Cursor,
    /// The page size is out of range.
    #[error("a page has 1 to 1000 entries")]
    Limit,
    /// The filter holds a character that no entry can hold.
    #[error("an action must not contain a null character")]
    Action,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            _ => Kind::Invalid,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Cursor => "cursor.invalid",
            Error::Limit => "limit.invalid",
            Error::Action => "audit.action_invalid",
            Error::Database(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Cursor => Some("cursor"),
            Error::Limit => Some("limit"),
            Error::Action => Some("action"),
            Error::Database(_) => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Lists the actor's own entries, to an admin everybody's.
pub async fn list(domain: &Domain, actor: &Actor, filter: Filter) -> Result<Page, Error> {
    let limit = filter.limit;
    if !(1..=1000).contains(&limit) {
        return Err(Error::Limit);
    }
    if filter.action.as_ref().is_some_and(|a| a.contains('\0')) {
        return Err(Error::Action);
    }
    let before: Option<i64> = filter.cursor.map(|c| c.parse().map_err(|_| Error::Cursor)).transpose()?;
    let mut query = QueryBuilder::<Postgres>::new(format!("select {COLUMNS} from audit where true"));
    let mut tx = if actor.admin {
        domain.begin_system().await?
    } else {
        query.push(" and user_id = ").push_bind(actor.user_id);
        domain.begin(actor).await?
    };
    if let Some(id) = before {
        query.push(" and id < ").push_bind(id);
    }
    if let Some(action) = filter.action {
        query.push(" and action = ").push_bind(action);
    }
    if let Some(level) = filter.level {
        query.push(" and level = ").push_bind(level.as_str());
    }
    // No entry is older than 1970, and Postgres can't take every time that chrono can name.
    if let Some(since) = filter.since.map(|t| t.clamp(DateTime::UNIX_EPOCH, FAR_AHEAD)) {
        query.push(" and at >= ").push_bind(since);
        if actor.admin {
            // Numbers rise with time but for transactions under way: this ends the walk through everybody's entries.
            query.push(" and id >= (select id from audit where at >= ").push_bind(since - TimeDelta::hours(1));
            query.push(" order by at limit 1)");
        }
    }
    query.push(" order by id desc limit ").push_bind(i64::from(limit) + 1);
    let mut entries: Vec<Recorded> = query.build_query_as().fetch_all(&mut *tx).await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|e| e.id.to_string());
    Ok(Page { entries, next_cursor })
}

/// Seals what waits and brings this data folder's lines up to date, both once. Answers how many entries it sealed.
pub async fn seal(domain: &Domain) -> Result<usize, SealError> {
    let turn = chain::seal(domain).await?;
    lines::follow(domain).await?;
    Ok(turn.sealed)
}

/// Why sealing or writing the lines failed; the next turn goes on where this one stopped.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The chain could not be read or written.
    #[error("the audit chain could not be continued")]
    Chain(#[from] db::Error),
    /// The lines could not be written.
    #[error("the audit lines could not be written")]
    Lines(#[from] std::io::Error),
}

impl From<sqlx::Error> for SealError {
    fn from(cause: sqlx::Error) -> Self {
        SealError::Chain(cause.into())
    }
}

/// Seals until `cancel`, and once more then. Every process may run this: one seals, the others stand by. A turn comes right
/// after a commit of this process that recorded something; what others recorded, and did not seal, is seen within a second.
pub async fn run_sealer(domain: Domain, cancel: CancellationToken) {
    // Entries that come in a row share a turn; sealed and written they are to be within a second.
    const BREATH: Duration = Duration::from_millis(400);
    let mut seen = domain.lookout().follow(domain.pool());
    let (mut shown, mut failing, mut told) = (None, false, true);
    loop {
        let last = cancel.is_cancelled();
        let looked = *seen.borrow_and_update();
        if last || told || looked.unsealed || shown != Some(looked.sealed) {
            let turned = turn(&domain, &mut shown).await;
            if let (Err(e), false) = (&turned, failing) {
                tracing::warn!(error = e as &dyn std::error::Error, "the audit can't be sealed just now");
            }
            failing = turned.is_err();
            if last {
                return;
            }
            let _ = tokio::time::timeout(BREATH, cancel.cancelled()).await;
            told = turned.is_ok_and(|more| more);
            if told {
                continue;
            }
        }
        told = tokio::select! {
            () = cancel.cancelled() => true,
            () = domain.lookout().until_recorded() => true,
            Ok(()) = seen.changed() => false,
        };
    }
}

/// One turn of the sealer; the lines are looked at only when the chain is beyond what they are known to show. Answers whether
/// more waits than a turn seals.
async fn turn(domain: &Domain, shown: &mut Option<i64>) -> Result<bool, SealError> {
    let turn = chain::seal(domain).await?;
    if *shown != Some(turn.head) {
        *shown = lines::follow(domain).await?;
    }
    Ok(turn.sealed == chain::BATCH as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys_at_every_depth_and_has_no_spaces() {
        let value = json!({"b": [1, {"d": null, "c": "é\"\n"}], "a": true});
        assert_eq!(canonical(&value), r#"{"a":true,"b":[1,{"c":"é\"\n","d":null}]}"#);
    }
}
