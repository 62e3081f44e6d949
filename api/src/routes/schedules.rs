//! Schedules: make, look at, edit, remove, and run now.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain, runs,
    schedules::{self, Direction, Fields, MissedRun, Overlap, Resolution, ScheduleType},
};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::MaybeUndefined,
};
use uuid::Uuid;

use super::{Tag, or_default, runs::RunState};
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

/// An enum of the API beside the domain's of the same words.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident = $domain:ident { $($(#[$vdoc:meta])* $variant:ident,)+ } $($alias:ident => $same:ident)?) => {
        $(#[$doc])*
        #[derive(Enum, Clone, Copy)]
        #[oai(rename_all = "snake_case")]
        pub(crate) enum $name {
            $($(#[$vdoc])* $variant,)+
            $(
                /// Another word for keep_both.
                $alias,
            )?
        }

        impl From<$name> for $domain {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => $domain::$variant,)+
                    $($name::$alias => $domain::$same,)?
                }
            }
        }

        impl From<$domain> for $name {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => $name::$variant,)+ }
            }
        }
    };
}

mirror!(
    /// What makes a schedule fire.
    Cadence = ScheduleType {
        /// Each day.
        Daily,
        /// One day of the week.
        Weekly,
        /// One day of the month, the last one of a shorter month.
        Monthly,
        /// A change on either side. Not available yet.
        OnChange,
    }
);
mirror!(
    /// Who wins when both sides changed a file.
    ConflictPolicy = Resolution {
        /// The later modification time.
        KeepNewest,
        /// The device.
        KeepLocal,
        /// The tree.
        KeepServer,
        /// Both; one gets another name.
        KeepBoth,
        /// A person, later. Not available yet.
        Ask,
    }
    CreateVersion => KeepBoth
);
mirror!(
    /// Which side a run may change.
    SyncDirection = Direction {
        /// Both.
        Both,
        /// The tree only.
        Upload,
        /// The device only.
        Download,
    }
);
mirror!(
    /// What becomes of a firing that nobody was there for.
    MissedRunPolicy = MissedRun {
        /// The newest runs once, if it is at most a day old.
        RunOnce,
        /// It is recorded as missed.
        Skip,
    }
);
mirror!(
    /// What becomes of a firing while another run of the device runs or is held.
    OverlapPolicy = Overlap {
        /// It is recorded as skipped.
        Skip,
        /// One waits until the other has ended.
        QueueOne,
    }
);

/// A schedule to make.
#[derive(Object)]
struct CreateSchedule {
    /// The device to sync.
    device_id: String,
    #[oai(flatten)]
    rule: ScheduleRule,
}

/// When and how to sync. Absent fields take their defaults.
#[derive(Object)]
struct ScheduleRule {
    /// What makes it fire; `daily` when absent.
    schedule_type: Option<Cadence>,
    /// Wall-clock time "HH:MM"; "02:00" when absent.
    time_of_day: Option<String>,
    /// 0 = Monday to 6 = Sunday, for weekly; 0 when absent.
    day_of_week: Option<i32>,
    /// 1 to 31, for monthly; clamped to the last day of a shorter month; 1 when absent.
    day_of_month: Option<i32>,
    /// IANA name of the zone whose clocks count; "UTC" when absent.
    timezone: Option<String>,
    /// Whether deletions of one side are carried out on the other; true when absent.
    sync_deletions: Option<bool>,
    /// Who wins when both sides changed a file; `keep_newest` when absent.
    resolve_conflicts: Option<ConflictPolicy>,
    /// Which side a run may change; `both` when absent.
    direction: Option<SyncDirection>,
    /// What becomes of a firing that nobody was there for; `run_once` when absent.
    missed_run: Option<MissedRunPolicy>,
    /// What becomes of a firing while another run of the device runs or is held; `skip` when absent.
    overlap: Option<OverlapPolicy>,
    /// Spreads firings over this many seconds after the time of day, 0 to 3600; 0 when absent.
    jitter_seconds: Option<i32>,
}

