//! Runs of client devices: planned here, executed there.
//!
//! Invariant: the server never takes the device's word for more than it can see. A report of success with changes that the
//! device has neither acknowledged nor named as left out makes the run failed. The device's claim is a lease of five minutes
//! that progress renews; its number (fence) belongs into every later call, so a device that lost the run can't write it.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{
    Counts, Error, LeftOut, MAX_ATTEMPTS, Options, Progress, Run, State, execution::Taken, get, held, lock, shown,
    wake_next,
};
use crate::{
    Actor, Tx, audit,
    devices::DeviceKind,
    reports,
    schedules::{Direction, Resolution},
};

/// How long a device holds a run without calling.
pub const LEASE: TimeDelta = TimeDelta::minutes(5);
/// Most files that a report may name as left out.
pub const MAX_REPORTED: usize = 10_000;

/// A device's hold on a run.
#[derive(Debug, Clone)]
pub struct Held {
    /// Belongs into every later call about the run.
    pub fence: i64,
    /// Until when it holds without another call.
    pub lease_until: DateTime<Utc>,
    /// What the run may do.
    pub options: Options,
    /// What the server had for the device when the run was planned.
    pub changes_detected: i64,
}

/// How the device's attempt ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// None when it is done, else a code and a sentence.
    pub error: Option<(String, String)>,
    /// Actions of the device's plan.
    pub planned: i64,
    /// What it did.
    pub counts: Counts,
    /// What it did not, and why.
    pub left_out: Vec<LeftOut>,
}

/// What the server has for the device up to `head`: entries that others changed after the device's cursor.
const CHANGES: &str = "
    select count(distinct v.entry_id) from devices d join heads h on h.user_id = d.user_id
    join versions v on v.user_id = d.user_id and v.seq > case when d.cursor_epoch = h.epoch then d.cursor_seq else 0 end
    where d.id = $1 and v.seq <= $2 and v.kind <> 7 and v.device_id is distinct from d.id";

/// Plans a client's run in the transaction that holds it, audits the firing, and leaves the run to its device.
pub(super) async fn plan(tx: &mut Tx, taken: &Taken) -> Result<(), Error> {
    let head: i64 =
        sqlx::query_scalar("select seq from heads where user_id = $1").bind(taken.user_id).fetch_one(&mut **tx).await?;
    let changes = changes(tx, taken.device, head).await?;
    let next = if taken.dry_run { State::Succeeded } else { State::WaitingForDevice };
    sqlx::query(
        "update runs set state = $2, fence = fence + 1, changes_detected = $3, planned_head = $4,
                finished_at = case when dry_run then queue.now() end,
                plan = jsonb_build_object('changes_on_server', $3::bigint) where id = $1",
    )
    .bind(taken.id)
    .bind(next.as_str())
    .bind(changes)
    .bind(head)
    .execute(&mut **tx)
    .await?;
    if taken.dry_run {
        return Ok(());
    }
    taken.firing(changes).record(tx).await
}

async fn changes(tx: &mut Tx, device: i64, head: i64) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(CHANGES).bind(device).bind(head).fetch_one(&mut **tx).await?)
}

#[derive(FromRow)]
struct Claimable {
    kind: DeviceKind,
    lease_until: Option<DateTime<Utc>>,
    sync_deletions: bool,
    resolve_conflicts: Resolution,
    direction: Direction,
    changes_detected: Option<i64>,
}

/// The device takes a run that waits for it, or one whose holder has not called for the length of the lease.
pub async fn claim(tx: &mut Tx, actor: &Actor, run: Uuid) -> Result<Held, Error> {
    let (state, device) = lock(tx, actor, run).await?;
    let now = tx.now().await?;
    let row: Claimable = sqlx::query_as(
        "select d.kind, r.lease_until, r.sync_deletions, r.resolve_conflicts, r.direction, r.changes_detected
         from runs r join devices d on d.id = r.device_id where r.id = $1",
    )
    .bind(run)
    .fetch_one(&mut **tx)
    .await?;
    match state {
        State::WaitingForDevice => {}
        State::Running if row.kind == DeviceKind::Client && row.lease_until.is_none_or(|until| until <= now) => {
            if expire(tx, run).await? != State::WaitingForDevice {
                return Err(Error::State(State::Failed));
            }
        }
        s => return Err(Error::State(s)),
    }
    let lease_until = now + LEASE;
    let fence = sqlx::query_scalar(
        "update runs set state = 'running', fence = fence + 1, started_at = queue.now(), lease_until = $2, progress = null
         where id = $1 returning fence",
    )
    .bind(run)
    .bind(lease_until)
    .fetch_one(&mut **tx)
    .await?;
    seen(tx, device).await?;
    Ok(Held {
        fence,
        lease_until,
        options: Options {
            sync_deletions: row.sync_deletions,
            resolve_conflicts: row.resolve_conflicts,
            direction: row.direction,
        },
        changes_detected: row.changes_detected.unwrap_or(0),
    })
}

