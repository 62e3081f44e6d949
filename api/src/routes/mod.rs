//! One file per noun; each is one `OpenApi` struct of thin handlers. Tags group them in the documentation.

mod audit;
mod auth;
mod bandwidth;
mod content;
mod devices;
mod entry;
mod feed;
mod files;
mod jobs;
mod reports;
mod runs;
mod schedules;
mod uploads;

use std::str::FromStr;

use poem_openapi::{Tags, types::MaybeUndefined};

use crate::problem::ApiError;

/// What the operations are about.
#[derive(Tags)]
pub(crate) enum Tag {
    /// Signing in and out.
    Accounts,
    /// Devices, schedules and runs.
    Sync,
    /// The user's tree of files.
    Files,
    /// What happened.
    Audit,
    /// The queue, for admins.
    Jobs,
}

/// All operations of the API.
pub(crate) type Routes = (
    auth::Auth,
    audit::Audit,
    bandwidth::Bandwidth,
    devices::Devices,
    schedules::Schedules,
    runs::Runs,
    jobs::Jobs,
    (files::Files, content::Contents, uploads::Uploads, feed::Feed, reports::Reports),
);

/// The operations, for the service.
pub(crate) fn routes() -> Routes {
    (
        auth::Auth,
        audit::Audit,
        bandwidth::Bandwidth,
        devices::Devices,
        schedules::Schedules,
        runs::Runs,
        jobs::Jobs,
        (files::Files, content::Contents, uploads::Uploads, feed::Feed, reports::Reports),
    )
}

/// Where the page after this one begins; none when this one isn't full.
fn next<T, C>(page: &[T], limit: i64, cursor: impl FnOnce(&T) -> C) -> Option<C> {
    let full = i64::try_from(page.len()).is_ok_and(|length| length >= limit);
    page.last().filter(|_| full).map(cursor)
}

/// A cursor as the page before gave it. Cursors are text in every list, so that what they hold may change.
fn position<T: FromStr>(cursor: Option<String>) -> Result<Option<T>, ApiError> {
    let parse = |text: String| {
        let refused = |_| ApiError::invalid("cursor.invalid", "this is no cursor of this list", Some("cursor".into()));
        text.parse().map_err(refused)
    };
    cursor.map(parse).transpose()
}

/// What an edit of a field says: none leaves it, null sets it back to its default.
fn or_default<T>(edit: MaybeUndefined<T>, default: impl FnOnce() -> T) -> Option<T> {
    match edit {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(default()),
        MaybeUndefined::Value(value) => Some(value),
    }
}

fn hundred() -> i64 {
    100
}
