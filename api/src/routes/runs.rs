//! Runs: what happened and happens, a person's say in it, and the calls of a client device that executes one.

mod parts;

use chrono::{DateTime, NaiveDate, Utc};
use driftless_domain::{
    Domain,
    runs::{self, client},
};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use serde_json::Value;
use uuid::Uuid;

use super::Tag;
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

pub(crate) use self::parts::RunState;
use self::parts::{LeftOutFile, RunCounts, RunError, RunOptions, RunProgress, RunTrigger};

/// A run.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Run {
    /// Names it.
    run_id: Uuid,
    /// The device that it syncs.
    device_id: String,
    /// The device's name.
    device_name: String,
    /// The schedule that it belongs to, while that exists.
    schedule_id: Option<i64>,
    /// Why it was made.
    trigger: RunTrigger,
    /// Whether it only plans.
    dry_run: bool,
    /// Where it is.
    state: RunState,
    /// What it may do.
    options: RunOptions,
    /// The local date that it stands for, when a schedule fired it.
    nominal_date: Option<NaiveDate>,
    /// The instant of the rule, before jitter.
    scheduled_for: Option<DateTime<Utc>>,
    /// How many dates a missed run stands for; 0 otherwise.
    missed_count: i32,
    /// Attempts that failed so far.
    attempts: i32,
    /// What the last failed attempt said.
    last_error: Option<String>,
    /// What the server had for the device when the run was planned.
    changes_detected: Option<i64>,
    /// Actions of the plan.
    planned: Option<i64>,
    /// A preview of the plan; only when a single run is asked for.
    plan: Option<Value>,
    /// What it did.
    counts: RunCounts,
    /// How far it is.
    progress: Option<RunProgress>,
    /// The first files that were left out; only when a single run is asked for.
    left_out: Vec<LeftOutFile>,
    /// How many files were left out.
    left_out_count: i64,
    /// How many deletions wait for approval, or were approved. They are listed at `/held`.
    held_count: i64,
    /// When its deletions were approved.
    approved_at: Option<DateTime<Utc>>,
    /// Until when the device holds it, while a client executes it.
    lease_until: Option<DateTime<Utc>>,
    /// Why it failed, was missed or was skipped.
    error: Option<RunError>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it last began to run.
    started_at: Option<DateTime<Utc>>,
    /// When it came to its final state.
    finished_at: Option<DateTime<Utc>>,
}

impl From<runs::Run> for Run {
    fn from(run: runs::Run) -> Self {
        Run {
            run_id: run.id,
            device_id: run.device_id,
            device_name: run.device_name,
            schedule_id: run.schedule_id,
            trigger: run.trigger.into(),
            dry_run: run.dry_run,
            state: run.state.into(),
            options: run.options.into(),
            nominal_date: run.nominal_date,
            scheduled_for: run.scheduled_for,
            missed_count: run.missed_count,
            attempts: run.attempts,
            last_error: run.last_error,
            changes_detected: run.changes_detected,
            planned: run.planned,
            plan: run.plan,
            counts: run.counts.into(),
            progress: run.progress.map(RunProgress::from),
            left_out: run.left_out.into_iter().map(LeftOutFile::from).collect(),
            left_out_count: run.left_out_count,
            held_count: run.held_count,
            approved_at: run.approved_at,
            lease_until: run.lease_until,
            error: run.error.map(|(code, detail)| RunError { code, detail }),
            created_at: run.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
        }
    }
}

/// A page of runs, the newest first.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct RunPage {
    /// The runs.
    runs: Vec<Run>,
    /// Send it as `cursor` for the next page; absent on the last.
    next_cursor: Option<String>,
}

/// Who loses a file by a deletion.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum DeletionSide {
    /// The device.
    Device,
    /// The tree.
    Server,
}

