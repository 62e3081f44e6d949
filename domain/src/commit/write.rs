//! The transaction of a commit: locks in their order (head, device, run, chunks), decisions, rows in bulk.
//!
//! Invariant: nothing is answered before the commit; entries are written so that the unique index of names holds at each step
//! (what moves is hidden first).

use std::collections::HashSet;

use driftless_sync::{hash::ContentHash, path::TreePath};
use sqlx::{PgConnection, prelude::FromRow};
use uuid::Uuid;

use super::{
    Batch, Change, Error, Origin, Outcome, Waiting,
    decide::Decider,
    state::{Slot, State},
};
use crate::{
    Actor, Domain, Tx, audit, db, store,
    tree::{self, Row},
};

/// Carries out what waits in one transaction. For each request its answer, and whether its pack was recorded.
pub(super) async fn transact(
    domain: &Domain,
    together: &[Waiting],
) -> Result<Vec<(Result<Vec<Outcome>, Error>, bool)>, Error> {
    let actor = &together[0].actor;
    let mut tx = domain.begin(actor).await?;
    let mut state = lock_head(&mut tx, actor).await?;
    let before = state.seq;
    let mut answers = Vec::with_capacity(together.len());
    for waiting in together {
        let prepared = prepare(&mut tx, actor, &waiting.batch).await;
        // A refusal of one request is its own affair; a failing statement ends the whole transaction.
        match prepared {
            Ok((recorded, folder)) => {
                let outcomes = carry_out(&mut tx, &mut state, actor, &waiting.batch, folder.as_ref()).await?;
                answers.push((Ok(outcomes), recorded));
            }
            Err(
                error @ (Error::FenceLost
                | Error::DeviceGone
                | Error::UploadOver
                | Error::Store(store::Error::Missing(_))),
            ) => answers.push((Err(error), false)),
            Err(error) => return Err(error),
        }
    }
    write(&mut tx, &mut state).await?;
    let (epoch, seq) = (state.epoch, state.seq);
    // From here on a lost connection says nothing of what became of it.
    tx.commit().await.map_err(|e| match e {
        db::Error::Unreachable(_) => Error::Interrupted,
        e => e.into(),
    })?;
    if seq > before {
        domain.hub().moved(actor.user_id, epoch, seq);
    }
    Ok(answers)
}

/// All that must hold before anything of a request is decided. Answers whether its pack was recorded, and its device's folder.
async fn prepare(conn: &mut PgConnection, actor: &Actor, batch: &Batch) -> Result<(bool, Option<TreePath>), Error> {
    let folder = hold_device(conn, &batch.origin).await?;
    if let Some(upload) = batch.upload {
        hold_upload(conn, upload).await?;
    }
    Ok((take_chunks(conn, actor.user_id, batch).await?, folder))
}

/// Holds an upload that is still to be completed: its file must not come to be twice, nor after it was given up.
async fn hold_upload(conn: &mut PgConnection, upload: Uuid) -> Result<(), Error> {
    let open: Option<i32> =
        sqlx::query_scalar("select 1 from uploads where id = $1 and done is null for no key update")
            .bind(upload)
            .fetch_optional(conn)
            .await?;
    open.map(|_| ()).ok_or(Error::UploadOver)
}

async fn lock_head(tx: &mut Tx, actor: &Actor) -> Result<State, Error> {
    let now = tx.now().await?;
    // An acknowledged change must survive a crash, whatever the database's default is.
    let (epoch, seq, _): (Uuid, i64, String) = sqlx::query_as(
        "select epoch, seq, set_config('synchronous_commit', 'on', true) from heads where user_id = $1 for no key update",
    )
    .bind(actor.user_id)
    .fetch_one(&mut **tx)
    .await?;
    Ok(State::new(actor.user_id, now, epoch, seq))
}

