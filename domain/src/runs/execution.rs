//! The worker's side of a run: taking it, reporting on it, ending it.
//!
//! Invariant: at most one living worker holds a run. Taking it raises the fence and remembers the job's claim; a second job
//! for a run whose claim still holds steps back. Whatever an execution writes checks its fence in the same transaction.

use std::{
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use driftless_queue::{Claim, JobId};
use serde_json::Value;
use sqlx::{FromRow, types::Json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Counts, Error, Firing, HeldDeletion, LeftOut, MAX_ATTEMPTS, MAX_TAKEOVERS, Options, Progress, State, Trigger,
    client, enqueue, shown, wake_next,
};
use crate::{
    Actor, Domain, Tx, audit,
    devices::{self, DeviceKind},
    schedules::{Direction, Resolution},
    tree::Cursor,
};

/// What a worker brings along: its claim on the job, and the signal to stop.
#[derive(Debug, Clone)]
pub struct Job {
    /// The run of the job; it fences every transaction.
    pub claim: Claim,
    /// Set when the worker drains or has lost its lease.
    pub cancel: CancellationToken,
}

/// What there is to do for a job.
pub enum Started {
    /// Nothing (more): the run has ended, waits for somebody else, or was a client device's and is planned now.
    Done,
    /// A remote's run, which the caller now holds.
    Remote(Box<Execution>),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Go on.
    Continue,
    /// A person asked to end the run: finish the action at hand, then [`Execution::cancelled`].
    Cancel,
}

/// How a failed attempt leaves the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Another attempt is queued.
    Again,
    /// The run failed for good.
    GivenUp,
}

/// A remote's run in the hands of a worker. Dropping it leaves the run to whoever gets the job next.
pub struct Execution {
    domain: Domain,
    claim: Claim,
    cancel: CancellationToken,
    actor: Actor,
    run: Uuid,
    device: i64,
    device_id: String,
    schedule: Option<i64>,
    trigger: Trigger,
    fence: i64,
    dry_run: bool,
    options: Options,
    /// How far it was said to be, and when that was last written.
    reached: Mutex<(Option<Progress>, Option<Instant>)>,
    /// The mark of a run before that found nothing to do, and that of this one.
    rested: Option<Vec<u8>>,
    rests: OnceLock<Vec<u8>>,
    /// The plan that held nothing.
    nothing: OnceLock<Value>,
}

/// A run as taking it needs it.
#[derive(Debug, FromRow)]
pub(super) struct Taken {
    pub id: Uuid,
    pub user_id: i64,
    user_name: String,
    is_admin: bool,
    pub device: i64,
    pub device_id: String,
    pub kind: DeviceKind,
    pub schedule_id: Option<i64>,
    pub trigger: Trigger,
    pub state: State,
    pub dry_run: bool,
    sync_deletions: bool,
    resolve_conflicts: Resolution,
    direction: Direction,
    fence: i64,
    cancel_requested: bool,
    claim_job: Option<i64>,
    claim_attempt: Option<i16>,
    claim_token: Option<Uuid>,
    at_rest: Option<Vec<u8>>,
}

impl Taken {
    /// The claim of the job that executes the run, as far as the run knows.
    fn claim(&self) -> Option<Claim> {
        let ((id, attempt), lease_token) = self.claim_job.zip(self.claim_attempt).zip(self.claim_token)?;
        Some(Claim { id: JobId(id), attempt, lease_token })
    }

    pub(super) fn firing(&self, changes_detected: i64) -> Firing<'_> {
        Firing {
            user: self.user_id,
            run: self.id,
            schedule: self.schedule_id,
            device_id: &self.device_id,
            trigger: self.trigger,
            changes_detected,
            counts: None,
            error: None,
        }
    }
}