/// A deletion that waits for approval: exactly this version at this path.
#[derive(Object)]
struct HeldDeletion {
    /// Who loses the file.
    side: DeletionSide,
    /// Its path in the tree.
    path: String,
    /// The version that both sides last agreed on, or that the tree has.
    version: i64,
}

/// A page of held deletions.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct HeldPage {
    /// The deletions.
    deletions: Vec<HeldDeletion>,
    /// Send it as `cursor` for the next page; absent on the last.
    next_cursor: Option<String>,
}

/// A device's hold on a run.
#[derive(Object)]
struct RunClaim {
    /// The run.
    run_id: Uuid,
    /// Send it with every later call about the run.
    fence: i64,
    /// Until when the device holds the run without another call.
    lease_until: DateTime<Utc>,
    /// What the run may do.
    options: RunOptions,
    /// What the server had for the device when the run was planned.
    changes_detected: i64,
}

/// How far the device is.
#[derive(Object)]
struct ProgressReport {
    /// From the claim.
    fence: i64,
    #[oai(flatten)]
    progress: RunProgress,
}

/// The renewed hold.
#[derive(Object)]
struct RunLease {
    /// Until when the device holds the run without another call.
    lease_until: DateTime<Utc>,
}

/// How the device's attempt ended.
#[derive(Object)]
struct RunReport {
    /// From the claim.
    fence: i64,
    /// Absent when the device is done; else why not. The run then waits for another attempt, five in all.
    error: Option<RunError>,
    /// Actions of the device's plan.
    #[oai(default)]
    planned: i64,
    /// What it did.
    #[oai(default)]
    counts: RunCounts,
    /// What it did not do, and why; at most 10,000 files.
    #[oai(default)]
    left_out: Vec<LeftOutFile>,
}

impl From<RunReport> for client::Report {
    fn from(report: RunReport) -> Self {
        client::Report {
            error: report.error.map(|e| (e.code, e.detail)),
            planned: report.planned,
            counts: report.counts.into(),
            left_out: report.left_out.into_iter().map(runs::LeftOut::from).collect(),
        }
    }
}

#[derive(ApiResponse)]
enum RunChanged {
    /// Done; the run as it is now.
    #[oai(status = 200)]
    Done(Json<Run>),
}

pub(crate) struct Runs;

#[OpenApi(prefix_path = "/sync/runs", tag = "Tag::Sync")]
impl Runs {
    /// List runs
    ///
    /// The newest first, without plans and lists of files.
    #[oai(path = "/", method = "get", operation_id = "list_runs")]
    #[allow(clippy::too_many_arguments, reason = "one for each query parameter")]
    async fn list_runs(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// Only this device's.
        device_id: Query<Option<String>>,
        /// Only this schedule's.
        schedule_id: Query<Option<i64>>,
        /// Only those in this state.
        state: Query<Option<RunState>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Runs in a page, 1 to 1000.
        #[oai(default = "super::hundred")]
        limit: Query<i64>,
    ) -> Result<Json<RunPage>, ApiError> {
        let filter = runs::Filter {
            device_id: device_id.0,
            schedule_id: schedule_id.0,
            state: state.0.map(Into::into),
            before: super::position(cursor.0)?,
            limit: limit.0,
        };
        let mut tx = domain.begin(&auth.0).await?;
        let runs: Vec<Run> = runs::list(&mut tx, &auth.0, &filter).await?.into_iter().map(Run::from).collect();
        let next_cursor = super::next(&runs, limit.0, |run| run.run_id.to_string());
        Ok(Json(RunPage { runs, next_cursor }))
    }

