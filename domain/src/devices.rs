//! Devices: what a user's tree is kept in step with.
//!
//! Invariant: a device is registered once, however often that is asked for, and its cursor starts at seq 0 of the tree's
//! epoch. A device that is moved to another folder of the tree starts anew: what it had agreed on spoke of other paths.
//! Left out: where a folder remote may lie (remotes), and when the cursor moves (reports, runs).

use std::path::Path;

use chrono::{DateTime, Utc};
use driftless_sync::{ignore::IgnoreList, path::TreePath};
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{
    Actor, audit,
    config::Settings,
    db::{self, Tx},
    error::{Fault, Kind},
    remotes,
    tree::Cursor,
};

/// Longest device id and name, in characters.
pub const MAX_NAME: usize = 255;
/// Most devices on a page.
pub const PAGE: i64 = 1000;

/// Why an operation on devices failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such device, or another user's.
    #[error("there is no device with this id")]
    NotFound,
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
    /// The id is taken by a device of another kind or place.
    #[error("this id is registered already, for another kind of device or another folder")]
    Differs,
    /// A sync of it runs or is held.
    #[error("a sync of this device runs or waits for approval; end it first")]
    InUse,
    /// The folder of a remote is refused.
    #[error(transparent)]
    Remote(#[from] remotes::Error),
    /// The database failed.
    #[error("devices could not be read or written")]
    Db(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Db);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotFound => Kind::NotFound,
            Error::Invalid { .. } => Kind::Invalid,
            Error::Differs | Error::InUse => Kind::Conflict,
            Error::Remote(e) => e.kind(),
            Error::Db(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NotFound => "device.not_found",
            Error::Invalid { code, .. } => code,
            Error::Differs => "device.differs",
            Error::InUse => "device.in_use",
            Error::Remote(e) => e.code(),
            Error::Db(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Invalid { field, .. } => Some(field),
            Error::Remote(e) => e.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Remote(e) => e.retry_after(),
            Error::Db(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Who does the syncing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeviceKind {
    /// It runs a client and calls us.
    Client,
    /// Storage that a worker reaches by itself.
    Remote,
}

impl DeviceKind {
    /// As the API and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceKind::Client => "client",
            DeviceKind::Remote => "remote",
        }
    }
}

/// Where a remote lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder on the server, absolute.
    Folder(String),
}

/// A device as its owner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Our own number of it.
    pub id: i64,
    /// The client's text, unique per user.
    pub device_id: String,
    /// For people.
    pub device_name: String,
    /// Who does the syncing.
    pub kind: DeviceKind,
    /// Where a remote lies; none for clients.
    pub place: Option<Place>,
    /// The folder of the tree that it is kept in step with.
    pub base_path: String,
    /// Ignored names, in gitignore syntax, beside those that are always ignored.
    pub ignore_rules: Vec<String>,
    /// What it has taken in, `<epoch>.<seq>`.
    pub cursor: String,
    /// Changes of the tree that it has not taken in.
    pub pending_changes: i64,
    /// Conflicts that wait for a decision.
    pub conflicts: i64,
    /// When it last called us, or was last reached.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// When a run of it last succeeded.
    pub last_sync_at: Option<DateTime<Utc>>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// What to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDevice {
    /// The client's text.
    pub device_id: String,
    /// For people; the id when absent.
    pub device_name: Option<String>,
    /// Who does the syncing.
    pub kind: DeviceKind,
    /// Where a remote lies; none for a client.
    pub place: Option<Place>,
    /// The folder of the tree that it is kept in step with; the root when absent.
    pub base_path: Option<String>,
}

/// A change of a device; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// For people.
    pub device_name: Option<String>,
    /// All ignore rules.
    pub ignore_rules: Option<Vec<String>>,
    /// The folder of the tree that it is kept in step with.
    pub base_path: Option<String>,
}

/// What a device does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// A run of it is queued.
    Queued,
    /// A run waits for it.
    Waiting,
    /// A run runs.
    Syncing,
    /// A run waits for approval of its deletions.
    Held,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    device_id: String,
    device_name: String,
    kind: DeviceKind,
    remote_path: Option<String>,
    base_path: String,
    ignore_rules: Vec<String>,
    cursor_epoch: Uuid,
    cursor_seq: i64,
    pending_changes: i64,
    last_seen_at: Option<DateTime<Utc>>,
    last_sync_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Device {
    fn from(row: Row) -> Self {
        Device {
            id: row.id,
            device_id: row.device_id,
            device_name: row.device_name,
            kind: row.kind,
            place: row.remote_path.map(Place::Folder),
            base_path: row.base_path,
            ignore_rules: row.ignore_rules,
            cursor: Cursor { epoch: row.cursor_epoch, seq: row.cursor_seq }.to_string(),
            pending_changes: row.pending_changes,
            // Every policy there is decides at once, so no conflict waits for a person.
            conflicts: 0,
            last_seen_at: row.last_seen_at,
            last_sync_at: row.last_sync_at,
            created_at: row.created_at,
        }
    }
}