/// Locks device and run (in this order) and reads what taking it needs.
async fn take(tx: &mut Tx, run: Uuid) -> Result<Option<Taken>, Error> {
    super::lock_device_of(tx, run).await?;
    Ok(sqlx::query_as(
        "select r.id, r.user_id, u.name as user_name, u.is_admin, r.device_id as device, d.device_id, d.kind, r.schedule_id,
                r.trigger, r.state, r.dry_run, r.sync_deletions, r.resolve_conflicts, r.direction, r.fence,
                r.cancel_requested, r.claim_job, r.claim_attempt, r.claim_token, d.at_rest
         from runs r join devices d on d.id = r.device_id join users u on u.id = r.user_id
         where r.id = $1 for no key update of r",
    )
    .bind(run)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Takes a run for the job that speaks of it. A client device's run is planned and left to its device right here.
pub async fn start(domain: &Domain, run: Uuid, job: Job) -> Result<Started, Error> {
    let mut tx = domain.begin_system().await?;
    let Some(taken) = take(&mut tx, run).await? else { return Ok(Started::Done) };
    driftless_queue::fence(&mut tx, &job.claim).await?;
    match taken.state {
        State::Queued => {}
        State::Running if !held_by_another(&mut tx, &taken, &job.claim).await? => {}
        _ => return Ok(Started::Done),
    }
    if taken.cancel_requested {
        super::end_cancelled(&mut tx, run, taken.device).await?;
        tx.commit().await?;
        return Ok(Started::Done);
    }
    if taken.fence >= MAX_TAKEOVERS {
        let detail = format!("{MAX_TAKEOVERS} workers took this run and none brought it to its end");
        give_up(&mut tx, &taken, "run.abandoned", &detail).await?;
        tx.commit().await?;
        return Ok(Started::Done);
    }
    if !taken.dry_run && another_in_the_way(&mut tx, &taken).await? {
        // Its end queues this run's job anew.
        return Ok(Started::Done);
    }
    if taken.kind == DeviceKind::Client {
        client::plan(&mut tx, &taken).await?;
        tx.commit().await?;
        return Ok(Started::Done);
    }
    let fence: i64 = sqlx::query_scalar(
        "update runs set state = 'running', fence = fence + 1, started_at = queue.now(), progress = null,
                claim_job = $2, claim_attempt = $3, claim_token = $4 where id = $1 returning fence",
    )
    .bind(run)
    .bind(job.claim.id.0)
    .bind(job.claim.attempt)
    .bind(job.claim.lease_token)
    .fetch_one(&mut *tx)
    .await?;
    if !taken.dry_run && taken.at_rest.is_some() {
        // It says nothing of what this run does, should nobody see its end.
        sqlx::query("update devices set at_rest = null where id = $1").bind(taken.device).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Started::Remote(Box::new(Execution {
        domain: domain.clone(),
        claim: job.claim,
        cancel: job.cancel,
        actor: Actor { user_id: taken.user_id, name: taken.user_name, admin: taken.is_admin, session: None },
        run,
        device: taken.device,
        device_id: taken.device_id,
        schedule: taken.schedule_id,
        trigger: taken.trigger,
        fence,
        dry_run: taken.dry_run,
        options: Options {
            sync_deletions: taken.sync_deletions,
            resolve_conflicts: taken.resolve_conflicts,
            direction: taken.direction,
        },
        reached: Mutex::default(),
        rested: taken.at_rest.filter(|_| !taken.dry_run),
        rests: OnceLock::new(),
        nothing: OnceLock::new(),
    })))
}

/// Whether the run's claim belongs to another job or attempt that still lives.
async fn held_by_another(tx: &mut Tx, taken: &Taken, mine: &Claim) -> Result<bool, Error> {
    match taken.claim() {
        // A device executes it; its lease is the sweep's business.
        None => Ok(true),
        Some(claim) if claim == *mine => Ok(false),
        Some(claim) => match driftless_queue::fence(tx, &claim).await {
            Ok(()) => Ok(true),
            Err(driftless_queue::Error::LeaseLost) => Ok(false),
            Err(e) => Err(e.into()),
        },
    }
}

/// Whether another run of the device runs or is held.
async fn another_in_the_way(tx: &mut Tx, taken: &Taken) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select exists (select from runs where device_id = $1 and id <> $2 and not dry_run
                        and state in ('queued', 'running', 'waiting_for_device', 'held') and state in ('running', 'held'))",
    )
    .bind(taken.device)
    .bind(taken.id)
    .fetch_one(&mut **tx)
    .await?)
}

