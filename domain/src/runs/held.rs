//! Deletions that wait for a person: the lists of held runs of client devices, and what was approved.
//!
//! Invariant: a device has at most one run that holds deletions; approval covers exactly the pairs listed when it was given, for as long
//! as the run lives. Remotes' runs hold through their own execution.

use serde_json::json;
use uuid::Uuid;

use super::{Error, HeldDeletion, Options, new_id};
use crate::{
    Actor, Tx, audit, devices,
    schedules::{Direction, Resolution},
};

/// The run that a client device has claimed and still holds, and what it may do.
pub(crate) async fn claimed(tx: &mut Tx, device: i64) -> Result<Option<(Uuid, Options)>, Error> {
    let row: Option<(Uuid, bool, Resolution, Direction)> = sqlx::query_as(
        "select id, sync_deletions, resolve_conflicts, direction from runs
         where device_id = $1 and state = 'running' and not dry_run and lease_until > queue.now()",
    )
    .bind(device)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(run, sync_deletions, resolve_conflicts, direction)| {
        (run, Options { sync_deletions, resolve_conflicts, direction })
    }))
}

/// The deletions that a person approved for a device, in runs that have not ended.
pub(crate) async fn approved(tx: &mut Tx, device: i64) -> Result<Vec<HeldDeletion>, Error> {
    // Both conditions on the state: the first is the index's.
    Ok(sqlx::query_as(
        "select h.side, h.path, h.version
         from (select id from runs where device_id = $1 and approved_at is not null
               and state in ('queued', 'running', 'waiting_for_device', 'held') and state <> 'held') r
         join held_deletions h on h.run_id = r.id",
    )
    .bind(device)
    .fetch_all(&mut **tx)
    .await?)
}

/// Puts deletions of a client device before a person: in the run that it has claimed (which is held once the device has done
/// the rest), in the run that is held already, else in a new one. `all`: these are all that there are; else they come on top.
pub(crate) async fn hold(
    tx: &mut Tx,
    actor: &Actor,
    device: i64,
    deletions: &[HeldDeletion],
    all: bool,
) -> Result<Uuid, Error> {
    devices::lock(tx, device).await?;
    let open: Option<(Uuid, i64)> = sqlx::query_as(
        "select id, held_count from runs where device_id = $1 and not dry_run
         and state in ('queued', 'running', 'waiting_for_device', 'held')
         and (state = 'held' or (state = 'running' and approved_at is null and lease_until > queue.now())) order by state = 'running' limit 1",
    )
    .bind(device)
    .fetch_optional(&mut **tx)
    .await?;
    let (run, before) = match open {
        Some(open) => open,
        None => (create(tx, actor, device).await?, 0),
    };
    if all {
        sqlx::query("delete from held_deletions where run_id = $1").bind(run).execute(&mut **tx).await?;
    }
    let column = |f: fn(&HeldDeletion) -> &str| deletions.iter().map(f).collect::<Vec<_>>();
    let count: i64 = sqlx::query_scalar(
        "with kept as (select side, path, version, n from held_deletions where run_id = $1),
         new as (insert into held_deletions (run_id, n, user_id, side, path, version)
                 select $1, (select coalesce(max(n), 0) from kept) + row_number() over (order by h.n), $2, side, path, version
                 from unnest($3::text[], $4::text[], $5::int8[]) with ordinality as h(side, path, version, n)
                 where (side, path, version) not in (select side, path, version from kept) returning 1)
         select (select count(*) from kept) + (select count(*) from new)",
    )
    .bind(run)
    .bind(actor.user_id())
    .bind(column(|d| d.side.as_str()))
    .bind(column(|d| &d.path))
    .bind(deletions.iter().map(|d| d.version).collect::<Vec<_>>())
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query("update runs set held_count = $2, approved_at = null where id = $1")
        .bind(run)
        .bind(count)
        .execute(&mut **tx)
        .await?;
    if before != count {
        record(tx, actor, run, device, count).await?;
    }
    Ok(run)
}

/// Nothing of what the device's claimed run held is to be deleted any more.
pub(crate) async fn release(tx: &mut Tx, device: i64) -> Result<(), Error> {
    sqlx::query(
        "with r as (update runs set held_count = 0 where device_id = $1 and state = 'running' and held_count > 0
                    and approved_at is null and lease_until > queue.now() returning id)
         delete from held_deletions h using r where h.run_id = r.id",
    )
    .bind(device)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How many deletions a run holds that nobody has approved.
pub(super) async fn waiting(tx: &mut Tx, run: Uuid) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("select case when approved_at is null then held_count else 0 end from runs where id = $1")
        .bind(run)
        .fetch_one(&mut **tx)
        .await?)
}

/// A run outside any schedule that waits for a person from its first moment.
async fn create(tx: &mut Tx, actor: &Actor, device: i64) -> Result<Uuid, Error> {
    let run = new_id(tx.now().await?);
    sqlx::query(
        "insert into runs (id, user_id, device_id, trigger, sync_deletions, resolve_conflicts, direction, state)
         values ($1, $2, $3, 'manual', true, 'keep_both', 'both', 'held')",
    )
    .bind(run)
    .bind(actor.user_id())
    .bind(device)
    .execute(&mut **tx)
    .await?;
    Ok(run)
}

async fn record(tx: &mut Tx, actor: &Actor, run: Uuid, device: i64, deletions: i64) -> Result<(), Error> {
    let (device_id, schedule): (String, Option<i64>) = sqlx::query_as(
        "select d.device_id, r.schedule_id from runs r join devices d on d.id = r.device_id where r.id = $1 and d.id = $2",
    )
    .bind(run)
    .bind(device)
    .fetch_one(&mut **tx)
    .await?;
    let details = json!({"schedule_id": schedule, "device_id": device_id, "run_id": run, "deletions": deletions});
    let entry = audit::Entry::new("sync_run_held").by(actor).about("sync_run", run);
    Ok(audit::record(tx, entry.details(details).warning()).await?)
}
