//! The dispatcher: makes a run of each schedule whose time has come. Every process that works runs one.
//!
//! Invariant: each nominal date of a rule becomes exactly one row of `runs` (or is counted in one), in the transaction that
//! moves the schedule on. Rows of `due` are claimed with SKIP LOCKED, so any number of dispatchers share the work; the unique
//! key of runs holds even against a clock that goes back. Left out: executing (the run's job does that).

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use driftless_sync::{
    cadence::Occurrence,
    late::{self, Decision},
};
use serde_json::json;
use sqlx::FromRow;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Domain, Tx, audit,
    runs::{self, Error},
    schedules::{Fields, MissedRun, Overlap, rule_columns},
};

/// Schedules fired in one transaction.
pub const BATCH: i64 = 2000;

/// Fires what is due until `cancel`: at the instant, and what another process should have fired within a second. Errors are
/// logged and retried.
pub async fn run(domain: Domain, cancel: CancellationToken) {
    let mut seen = domain.lookout().follow(domain.pool());
    let mut failing = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = seen.changed() => {}
        }
        if !seen.borrow_and_update().is_due() {
            continue;
        }
        match fire_all(&domain).await {
            Ok(()) => failing = false,
            Err(e) => {
                if !failing {
                    tracing::warn!(error = &e as &dyn std::error::Error, "schedules can't be fired just now");
                }
                failing = true;
            }
        }
    }
}

/// Fires all that is due and that no other process is just firing.
async fn fire_all(domain: &Domain) -> Result<(), Error> {
    let mut fired = 0;
    loop {
        let batch = fire(domain).await?;
        fired += batch;
        if batch < BATCH as usize {
            break;
        }
    }
    // Without any, what is due is another's: looking again at once would be spinning.
    if fired > 0 {
        domain.lookout().look_again();
    }
    Ok(())
}

#[derive(FromRow)]
struct Due {
    id: i64,
    user_id: i64,
    device: i64,
    remote_root: Option<Uuid>,
    rule_revision: i32,
    next_run_at: DateTime<Utc>,
    #[sqlx(flatten)]
    fields: Fields,
}

#[derive(FromRow)]
struct Open {
    id: Uuid,
    device: i64,
    state: runs::State,
}

/// What a device's other runs mean for a new one.
#[derive(Default)]
struct Busy {
    /// One runs or is held.
    occupied: bool,
    /// One is queued already.
    queued: bool,
    /// These wait for the device.
    waiting: Vec<Uuid>,
}

/// Everything that a batch writes.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    jobs: HashMap<Uuid, Option<Uuid>>,
    superseded: Vec<Uuid>,
    moved: (Vec<i64>, Vec<DateTime<Utc>>),
    broken: Vec<(i64, String)>,
}

struct Row {
    id: Uuid,
    schedule: usize,
    nominal_date: NaiveDate,
    scheduled_for: DateTime<Utc>,
    state: runs::State,
    missed_count: i32,
    why: Option<(&'static str, &'static str)>,
}

const LATE: (&str, &str) = ("run.late", "nobody was there to fire it in time");
const OVERLAP: (&str, &str) = ("run.overlap", "another run of the device ran or was held");
const SUPERSEDED: (&str, &str) = ("run.superseded_by_next", "the device did not come for it before the next one");

/// Fires one batch in one transaction; answers how many schedules it moved on.
pub async fn fire(domain: &Domain) -> Result<usize, Error> {
    let mut tx = domain.begin_system().await?;
    let now = tx.now().await?;
    let due = claim(&mut tx, now).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut open = open_runs(&mut tx, &due).await?;
    let mut batch = Batch::default();
    for (at, schedule) in due.iter().enumerate() {
        batch.add(at, schedule, now, open.entry(schedule.device).or_default());
    }
    batch.write(&mut tx, &due, now).await?;
    tx.commit().await?;
    Ok(due.len())
}

/// Locks due rows that nobody else has locked, then reads their schedules in a second statement: one that was edited while the
/// first waited is seen as it is now.
async fn claim(tx: &mut Tx, now: DateTime<Utc>) -> Result<Vec<Due>, Error> {
    let claimed: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
        "select schedule_id, next_run_at from due where next_run_at <= $1 order by next_run_at limit $2
         for no key update skip locked",
    )
    .bind(now)
    .bind(BATCH)
    .fetch_all(&mut **tx)
    .await?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, at): (Vec<_>, Vec<_>) = claimed.into_iter().unzip();
    Ok(sqlx::query_as(concat!(
        "select s.id, s.user_id, s.device_id as device, d.remote_root, s.rule_revision, u.next_run_at, ",
        rule_columns!(),
        " from unnest($1::bigint[], $2::timestamptz[]) as u(id, next_run_at)
          join schedules s on s.id = u.id join devices d on d.id = s.device_id"
    ))
    .bind(ids)
    .bind(at)
    .fetch_all(&mut **tx)
    .await?)
}