async fn give_up(tx: &mut Tx, taken: &Taken, code: &str, detail: &str) -> Result<(), Error> {
    set_failed(tx, taken.id, code, detail).await?;
    wake_next(tx, taken.device).await?;
    let mut firing = taken.firing(0);
    firing.error = Some((code, detail));
    firing.record(tx).await
}

/// Writes the final state `failed`.
pub(super) async fn set_failed(tx: &mut Tx, run: Uuid, code: &str, detail: &str) -> Result<(), Error> {
    sqlx::query(
        "update runs set state = 'failed', error_code = $2, error_detail = $3, finished_at = queue.now(), lease_until = null
         where id = $1",
    )
    .bind(run)
    .bind(code)
    .bind(detail)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Seconds before the next attempt: 5 doubling to 30 minutes, at random within the upper half so that many do not meet.
fn backoff(attempts: i32) -> i64 {
    let full = 5i64.saturating_mul(1 << attempts.clamp(0, 10)).min(1800);
    rand::random_range(full / 2..=full)
}

impl Execution {
    /// The run.
    pub fn id(&self) -> Uuid {
        self.run
    }

    /// The user whose tree and device it is.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Our number of the device.
    pub fn device(&self) -> i64 {
        self.device
    }

    /// Rises at every takeover; changes of the tree carry it.
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// What the run may do.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether the run only plans.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Set when the worker drains or has lost its lease: stop at the next safe point and drop or [`Execution::requeue`].
    pub fn stop(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Makes `tx` commit only while this execution holds the run. Belongs into every transaction that it writes, after the
    /// lock of the user's head if that is taken (lock order: head, device, run, chunks).
    pub async fn guard(&self, tx: &mut Tx) -> Result<(), Error> {
        driftless_queue::fence(tx, &self.claim).await?;
        let held = sqlx::query("select from runs where id = $1 and fence = $2 and state = 'running' for share")
            .bind(self.run)
            .bind(self.fence)
            .execute(&mut **tx)
            .await?;
        if held.rows_affected() == 1 { Ok(()) } else { Err(Error::Superseded) }
    }

    /// A transaction of the user that commits only while this execution holds the run.
    pub async fn begin(&self) -> Result<Tx, Error> {
        let mut tx = self.domain.begin(&self.actor).await?;
        self.guard(&mut tx).await?;
        Ok(tx)
    }

    /// What a run before this one noted with [`rests`](Self::rests), if it was the last that began.
    pub fn rested(&self) -> Option<&[u8]> {
        self.rested.as_deref()
    }

    /// Notes for the next run that this one found nothing to do, where; kept only if it succeeds.
    pub fn rests(&self, mark: Vec<u8>) {
        self.rests.get_or_init(|| mark);
    }

    /// A transaction of the user that only reads, whoever holds the run.
    pub async fn read(&self) -> Result<Tx, Error> {
        Ok(self.domain.begin(&self.actor).await?)
    }

    /// The deletions that a person approved for this run; empty when none were held.
    pub async fn approved(&self) -> Result<Vec<HeldDeletion>, Error> {
        let mut tx = self.domain.begin(&self.actor).await?;
        Ok(sqlx::query_as(
            "select h.side, h.path, h.version from held_deletions h join runs r on r.id = h.run_id
             where h.run_id = $1 and r.approved_at is not null order by h.n",
        )
        .bind(self.run)
        .fetch_all(&mut *tx)
        .await?)
    }

    /// Records the plan before its first action: how many actions it holds, what the server has for the device, and a preview.
    pub async fn planned(&self, actions: i64, changes_detected: i64, preview: Value) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        self.store_plan(&mut tx, actions, changes_detected, &preview).await?;
        Ok(tx.commit().await?)
    }

    /// There is nothing to do, which the end of the run will record.
    pub fn planned_nothing(&self, preview: Value) {
        self.nothing.get_or_init(|| preview);
    }

    async fn store_plan(&self, tx: &mut Tx, actions: i64, changes_detected: i64, preview: &Value) -> Result<(), Error> {
        sqlx::query("update runs set planned = $2, changes_detected = $3, plan = $4 where id = $1")
            .bind(self.run)
            .bind(actions)
            .bind(changes_detected)
            .bind(preview)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Shows how far it is, at most once a second and at the end, and hears whether to go on. Call it as often as you like.
    pub async fn progress(&self, progress: &Progress) -> Result<Signal, Error> {
        {
            let mut reached = self.reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            reached.0 = Some(progress.clone());
            if reached.1.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
                return Ok(Signal::Continue);
            }
            reached.1 = Some(Instant::now());
        }
        let mut tx = self.domain.begin(&self.actor).await?;
        let cancel: Option<bool> = sqlx::query_scalar(
            "update runs set progress = $3 where id = $1 and fence = $2 and state = 'running' returning cancel_requested",
        )
        .bind(self.run)
        .bind(self.fence)
        .bind(Json(progress))
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        match cancel {
            None => Err(Error::Superseded),
            Some(true) => Ok(Signal::Cancel),
            Some(false) => Ok(Signal::Continue),
        }
    }

    /// The run is done. If fewer actions were executed than planned, and the rest is not accounted for in `left_out`, it
    /// failed instead, whatever the caller believes. A dry run executes nothing. `taken_in`: up to there the device has all that the
    /// tree holds.
    pub async fn succeed(
        self,
        counts: &Counts,
        left_out: &[LeftOut],
        taken_in: Option<Cursor>,
    ) -> Result<State, Error> {
        let mut tx = self.end().await?;
        if let Some(preview) = self.nothing.get() {
            self.store_plan(&mut tx, 0, 0, preview).await?;
        }
        let (planned, changes): (Option<i64>, Option<i64>) =
            sqlx::query_as("select planned, changes_detected from runs where id = $1")
                .bind(self.run)
                .fetch_one(&mut *tx)
                .await?;
        self.store(&mut tx, counts, left_out).await?;
        let accounted = counts.executed + left_out.iter().filter(|l| l.planned).count() as i64;
        let missing = planned.map(|p| p - accounted).filter(|missing| *missing != 0);
        let state = match (planned, missing) {
            (Some(_), None) => State::Succeeded,
            _ if self.dry_run => State::Succeeded,
            (None, _) => State::Failed,
            (Some(_), Some(_)) => State::Failed,
        };
        let detail = format!(
            "of {} planned actions {} were executed and {} were left out with a reason",
            planned.unwrap_or(0),
            counts.executed,
            accounted - counts.executed
        );
        let mut firing = self.firing(changes.unwrap_or(0), Some(counts));
        if state == State::Succeeded {
            sqlx::query(
                "update runs set state = 'succeeded', finished_at = queue.now(), last_error = null where id = $1",
            )
            .bind(self.run)
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "update devices set last_sync_at = queue.now(), last_seen_at = queue.now(), at_rest = $3
                 where id = $1 and not $2",
            )
            .bind(self.device)
            .bind(self.dry_run)
            .bind(self.rests.get())
            .execute(&mut *tx)
            .await?;
            if let Some(taken_in) = taken_in.filter(|_| !self.dry_run) {
                devices::advance(&mut tx, self.device, taken_in).await?;
            }
        } else {
            set_failed(&mut tx, self.run, "run.incomplete", &detail).await?;
            firing.error = Some(("run.incomplete", &detail));
        }
        if !self.dry_run {
            firing.record(&mut tx).await?;
        }
        wake_next(&mut tx, self.device).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// This attempt failed. Unless `final_` or the last, another is queued after a pause; what is done already is not redone.
    pub async fn fail(self, code: &str, detail: &str, final_: bool) -> Result<AfterFailure, Error> {
        let mut tx = self.end().await?;
        let (attempts, changes): (i32, Option<i64>) = sqlx::query_as(
            "update runs set attempts = attempts + 1, last_error = $2 where id = $1 returning attempts, changes_detected",
        )
        .bind(self.run)
        .bind(format!("{code}: {detail}"))
        .fetch_one(&mut *tx)
        .await?;
        let after = if final_ || attempts >= MAX_ATTEMPTS { AfterFailure::GivenUp } else { AfterFailure::Again };
        match after {
            AfterFailure::Again => self.queue_again(&mut tx, backoff(attempts)).await?,
            AfterFailure::GivenUp => {
                set_failed(&mut tx, self.run, code, detail).await?;
                let mut firing = self.firing(changes.unwrap_or(0), None);
                firing.error = Some((code, detail));
                firing.record(&mut tx).await?;
                wake_next(&mut tx, self.device).await?;
            }
        }
        tx.commit().await?;
        Ok(after)
    }

    /// Everything else is done; these deletions wait for a person.
    pub async fn hold(self, deletions: &[HeldDeletion], counts: &Counts, left_out: &[LeftOut]) -> Result<(), Error> {
        let mut tx = self.end().await?;
        sqlx::query("delete from held_deletions where run_id = $1").bind(self.run).execute(&mut *tx).await?;
        let column = |f: fn(&HeldDeletion) -> &str| deletions.iter().map(f).collect::<Vec<_>>();
        sqlx::query(
            "insert into held_deletions (run_id, n, user_id, side, path, version)
             select $1, n, $2, side, path, version
             from unnest($3::text[], $4::text[], $5::int8[]) with ordinality as h(side, path, version, n)",
        )
        .bind(self.run)
        .bind(self.actor.user_id())
        .bind(column(|d| d.side.as_str()))
        .bind(column(|d| &d.path))
        .bind(deletions.iter().map(|d| d.version).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        self.store(&mut tx, counts, left_out).await?;
        sqlx::query("update runs set state = 'held', held_count = $2, approved_at = null where id = $1")
            .bind(self.run)
            .bind(deletions.len() as i64)
            .execute(&mut *tx)
            .await?;
        let details = serde_json::json!({
            "schedule_id": self.schedule, "device_id": self.device_id, "run_id": self.run, "deletions": deletions.len(),
        });
        let entry = audit::Entry::new("sync_run_held").of(self.actor.user_id()).about("sync_run", self.run);
        audit::record(&mut tx, entry.details(details).warning()).await?;
        Ok(tx.commit().await?)
    }

    /// A person asked to end the run, and it has.
    pub async fn cancelled(self, counts: &Counts, left_out: &[LeftOut]) -> Result<(), Error> {
        let mut tx = self.end().await?;
        self.store(&mut tx, counts, left_out).await?;
        super::end_cancelled(&mut tx, self.run, self.device).await?;
        Ok(tx.commit().await?)
    }

    /// Gives the run back without counting an attempt, to be taken again after `delay` seconds.
    pub async fn requeue(self, delay: i64) -> Result<(), Error> {
        let mut tx = self.end().await?;
        self.queue_again(&mut tx, delay).await?;
        Ok(tx.commit().await?)
    }

    /// The transaction that ends this execution: device and run locked, fences checked.
    async fn end(&self) -> Result<Tx, Error> {
        let mut tx = self.domain.begin(&self.actor).await?;
        super::lock(&mut tx, &self.actor, self.run).await?;
        self.guard(&mut tx).await?;
        Ok(tx)
    }

    async fn queue_again(&self, tx: &mut Tx, delay: i64) -> Result<(), Error> {
        sqlx::query("update runs set state = 'queued', claim_job = null, claim_attempt = null, claim_token = null where id = $1")
            .bind(self.run)
            .execute(&mut **tx)
            .await?;
        enqueue(tx, self.run, delay).await
    }

    async fn store(&self, tx: &mut Tx, counts: &Counts, left_out: &[LeftOut]) -> Result<(), Error> {
        let reached = self.reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone();
        sqlx::query(
            "update runs set counts = $2, left_out = $3, left_out_count = $4, progress = coalesce($5, progress) where id = $1",
        )
        .bind(self.run)
        .bind(Json(counts))
        .bind(shown(left_out))
        .bind(left_out.len() as i64)
        .bind(reached.map(Json))
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    fn firing<'a>(&'a self, changes_detected: i64, counts: Option<&'a Counts>) -> Firing<'a> {
        Firing {
            user: self.actor.user_id(),
            run: self.run,
            schedule: self.schedule,
            device_id: &self.device_id,
            trigger: self.trigger,
            changes_detected,
            counts,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_grow_and_stay_within_half_an_hour() {
        for (attempts, low, high) in [(1, 5, 10), (2, 10, 20), (4, 40, 80), (30, 900, 1800)] {
            for _ in 0..100 {
                assert!((low..=high).contains(&backoff(attempts)), "{attempts}");
            }
        }
    }
}