    /// Look at a run
    #[oai(path = "/:run_id", method = "get", operation_id = "get_run")]
    async fn get_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
    ) -> Result<Json<Run>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        Ok(Json(runs::get(&mut tx, &auth.0, run_id.0).await?.into()))
    }

    /// List the deletions that a run holds
    #[oai(path = "/:run_id/held", method = "get", operation_id = "list_held_deletions")]
    async fn list_held_deletions(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Deletions in a page, 1 to 1000.
        #[oai(default = "super::hundred")]
        limit: Query<i64>,
    ) -> Result<Json<HeldPage>, ApiError> {
        let after = super::position(cursor.0)?.unwrap_or(0);
        let mut tx = domain.begin(&auth.0).await?;
        let held = runs::held_deletions(&mut tx, &auth.0, run_id.0, after, limit.0).await?;
        let next_cursor = super::next(&held, limit.0, |(n, _)| n.to_string());
        let show = |(_, d): (i32, runs::HeldDeletion)| HeldDeletion {
            side: if d.side == runs::Side::Device { DeletionSide::Device } else { DeletionSide::Server },
            path: d.path,
            version: d.version,
        };
        Ok(Json(HeldPage { deletions: held.into_iter().map(show).collect(), next_cursor }))
    }

    /// End a run
    ///
    /// One that a worker executes ends at its next step, the others at once.
    #[oai(path = "/:run_id/cancel", method = "post", operation_id = "cancel_run")]
    async fn cancel_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
    ) -> Result<RunChanged, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let run = runs::cancel(&mut tx, &auth.0, run_id.0).await?;
        tx.commit().await?;
        Ok(RunChanged::Done(Json(run.into())))
    }

    /// Let a held run carry out the deletions that it lists
    #[oai(path = "/:run_id/approve", method = "post", operation_id = "approve_run")]
    async fn approve_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
    ) -> Result<RunChanged, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let run = runs::approve(&mut tx, &auth.0, run_id.0).await?;
        tx.commit().await?;
        Ok(RunChanged::Done(Json(run.into())))
    }

    /// End a held run without its deletions
    #[oai(path = "/:run_id/discard", method = "post", operation_id = "discard_run")]
    async fn discard_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
    ) -> Result<RunChanged, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let run = runs::discard(&mut tx, &auth.0, run_id.0).await?;
        tx.commit().await?;
        Ok(RunChanged::Done(Json(run.into())))
    }

    /// Take a run that waits for this device
    ///
    /// The device holds it for five minutes; each call about progress renews that.
    #[oai(path = "/:run_id/claim", method = "post", operation_id = "claim_run")]
    async fn claim_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
    ) -> Result<Json<RunClaim>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let held = client::claim(&mut tx, &auth.0, run_id.0).await?;
        tx.commit().await?;
        Ok(Json(RunClaim {
            run_id: run_id.0,
            fence: held.fence,
            lease_until: held.lease_until,
            options: held.options.into(),
            changes_detected: held.changes_detected,
        }))
    }

    /// Say how far the device is
    #[oai(path = "/:run_id/progress", method = "post", operation_id = "report_run_progress")]
    async fn report_run_progress(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
        body: JsonBody<ProgressReport>,
    ) -> Result<Json<RunLease>, ApiError> {
        let RunProgress { files_done, files_total, bytes_done, bytes_total } = body.0.progress;
        let progress = runs::Progress { files_done, files_total, bytes_done, bytes_total };
        let mut tx = domain.begin(&auth.0).await?;
        let lease_until = client::progress(&mut tx, &auth.0, run_id.0, body.0.fence, &progress).await?;
        tx.commit().await?;
        Ok(Json(RunLease { lease_until }))
    }

    /// Say how the device's attempt ended
    ///
    /// A report of success fails the run when changes of the tree were neither acknowledged nor left out with a reason, or
    /// when fewer actions were executed than planned. Saying so again answers the same.
    #[oai(path = "/:run_id/report", method = "post", operation_id = "report_run")]
    async fn report_run(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The run's id.
        run_id: Path<Uuid>,
        body: JsonBody<RunReport>,
    ) -> Result<RunChanged, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let fence = body.0.fence;
        let run = client::report(&mut tx, &auth.0, run_id.0, fence, &body.0.into()).await?;
        tx.commit().await?;
        Ok(RunChanged::Done(Json(run.into())))
    }
}
