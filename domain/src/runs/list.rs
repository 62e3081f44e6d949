//! Reading runs: one, a page, and the deletions that one holds.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{Counts, Error, HeldDeletion, LeftOut, Options, Progress, Run, State, Trigger};
use crate::{Actor, db::Tx, devices, schedules};

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this device's.
    pub device_id: Option<String>,
    /// Only this schedule's.
    pub schedule_id: Option<i64>,
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those made before this one: where the previous page ended.
    pub before: Option<Uuid>,
    /// At most this many, 1 to 1,000.
    pub limit: i64,
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    device_id: String,
    device_name: String,
    schedule_id: Option<i64>,
    trigger: Trigger,
    dry_run: bool,
    state: State,
    sync_deletions: bool,
    resolve_conflicts: schedules::Resolution,
    direction: schedules::Direction,
    nominal_date: Option<NaiveDate>,
    scheduled_for: Option<DateTime<Utc>>,
    missed_count: i32,
    attempts: i32,
    last_error: Option<String>,
    changes_detected: Option<i64>,
    planned: Option<i64>,
    plan: Option<Value>,
    counts: Option<Json<Counts>>,
    progress: Option<Json<Progress>>,
    left_out: Option<Json<Vec<LeftOut>>>,
    left_out_count: i64,
    held_count: i64,
    approved_at: Option<DateTime<Utc>>,
    lease_until: Option<DateTime<Utc>>,
    error_code: Option<String>,
    error_detail: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl From<Row> for Run {
    fn from(row: Row) -> Self {
        Run {
            id: row.id,
            device_id: row.device_id,
            device_name: row.device_name,
            schedule_id: row.schedule_id,
            trigger: row.trigger,
            dry_run: row.dry_run,
            state: row.state,
            options: Options {
                sync_deletions: row.sync_deletions,
                resolve_conflicts: row.resolve_conflicts,
                direction: row.direction,
            },
            nominal_date: row.nominal_date,
            scheduled_for: row.scheduled_for,
            missed_count: row.missed_count,
            attempts: row.attempts,
            last_error: row.last_error,
            changes_detected: row.changes_detected,
            planned: row.planned,
            plan: row.plan,
            counts: row.counts.map(|c| c.0).unwrap_or_default(),
            progress: row.progress.map(|p| p.0),
            left_out: row.left_out.map(|l| l.0).unwrap_or_default(),
            left_out_count: row.left_out_count,
            held_count: row.held_count,
            approved_at: row.approved_at,
            lease_until: row.lease_until,
            error: row.error_code.map(|code| (code, row.error_detail.unwrap_or_default())),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

/// The columns of [`Row`], with the heavy ones as given, from a page `r` that is limited before the join.
macro_rules! select_runs {
    ($heavy:expr, $page:expr) => {
        concat!(
            "select r.id, d.device_id, d.device_name, r.schedule_id, r.trigger, r.dry_run, r.state, r.sync_deletions,
                    r.resolve_conflicts, r.direction, r.nominal_date, r.scheduled_for, r.missed_count, r.attempts,
                    r.last_error, r.changes_detected, r.planned, r.counts, r.progress, r.left_out_count, r.held_count,
                    r.approved_at, r.lease_until, r.error_code, r.error_detail, r.created_at, r.started_at, r.finished_at, ",
            $heavy,
            " from (select * from runs ",
            $page,
            ") r join devices d on d.id = r.device_id order by r.id desc"
        )
    };
}

/// Chooses the statement whose index fits the filter.
macro_rules! page_of {
    ($condition:literal) => {
        select_runs!(
            "null::jsonb as plan, null::jsonb as left_out",
            concat!(
                "where user_id = $1 and ",
                $condition,
                " and ($3::text is null or state = $3) and ($4::uuid is null or id < $4) order by id desc limit $5"
            )
        )
    };
}

/// One run, with its plan and what it left out.
pub async fn get(tx: &mut Tx, actor: &Actor, id: Uuid) -> Result<Run, Error> {
    let row: Option<Row> = sqlx::query_as(select_runs!("r.plan, r.left_out", "where user_id = $1 and id = $2"))
        .bind(actor.user_id())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    row.map(Run::from).ok_or(Error::NotFound)
}

/// A page of runs, newest first, without plans and lists.
pub async fn list(tx: &mut Tx, actor: &Actor, filter: &Filter) -> Result<Vec<Run>, Error> {
    let (sql, key) = match (&filter.device_id, filter.schedule_id) {
        (Some(text), _) => match devices::find(tx, actor, text).await {
            Ok(device) => (page_of!("device_id = $2"), Some(device)),
            Err(devices::Error::NotFound) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        },
        (None, Some(schedule)) => (page_of!("schedule_id = $2"), Some(schedule)),
        (None, None) => (page_of!("$2::bigint is null"), None),
    };
    // For a user whom the statistics don't know yet, the planner expects few rows and would fetch and sort them all.
    sqlx::query("select set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)")
        .execute(&mut **tx)
        .await?;
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(actor.user_id())
        .bind(key)
        .bind(filter.state.map(State::as_str))
        .bind(filter.before)
        .bind(devices::checked_limit(filter.limit)?)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(Run::from).collect())
}

/// The deletions that a run holds or had approved, after number `after`, at most `limit`; each with its number.
pub async fn held_deletions(
    tx: &mut Tx,
    actor: &Actor,
    run: Uuid,
    after: i32,
    limit: i64,
) -> Result<Vec<(i32, HeldDeletion)>, Error> {
    let rows: Vec<(i32, super::Side, String, i64)> = sqlx::query_as(
        "select n, side, path, version from held_deletions where run_id = $1 and user_id = $2 and n > $3 order by n limit $4",
    )
    .bind(run)
    .bind(actor.user_id())
    .bind(after)
    .bind(devices::checked_limit(limit)?)
    .fetch_all(&mut **tx)
    .await?;
    if rows.is_empty() {
        // Nothing held, or no such run?
        get(tx, actor, run).await?;
    }
    Ok(rows.into_iter().map(|(n, side, path, version)| (n, HeldDeletion { side, path, version })).collect())
}