async fn open_runs(tx: &mut Tx, due: &[Due]) -> Result<HashMap<i64, Busy>, Error> {
    let devices: HashSet<i64> = due.iter().map(|d| d.device).collect();
    let open: Vec<Open> = sqlx::query_as(
        "select r.id, r.device_id as device, r.state from unnest($1::bigint[]) as u(device) join runs r on r.device_id = u.device
         where r.state in ('queued', 'running', 'waiting_for_device', 'held') and not r.dry_run",
    )
    .bind(devices.into_iter().collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    let mut busy: HashMap<i64, Busy> = HashMap::new();
    for run in open {
        let device = busy.entry(run.device).or_default();
        match run.state {
            runs::State::Queued => device.queued = true,
            runs::State::WaitingForDevice => device.waiting.push(run.id),
            _ => device.occupied = true,
        }
    }
    Ok(busy)
}

impl Batch {
    fn add(&mut self, at: usize, schedule: &Due, now: DateTime<Utc>, busy: &mut Busy) {
        let rule = match schedule.fields.rule() {
            Ok(rule) => rule,
            Err(e) => return self.broken.push((schedule.id, e.to_string())),
        };
        let policy = match schedule.fields.missed_run {
            MissedRun::RunOnce => late::MissedRun::RunOnce,
            MissedRun::Skip => late::MissedRun::Skip,
        };
        let jitter = schedule.fields.jitter(schedule.id);
        let Decision { fire, missed, rest, next_run_at, .. } =
            late::decide(&rule, schedule.next_run_at, jitter, now, policy);
        if let Some(rest) = rest {
            let count = i32::try_from(rest.count).unwrap_or(i32::MAX);
            self.row(at, rest.last, now, runs::State::Missed, count, Some(LATE));
        }
        for occurrence in missed {
            self.row(at, occurrence, now, runs::State::Missed, 1, Some(LATE));
        }
        if let Some(occurrence) = fire {
            self.fire(at, schedule, occurrence, now, busy);
        }
        self.moved.0.push(schedule.id);
        self.moved.1.push(next_run_at);
    }

    /// A firing that is on time or made up for: queued, unless another run of the device is in its way.
    fn fire(&mut self, at: usize, schedule: &Due, occurrence: Occurrence, now: DateTime<Utc>, busy: &mut Busy) {
        if busy.occupied && (schedule.fields.overlap == Overlap::Skip || busy.queued) {
            self.row(at, occurrence, now, runs::State::Skipped, 0, Some(OVERLAP));
            return;
        }
        busy.queued = true;
        self.superseded.append(&mut busy.waiting);
        let run = self.row(at, occurrence, now, runs::State::Queued, 0, None);
        self.jobs.insert(run, schedule.remote_root);
    }

    fn row(
        &mut self,
        schedule: usize,
        occurrence: Occurrence,
        now: DateTime<Utc>,
        state: runs::State,
        missed_count: i32,
        why: Option<(&'static str, &'static str)>,
    ) -> Uuid {
        let id = runs::new_id(now);
        let (nominal_date, scheduled_for) = (occurrence.nominal_date, occurrence.at);
        self.rows.push(Row { id, schedule, nominal_date, scheduled_for, state, missed_count, why });
        id
    }

    async fn write(mut self, tx: &mut Tx, due: &[Due], now: DateTime<Utc>) -> Result<(), Error> {
        let superseded = runs::rescue::set_missed(tx, &self.superseded, SUPERSEDED.0, SUPERSEDED.1).await?;
        let inserted = self.insert_runs(tx, due, now).await?;
        self.rows.retain(|row| inserted.contains(&row.id));
        let jobs: Vec<_> =
            self.rows.iter().filter_map(|row| self.jobs.get(&row.id).map(|root| runs::job(row.id, *root))).collect();
        tx.enqueue_batch(&jobs).await?;
        sqlx::query(
            "update due d set next_run_at = u.at from unnest($1::bigint[], $2::timestamptz[]) as u(id, at)
             where d.schedule_id = u.id",
        )
        .bind(&self.moved.0)
        .bind(&self.moved.1)
        .execute(&mut **tx)
        .await?;
        self.audit(tx, due, &superseded).await?;
        for (schedule, why) in &self.broken {
            pause(tx, *schedule, why).await?;
        }
        Ok(())
    }

    /// Inserts the rows; answers the ids of those whose nominal date had none yet.
    async fn insert_runs(&self, tx: &mut Tx, due: &[Due], now: DateTime<Utc>) -> Result<HashSet<Uuid>, Error> {
        fn column<'a, T>(rows: &'a [Row], f: impl Fn(&'a Row) -> T) -> Vec<T> {
            rows.iter().map(f).collect()
        }
        let rows = self.rows.as_slice();
        let of = |row: &Row| &due[row.schedule];
        let ended = |row: &Row| row.state.is_final().then_some(now);
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "insert into runs (id, user_id, device_id, schedule_id, rule_revision, nominal_date, scheduled_for, trigger, state,
                               sync_deletions, resolve_conflicts, direction, missed_count, error_code, error_detail,
                               created_at, finished_at)
             select id, user_id, device, schedule, revision, nominal_date, scheduled_for, 'schedule', state, deletions,
                    conflicts, direction, missed, code, detail, $15, ended
             from unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[], $5::int4[], $6::date[], $7::timestamptz[], $8::text[],
                         $9::bool[], $10::text[], $11::text[], $12::int4[], $13::text[], $14::text[], $16::timestamptz[])
                  as u(id, user_id, device, schedule, revision, nominal_date, scheduled_for, state, deletions, conflicts,
                       direction, missed, code, detail, ended)
             on conflict on constraint runs_once do nothing returning id",
        )
        .bind(column(rows, |r| r.id))
        .bind(column(rows, |r| of(r).user_id))
        .bind(column(rows, |r| of(r).device))
        .bind(column(rows, |r| of(r).id))
        .bind(column(rows, |r| of(r).rule_revision))
        .bind(column(rows, |r| r.nominal_date))
        .bind(column(rows, |r| r.scheduled_for))
        .bind(column(rows, |r| r.state.as_str()))
        .bind(column(rows, |r| of(r).fields.sync_deletions))
        .bind(column(rows, |r| of(r).fields.resolve_conflicts.as_str()))
        .bind(column(rows, |r| of(r).fields.direction.as_str()))
        .bind(column(rows, |r| r.missed_count))
        .bind(column(rows, |r| r.why.map(|w| w.0)))
        .bind(column(rows, |r| r.why.map(|w| w.1)))
        .bind(now)
        .bind(column(rows, ended))
        .fetch_all(&mut **tx)
        .await?;
        Ok(ids.into_iter().collect())
    }

    /// Nothing disappears silently: what did not run is in the audit too.
    async fn audit(&self, tx: &mut Tx, due: &[Due], superseded: &[Uuid]) -> Result<(), Error> {
        let silent: Vec<Uuid> = self.rows.iter().filter(|r| r.why.is_some()).map(|r| r.id).collect();
        let runs: Vec<Uuid> = silent.iter().chain(superseded).copied().collect();
        if runs.is_empty() {
            return Ok(());
        }
        tracing::debug!(schedules = due.len(), runs = runs.len(), "runs were missed or skipped");
        let rows: Vec<Unrun> = sqlx::query_as(
            "select r.id, r.user_id, r.schedule_id, d.device_id, r.state, r.nominal_date, r.missed_count, r.error_code
             from unnest($1::uuid[]) as u(id) join runs r on r.id = u.id join devices d on d.id = r.device_id order by r.id",
        )
        .bind(runs)
        .fetch_all(&mut **tx)
        .await?;
        Ok(audit::record_all(tx, rows.into_iter().map(Unrun::entry).collect()).await?)
    }
}