/// The columns of [`Row`] from a page `d` of devices, which is limited before the join (a planner trap otherwise).
macro_rules! select_devices {
    ($page:expr) => {
        concat!(
            "select d.id, d.device_id, d.device_name, d.kind, d.remote_path, d.base_path, d.ignore_rules, d.cursor_epoch,
                    d.cursor_seq, d.last_seen_at, d.last_sync_at, d.created_at,
                    case when h.epoch = d.cursor_epoch then h.seq - d.cursor_seq else h.seq end as pending_changes
             from (select * from devices ",
            $page,
            ") d join heads h on h.user_id = d.user_id order by d.device_id"
        )
    };
}

/// Moves a device's cursor to `to`, and on over what came through the device itself: it knows that. Never back, and not when `to`
/// is of another course of history. Answers where it is then.
pub(crate) async fn advance(tx: &mut Tx, device: i64, to: Cursor) -> Result<Cursor, db::Error> {
    sqlx::query(
        "update devices d set cursor_epoch = h.epoch, cursor_seq = coalesce(
             (select v.seq - 1 from versions v
              where v.user_id = d.user_id and v.seq > $3 and v.kind <> 7 and v.device_id is distinct from d.id
              order by v.seq limit 1), h.seq)
         from heads h where d.id = $1 and h.user_id = d.user_id and h.epoch = $2
             and (d.cursor_epoch <> h.epoch or d.cursor_seq <= $3)",
    )
    .bind(device)
    .bind(to.epoch)
    .bind(to.seq)
    .execute(&mut **tx)
    .await?;
    let (epoch, seq) = sqlx::query_as("select cursor_epoch, cursor_seq from devices where id = $1")
        .bind(device)
        .fetch_one(&mut **tx)
        .await?;
    Ok(Cursor { epoch, seq })
}

/// Registers a device, or finds it registered; the flag says whether it is new.
pub async fn register(
    tx: &mut Tx,
    settings: &Settings,
    actor: &Actor,
    new: &NewDevice,
) -> Result<(Device, bool), Error> {
    let device_id = checked_id(&new.device_id)?;
    let device_name = checked_name(new.device_name.as_deref().unwrap_or(device_id))?;
    let base_path = checked_base_path(new.base_path.as_deref().unwrap_or("/"))?;
    check_place(new)?;
    match get(tx, actor, device_id).await {
        Ok(device) => return seen_again(tx, device, new).await,
        Err(Error::NotFound) => {}
        Err(e) => return Err(e),
    }
    let placement = match &new.place {
        Some(Place::Folder(path)) => Some(remotes::register_check(tx, settings, actor, path).await?),
        None => None,
    };
    let made = sqlx::query(
        "insert into devices (user_id, device_id, device_name, kind, base_path, cursor_epoch, last_seen_at,
                              remote, remote_path, remote_root, remote_inode)
         select $1, $2, $3, $4, $5, epoch, queue.now(), $6, $7, $8, $9 from heads where user_id = $1
         on conflict (user_id, device_id) do nothing",
    )
    .bind(actor.user_id())
    .bind(device_id)
    .bind(device_name)
    .bind(new.kind.as_str())
    .bind(base_path.as_str())
    .bind(placement.as_ref().map(|p| json!({"type": "folder", "path": p.path})))
    .bind(placement.as_ref().map(|p| p.path.as_str()))
    .bind(placement.as_ref().map(|p| p.root))
    // Inodes use all 64 bits; the column keeps the same bits.
    .bind(placement.as_ref().map(|p| p.inode.cast_signed()))
    .execute(&mut **tx)
    .await?;
    let device = get(tx, actor, device_id).await?;
    if made.rows_affected() == 0 {
        return seen_again(tx, device, new).await;
    }
    let details = json!({
        "device_id": device_id, "device_name": device_name, "kind": new.kind.as_str(), "base_path": base_path.as_str(),
        "path": placement.map(|p| p.path),
    });
    record(tx, actor, "device_registered", device_id, details).await?;
    Ok((device, true))
}

