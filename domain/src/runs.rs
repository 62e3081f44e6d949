//! Runs: one execution of a sync each, and the only writers of a run's state.
//!
//! Invariant: a run moves only along the table of docs/sync.md, every takeover raises its fence, every write of whoever
//! executes it checks that fence, and a run whose plan holds actions never succeeds with fewer executed. Here: what a
//! person sees and does. [`execution`] is the worker's side, [`client`] the device's, [`rescue`] the sweep's.

pub mod client;
pub mod execution;
pub(crate) mod held;
mod list;
pub mod rescue;

use chrono::{DateTime, NaiveDate, Utc};
use driftless_queue::NewJob;
use driftless_sync::{conflict::Policy, plan};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::{NoContext, Timestamp, Uuid};

pub use execution::{Execution, Job, Signal, Started, start};
pub use list::{Filter, get, held_deletions, list};

use crate::{
    Actor, audit,
    db::{self, Tx},
    devices,
    error::{Fault, Kind},
    remotes,
    schedules::{Direction, Resolution},
};

/// How many attempts of a run may fail before it fails.
pub const MAX_ATTEMPTS: i32 = 5;
/// How often a run may be taken over from a worker or device that died; more is a run that kills them.
pub const MAX_TAKEOVERS: i64 = 100;
/// How many files that were left out are named in a run; the rest is counted.
pub const MAX_LEFT_OUT: usize = 1000;

/// Why an operation on runs failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such run, or another user's.
    #[error("there is no run with this id")]
    NotFound,
    /// No such schedule, or another user's.
    #[error("there is no schedule with this id")]
    NoSchedule,
    /// The run's state rules it out.
    #[error("the run is {0}, which rules this out")]
    State(State),
    /// Another run of the device runs.
    #[error("another run of this device runs or is held")]
    DeviceBusy,
    /// The caller lost the run: it was taken over, cancelled or ended.
    #[error("this run was taken over or has ended; stop and claim anew")]
    Superseded,
    /// A field that can't be.
    #[error("{problem}")]
    Invalid {
        /// Stable code.
        code: &'static str,
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The database failed.
    #[error("runs could not be read or written")]
    Db(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        match db::constraint(&e) {
            Some("runs_one_running") => Error::DeviceBusy,
            _ => Error::Db(e.into()),
        }
    }
}

impl From<driftless_queue::Error> for Error {
    fn from(e: driftless_queue::Error) -> Self {
        match e {
            driftless_queue::Error::LeaseLost => Error::Superseded,
            e => Error::Db(e.into()),
        }
    }
}

impl From<devices::Error> for Error {
    fn from(e: devices::Error) -> Self {
        match e {
            devices::Error::Db(e) => Error::Db(e),
            devices::Error::Invalid { code, field, problem } => Error::Invalid { code, field, problem },
            _ => Error::NotFound,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound | Error::NoSchedule => Kind::NotFound,
            Error::State(_) | Error::DeviceBusy | Error::Superseded => Kind::Conflict,
            Error::Invalid { .. } => Kind::Invalid,
            Error::Db(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NotFound => "run.not_found",
            Error::NoSchedule => "schedule.not_found",
            Error::State(_) => "run.wrong_state",
            Error::DeviceBusy => "run.device_busy",
            Error::Superseded => "run.superseded",
            Error::Invalid { code, .. } => code,
            Error::Db(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Db(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Where a run is. The last five are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
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
    /// Given up; error_code says why.
    Failed,
    /// A person ended it.
    Cancelled,
    /// It never ran, and says why.
    Missed,
    /// Another run of the device was in its way.
    Skipped,
}

impl State {
    /// As the API and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::WaitingForDevice => "waiting_for_device",
            State::Held => "held",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Missed => "missed",
            State::Skipped => "skipped",
        }
    }

    /// Whether it stays as it is for ever.
    pub fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Running | State::WaitingForDevice | State::Held)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a run was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Trigger {
    /// Its schedule's time came.
    Schedule,
    /// A person asked.
    Manual,
    /// Something changed.
    OnChange,
}

impl Trigger {
    /// As the API and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Schedule => "schedule",
            Trigger::Manual => "manual",
            Trigger::OnChange => "on_change",
        }
    }
}

/// What a run may do, from its schedule at the time it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether deletions of one side are carried out on the other.
    pub sync_deletions: bool,
    /// Who wins a conflict.
    pub resolve_conflicts: Resolution,
    /// Which side may be changed.
    pub direction: Direction,
}

