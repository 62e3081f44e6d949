//! Schedules: when a device is to be synced, and how.
//!
//! Invariant: an enabled schedule has exactly one row in `due`, a disabled one none; creating, enabling and editing count
//! from now. rule_revision rises when the rule itself (type, time, day, zone) is edited, so one nominal date can fire again
//! under a new rule and never twice under one. Left out: firing (dispatch) and on_change, which is refused so far.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
pub use driftless_sync::cadence::Note;
use driftless_sync::cadence::{self, Frequency, Rule, RuleError};
use serde_json::{Value, json};
use sqlx::{FromRow, Postgres, Row as _, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::{
    Actor, audit,
    db::{self, Tx},
    devices,
    error::{Fault, Kind},
    runs,
};

/// How many coming dates a schedule and a preview show.
pub const UPCOMING: usize = 5;

/// Why an operation on schedules failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such schedule, or another user's.
    #[error("there is no schedule with this id")]
    NotFound,
    /// The device isn't the user's.
    #[error(transparent)]
    Device(#[from] devices::Error),
    /// A field of the rule can't be.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There are no schedules that watch for changes yet.
    #[error("schedules that run on change are not available yet; use daily, weekly or monthly")]
    OnChange,
    /// There is no conflict inbox yet.
    #[error("the conflict inbox is not available yet; use keep_newest, keep_local, keep_server or keep_both")]
    Ask,
    /// Runs could not be looked at.
    #[error(transparent)]
    Runs(#[from] runs::Error),
    /// The database failed.
    #[error("schedules could not be read or written")]
    Db(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Db);

impl Error {
    fn inner(&self) -> Option<&dyn Fault> {
        match self {
            Error::Device(e) => Some(e),
            Error::Runs(e) => Some(e),
            Error::Db(e) => Some(e),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound => Kind::NotFound,
            e => e.inner().map_or(Kind::Invalid, Fault::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NotFound => "schedule.not_found",
            Error::Rule(e) => e.code(),
            Error::OnChange => "schedule.on_change_unavailable",
            Error::Ask => "schedule.ask_unavailable",
            Error::Device(e) => e.code(),
            Error::Runs(e) => e.code(),
            Error::Db(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Rule(e) => Some(e.field()),
            Error::OnChange => Some("schedule_type"),
            Error::Ask => Some("resolve_conflicts"),
            Error::Device(devices::Error::NotFound) => Some("device_id"),
            Error::Device(e) => e.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        self.inner().and_then(Fault::retry_after)
    }
}

/// An enum whose values are words in the API and the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
        #[sqlx(type_name = "text", rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// As the API and the database write it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
    };
}

words!(
    /// What makes a schedule fire.
    ScheduleType {
        /// Each day.
        Daily = "daily",
        /// One day of the week.
        Weekly = "weekly",
        /// One day of the month, the last one of a shorter month.
        Monthly = "monthly",
        /// A change on either side.
        OnChange = "on_change",
    }
);
words!(
    /// Who wins when both sides changed a file.
    Resolution {
        /// The later modification time.
        KeepNewest = "keep_newest",
        /// The device.
        KeepLocal = "keep_local",
        /// The tree.
        KeepServer = "keep_server",
        /// Both; one gets another name.
        KeepBoth = "keep_both",
        /// A person, later.
        Ask = "ask",
    }
);
words!(
    /// Which side a run may change.
    Direction {
        /// Both.
        Both = "both",
        /// The tree only.
        Upload = "upload",
        /// The device only.
        Download = "download",
    }
);
words!(
    /// What becomes of a firing that nobody was there for.
    MissedRun {
        /// The newest runs once, if it is at most a day old.
        RunOnce = "run_once",
        /// It is recorded as missed.
        Skip = "skip",
    }
);
words!(
    /// What becomes of a firing while another run of the device runs or is held.
    Overlap {
        /// It is recorded as skipped.
        Skip = "skip",
        /// One waits until the other has ended.
        QueueOne = "queue_one",
    }
);

/// What a person sets.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Fields {
    /// What makes it fire.
    pub schedule_type: ScheduleType,
    /// Wall-clock time, "HH:MM".
    pub time_of_day: String,
    /// 0 = Monday to 6, for weekly.
    pub day_of_week: i32,
    /// 1 to 31, for monthly.
    pub day_of_month: i32,
    /// IANA name of the zone whose clocks count.
    pub timezone: String,
    /// Whether deletions of one side are carried out on the other.
    pub sync_deletions: bool,
    /// Who wins when both sides changed a file.
    pub resolve_conflicts: Resolution,
    /// Which side a run may change.
    pub direction: Direction,
    /// What becomes of a firing that nobody was there for.
    pub missed_run: MissedRun,
    /// What becomes of a firing while another run of the device runs or is held.
    pub overlap: Overlap,
    /// Firings are spread over this many seconds after the time of day, 0 to 3600; always the same delay for one schedule.
    pub jitter_seconds: i32,
}

impl Default for Fields {
    fn default() -> Self {
        Fields {
            schedule_type: ScheduleType::Daily,
            time_of_day: "02:00".into(),
            day_of_week: 0,
            day_of_month: 1,
            timezone: "UTC".into(),
            sync_deletions: true,
            resolve_conflicts: Resolution::KeepNewest,
            direction: Direction::Both,
            missed_run: MissedRun::RunOnce,
            overlap: Overlap::Skip,
            jitter_seconds: 0,
        }
    }
}

impl Fields {
    /// Binds them in the order of the columns, from schedule_type to jitter_seconds.
    fn bind<'q>(&'q self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        query
            .bind(self.schedule_type.as_str())
            .bind(&self.time_of_day)
            .bind(self.day_of_week)
            .bind(self.day_of_month)
            .bind(&self.timezone)
            .bind(self.sync_deletions)
            .bind(self.resolve_conflicts.as_str())
            .bind(self.direction.as_str())
            .bind(self.missed_run.as_str())
            .bind(self.overlap.as_str())
            .bind(self.jitter_seconds)
    }

    /// The rule that they make.
    pub(crate) fn rule(&self) -> Result<Rule, Error> {
        let frequency = match self.schedule_type {
            ScheduleType::Daily => Frequency::Daily,
            ScheduleType::Weekly => Frequency::Weekly,
            ScheduleType::Monthly => Frequency::Monthly,
            ScheduleType::OnChange => return Err(Error::OnChange),
        };
        let (week, month) = (self.day_of_week.into(), self.day_of_month.into());
        Ok(Rule::new(frequency, &self.time_of_day, week, month, &self.timezone)?)
    }

    fn check(&self) -> Result<Rule, Error> {
        cadence::parse_jitter(self.jitter_seconds.into())?;
        if self.resolve_conflicts == Resolution::Ask {
            return Err(Error::Ask);
        }
        self.rule()
    }

    /// The delay of this schedule's firings after the rule's instants.
    pub(crate) fn jitter(&self, schedule: i64) -> TimeDelta {
        cadence::jitter(schedule, self.jitter_seconds.unsigned_abs())
    }

    fn same_rule(&self, other: &Fields) -> bool {
        let rule =
            |f: &Fields| (f.schedule_type, f.time_of_day.clone(), f.day_of_week, f.day_of_month, f.timezone.clone());
        rule(self) == rule(other)
    }

    fn as_json(&self) -> Value {
        json!({
            "schedule_type": self.schedule_type.as_str(), "time_of_day": self.time_of_day, "day_of_week": self.day_of_week,
            "day_of_month": self.day_of_month, "timezone": self.timezone, "sync_deletions": self.sync_deletions,
            "resolve_conflicts": self.resolve_conflicts.as_str(), "direction": self.direction.as_str(),
            "missed_run": self.missed_run.as_str(), "overlap": self.overlap.as_str(), "jitter_seconds": self.jitter_seconds,
        })
    }
}

/// A coming date of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upcoming {
    /// The instant, before jitter.
    pub at: DateTime<Utc>,
    /// What the clocks of the zone show then.
    pub local: NaiveDateTime,
    /// Why it is not literally what the rule says.
    pub note: Option<Note>,
}

impl From<cadence::Occurrence> for Upcoming {
    fn from(o: cadence::Occurrence) -> Self {
        Upcoming { at: o.at, local: o.local, note: o.note }
    }
}

/// The newest run of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// The run.
    pub run_id: Uuid,
    /// Where it is.
    pub state: runs::State,
    /// When it began, or was made.
    pub at: DateTime<Utc>,
}

