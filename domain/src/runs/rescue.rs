//! The sweep over runs, each minute: what nobody holds any more goes back, what nobody came for is missed.
//!
//! Invariant: a run that has not ended has somebody who will end it: a job, a device with a lease, a person (held), or this
//! sweep. Every process may run it; each run is taken by one of them (SKIP LOCKED). Also here: how long runs are kept.

use chrono::{DateTime, TimeDelta, Utc};
use driftless_queue::{Claim, JobId};
use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Error, MAX_TAKEOVERS, client, execution::set_failed, job, wake_next};
use crate::{Domain, Tx, audit};

/// How long a run waits for a worker before it is missed; for its device it waits as long as the operator says.
pub const PATIENCE: TimeDelta = TimeDelta::hours(24);
/// How many days ended runs are kept.
pub const KEPT_DAYS: i32 = 90;
/// How many of a schedule's newest runs are kept whatever their age.
pub const KEPT_PER_SCHEDULE: i64 = 100;
/// Most runs of one sort in one sweep.
const BATCH: i64 = 1000;

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Taken away from devices that did not call.
    pub expired: usize,
    /// Nobody came for them.
    pub missed: usize,
    /// Given a new job because they had none.
    pub requeued: usize,
}

/// One sweep.
pub async fn rescue(domain: &Domain) -> Result<Swept, Error> {
    let expired = expired(domain).await?;
    let patience = TimeDelta::from_std(domain.settings().device_patience).unwrap_or(PATIENCE);
    let why = "the device did not come for it in time";
    let absent = missed(domain, "waiting_for_device", patience, "run.device_absent", why).await?;
    let why = "no worker could take it within a day";
    let no_worker = missed(domain, "queued", PATIENCE, "run.no_worker", why).await?;
    let requeued = jobless_running(domain).await? + jobless_queued(domain).await?;
    let swept = Swept { expired, missed: absent + no_worker, requeued };
    if swept != Swept::default() {
        tracing::info!(?swept, "swept runs that nobody held");
    }
    Ok(swept)
}

/// The lowest id that a run made at this time can have.
fn lowest_id(at: DateTime<Utc>) -> Uuid {
    Uuid::from_u128(u128::from(at.timestamp_millis().unsigned_abs()) << 80)
}

/// Runs whose device's lease is over.
async fn expired(domain: &Domain) -> Result<usize, Error> {
    let mut tx = domain.begin_system().await?;
    let runs: Vec<Uuid> = sqlx::query_scalar(
        "select id from runs where lease_until <= queue.now() order by lease_until limit $1 for no key update skip locked",
    )
    .bind(BATCH)
    .fetch_all(&mut *tx)
    .await?;
    for run in &runs {
        client::expire(&mut tx, *run).await?;
    }
    tx.commit().await?;
    Ok(runs.len())
}

#[derive(FromRow)]
struct Late {
    id: Uuid,
    user_id: i64,
    device: i64,
    device_id: String,
    schedule_id: Option<i64>,
}

/// Runs that have been in `state` for longer than `patience` since they were made, or approved.
async fn missed(domain: &Domain, state: &str, patience: TimeDelta, code: &str, why: &str) -> Result<usize, Error> {
    let mut tx = domain.begin_system().await?;
    let before = lowest_id(tx.now().await? - patience);
    let late: Vec<Late> = sqlx::query_as(
        "select r.id, r.user_id, r.device_id as device, d.device_id, r.schedule_id
         from (select * from runs where state in ('queued', 'running', 'waiting_for_device') and state = $1 and id < $2
               and (approved_at is null or approved_at < queue.now() - make_interval(secs => $4))
               order by id limit $3 for no key update skip locked) r
         join devices d on d.id = r.device_id",
    )
    .bind(state)
    .bind(before)
    .bind(BATCH)
    .bind(patience.num_seconds() as f64)
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<Uuid> = late.iter().map(|l| l.id).collect();
    set_missed(&mut tx, &ids, code, why).await?;
    for run in &late {
        wake_next(&mut tx, run.device).await?;
        let details = json!({"schedule_id": run.schedule_id, "device_id": run.device_id, "run_id": run.id, "missed": 1, "reason": code});
        let entry = audit::Entry::new("sync_schedule_missed").of(run.user_id).about("sync_schedule", &run.device_id);
        audit::record(&mut tx, entry.details(details).warning()).await?;
    }
    tx.commit().await?;
    Ok(late.len())
}

/// Ends runs as missed, saying why; answers those that had not begun meanwhile.
pub(crate) async fn set_missed(tx: &mut Tx, runs: &[Uuid], code: &str, why: &str) -> Result<Vec<Uuid>, Error> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(
        "update runs set state = 'missed', missed_count = 1, finished_at = queue.now(), error_code = $2, error_detail = $3,
                fence = fence + 1
         from unnest($1::uuid[]) as u(run) where id = u.run and state in ('queued', 'waiting_for_device') returning id",
    )
    .bind(runs)
    .bind(code)
    .bind(why)
    .fetch_all(&mut **tx)
    .await?)
}