/// The device says how far it is, and holds the run for another lease. Answers until when.
pub async fn progress(
    tx: &mut Tx,
    actor: &Actor,
    run: Uuid,
    fence: i64,
    progress: &Progress,
) -> Result<DateTime<Utc>, Error> {
    let numbers = [progress.files_done, progress.files_total, progress.bytes_done, progress.bytes_total];
    if numbers.iter().any(|n| *n < 0) {
        invalid("progress", "files and bytes can't be negative")?;
    }
    let device = held_by(tx, actor, run, fence).await?;
    let lease_until = tx.now().await? + LEASE;
    sqlx::query("update runs set progress = $2, lease_until = $3 where id = $1")
        .bind(run)
        .bind(Json(progress))
        .bind(lease_until)
        .execute(&mut **tx)
        .await?;
    seen(tx, device).await?;
    Ok(lease_until)
}

/// The device has ended its attempt. Saying so again answers the same.
pub async fn report(tx: &mut Tx, actor: &Actor, run: Uuid, fence: i64, report: &Report) -> Result<Run, Error> {
    check(report)?;
    let device = match held_by(tx, actor, run, fence).await {
        Ok(device) => device,
        Err(Error::Superseded) if reported_before(tx, run, fence).await? => return get(tx, actor, run).await,
        Err(e) => return Err(e),
    };
    sqlx::query(
        "update runs set counts = $2, left_out = $3, left_out_count = $4, planned = $5, lease_until = null where id = $1",
    )
    .bind(run)
    .bind(Json(&report.counts))
    .bind(shown(&report.left_out))
    .bind(report.left_out.len() as i64)
    .bind(report.planned)
    .execute(&mut **tx)
    .await?;
    match &report.error {
        Some((code, detail)) => attempt_failed(tx, run, code, detail).await?,
        None => match shortfall(tx, actor, run, device, report).await? {
            Some(detail) => super::execution::set_failed(tx, run, "run.incomplete", &detail).await?,
            None if held::waiting(tx, run).await? > 0 => set_held(tx, run).await?,
            None => succeed(tx, run, device).await?,
        },
    }
    seen(tx, device).await?;
    let after = get(tx, actor, run).await?;
    if after.state.is_final() {
        wake_next(tx, device).await?;
    }
    record(tx, actor, &after).await?;
    Ok(after)
}

/// A device that holds the run with this fence; its number.
async fn held_by(tx: &mut Tx, actor: &Actor, run: Uuid, fence: i64) -> Result<i64, Error> {
    let (state, device) = lock(tx, actor, run).await?;
    let held: bool = sqlx::query_scalar("select fence = $2 and lease_until is not null from runs where id = $1")
        .bind(run)
        .bind(fence)
        .fetch_one(&mut **tx)
        .await?;
    if state == State::Running && held { Ok(device) } else { Err(Error::Superseded) }
}

/// Whether the run ended by a report of this very claim, whose answer the device may have lost.
async fn reported_before(tx: &mut Tx, run: Uuid, fence: i64) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select fence = $2 and (state in ('succeeded', 'failed', 'held') or state = 'waiting_for_device' and attempts > 0)
         from runs where id = $1",
    )
    .bind(run)
    .bind(fence)
    .fetch_one(&mut **tx)
    .await?)
}

/// Why a report of success is not one; none when it is.
async fn shortfall(
    tx: &mut Tx,
    actor: &Actor,
    run: Uuid,
    device: i64,
    report: &Report,
) -> Result<Option<String>, Error> {
    let left_out = report.left_out.iter().filter(|l| l.planned).count() as i64;
    let accounted = report.counts.executed.saturating_add(left_out);
    if accounted != report.planned {
        return Ok(Some(format!(
            "of {} planned actions {} were executed or left out with a reason",
            report.planned, accounted
        )));
    }
    let (head, direction): (Option<i64>, Direction) =
        sqlx::query_as("select planned_head, direction from runs where id = $1").bind(run).fetch_one(&mut **tx).await?;
    if direction == Direction::Upload {
        return Ok(None);
    }
    let unacknowledged = reports::unacknowledged(tx, actor.user_id(), device, head.unwrap_or(0)).await;
    let unacknowledged = unacknowledged.map_err(|e| match e {
        reports::Error::Database(e) => Error::Db(e),
        _ => Error::NotFound,
    })?;
    // Deletions that wait for a person can't be acknowledged yet.
    let missing = unacknowledged - report.left_out.len() as i64 - held::waiting(tx, run).await?;
    Ok((missing > 0).then(|| {
        format!("{missing} changes of the tree were neither acknowledged (POST /api/sync/changes/ack) nor left out with a reason")
    }))
}