/// A device that is registered already: the same request answers the same, another kind or place is a mistake.
async fn seen_again(tx: &mut Tx, device: Device, new: &NewDevice) -> Result<(Device, bool), Error> {
    // Compared by names, so that a slash at the end makes no other folder.
    let names = |place: &Option<Place>| {
        place.as_ref().map(|Place::Folder(path)| {
            Path::new(path).components().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>()
        })
    };
    if device.kind != new.kind || names(&device.place) != names(&new.place) {
        return Err(Error::Differs);
    }
    sqlx::query("update devices set last_seen_at = queue.now() where id = $1")
        .bind(device.id)
        .execute(&mut **tx)
        .await?;
    Ok((device, false))
}

/// The devices of the user after `after` (a device id) in order of their ids, at most `limit`.
pub async fn list(tx: &mut Tx, actor: &Actor, after: Option<&str>, limit: i64) -> Result<Vec<Device>, Error> {
    let rows: Vec<Row> =
        sqlx::query_as(select_devices!("where user_id = $1 and device_id > $2 order by device_id limit $3"))
            .bind(actor.user_id())
            .bind(after.unwrap_or(""))
            .bind(checked_limit(limit)?)
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows.into_iter().map(Device::from).collect())
}

/// One device.
pub async fn get(tx: &mut Tx, actor: &Actor, device_id: &str) -> Result<Device, Error> {
    if device_id.contains('\0') {
        return Err(Error::NotFound);
    }
    let row: Option<Row> = sqlx::query_as(select_devices!("where user_id = $1 and device_id = $2"))
        .bind(actor.user_id())
        .bind(device_id)
        .fetch_optional(&mut **tx)
        .await?;
    row.map(Device::from).ok_or(Error::NotFound)
}

/// Our number of the user's device, for modules that keep rows of it.
pub(crate) async fn find(conn: &mut PgConnection, actor: &Actor, device_id: &str) -> Result<i64, Error> {
    if device_id.contains('\0') {
        return Err(Error::NotFound);
    }
    sqlx::query_scalar("select id from devices where user_id = $1 and device_id = $2")
        .bind(actor.user_id())
        .bind(device_id)
        .fetch_optional(conn)
        .await?
        .ok_or(Error::NotFound)
}

/// Makes those take turns who change what a device is or does, until the transaction ends.
pub(crate) async fn lock(conn: &mut PgConnection, device: i64) -> Result<(), sqlx::Error> {
    sqlx::query("select from devices where id = $1 for no key update").bind(device).execute(conn).await?;
    Ok(())
}

/// Changes name, ignore rules or folder. Another folder starts the device anew and is refused while a run runs or is held.
pub async fn patch(tx: &mut Tx, actor: &Actor, device_id: &str, edit: Edit) -> Result<Device, Error> {
    // Locked before it is read: of two edits at once the later one keeps what the first one changed.
    let id = find(tx, actor, device_id).await?;
    lock(tx, id).await?;
    let device = get(tx, actor, device_id).await?;
    let name = checked_name(edit.device_name.as_deref().unwrap_or(&device.device_name))?;
    let rules = edit.ignore_rules.as_ref().unwrap_or(&device.ignore_rules);
    if edit.ignore_rules.is_some() {
        check_ignore_rules(rules)?;
    }
    let base = checked_base_path(edit.base_path.as_deref().unwrap_or(&device.base_path))?;
    let moved = base.as_str() != device.base_path;
    if moved {
        if in_use(tx, device.id).await? {
            return Err(Error::InUse);
        }
        // Commits write baselines, under this lock: they see the old folder and are over, or the new one.
        sqlx::query("select from heads where user_id = $1 for no key update")
            .bind(actor.user_id)
            .execute(&mut **tx)
            .await?;
        // The baselines speak of the old folder: kept, they would make files that lie elsewhere now look deleted.
        sqlx::query("delete from baselines where device_id = $1").bind(device.id).execute(&mut **tx).await?;
        sqlx::query(
            "update devices d set cursor_seq = 0, cursor_epoch = h.epoch from heads h where d.id = $1 and h.user_id = d.user_id",
        )
        .bind(device.id)
        .execute(&mut **tx)
        .await?;
    }
    sqlx::query("update devices set device_name = $2, ignore_rules = $3, base_path = $4, at_rest = null where id = $1")
        .bind(device.id)
        .bind(name)
        .bind(rules)
        .bind(base.as_str())
        .execute(&mut **tx)
        .await?;
    let details =
        json!({"device_id": device_id, "device_name": name, "ignore_rules": rules, "base_path": base.as_str()});
    record(tx, actor, "device_changed", device_id, details).await?;
    get(tx, actor, device_id).await
}

