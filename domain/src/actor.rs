//! Who acts. An [`Actor`] is made by authentication or by loading a run, and nowhere else.

use uuid::Uuid;

/// The user on whose behalf a call is made. It can't be made outside this crate: holding one is the proof of having
/// been authenticated (or of running a job that its user asked for).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub(crate) user_id: i64,
    pub(crate) name: String,
    pub(crate) admin: bool,
    pub(crate) session: Option<Uuid>,
}

impl Actor {
    /// The user's id.
    pub fn user_id(&self) -> i64 {
        self.user_id
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the user administers the server.
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// The sign-in that the call came by; none in a job.
    pub fn session(&self) -> Option<Uuid> {
        self.session
    }
}