#[derive(FromRow)]
struct Unrun {
    id: Uuid,
    user_id: i64,
    schedule_id: Option<i64>,
    device_id: String,
    state: runs::State,
    nominal_date: Option<NaiveDate>,
    missed_count: i32,
    error_code: String,
}

impl Unrun {
    fn entry(self) -> audit::Entry {
        let action = if self.state == runs::State::Skipped { "sync_schedule_skipped" } else { "sync_schedule_missed" };
        let details = json!({
            "schedule_id": self.schedule_id, "device_id": self.device_id, "run_id": self.id,
            "nominal_date": self.nominal_date, "missed": self.missed_count, "reason": self.error_code,
        });
        audit::Entry::new(action).of(self.user_id).about("sync_schedule", self.device_id).details(details).warning()
    }
}

/// Takes a schedule whose rule can't be read any more (a zone that the new zone data lacks) off the clock, and says so.
async fn pause(tx: &mut Tx, schedule: i64, why: &str) -> Result<(), Error> {
    let (user, device_id): (i64, String) = sqlx::query_as(
        "update schedules s set enabled = false, paused_code = 'schedule.rule_invalid', updated_at = queue.now()
         from devices d where s.id = $1 and d.id = s.device_id returning s.user_id, d.device_id",
    )
    .bind(schedule)
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query("delete from due where schedule_id = $1").bind(schedule).execute(&mut **tx).await?;
    let details = json!({"schedule_id": schedule, "device_id": device_id, "reason": why});
    let entry = audit::Entry::new("sync_schedule_paused").of(user).about("sync_schedule", device_id).details(details);
    Ok(audit::record(tx, entry.error("schedule.rule_invalid")).await?)
}