impl Options {
    /// As the plan takes them.
    pub(crate) fn rules(self, now: DateTime<Utc>, device_name: String) -> plan::Rules {
        plan::Rules {
            direction: match self.direction {
                Direction::Both => plan::Direction::Both,
                Direction::Upload => plan::Direction::Upload,
                Direction::Download => plan::Direction::Download,
            },
            policy: match self.resolve_conflicts {
                Resolution::KeepNewest => Policy::KeepNewest,
                Resolution::KeepLocal => Policy::KeepLocal,
                Resolution::KeepServer => Policy::KeepServer,
                Resolution::KeepBoth => Policy::KeepBoth,
                Resolution::Ask => Policy::Ask,
            },
            sync_deletions: self.sync_deletions,
            now,
            device_name,
        }
    }
}

/// What a run did, in files and bytes. `executed` counts actions of the plan, whatever their sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Actions of the plan that were carried out.
    pub executed: i64,
    /// Files from the device to the tree.
    pub uploaded: i64,
    /// Files from the tree to the device.
    pub downloaded: i64,
    /// Files deleted on the device.
    pub deleted_on_device: i64,
    /// Files deleted in the tree.
    pub deleted_on_server: i64,
    /// Files and folders moved, on either side.
    pub moved: i64,
    /// Folders made, on either side.
    pub folders: i64,
    /// Conflicts that were decided by the policy.
    pub conflicts: i64,
    /// Files that are not synced or could not be looked at.
    pub skipped: i64,
    /// Bytes from the device to the tree.
    pub bytes_uploaded: i64,
    /// Bytes from the tree to the device.
    pub bytes_downloaded: i64,
}

/// How far a running run is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Files dealt with.
    pub files_done: i64,
    /// Of how many.
    pub files_total: i64,
    /// Bytes moved.
    pub bytes_done: i64,
    /// Of how many.
    pub bytes_total: i64,
}

/// A file that was skipped or unknown, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Where it is: a path of the tree, or as the device writes it where it has none.
    pub path: String,
    /// A code, like `name.clash` or `file.unstable`.
    pub reason: String,
    /// Whether the plan held an action for it, which therefore was not executed.
    #[serde(default)]
    pub planned: bool,
}

/// Who loses a file by a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Side {
    /// The device.
    Device,
    /// The tree.
    Server,
}

impl Side {
    /// As the API and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Device => "device",
            Side::Server => "server",
        }
    }
}

/// A deletion that waits for approval: exactly this version at this path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::FromRow)]
pub struct HeldDeletion {
    /// Who loses the file.
    pub side: Side,
    /// Its path in the tree.
    pub path: String,
    /// The version (seq) that both sides last agreed on, or that the tree has.
    pub version: i64,
}

/// A run as its owner sees it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Names the run.
    pub id: Uuid,
    /// The device's text.
    pub device_id: String,
    /// The device's name.
    pub device_name: String,
    /// The schedule it belongs to, while that exists.
    pub schedule_id: Option<i64>,
    /// Why it was made.
    pub trigger: Trigger,
    /// Whether it only plans.
    pub dry_run: bool,
    /// Where it is.
    pub state: State,
    /// What it may do.
    pub options: Options,
    /// The local date that it stands for, when a schedule fired it.
    pub nominal_date: Option<NaiveDate>,
    /// The instant of the rule, before jitter.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// How many dates a missed run stands for; 0 otherwise.
    pub missed_count: i32,
    /// Attempts that failed so far.
    pub attempts: i32,
    /// What the last failed attempt said.
    pub last_error: Option<String>,
    /// What the server had for the device when the run was planned.
    pub changes_detected: Option<i64>,
    /// Actions of the plan.
    pub planned: Option<i64>,
    /// A preview of the plan; only in [`get`].
    pub plan: Option<Value>,
    /// What it did.
    pub counts: Counts,
    /// How far it is, while it runs.
    pub progress: Option<Progress>,
    /// The first files that were left out, with the reason; only in [`get`].
    pub left_out: Vec<LeftOut>,
    /// How many were left out.
    pub left_out_count: i64,
    /// How many deletions wait for approval, or were approved.
    pub held_count: i64,
    /// When its deletions were approved.
    pub approved_at: Option<DateTime<Utc>>,
    /// Until when the device holds it, while a client executes it.
    pub lease_until: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<(String, String)>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last began to run.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its final state.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A new id for a run made at `now`: ids sort as the runs were made, whatever the clocks of the machines say.