/// Queued runs without a waiting job. The job's key tells: it is refused for those that have one. A job that was handed back
/// after a lost lease has no key any more, so its run gets a second one, of which the later finds nothing to do.
async fn jobless_queued(domain: &Domain) -> Result<usize, Error> {
    let mut tx = domain.begin_system().await?;
    let before = lowest_id(tx.now().await? - TimeDelta::minutes(1));
    let runs: Vec<(Uuid, Option<Uuid>)> = sqlx::query_as(
        "select r.id, d.remote_root
         from (select * from runs where state in ('queued', 'running', 'waiting_for_device') and state = 'queued' and id < $1
               order by id limit $2 for key share skip locked) r
         join devices d on d.id = r.device_id",
    )
    .bind(before)
    .bind(BATCH)
    .fetch_all(&mut *tx)
    .await?;
    let jobs: Vec<_> = runs.into_iter().map(|(run, root)| job(run, root)).collect();
    let made = tx.enqueue_batch(&jobs).await?;
    tx.commit().await?;
    Ok(usize::try_from(made).unwrap_or(usize::MAX))
}

#[derive(FromRow)]
struct Running {
    id: Uuid,
    device: i64,
    remote_root: Option<Uuid>,
    fence: i64,
    claim_job: i64,
    claim_attempt: i16,
    claim_token: Uuid,
}

/// Running runs whose worker's claim no longer holds: usually the queue has handed their job on already, and the second job
/// that they get here finds nothing to do.
async fn jobless_running(domain: &Domain) -> Result<usize, Error> {
    let mut tx = domain.begin_system().await?;
    let running: Vec<Running> = sqlx::query_as(
        "select r.id, r.device_id as device, d.remote_root, r.fence, r.claim_job, r.claim_attempt, r.claim_token
         from (select * from runs where state in ('queued', 'running', 'waiting_for_device') and state = 'running'
               and claim_job is not null order by id limit $1 for no key update skip locked) r
         join devices d on d.id = r.device_id",
    )
    .bind(BATCH)
    .fetch_all(&mut *tx)
    .await?;
    let mut jobs = Vec::new();
    for run in running {
        let claim = Claim { id: JobId(run.claim_job), attempt: run.claim_attempt, lease_token: run.claim_token };
        match driftless_queue::fence(&mut tx, &claim).await {
            Ok(()) => {}
            Err(driftless_queue::Error::LeaseLost) if run.fence >= MAX_TAKEOVERS => {
                set_failed(&mut tx, run.id, "run.abandoned", "its workers died again and again").await?;
                wake_next(&mut tx, run.device).await?;
            }
            Err(driftless_queue::Error::LeaseLost) => jobs.push(job(run.id, run.remote_root)),
            Err(e) => return Err(e.into()),
        }
    }
    let made = tx.enqueue_batch(&jobs).await?;
    tx.commit().await?;
    Ok(usize::try_from(made).unwrap_or(usize::MAX))
}

/// Removes ended runs that are older than [`KEPT_DAYS`], except each schedule's newest [`KEPT_PER_SCHEDULE`]; answers how many.
/// It walks along the schedules, because those that fire rarely keep old runs for ever, which a walk along time would meet first.
pub async fn prune(domain: &Domain) -> Result<u64, Error> {
    let (mut gone, mut after) = (0, Some(0));
    while let Some(schedule) = after {
        let mut tx = domain.begin_system().await?;
        let (removed, last): (i64, Option<i64>) = sqlx::query_as(
            "with page as materialized (select id, user_id from schedules where id > $1 order by id limit $2),
             old as (select r.id from page cross join lateral
                         (select id, finished_at from runs where schedule_id = page.id and user_id = page.user_id order by id desc offset $3) r
                     where r.finished_at < queue.now() - make_interval(days => $4)),
             gone as (delete from runs using old where runs.id = old.id returning 1)
             select (select count(*) from gone), (select max(id) from page)",
        )
        .bind(schedule)
        .bind(BATCH)
        .bind(KEPT_PER_SCHEDULE)
        .bind(KEPT_DAYS)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        gone += removed.unsigned_abs();
        after = last;
    }
    loop {
        let mut tx = domain.begin_system().await?;
        let removed = sqlx::query(
            "delete from runs using (select id from runs where schedule_id is null
                                     and finished_at < queue.now() - make_interval(days => $1) limit $2) old
             where runs.id = old.id",
        )
        .bind(KEPT_DAYS)
        .bind(BATCH)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        gone += removed;
        if removed < BATCH.unsigned_abs() {
            return Ok(gone);
        }
    }
}
