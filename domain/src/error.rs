//! Errors of the whole server: one vocabulary of kinds, which HTTP, WebDAV and jobs each translate once.
//!
//! A module's error enum names the operation that failed; the cause is its `source` and is never repeated in its text.

/// What sort of failure it is: decides the HTTP status, and whether a job is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request can't be: wrong value, wrong shape. Nothing changed.
    Invalid,
    /// Nobody is signed in, or the token is no good.
    Unauthenticated,
    /// The caller may not do this (his own role lacks it; what is another user's is [`Kind::NotFound`]).
    Forbidden,
    /// No such thing, or not the caller's.
    NotFound,
    /// The state of the thing rules it out.
    Conflict,
    /// What the caller refers to is no longer to be had, like a cursor older than what is kept.
    Gone,
    /// A precondition that the caller stated does not hold.
    Precondition,
    /// Larger than a limit.
    TooLarge,
    /// The quota or the disk would be exceeded.
    OverQuota,
    /// Too many requests, or the thing is in use; come back later.
    Busy,
    /// A part of the server can't be reached just now.
    Unavailable,
    /// A defect of ours.
    Internal,
}

/// An error that any door of the server can answer with.
pub trait Fault: std::error::Error + Send + Sync + 'static {
    /// The sort of failure.
    fn kind(&self) -> Kind;
    /// A stable code for programs, like `schedule.time_invalid`.
    fn code(&self) -> &'static str;
    /// The field of the request that is at fault, by its name in the API.
    fn field(&self) -> Option<&str> {
        None
    }
    /// Seconds after which trying again makes sense.
    fn retry_after(&self) -> Option<u64> {
        None
    }
}