/// Holds the device, and the run at its fence, until the transaction ends. Answers the folder of a device that reports by
/// itself: who gives it another one takes turns by the user's head, which is locked by now. That of a run stays while it runs.
async fn hold_device(conn: &mut PgConnection, origin: &Origin) -> Result<Option<TreePath>, Error> {
    let Some(device) = origin.device() else { return Ok(None) };
    let folder: Option<String> = sqlx::query_scalar("select base_path from devices where id = $1 for key share")
        .bind(device)
        .fetch_optional(&mut *conn)
        .await?;
    let folder = folder.ok_or(Error::DeviceGone)?;
    let Origin::Run { run, fence, .. } = origin else { return Ok(TreePath::parse(&folder).ok()) };
    let held: Option<i32> = sqlx::query_scalar(
        "select 1 from runs where id = $1 and device_id = $2 and fence = $3 and state = 'running' for share",
    )
    .bind(run)
    .bind(device)
    .bind(fence)
    .fetch_optional(conn)
    .await?;
    held.map(|_| None).ok_or(Error::FenceLost)
}

/// Records the request's pack and takes every chunk that its contents name.
async fn take_chunks(conn: &mut PgConnection, user_id: i64, batch: &Batch) -> Result<bool, store::Error> {
    let wanted: Vec<ContentHash> = batch
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Put { contents, .. } | Change::Keep { contents, .. } => Some(contents.chunks()),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    let pack = batch.ingested.as_ref().and_then(|i| i.pack.as_ref());
    let packs: Vec<_> = pack.into_iter().collect();
    let recorded = store::record_and_claim(conn, user_id, &packs, &wanted).await?;
    Ok(recorded.first().copied().unwrap_or(false))
}

async fn carry_out(
    tx: &mut Tx,
    state: &mut State,
    actor: &Actor,
    batch: &Batch,
    folder: Option<&TreePath>,
) -> Result<Vec<Outcome>, Error> {
    let paths: Vec<&TreePath> = batch
        .changes
        .iter()
        .flat_map(|change| match change {
            Change::Put { path, .. }
            | Change::Keep { path, .. }
            | Change::Folder { path, .. }
            | Change::Touch { path, .. }
            | Change::Delete { path, .. }
            | Change::Restore { to: path, .. } => vec![path],
            Change::Move { from, to, .. } => vec![from, to],
            Change::Agree { .. } | Change::Forget { .. } => vec![],
        })
        .collect();
    state.preload(tx, &paths).await?;
    let mut outcomes = Vec::with_capacity(batch.changes.len());
    for change in &batch.changes {
        let mut decider = Decider { conn: &mut *tx, state: &mut *state, origin: batch.origin, folder };
        outcomes.push(decider.decide(change).await?);
    }
    if let Some(pins) = batch.ingested.as_ref().and_then(|i| i.pins()) {
        sqlx::query("with i as (delete from ingests where id = $1) delete from pins where holder = $1")
            .bind(pins)
            .execute(&mut **tx)
            .await?;
    }
    if let (Some(upload), Some(done)) = (batch.upload, outcomes.first().and_then(|o| o.clone().applied().ok())) {
        sqlx::query(
            "with u as (update uploads set done = $2, done_path = $3, completing = false where id = $1)
             delete from pins where holder = $1",
        )
        .bind(upload)
        .bind(done.version)
        .bind(done.path.as_str())
        .execute(&mut **tx)
        .await?;
    }
    record_removals(tx, actor, batch, &outcomes).await?;
    Ok(outcomes)
}

/// What a person deletes and takes out of the trash is in the audit; what devices do is told by their runs and reports.
async fn record_removals(tx: &mut Tx, actor: &Actor, batch: &Batch, outcomes: &[Outcome]) -> Result<(), Error> {
    if batch.origin != Origin::Person {
        return Ok(());
    }
    for (change, outcome) in batch.changes.iter().zip(outcomes) {
        let (action, Outcome::Done(done)) = (
            match change {
                Change::Delete { .. } => "file_deleted",
                Change::Restore { .. } => "file_restored",
                _ => continue,
            },
            outcome,
        ) else {
            continue;
        };
        let details = serde_json::json!({"path": done.path.as_str(), "version": done.version});
        audit::record(tx, audit::Entry::new(action).by(actor).about("file", done.entry_id).details(details)).await?;
    }
    Ok(())
}