pub(crate) fn new_id(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.timestamp_subsec_nanos()))
}

/// The job that executes a run. Client devices' runs are planned by any worker; a remote's run goes to those who see its root.
/// The key keeps it to one waiting job a run. Attempts are counted in the run; the job's own bound only stops what kills workers.
pub(crate) fn job(run: Uuid, remote_root: Option<Uuid>) -> NewJob {
    let queue = remote_root.map_or_else(|| "sync".to_owned(), remotes::queue);
    NewJob::new(queue, "run_sync", &json!({"run_id": run})).max_attempts(100).unique_key(format!("run:{run}"))
}

/// Queues the job of a run, after `delay` seconds.
pub(crate) async fn enqueue(tx: &mut Tx, run: Uuid, delay: i64) -> Result<(), Error> {
    let root: Option<Uuid> =
        sqlx::query_scalar("select d.remote_root from runs r join devices d on d.id = r.device_id where r.id = $1")
            .bind(run)
            .fetch_one(&mut **tx)
            .await?;
    let job = job(run, root);
    let at = tx.now().await? + chrono::TimeDelta::seconds(delay);
    tx.enqueue(&if delay > 0 { job.run_at(at) } else { job }).await?;
    Ok(())
}

/// Queues the device's next waiting run once one has ended: a run that met another steps back without a job.
pub(crate) async fn wake_next(tx: &mut Tx, device: i64) -> Result<(), Error> {
    let next: Option<Uuid> = sqlx::query_scalar(
        "select id from runs where device_id = $1 and state in ('queued', 'running', 'waiting_for_device', 'held')
         and state = 'queued' order by id limit 1",
    )
    .bind(device)
    .fetch_optional(&mut **tx)
    .await?;
    match next {
        Some(run) => enqueue(tx, run, 0).await,
        None => Ok(()),
    }
}

/// Runs a schedule's device now. While a run of it is open, that one is the answer; `dry_run` only plans.
pub async fn run_now(tx: &mut Tx, actor: &Actor, schedule_id: i64, dry_run: bool) -> Result<Uuid, Error> {
    let device: i64 =
        sqlx::query_scalar("select device_id from schedules where user_id = $1 and id = $2 for key share")
            .bind(actor.user_id())
            .bind(schedule_id)
            .fetch_optional(&mut **tx)
            .await?
            .ok_or(Error::NoSchedule)?;
    // Two requests at once take turns here, so the second finds the first one's run.
    devices::lock(tx, device).await?;
    let open: Option<Uuid> = sqlx::query_scalar(
        "select id from runs where device_id = $1 and state in ('queued', 'running', 'waiting_for_device', 'held')
         and dry_run = $2 order by (state = 'running') desc, id limit 1",
    )
    .bind(device)
    .bind(dry_run)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(run) = open {
        return Ok(run);
    }
    let run = new_id(tx.now().await?);
    sqlx::query(
        "insert into runs (id, user_id, device_id, schedule_id, trigger, dry_run, sync_deletions, resolve_conflicts, direction, state)
         select $1, user_id, device_id, id, 'manual', $3, sync_deletions, resolve_conflicts, direction, 'queued'
         from schedules where id = $2",
    )
    .bind(run)
    .bind(schedule_id)
    .bind(dry_run)
    .execute(&mut **tx)
    .await?;
    enqueue(tx, run, 0).await?;
    let details = json!({"run_id": run, "schedule_id": schedule_id, "dry_run": dry_run});
    audit::record(tx, audit::Entry::new("sync_run_requested").by(actor).about("sync_run", run).details(details))
        .await?;
    Ok(run)
}