/// A schedule as its owner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Names it.
    pub id: i64,
    /// The device's text.
    pub device_id: String,
    /// The device's name.
    pub device_name: String,
    /// What a person set.
    pub fields: Fields,
    /// Whether it fires.
    pub enabled: bool,
    /// Why the server disabled it.
    pub paused_code: Option<String>,
    /// When it fires next, with jitter; none while disabled.
    pub next_run_at: Option<DateTime<Utc>>,
    /// Its newest run.
    pub last_run: Option<LastRun>,
    /// Its next dates, as if it were enabled.
    pub upcoming: Vec<Upcoming>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last edited, enabled or disabled.
    pub updated_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    device_id: String,
    device_name: String,
    #[sqlx(flatten)]
    fields: Fields,
    enabled: bool,
    paused_code: Option<String>,
    next_run_at: Option<DateTime<Utc>>,
    last_run_id: Option<Uuid>,
    last_state: Option<runs::State>,
    last_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn show(self, now: DateTime<Utc>) -> Schedule {
        // With jitter, a firing can still be ahead when its instant has passed.
        let from = self.next_run_at.map_or(now, |at| at - self.fields.jitter(self.id) - TimeDelta::microseconds(1));
        // A paused schedule's rule may be one that can't be read any more.
        let upcoming = self.fields.rule().map(|rule| rule.upcoming(from, UPCOMING)).unwrap_or_default();
        let last_run = self.last_run_id.zip(self.last_state).zip(self.last_at);
        Schedule {
            id: self.id,
            device_id: self.device_id,
            device_name: self.device_name,
            enabled: self.enabled,
            paused_code: self.paused_code,
            next_run_at: self.next_run_at,
            last_run: last_run.map(|((run_id, state), at)| LastRun { run_id, state, at }),
            upcoming: upcoming.into_iter().map(Upcoming::from).collect(),
            fields: self.fields,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

/// The columns of [`Fields`] in a table called `$t`, as they are read everywhere.
macro_rules! rule_columns {
    () => {
        "s.schedule_type, s.time_of_day, s.day_of_week::int, s.day_of_month::int, s.timezone, s.sync_deletions,
         s.resolve_conflicts, s.direction, s.missed_run, s.overlap, s.jitter_seconds"
    };
}
pub(crate) use rule_columns;

macro_rules! select_schedules {
    ($page:expr) => {
        concat!(
            "select s.id, d.device_id, d.device_name, ",
            rule_columns!(),
            ", s.enabled, s.paused_code, due.next_run_at, r.id as last_run_id, r.state as last_state, r.at as last_at,
               s.created_at, s.updated_at
             from (select * from schedules ",
            $page,
            ") s join devices d on d.id = s.device_id left join due on due.schedule_id = s.id
             left join lateral (select id, state, coalesce(started_at, created_at) as at from runs
                                where schedule_id = s.id and user_id = s.user_id and not dry_run order by id desc limit 1) r on true
             order by s.id"
        )
    };
}

/// Makes a schedule for a device of the user; it counts from now.
pub async fn create(tx: &mut Tx, actor: &Actor, device_id: &str, fields: Fields) -> Result<Schedule, Error> {
    let rule = fields.check()?;
    let device = devices::find(tx, actor, device_id).await?;
    let insert = sqlx::query(
        "insert into schedules (user_id, device_id, schedule_type, time_of_day, day_of_week, day_of_month, timezone,
                                sync_deletions, resolve_conflicts, direction, missed_run, overlap, jitter_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) returning id",
    )
    .bind(actor.user_id())
    .bind(device);
    let id: i64 = fields.bind(insert).fetch_one(&mut **tx).await?.try_get(0)?;
    let next = rule.next(tx.now().await?).at + fields.jitter(id);
    set_due(tx, actor, id, next).await?;
    record(tx, actor, "schedule_created", id, device_id, fields.as_json()).await?;
    get(tx, actor, id).await
}

/// The user's schedules after `after` in order of their ids, at most `limit`; of one device, if given.
pub async fn list(
    tx: &mut Tx,
    actor: &Actor,
    device_id: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Schedule>, Error> {
    let device = match device_id {
        Some(text) => Some(devices::find(tx, actor, text).await?),
        None => None,
    };
    let now = tx.now().await?;
    let rows: Vec<Row> = sqlx::query_as(match device {
        None => select_schedules!("where user_id = $1 and id > $2 and $4::bigint is null order by id limit $3"),
        Some(_) => select_schedules!("where user_id = $1 and id > $2 and device_id = $4 order by id limit $3"),
    })
    .bind(actor.user_id())
    .bind(after.unwrap_or(0))
    .bind(devices::checked_limit(limit)?)
    .bind(device)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|row| row.show(now)).collect())
}

/// One schedule.
pub async fn get(tx: &mut Tx, actor: &Actor, id: i64) -> Result<Schedule, Error> {
    let now = tx.now().await?;
    let row: Option<Row> = sqlx::query_as(select_schedules!("where user_id = $1 and id = $2"))
        .bind(actor.user_id())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.ok_or(Error::NotFound)?.show(now))
}

