//! Why a run of a folder remote broke off, and what that means for the next attempt.
//!
//! Left out: what becomes of the run then (`engine`, `runs`).

use crate::{
    commit, db,
    error::{Fault, Kind},
    ingest,
    remotes::Lost,
    runs, store, tree,
};

/// Why a run broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run, or the worker's claim on it.
    #[error(transparent)]
    Run(#[from] runs::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// A change of the tree.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// The tree could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// Contents could not be taken in.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    /// Contents could not be read from the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The device is gone, or no folder remote.
    #[error("the device is gone, or is no folder of this server")]
    NoDevice,
    /// A path in the database breaks the rules of paths.
    #[error("a path of this device can't be")]
    Path(#[from] driftless_sync::path::PathError),
    /// The device's ignore list can't be used.
    #[error("the ignore list of this device can't be used")]
    Ignore(#[from] driftless_sync::ignore::IgnoreError),
    /// The folder must not be touched; only a dry run fails of it, others are held.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The folder can't be listed.
    #[error("the folder can't be read")]
    Unreadable,
    /// The disk refused a change.
    #[error("{path}: {problem}")]
    Disk {
        /// Where.
        path: String,
        /// What it said.
        problem: String,
    },
    /// A part of the work broke.
    #[error("a task of the run broke off")]
    Task(#[from] tokio::task::JoinError),
    /// Told to stop.
    #[error("the run was told to stop")]
    Stopped(Stop),
}

/// Why a run was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A person cancelled it.
    Cancelled,
    /// The worker drains or has lost its claim.
    Draining,
    /// Another worker has the run.
    Superseded,
}

crate::db::from_sqlx!(Error::Database);

impl Error {
    /// Another worker has taken the run over, or it has ended: there is nothing left to write about it.
    pub(super) fn is_superseded(&self) -> bool {
        matches!(
            self,
            Error::Run(runs::Error::Superseded)
                | Error::Commit(commit::Error::FenceLost | commit::Error::DeviceGone)
                | Error::Stopped(Stop::Superseded)
        )
    }

    /// Whether another attempt would fail like this one. Contents that are no longer stored are taken in anew.
    pub(super) fn is_hopeless(&self) -> bool {
        let stored = matches!(self, Error::Commit(commit::Error::Store(_)) | Error::Ingest(_) | Error::Store(_));
        !stored && matches!(self.kind(), Kind::Invalid | Kind::NotFound | Kind::Forbidden | Kind::Conflict)
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Run(e) => e.kind(),
            Error::Database(e) => e.kind(),
            Error::Commit(e) => e.kind(),
            Error::Tree(e) => e.kind(),
            Error::Ingest(e) => e.kind(),
            Error::Store(e) => e.kind(),
            Error::NoDevice => Kind::NotFound,
            Error::Path(_) | Error::Ignore(_) => Kind::Invalid,
            Error::Lost(_) => Kind::Conflict,
            Error::Unreadable | Error::Disk { .. } | Error::Stopped(_) => Kind::Unavailable,
            Error::Task(_) => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Run(e) => e.code(),
            Error::Database(e) => e.code(),
            Error::Commit(e) => e.code(),
            Error::Tree(e) => e.code(),
            Error::Ingest(e) => e.code(),
            Error::Store(e) => e.code(),
            Error::NoDevice => "device.not_found",
            Error::Path(e) => e.code(),
            Error::Ignore(e) => e.code(),
            Error::Lost(e) => e.code(),
            Error::Unreadable => "remote.unreadable",
            Error::Disk { .. } => "remote.disk",
            Error::Task(_) => "internal",
            Error::Stopped(_) => "run.stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftless_sync::hash::ContentHash;

    #[test]
    fn contents_that_are_gone_at_the_commit_are_a_reason_to_try_again() {
        let missing = || store::Error::Missing(vec![ContentHash([0; 32])]);
        for e in [Error::Commit(commit::Error::Store(missing())), Error::Ingest(missing().into()), missing().into()] {
            assert!(!e.is_hopeless(), "{e}");
        }
        assert!(Error::NoDevice.is_hopeless());
    }
}