/// What lies below a folder.
#[derive(Debug, Default, FromRow)]
pub(super) struct Below {
    pub entries: i64,
    pub files: i64,
    pub bytes: i64,
    /// Bytes of the longest path below, as seen from the folder.
    pub longest: i64,
    pub depth: i64,
}

/// Adds up what lies below a folder. Writes first what was decided, so that one statement sees it all.
pub(super) async fn below(conn: &mut PgConnection, state: &mut State, folder: i64) -> Result<Below, Error> {
    write(conn, state).await?;
    Ok(sqlx::query_as(
        "with recursive t as (
             select $2::bigint as id, 0::bigint as seq, 0::smallint as kind, 0::bigint as length, 0::bigint as depth
             union all
             select e.id, e.seq, e.kind, t.length + 1 + octet_length(e.name), t.depth + 1 from t cross join lateral (
                 select id, seq, kind, name from entries where user_id = $1 and parent_id = t.id and not deleted offset 0) e
             where t.kind = 0)
         select count(*) as entries, count(*) filter (where t.kind = 1) as files, coalesce(sum(v.size), 0)::bigint as bytes,
                coalesce(max(length), 0) as longest, coalesce(max(depth), 0) as depth
         from t left join lateral (select size from versions where user_id = $1 and seq = t.seq and t.kind = 1 limit 1) v on true
         where t.id <> $2",
    )
    .bind(state.user_id)
    .bind(folder)
    .fetch_one(conn)
    .await?)
}

/// An entry in the trash (by itself or with a folder above it), with its old place.
pub(super) async fn trashed(
    conn: &mut PgConnection,
    state: &mut State,
    entry: i64,
) -> Result<Option<(Slot, i64, String)>, Error> {
    #[derive(FromRow)]
    struct Trashed {
        parent_id: i64,
        name: String,
        deleted: bool,
        #[sqlx(flatten)]
        row: Row,
    }
    write(conn, state).await?;
    let found: Option<Trashed> = sqlx::query_as(
        "select e.parent_id, e.name, e.deleted, e.id, e.seq, e.kind, v.size, v.sha256, v.modified_at, v.executable
         from (select * from entries where user_id = $1 and id = $2) e
         cross join lateral (select * from versions where user_id = $1 and seq = e.seq limit 1) v",
    )
    .bind(state.user_id)
    .bind(entry)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(t) = found else { return Ok(None) };
    let folders = tree::folder_paths(conn, state.user_id, &[t.parent_id]).await?;
    let gone = t.deleted || folders.get(&t.parent_id).is_none_or(|f| f.deleted);
    Ok(gone.then(|| (Slot { id: t.row.id, seq: t.row.seq, file: t.row.file() }, t.parent_id, t.name)))
}

/// Writes what was decided.
pub(super) async fn write(conn: &mut PgConnection, state: &mut State) -> Result<(), Error> {
    if !state.versions.is_empty() {
        sqlx::query("update heads set seq = $2, files = files + $3, bytes = bytes + $4 where user_id = $1")
            .bind(state.user_id)
            .bind(state.seq)
            .bind(state.files)
            .bind(state.bytes)
            .execute(&mut *conn)
            .await?;
        write_entries(conn, state).await?;
        write_versions(conn, state).await?;
    }
    write_baselines(conn, state).await?;
    for (device, files) in &state.deletions {
        count_deletions(conn, state.user_id, *device, "server", *files).await?;
    }
    state.written();
    Ok(())
}