/// The next dates of a rule that isn't stored.
pub async fn preview(tx: &mut Tx, fields: &Fields) -> Result<Vec<Upcoming>, Error> {
    let now = tx.now().await?;
    Ok(fields.check()?.upcoming(now, UPCOMING).into_iter().map(Upcoming::from).collect())
}

/// Edits a schedule; it counts from now. Editing only the jitter moves the next firing, it does not lose it.
pub async fn patch(tx: &mut Tx, actor: &Actor, id: i64, edit: impl FnOnce(&mut Fields)) -> Result<Schedule, Error> {
    lock(tx, actor, id).await?;
    let old = get(tx, actor, id).await?;
    let mut fields = old.fields.clone();
    edit(&mut fields);
    let rule = fields.check()?;
    let same_rule = fields.same_rule(&old.fields);
    let update = sqlx::query(
        "update schedules set schedule_type = $2, time_of_day = $3, day_of_week = $4, day_of_month = $5, timezone = $6,
                sync_deletions = $7, resolve_conflicts = $8, direction = $9, missed_run = $10, overlap = $11,
                jitter_seconds = $12, rule_revision = rule_revision + $13, updated_at = queue.now() where id = $1",
    )
    .bind(id);
    fields.bind(update).bind(i32::from(!same_rule)).execute(&mut **tx).await?;
    if let Some(at) = old.next_run_at {
        let next = if same_rule { at - old.fields.jitter(id) } else { rule.next(tx.now().await?).at };
        set_due(tx, actor, id, next + fields.jitter(id)).await?;
    }
    record(tx, actor, "schedule_changed", id, &old.device_id, fields.as_json()).await?;
    get(tx, actor, id).await
}

