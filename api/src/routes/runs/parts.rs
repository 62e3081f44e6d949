//! What a run is made of: its state, why it was started, what it was told, what it counted and left out.

use driftless_domain::runs;
use poem_openapi::{Enum, Object};

use crate::routes::schedules::{ConflictPolicy, SyncDirection};

/// Where a run is. The last five are final.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
pub(crate) enum RunState {
    /// Waits for a worker.
    Queued,
    /// A worker or the device executes it.
    Running,
    /// Waits for its device to claim it.
    WaitingForDevice,
    /// Its deletions wait for approval.
    Held,
    /// Done.
    Succeeded,
    /// Given up; the error says why.
    Failed,
    /// A person ended it.
    Cancelled,
    /// It never ran; the error says why.
    Missed,
    /// Another run of the device was in its way.
    Skipped,
}

impl From<runs::State> for RunState {
    fn from(state: runs::State) -> Self {
        match state {
            runs::State::Queued => RunState::Queued,
            runs::State::Running => RunState::Running,
            runs::State::WaitingForDevice => RunState::WaitingForDevice,
            runs::State::Held => RunState::Held,
            runs::State::Succeeded => RunState::Succeeded,
            runs::State::Failed => RunState::Failed,
            runs::State::Cancelled => RunState::Cancelled,
            runs::State::Missed => RunState::Missed,
            runs::State::Skipped => RunState::Skipped,
        }
    }
}

impl From<RunState> for runs::State {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Queued => runs::State::Queued,
            RunState::Running => runs::State::Running,
            RunState::WaitingForDevice => runs::State::WaitingForDevice,
            RunState::Held => runs::State::Held,
            RunState::Succeeded => runs::State::Succeeded,
            RunState::Failed => runs::State::Failed,
            RunState::Cancelled => runs::State::Cancelled,
            RunState::Missed => runs::State::Missed,
            RunState::Skipped => runs::State::Skipped,
        }
    }
}

/// Why a run was made.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
pub(super) enum RunTrigger {
    /// Its schedule's time came.
    Schedule,
    /// A person asked.
    Manual,
    /// Something changed.
    OnChange,
}

impl From<runs::Trigger> for RunTrigger {
    fn from(trigger: runs::Trigger) -> Self {
        match trigger {
            runs::Trigger::Schedule => RunTrigger::Schedule,
            runs::Trigger::Manual => RunTrigger::Manual,
            runs::Trigger::OnChange => RunTrigger::OnChange,
        }
    }
}

/// What a run may do.
#[derive(Object)]
pub(super) struct RunOptions {
    /// Whether deletions of one side are carried out on the other.
    sync_deletions: bool,
    /// Who wins when both sides changed a file.
    resolve_conflicts: ConflictPolicy,
    /// Which side it may change.
    direction: SyncDirection,
}

impl From<runs::Options> for RunOptions {
    fn from(options: runs::Options) -> Self {
        RunOptions {
            sync_deletions: options.sync_deletions,
            resolve_conflicts: options.resolve_conflicts.into(),
            direction: options.direction.into(),
        }
    }
}

/// What a run did, in files and bytes.
#[derive(Object, Default)]
#[oai(default)]
pub(super) struct RunCounts {
    /// Actions of the plan that were carried out.
    executed: i64,
    /// Files from the device to the tree.
    uploaded: i64,
    /// Files from the tree to the device.
    downloaded: i64,
    /// Files deleted on the device.
    deleted_on_device: i64,
    /// Files deleted in the tree.
    deleted_on_server: i64,
    /// Files and folders moved, on either side.
    moved: i64,
    /// Folders made, on either side.
    folders: i64,
    /// Conflicts that were decided by the policy.
    conflicts: i64,
    /// Files that are not synced or could not be looked at.
    skipped: i64,
    /// Bytes from the device to the tree.
    bytes_uploaded: i64,
    /// Bytes from the tree to the device.
    bytes_downloaded: i64,
}

impl From<runs::Counts> for RunCounts {
    fn from(c: runs::Counts) -> Self {
        RunCounts {
            executed: c.executed,
            uploaded: c.uploaded,
            downloaded: c.downloaded,
            deleted_on_device: c.deleted_on_device,
            deleted_on_server: c.deleted_on_server,
            moved: c.moved,
            folders: c.folders,
            conflicts: c.conflicts,
            skipped: c.skipped,
            bytes_uploaded: c.bytes_uploaded,
            bytes_downloaded: c.bytes_downloaded,
        }
    }
}

impl From<RunCounts> for runs::Counts {
    fn from(c: RunCounts) -> Self {
        runs::Counts {
            executed: c.executed,
            uploaded: c.uploaded,
            downloaded: c.downloaded,
            deleted_on_device: c.deleted_on_device,
            deleted_on_server: c.deleted_on_server,
            moved: c.moved,
            folders: c.folders,
            conflicts: c.conflicts,
            skipped: c.skipped,
            bytes_uploaded: c.bytes_uploaded,
            bytes_downloaded: c.bytes_downloaded,
        }
    }
}

/// How far a run is.
#[derive(Object, Default)]
#[oai(default)]
pub(super) struct RunProgress {
    /// Files dealt with.
    pub(super) files_done: i64,
    /// Of how many.
    pub(super) files_total: i64,
    /// Bytes moved.
    pub(super) bytes_done: i64,
    /// Of how many.
    pub(super) bytes_total: i64,
}

impl From<runs::Progress> for RunProgress {
    fn from(p: runs::Progress) -> Self {
        let runs::Progress { files_done, files_total, bytes_done, bytes_total } = p;
        RunProgress { files_done, files_total, bytes_done, bytes_total }
    }
}

/// A file that was skipped or unknown, and why.
#[derive(Object)]
pub(super) struct LeftOutFile {
    /// Its path in the tree, or as the device writes it where it has none.
    path: String,
    /// A code, like `name.clash` or `file.unstable`.
    reason: String,
    /// Whether the plan held an action for it, which was not executed.
    #[oai(default)]
    planned: bool,
}

impl From<runs::LeftOut> for LeftOutFile {
    fn from(file: runs::LeftOut) -> Self {
        LeftOutFile { path: file.path, reason: file.reason, planned: file.planned }
    }
}

impl From<LeftOutFile> for runs::LeftOut {
    fn from(file: LeftOutFile) -> Self {
        runs::LeftOut { path: file.path, reason: file.reason, planned: file.planned }
    }
}

/// Why something did not come about.
#[derive(Object)]
pub(super) struct RunError {
    /// A stable code.
    pub(super) code: String,
    /// In words.
    pub(super) detail: String,
}
