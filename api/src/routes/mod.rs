//! One file per noun; each is one `OpenApi` struct of thin handlers. Tags group them in the documentation.

mod audit;
mod auth;
mod bandwidth;
mod jobs;

use poem_openapi::Tags;

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
pub(crate) type Routes = (auth::Auth, audit::Audit, bandwidth::Bandwidth, jobs::Jobs);

/// The operations, for the service.
pub(crate) fn routes() -> Routes {
    (auth::Auth, audit::Audit, bandwidth::Bandwidth, jobs::Jobs)
}