async fn write_entries(conn: &mut PgConnection, state: &State) -> Result<(), Error> {
    let moving: Vec<i64> = state.entries.iter().filter(|(_, e)| !e.new && e.placed).map(|(id, _)| *id).collect();
    if !moving.is_empty() {
        sqlx::query(
            "update entries e set deleted = true from unnest($2::bigint[]) u(id) where e.user_id = $1 and e.id = u.id",
        )
        .bind(state.user_id)
        .bind(&moving)
        .execute(&mut *conn)
        .await?;
    }
    let (new, old): (Vec<_>, Vec<_>) = state.entries.iter().partition(|(_, e)| e.new);
    const INSERT: &str = "insert into entries (user_id, id, seq, kind, deleted, parent_id, name)
        select $1, u.* from unnest($2::bigint[], $3::bigint[], $4::smallint[], $5::boolean[], $6::bigint[], $7::text[]) u";
    const UPDATE: &str = "update entries e set seq = u.seq, deleted = u.deleted, parent_id = u.parent, name = u.name
        from unnest($2::bigint[], $3::bigint[], $4::smallint[], $5::boolean[], $6::bigint[], $7::text[])
             u(id, seq, kind, deleted, parent, name)
        where e.user_id = $1 and e.id = u.id";
    for (statement, rows) in [(INSERT, new), (UPDATE, old)] {
        if rows.is_empty() {
            continue;
        }
        sqlx::query(statement)
            .bind(state.user_id)
            .bind(rows.iter().map(|(id, _)| **id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, e)| e.seq).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, e)| e.kind).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, e)| e.deleted).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, e)| e.parent).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, e)| e.name.as_str()).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn write_versions(conn: &mut PgConnection, state: &State) -> Result<(), Error> {
    // Rows with a list of chunks go one by one: arrays of arrays don't exist, and such files are large anyway.
    let (long, short): (Vec<_>, Vec<_>) =
        state.versions.iter().partition(|v| v.contents.as_ref().is_some_and(|c| c.chunks().len() > 1));
    if !short.is_empty() {
        sqlx::query(
            "insert into versions (user_id, seq, entry_id, device_id, kind, executable, size, modified_at, at, sha256,
                                   old_parent_id, old_name)
             select $1, u.seq, u.entry, u.device, u.kind, u.executable, u.size, u.modified_at, $2, u.sha256, u.parent, u.name
             from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::boolean[], $8::bigint[],
                         $9::timestamptz[], $10::bytea[], $11::bigint[], $12::text[])
                  u(seq, entry, device, kind, executable, size, modified_at, sha256, parent, name)",
        )
        .bind(state.user_id)
        .bind(state.now)
        .bind(short.iter().map(|v| v.seq).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.entry).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.device).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.kind).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.executable).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.contents.as_ref().map_or(0, |c| c.size() as i64)).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.modified_at).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.contents.as_ref().map(|c| c.hash().0.to_vec())).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.old.as_ref().map(|o| o.0)).collect::<Vec<_>>())
        .bind(short.iter().map(|v| v.old.as_ref().map(|o| o.1.as_str())).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    }
    for version in long {
        let Some(contents) = &version.contents else { continue };
        sqlx::query(
            "insert into versions (user_id, seq, entry_id, device_id, kind, executable, size, modified_at, at, sha256, chunks)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(state.user_id)
        .bind(version.seq)
        .bind(version.entry)
        .bind(version.device)
        .bind(version.kind)
        .bind(version.executable)
        .bind(contents.size() as i64)
        .bind(version.modified_at)
        .bind(state.now)
        .bind(&contents.hash().0[..])
        .bind(contents.chunks().iter().map(|h| &h.0[..]).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn write_baselines(conn: &mut PgConnection, state: &State) -> Result<(), Error> {
    // The last word on an entry counts: one statement may touch a row once.
    let mut seen = HashSet::new();
    let last: Vec<_> = state.baselines.iter().rev().filter(|b| seen.insert((b.device, b.entry))).collect();
    let gone: Vec<_> = last.iter().filter(|b| b.held.is_none()).collect();
    if !gone.is_empty() {
        sqlx::query(
            "delete from baselines b using unnest($1::bigint[], $2::bigint[]) u(device, entry)
             where b.device_id = u.device and b.entry_id = u.entry",
        )
        .bind(gone.iter().map(|b| b.device).collect::<Vec<_>>())
        .bind(gone.iter().map(|b| b.entry).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    }
    let held: Vec<_> = last.iter().filter_map(|b| b.held.as_ref().map(|(v, h)| (b.device, b.entry, *v, h))).collect();
    if held.is_empty() {
        return Ok(());
    }
    let print = |f: fn(&super::Fingerprint) -> i64| -> Vec<Option<i64>> {
        held.iter().map(|(_, _, _, h)| h.fingerprint.as_ref().map(f)).collect()
    };
    sqlx::query(
        "insert into baselines (user_id, device_id, entry_id, seq, path, spelling, size, mtime_ns, ctime_ns, inode)
         select $1, u.* from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
                                    $8::bigint[], $9::bigint[], $10::bigint[]) u
         on conflict (device_id, entry_id) do update set seq = excluded.seq, path = excluded.path,
             spelling = excluded.spelling, size = excluded.size, mtime_ns = excluded.mtime_ns,
             ctime_ns = excluded.ctime_ns, inode = excluded.inode",
    )
    .bind(state.user_id)
    .bind(held.iter().map(|h| h.0).collect::<Vec<_>>())
    .bind(held.iter().map(|h| h.1).collect::<Vec<_>>())
    .bind(held.iter().map(|h| h.2).collect::<Vec<_>>())
    .bind(held.iter().map(|h| h.3.path.as_str()).collect::<Vec<_>>())
    .bind(held.iter().map(|h| h.3.spelling.as_deref()).collect::<Vec<_>>())
    .bind(print(|f| f.size))
    .bind(print(|f| f.mtime_ns))
    .bind(print(|f| f.ctime_ns))
    .bind(print(|f| f.inode))
    .execute(&mut *conn)
    .await?;
    let alone = || last.iter().filter(|b| b.alone).filter_map(|b| Some((b.device, b.entry, &b.held.as_ref()?.1.path)));
    if alone().next().is_some() {
        sqlx::query(
            "delete from baselines where ctid = any(array(
                 select b.ctid
                 from (select *, hashtextextended(path, 0) as hash
                       from unnest($1::bigint[], $2::bigint[], $3::text[]) u(device, entry, path)) u
                 cross join lateral (select ctid from baselines where device_id = u.device and path_hash = u.hash
                                     and path = u.path and entry_id <> u.entry offset 0) b))",
        )
        .bind(alone().map(|row| row.0).collect::<Vec<_>>())
        .bind(alone().map(|row| row.1).collect::<Vec<_>>())
        .bind(alone().map(|row| row.2.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// How many files unattended doors deleted for a device in the last hour, on either side.
pub(crate) async fn deleted_last_hour(conn: &mut PgConnection, device: i64) -> Result<u64, sqlx::Error> {
    let files: i64 = sqlx::query_scalar(
        "select coalesce(sum(files), 0)::bigint from deletions
         where device_id = $1 and minute > queue.now() - interval '1 hour'",
    )
    .bind(device)
    .fetch_one(conn)
    .await?;
    Ok(files.unsigned_abs())
}

/// Counts files that an unattended door deleted on a side (`server` or `device`) for a device.
pub(crate) async fn count_deletions(
    conn: &mut PgConnection,
    user_id: i64,
    device: i64,
    side: &'static str,
    files: i64,
) -> Result<(), sqlx::Error> {
    if files == 0 {
        return Ok(());
    }
    sqlx::query(
        "insert into deletions (user_id, device_id, side, minute, files)
         values ($1, $2, $3, date_trunc('minute', queue.now()), $4)
         on conflict (device_id, side, minute) do update set files = deletions.files + excluded.files",
    )
    .bind(user_id)
    .bind(device)
    .bind(side)
    .bind(files)
    .execute(conn)
    .await?;
    Ok(())
}