impl From<ScheduleRule> for Fields {
    fn from(rule: ScheduleRule) -> Self {
        let base = Fields::default();
        Fields {
            schedule_type: rule.schedule_type.map_or(base.schedule_type, Into::into),
            time_of_day: rule.time_of_day.unwrap_or(base.time_of_day),
            day_of_week: rule.day_of_week.unwrap_or(base.day_of_week),
            day_of_month: rule.day_of_month.unwrap_or(base.day_of_month),
            timezone: rule.timezone.unwrap_or(base.timezone),
            sync_deletions: rule.sync_deletions.unwrap_or(base.sync_deletions),
            resolve_conflicts: rule.resolve_conflicts.map_or(base.resolve_conflicts, Into::into),
            direction: rule.direction.map_or(base.direction, Into::into),
            missed_run: rule.missed_run.map_or(base.missed_run, Into::into),
            overlap: rule.overlap.map_or(base.overlap, Into::into),
            jitter_seconds: rule.jitter_seconds.unwrap_or(base.jitter_seconds),
        }
    }
}

/// An edit of a schedule. What is absent stays; null sets back to the default.
#[derive(Object)]
struct PatchSchedule {
    /// What makes it fire.
    schedule_type: MaybeUndefined<Cadence>,
    /// Wall-clock time "HH:MM".
    time_of_day: MaybeUndefined<String>,
    /// 0 = Monday to 6 = Sunday, for weekly.
    day_of_week: MaybeUndefined<i32>,
    /// 1 to 31, for monthly; clamped to the last day of a shorter month.
    day_of_month: MaybeUndefined<i32>,
    /// IANA name of the zone whose clocks count.
    timezone: MaybeUndefined<String>,
    /// Whether deletions of one side are carried out on the other.
    sync_deletions: MaybeUndefined<bool>,
    /// Who wins when both sides changed a file.
    resolve_conflicts: MaybeUndefined<ConflictPolicy>,
    /// Which side a run may change.
    direction: MaybeUndefined<SyncDirection>,
    /// What becomes of a firing that nobody was there for.
    missed_run: MaybeUndefined<MissedRunPolicy>,
    /// What becomes of a firing while another run of the device runs or is held.
    overlap: MaybeUndefined<OverlapPolicy>,
    /// Spreads firings over this many seconds after the time of day, 0 to 3600.
    jitter_seconds: MaybeUndefined<i32>,
}

impl PatchSchedule {
    fn apply(self, fields: &mut Fields) {
        fn set<T, U: Into<T>>(field: &mut T, edit: MaybeUndefined<U>, default: T) {
            if let Some(value) = or_default(map(edit), || default) {
                *field = value;
            }
        }
        fn map<T, U: Into<T>>(edit: MaybeUndefined<U>) -> MaybeUndefined<T> {
            match edit {
                MaybeUndefined::Value(value) => MaybeUndefined::Value(value.into()),
                MaybeUndefined::Null => MaybeUndefined::Null,
                MaybeUndefined::Undefined => MaybeUndefined::Undefined,
            }
        }
        let base = Fields::default();
        set(&mut fields.schedule_type, self.schedule_type, base.schedule_type);
        set(&mut fields.time_of_day, self.time_of_day, base.time_of_day);
        set(&mut fields.day_of_week, self.day_of_week, base.day_of_week);
        set(&mut fields.day_of_month, self.day_of_month, base.day_of_month);
        set(&mut fields.timezone, self.timezone, base.timezone);
        set(&mut fields.sync_deletions, self.sync_deletions, base.sync_deletions);
        set(&mut fields.resolve_conflicts, self.resolve_conflicts, base.resolve_conflicts);
        set(&mut fields.direction, self.direction, base.direction);
        set(&mut fields.missed_run, self.missed_run, base.missed_run);
        set(&mut fields.overlap, self.overlap, base.overlap);
        set(&mut fields.jitter_seconds, self.jitter_seconds, base.jitter_seconds);
    }
}

/// Why a date is not literally what the rule says.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum UpcomingNote {
    /// The month is shorter than the day.
    Clamped,
    /// The clocks skip that time; it fires right after the gap.
    Gap,
    /// The clocks show that time twice; it fires the first time.
    Fold,
}

/// A coming date.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Upcoming {
    /// The instant, before jitter.
    at: DateTime<Utc>,
    /// What the clocks of the zone show then, like "2027-03-14T03:00".
    local: String,
    /// Why it is not literally what the rule says.
    note: Option<UpcomingNote>,
}