async fn lock_device_of(tx: &mut Tx, run: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("select from devices where id = (select device_id from runs where id = $1) for no key update")
        .bind(run)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A run's state and device, locked until the transaction ends.
pub(crate) async fn lock(tx: &mut Tx, actor: &Actor, run: Uuid) -> Result<(State, i64), Error> {
    lock_device_of(tx, run).await?;
    sqlx::query_as("select state, device_id from runs where user_id = $1 and id = $2 for no key update")
        .bind(actor.user_id())
        .bind(run)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or(Error::NotFound)
}

/// Ends a run that has not ended. One that a worker executes ends at its next step, the others at once.
pub async fn cancel(tx: &mut Tx, actor: &Actor, run: Uuid) -> Result<Run, Error> {
    let (state, device) = lock(tx, actor, run).await?;
    let by_worker: bool =
        sqlx::query_scalar("select state = 'running' and claim_job is not null from runs where id = $1")
            .bind(run)
            .fetch_one(&mut **tx)
            .await?;
    match state {
        s if s.is_final() || s == State::Held => return Err(Error::State(s)),
        _ if by_worker => {
            sqlx::query("update runs set cancel_requested = true where id = $1").bind(run).execute(&mut **tx).await?;
        }
        _ => end_cancelled(tx, run, device).await?,
    }
    changed(tx, actor, "sync_run_cancelled", run).await
}

/// Lets a held run carry out exactly the deletions that it lists.
pub async fn approve(tx: &mut Tx, actor: &Actor, run: Uuid) -> Result<Run, Error> {
    let (state, _) = lock(tx, actor, run).await?;
    if state != State::Held {
        return Err(Error::State(state));
    }
    sqlx::query("update runs set state = 'queued', approved_at = queue.now(), fence = fence + 1 where id = $1")
        .bind(run)
        .execute(&mut **tx)
        .await?;
    enqueue(tx, run, 0).await?;
    changed(tx, actor, "sync_run_approved", run).await
}

/// Ends a held run without its deletions.
pub async fn discard(tx: &mut Tx, actor: &Actor, run: Uuid) -> Result<Run, Error> {
    let (state, device) = lock(tx, actor, run).await?;
    if state != State::Held {
        return Err(Error::State(state));
    }
    end_cancelled(tx, run, device).await?;
    changed(tx, actor, "sync_run_discarded", run).await
}

async fn end_cancelled(tx: &mut Tx, run: Uuid, device: i64) -> Result<(), Error> {
    sqlx::query(
        "update runs set state = 'cancelled', finished_at = queue.now(), lease_until = null, fence = fence + 1 where id = $1",
    )
    .bind(run)
    .execute(&mut **tx)
    .await?;
    wake_next(tx, device).await
}

/// Audits what a person did to a run, and shows it as it is now.
async fn changed(tx: &mut Tx, actor: &Actor, action: &'static str, run: Uuid) -> Result<Run, Error> {
    let details = json!({"run_id": run});
    audit::record(tx, audit::Entry::new(action).by(actor).about("sync_run", run).details(details)).await?;
    get(tx, actor, run).await
}

/// The audit entry of a firing: the shape that docs/sync.md promises.
pub(crate) struct Firing<'a> {
    pub user: i64,
    pub run: Uuid,
    pub schedule: Option<i64>,
    pub device_id: &'a str,
    pub trigger: Trigger,
    pub changes_detected: i64,
    pub counts: Option<&'a Counts>,
    pub error: Option<(&'a str, &'a str)>,
}

impl Firing<'_> {
    pub(crate) async fn record(self, tx: &mut Tx) -> Result<(), Error> {
        let mut details = json!({
            "schedule_id": self.schedule,
            "device_id": self.device_id,
            "run_id": self.run,
            "changes_detected": self.changes_detected,
            "trigger": self.trigger.as_str(),
        });
        if let Some(counts) = self.counts {
            details["counts"] = json!(counts);
        }
        if let Some((_, detail)) = self.error {
            details["error"] = json!(detail);
        }
        let mut entry = audit::Entry::new("sync_schedule_execution")
            .of(self.user)
            .about("sync_schedule", self.device_id)
            .details(details);
        if let Some((code, _)) = self.error {
            entry = entry.error(code);
        }
        Ok(audit::record(tx, entry).await?)
    }
}

/// The first [`MAX_LEFT_OUT`] of them, for the row of the run.
pub(crate) fn shown(left_out: &[LeftOut]) -> Json<&[LeftOut]> {
    Json(&left_out[..left_out.len().min(MAX_LEFT_OUT)])
}