/// Removes a schedule. Its runs stay; those that have not begun are cancelled.
pub async fn delete(tx: &mut Tx, actor: &Actor, id: i64) -> Result<(), Error> {
    lock(tx, actor, id).await?;
    let schedule = get(tx, actor, id).await?;
    sqlx::query(
        "update runs set state = 'cancelled', finished_at = queue.now(), fence = fence + 1
         where schedule_id = $1 and state in ('queued', 'waiting_for_device')",
    )
    .bind(id)
    .execute(&mut **tx)
    .await?;
    sqlx::query("delete from schedules where id = $1").bind(id).execute(&mut **tx).await?;
    record(tx, actor, "schedule_deleted", id, &schedule.device_id, json!({})).await
}

/// Lets the schedule fire, from now on.
pub async fn enable(tx: &mut Tx, actor: &Actor, id: i64) -> Result<Schedule, Error> {
    lock(tx, actor, id).await?;
    let schedule = get(tx, actor, id).await?;
    if schedule.enabled {
        return Ok(schedule);
    }
    let next = schedule.fields.rule()?.next(tx.now().await?).at + schedule.fields.jitter(id);
    set_due(tx, actor, id, next).await?;
    set_enabled(tx, id, true).await?;
    record(tx, actor, "schedule_enabled", id, &schedule.device_id, json!({})).await?;
    get(tx, actor, id).await
}

/// Keeps the schedule from firing. Runs that it has made go on.
pub async fn disable(tx: &mut Tx, actor: &Actor, id: i64) -> Result<Schedule, Error> {
    lock(tx, actor, id).await?;
    let schedule = get(tx, actor, id).await?;
    if !schedule.enabled {
        return Ok(schedule);
    }
    sqlx::query("delete from due where schedule_id = $1").bind(id).execute(&mut **tx).await?;
    set_enabled(tx, id, false).await?;
    record(tx, actor, "schedule_disabled", id, &schedule.device_id, json!({})).await?;
    get(tx, actor, id).await
}

/// Takes turns with the dispatcher (the row in `due`) and with other edits (the schedule's own row, where there is none).
async fn lock(tx: &mut Tx, actor: &Actor, id: i64) -> Result<(), Error> {
    sqlx::query("select from due where schedule_id = $1 for update").bind(id).execute(&mut **tx).await?;
    let found = sqlx::query("select from schedules where user_id = $1 and id = $2 for update")
        .bind(actor.user_id())
        .bind(id)
        .execute(&mut **tx)
        .await?;
    if found.rows_affected() == 1 { Ok(()) } else { Err(Error::NotFound) }
}

async fn set_due(tx: &mut Tx, actor: &Actor, id: i64, next_run_at: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query(
        "insert into due (schedule_id, user_id, next_run_at) values ($1, $2, $3)
         on conflict (schedule_id) do update set next_run_at = excluded.next_run_at",
    )
    .bind(id)
    .bind(actor.user_id())
    .bind(next_run_at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn set_enabled(tx: &mut Tx, id: i64, enabled: bool) -> Result<(), Error> {
    sqlx::query("update schedules set enabled = $2, paused_code = null, updated_at = queue.now() where id = $1")
        .bind(id)
        .bind(enabled)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn record(
    tx: &mut Tx,
    actor: &Actor,
    action: &'static str,
    id: i64,
    device_id: &str,
    mut details: Value,
) -> Result<(), Error> {
    details["schedule_id"] = json!(id);
    details["device_id"] = json!(device_id);
    Ok(audit::record(tx, audit::Entry::new(action).by(actor).about("sync_schedule", id).details(details)).await?)
}