/// Removes the device with its schedules and runs. The files in the tree stay. A run that still executes loses its fence.
pub async fn delete(tx: &mut Tx, actor: &Actor, device_id: &str) -> Result<(), Error> {
    let id = find(tx, actor, device_id).await?;
    // In the dispatcher's order (due, then the rest), so that a firing is either whole before or does not happen.
    sqlx::query("delete from due where schedule_id in (select id from schedules where device_id = $1)")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    // Before the baselines: a commit that is writing some holds the device.
    sqlx::query("select from devices where id = $1 for update").bind(id).execute(&mut **tx).await?;
    sqlx::query("delete from baselines where device_id = $1").bind(id).execute(&mut **tx).await?;
    sqlx::query("delete from devices where id = $1").bind(id).execute(&mut **tx).await?;
    record(tx, actor, "device_deleted", device_id, json!({"device_id": device_id})).await
}

/// What the device does at the moment, most telling state first.
pub async fn activity(tx: &mut Tx, device: &Device) -> Result<Activity, Error> {
    let states: Vec<String> = sqlx::query_scalar(
        "select distinct state from runs
         where device_id = $1 and state in ('queued', 'running', 'waiting_for_device', 'held') and not dry_run",
    )
    .bind(device.id)
    .fetch_all(&mut **tx)
    .await?;
    let first = [
        ("running", Activity::Syncing),
        ("held", Activity::Held),
        ("waiting_for_device", Activity::Waiting),
        ("queued", Activity::Queued),
    ];
    let found = first.into_iter().find(|(state, _)| states.iter().any(|s| s == state));
    Ok(found.map_or(Activity::Idle, |(_, activity)| activity))
}

/// Whether a run of the device runs or is held.
pub(crate) async fn in_use(conn: &mut PgConnection, device: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from runs where device_id = $1 and not dry_run
                        and state in ('queued', 'running', 'waiting_for_device', 'held') and state in ('running', 'held'))",
    )
    .bind(device)
    .fetch_one(conn)
    .await
}

async fn record(
    tx: &mut Tx,
    actor: &Actor,
    action: &'static str,
    device_id: &str,
    details: Value,
) -> Result<(), Error> {
    Ok(audit::record(tx, audit::Entry::new(action).by(actor).about("device", device_id).details(details)).await?)
}

fn checked_id(text: &str) -> Result<&str, Error> {
    checked_text(text, "device.id_invalid", "device_id", "the device id")
}

fn checked_name(text: &str) -> Result<&str, Error> {
    checked_text(text, "device.name_invalid", "device_name", "the device's name")
}

fn checked_text<'a>(text: &'a str, code: &'static str, field: &'static str, what: &str) -> Result<&'a str, Error> {
    let length = text.chars().count();
    if !(1..=MAX_NAME).contains(&length) || text.trim().is_empty() || text.chars().any(char::is_control) {
        let problem =
            format!("{what} must have 1 to {MAX_NAME} characters, not all blank and none a control character");
        return Err(Error::Invalid { code, field, problem });
    }
    Ok(text)
}

fn check_place(new: &NewDevice) -> Result<(), Error> {
    let problem = match (new.kind, &new.place) {
        (DeviceKind::Remote, None) => "a remote needs its type and path",
        (DeviceKind::Client, Some(_)) => "only a device of kind remote has a place",
        _ => return Ok(()),
    };
    Err(Error::Invalid { code: "remote.invalid", field: "remote", problem: problem.into() })
}

/// Checks the size of a page.
pub(crate) fn checked_limit(limit: i64) -> Result<i64, Error> {
    let problem = || format!("a page has 1 to {PAGE} entries");
    let fits = (1..=PAGE).contains(&limit);
    fits.then_some(limit).ok_or_else(|| Error::Invalid { code: "limit.invalid", field: "limit", problem: problem() })
}

fn checked_base_path(text: &str) -> Result<TreePath, Error> {
    TreePath::parse(text).map_err(|e| Error::Invalid {
        code: "device.base_path_invalid",
        field: "base_path",
        problem: format!("the folder of the tree can't be: {e}"),
    })
}

fn check_ignore_rules(rules: &[String]) -> Result<(), Error> {
    let invalid = |code, problem| Err(Error::Invalid { code, field: "ignore", problem });
    if rules.iter().any(String::is_empty) {
        return invalid("device.ignore_invalid", "a rule can't be empty".into());
    }
    match IgnoreList::new(rules.iter().map(String::as_str)) {
        Ok(_) => Ok(()),
        Err(e) => invalid(e.code(), e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_in_characters_and_hold_no_control_characters() {
        assert!(checked_id(&"é".repeat(255)).is_ok());
        for bad in ["", "  ", "a\nb", "a\0", &"x".repeat(256), &"x".repeat(10_000)] {
            let error = checked_id(bad).expect_err("refused");
            assert_eq!((error.code(), error.field()), ("device.id_invalid", Some("device_id")));
        }
    }
}