impl From<schedules::Upcoming> for Upcoming {
    fn from(upcoming: schedules::Upcoming) -> Self {
        use schedules::Note;
        let note = upcoming.note.map(|note| match note {
            Note::Clamped => UpcomingNote::Clamped,
            Note::Gap => UpcomingNote::Gap,
            Note::Fold => UpcomingNote::Fold,
        });
        Upcoming { at: upcoming.at, local: upcoming.local.format("%Y-%m-%dT%H:%M").to_string(), note }
    }
}

/// The next dates of a rule.
#[derive(Object)]
struct SchedulePreview {
    /// The next five.
    upcoming: Vec<Upcoming>,
}

/// The newest run of a schedule.
#[derive(Object)]
struct LastRun {
    /// The run.
    run_id: Uuid,
    /// Where it is.
    state: RunState,
}

/// A schedule.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Schedule {
    /// Names it.
    schedule_id: i64,
    /// The device that it syncs.
    device_id: String,
    /// The device's name.
    device_name: String,
    /// What makes it fire.
    schedule_type: Cadence,
    /// Wall-clock time "HH:MM".
    time_of_day: String,
    /// 0 = Monday to 6 = Sunday, for weekly.
    day_of_week: i32,
    /// 1 to 31, for monthly.
    day_of_month: i32,
    /// IANA name of the zone whose clocks count.
    timezone: String,
    /// Whether deletions of one side are carried out on the other.
    sync_deletions: bool,
    /// Who wins when both sides changed a file.
    resolve_conflicts: ConflictPolicy,
    /// Which side a run may change.
    direction: SyncDirection,
    /// What becomes of a firing that nobody was there for.
    missed_run: MissedRunPolicy,
    /// What becomes of a firing while another run of the device runs or is held.
    overlap: OverlapPolicy,
    /// Spreads firings over this many seconds after the time of day.
    jitter_seconds: i32,
    /// Whether it fires.
    enabled: bool,
    /// Why the server disabled it.
    paused_code: Option<String>,
    /// When it fires next, with jitter; absent while disabled.
    next_run_at: Option<DateTime<Utc>>,
    /// When its newest run began, or was made.
    last_run_at: Option<DateTime<Utc>>,
    /// Its newest run.
    last_run: Option<LastRun>,
    /// Its next five dates.
    upcoming: Vec<Upcoming>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was last edited, enabled or disabled.
    updated_at: DateTime<Utc>,
}

impl From<schedules::Schedule> for Schedule {
    fn from(schedule: schedules::Schedule) -> Self {
        let fields = schedule.fields;
        Schedule {
            schedule_id: schedule.id,
            device_id: schedule.device_id,
            device_name: schedule.device_name,
            schedule_type: fields.schedule_type.into(),
            time_of_day: fields.time_of_day,
            day_of_week: fields.day_of_week,
            day_of_month: fields.day_of_month,
            timezone: fields.timezone,
            sync_deletions: fields.sync_deletions,
            resolve_conflicts: fields.resolve_conflicts.into(),
            direction: fields.direction.into(),
            missed_run: fields.missed_run.into(),
            overlap: fields.overlap.into(),
            jitter_seconds: fields.jitter_seconds,
            enabled: schedule.enabled,
            paused_code: schedule.paused_code,
            next_run_at: schedule.next_run_at,
            last_run_at: schedule.last_run.map(|run| run.at),
            last_run: schedule.last_run.map(|run| LastRun { run_id: run.run_id, state: run.state.into() }),
            upcoming: schedule.upcoming.into_iter().map(Upcoming::from).collect(),
            created_at: schedule.created_at,
            updated_at: schedule.updated_at,
        }
    }
}

/// A page of schedules in the order of their ids.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct SchedulePage {
    /// The schedules.
    schedules: Vec<Schedule>,
    /// Send it as `cursor` for the next page; absent on the last.
    next_cursor: Option<String>,
}

#[derive(ApiResponse)]
enum ScheduleDeleted {
    /// It is gone. Its runs stay; those that had not begun are cancelled.
    #[oai(status = 204)]
    Done,
}

/// A run that was made, or is open already.
#[derive(Object)]
struct RunAccepted {
    /// Follow it at `GET /api/sync/runs/{run_id}`.
    run_id: Uuid,
}

#[derive(ApiResponse)]
enum RunNow {
    /// The run is queued; or this one is open already.
    #[oai(status = 202)]
    Accepted(Json<RunAccepted>),
}

pub(crate) struct Schedules;