/// The device has done the rest; the deletions wait for a person.
async fn set_held(tx: &mut Tx, run: Uuid) -> Result<(), Error> {
    sqlx::query("update runs set state = 'held', lease_until = null where id = $1")
        .bind(run)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn succeed(tx: &mut Tx, run: Uuid, device: i64) -> Result<(), Error> {
    sqlx::query("update runs set state = 'succeeded', finished_at = queue.now(), last_error = null where id = $1")
        .bind(run)
        .execute(&mut **tx)
        .await?;
    sqlx::query("update devices set last_sync_at = queue.now() where id = $1").bind(device).execute(&mut **tx).await?;
    Ok(())
}

/// Counts a failed attempt: the run waits for its device again, or has failed.
async fn attempt_failed(tx: &mut Tx, run: Uuid, code: &str, detail: &str) -> Result<(), Error> {
    let attempts: i32 =
        sqlx::query_scalar("update runs set attempts = attempts + 1, last_error = $2 where id = $1 returning attempts")
            .bind(run)
            .bind(format!("{code}: {detail}"))
            .fetch_one(&mut **tx)
            .await?;
    if attempts >= MAX_ATTEMPTS {
        return super::execution::set_failed(tx, run, code, detail).await;
    }
    sqlx::query("update runs set state = 'waiting_for_device', lease_until = null where id = $1")
        .bind(run)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes a run away from a device that has not called for the length of its lease, and says what became of it. The fence
/// rises: what that device sends later comes too late.
pub(super) async fn expire(tx: &mut Tx, run: Uuid) -> Result<State, Error> {
    let detail = "the device did not call for five minutes";
    sqlx::query("update runs set fence = fence + 1 where id = $1").bind(run).execute(&mut **tx).await?;
    attempt_failed(tx, run, "run.lease_expired", detail).await?;
    let (state, device): (State, i64) =
        sqlx::query_as("select state, device_id from runs where id = $1").bind(run).fetch_one(&mut **tx).await?;
    if state.is_final() {
        wake_next(tx, device).await?;
    }
    Ok(state)
}

async fn seen(tx: &mut Tx, device: i64) -> Result<(), Error> {
    sqlx::query("update devices set last_seen_at = queue.now() where id = $1").bind(device).execute(&mut **tx).await?;
    Ok(())
}

async fn record(tx: &mut Tx, actor: &Actor, run: &Run) -> Result<(), Error> {
    let details = serde_json::json!({
        "run_id": run.id, "schedule_id": run.schedule_id, "device_id": run.device_id, "state": run.state.as_str(),
        "counts": run.counts, "left_out": run.left_out_count,
    });
    let entry = audit::Entry::new("sync_run_reported").by(actor).about("sync_run", run.id).details(details);
    let entry = match &run.error {
        Some((code, _)) => entry.error(code.clone()),
        None => entry,
    };
    Ok(audit::record(tx, entry).await?)
}

fn invalid(field: &'static str, problem: &str) -> Result<(), Error> {
    Err(Error::Invalid { code: "run.report_invalid", field, problem: problem.into() })
}

fn check(report: &Report) -> Result<(), Error> {
    let c = &report.counts;
    let numbers = [
        c.executed,
        c.uploaded,
        c.downloaded,
        c.deleted_on_device,
        c.deleted_on_server,
        c.moved,
        c.folders,
        c.conflicts,
        c.skipped,
        c.bytes_uploaded,
        c.bytes_downloaded,
    ];
    if numbers.iter().any(|n| *n < 0) {
        return invalid("counts", "counts can't be negative");
    }
    if report.planned < 0 {
        return invalid("planned", "the number of planned actions can't be negative");
    }
    let plain = |text: &str, longest: usize| text.len() <= longest && !text.contains('\0');
    if report.left_out.len() > MAX_REPORTED
        || report.left_out.iter().any(|l| !plain(&l.path, 4096) || !plain(&l.reason, 255))
    {
        return invalid("left_out", "at most 10,000 files, with paths of 4,096 and reasons of 255 bytes");
    }
    match &report.error {
        Some((code, detail)) if code.is_empty() || !plain(code, 255) || !plain(detail, 4096) => {
            invalid("error", "an error has a code of 1 to 255 bytes and a detail of at most 4,096")
        }
        _ => Ok(()),
    }
}
