//! The audit, to read.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    audit::{self, Filter, Level, Page, Recorded},
};
use poem::web::Data;
use poem_openapi::{Enum, Object, OpenApi, param::Query, payload::Json};
use serde_json::Value;

use super::Tag;
use crate::{bearer::Bearer, problem::ApiError};

/// How serious an entry is.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum AuditLevel {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed; the entry has a code.
    Error,
}

impl From<AuditLevel> for Level {
    fn from(level: AuditLevel) -> Self {
        match level {
            AuditLevel::Info => Level::Info,
            AuditLevel::Warning => Level::Warning,
            AuditLevel::Error => Level::Error,
        }
    }
}

/// Something that happened.
#[derive(Object)]
struct AuditEntry {
    /// Its number.
    id: i64,
    /// Its place in the chain of hashes; null for the second until it is sealed.
    chain_seq: Option<i64>,
    /// When.
    at: DateTime<Utc>,
    /// Whose entry it is; null when it concerns no account.
    user_id: Option<i64>,
    /// Who did it, by name.
    actor: Option<String>,
    /// What was done.
    action: String,
    /// The sort of thing that it was done to.
    resource_type: Option<String>,
    /// Which one.
    resource_id: Option<String>,
    /// Facts about it.
    details: BTreeMap<String, Value>,
    /// info, warning or error.
    level: String,
    /// Why it failed.
    #[oai(skip_serializing_if_is_none)]
    code: Option<String>,
    /// The chain's hash up to and with this entry, in hex.
    hash: Option<String>,
}

impl From<Recorded> for AuditEntry {
    fn from(e: Recorded) -> Self {
        AuditEntry {
            id: e.id,
            chain_seq: e.chain_seq,
            at: e.at,
            user_id: e.user_id,
            actor: e.actor,
            action: e.action,
            resource_type: e.resource_type,
            resource_id: e.resource_id,
            details: e.details.as_object().cloned().unwrap_or_default().into_iter().collect(),
            level: e.level,
            code: e.code,
            hash: e.hash.map(|h| h.iter().map(|b| format!("{b:02x}")).collect()),
        }
    }
}

/// A page of the audit, the newest first.
#[derive(Object)]
struct AuditPage {
    /// The entries.
    entries: Vec<AuditEntry>,
    /// Send it as `cursor` for the next page; absent on the last.
    #[oai(skip_serializing_if_is_none)]
    next_cursor: Option<String>,
}

impl From<Page> for AuditPage {
    fn from(page: Page) -> Self {
        AuditPage { entries: page.entries.into_iter().map(Into::into).collect(), next_cursor: page.next_cursor }
    }
}

pub(crate) struct Audit;

#[OpenApi(tag = "Tag::Audit")]
impl Audit {
    /// List what happened
    ///
    /// Users see their own entries, admins all.
    #[oai(path = "/audit", method = "get", operation_id = "list_audit")]
    #[allow(clippy::too_many_arguments, reason = "one for each query parameter")]
    async fn list_audit(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// Only this action, like `sign_in`.
        action: Query<Option<String>>,
        /// Only this level.
        level: Query<Option<AuditLevel>>,
        /// Only from this time on.
        since: Query<Option<DateTime<Utc>>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Entries in a page, 1 to 1000.
        #[oai(default = "hundred")]
        limit: Query<u32>,
    ) -> Result<Json<AuditPage>, ApiError> {
        let filter = Filter {
            action: action.0,
            level: level.0.map(Into::into),
            since: since.0,
            cursor: cursor.0,
            limit: limit.0,
        };
        Ok(Json(audit::list(&domain, &auth.0, filter).await?.into()))
    }
}

fn hundred() -> u32 {
    100
}