#[OpenApi(prefix_path = "/sync/schedule", tag = "Tag::Sync")]
impl Schedules {
    /// Make a schedule
    ///
    /// It counts from now: today's time fires today if it is still ahead.
    #[oai(path = "/create", method = "post", operation_id = "create_schedule")]
    async fn create_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<CreateSchedule>,
    ) -> Result<Json<Schedule>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let schedule = schedules::create(&mut tx, &auth.0, &body.0.device_id, body.0.rule.into()).await?;
        tx.commit().await?;
        Ok(Json(schedule.into()))
    }

    /// List schedules
    #[oai(path = "/list", method = "get", operation_id = "list_schedules")]
    async fn list_schedules(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// Only this device's.
        device_id: Query<Option<String>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Schedules in a page, 1 to 1000.
        #[oai(default = "super::hundred")]
        limit: Query<i64>,
    ) -> Result<Json<SchedulePage>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let found =
            schedules::list(&mut tx, &auth.0, device_id.0.as_deref(), super::position(cursor.0)?, limit.0).await?;
        let schedules: Vec<Schedule> = found.into_iter().map(Schedule::from).collect();
        let next_cursor = super::next(&schedules, limit.0, |s| s.schedule_id.to_string());
        Ok(Json(SchedulePage { schedules, next_cursor }))
    }

    /// The next dates of a rule, before it is stored
    #[oai(path = "/preview", method = "post", operation_id = "preview_schedule")]
    async fn preview_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<ScheduleRule>,
    ) -> Result<Json<SchedulePreview>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let upcoming = schedules::preview(&mut tx, &body.0.into()).await?;
        Ok(Json(SchedulePreview { upcoming: upcoming.into_iter().map(Upcoming::from).collect() }))
    }

    /// Look at a schedule
    #[oai(path = "/:schedule_id", method = "get", operation_id = "get_schedule")]
    async fn get_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
    ) -> Result<Json<Schedule>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        Ok(Json(schedules::get(&mut tx, &auth.0, schedule_id.0).await?.into()))
    }

    /// Edit a schedule
    ///
    /// It counts from now, and never makes up for what lies behind.
    #[oai(path = "/:schedule_id", method = "patch", operation_id = "patch_schedule")]
    async fn patch_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
        body: JsonBody<PatchSchedule>,
    ) -> Result<Json<Schedule>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let schedule = schedules::patch(&mut tx, &auth.0, schedule_id.0, |fields| body.0.apply(fields)).await?;
        tx.commit().await?;
        Ok(Json(schedule.into()))
    }

    /// Remove a schedule
    #[oai(path = "/:schedule_id", method = "delete", operation_id = "delete_schedule")]
    async fn delete_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
    ) -> Result<ScheduleDeleted, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        schedules::delete(&mut tx, &auth.0, schedule_id.0).await?;
        tx.commit().await?;
        Ok(ScheduleDeleted::Done)
    }

    /// Let a schedule fire, from now on
    #[oai(path = "/:schedule_id/enable", method = "post", operation_id = "enable_schedule")]
    async fn enable_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
    ) -> Result<Json<Schedule>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let schedule = schedules::enable(&mut tx, &auth.0, schedule_id.0).await?;
        tx.commit().await?;
        Ok(Json(schedule.into()))
    }

    /// Keep a schedule from firing
    #[oai(path = "/:schedule_id/disable", method = "post", operation_id = "disable_schedule")]
    async fn disable_schedule(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
    ) -> Result<Json<Schedule>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let schedule = schedules::disable(&mut tx, &auth.0, schedule_id.0).await?;
        tx.commit().await?;
        Ok(Json(schedule.into()))
    }

    /// Run a schedule now
    ///
    /// While a run of its device is open, that run is the answer.
    #[oai(path = "/:schedule_id/run", method = "post", operation_id = "run_schedule_now")]
    async fn run_schedule_now(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The schedule's id.
        schedule_id: Path<i64>,
        /// Only plan; the run then shows the plan and changes nothing.
        #[oai(default)]
        dry_run: Query<bool>,
    ) -> Result<RunNow, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let run_id = runs::run_now(&mut tx, &auth.0, schedule_id.0, dry_run.0).await?;
        tx.commit().await?;
        Ok(RunNow::Accepted(Json(RunAccepted { run_id })))
    }
}
