//! What a device did: its baseline moves, its deletions are carried out, its cursor goes on.
//!
//! Invariant: a path's baseline moves only to what the tree held there at the change token (or what the device itself committed since);
//! a deletion counts for deletion safety before it is carried out; the cursor passes the token only when the baseline says of
//! every file that others changed up to it that the device has it so. Repeating an acknowledgement does no harm.

use std::collections::{HashMap, HashSet};

use driftless_sync::{
    deletions::{Loss, Verdict, judge},
    hash::ContentHash,
    path::TreePath,
};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Device, Error, MAX_FILES, below, deleted_last_hour, invalid};
use crate::{
    Actor, Domain, Tx, baselines,
    commit::{self, Base, Batch, Change, Held, Origin},
    feed,
    runs::{self, HeldDeletion, Side},
    schedules::Direction,
    tree::{self, Cursor, Head, Node},
};

/// What a device now holds at a path.
#[derive(Debug, Clone)]
pub struct AppliedFile {
    /// Relative to the base path.
    pub path: String,
    /// The version that was offered; none: the device holds nothing there.
    pub version: Option<i64>,
    /// SHA-256 of its contents in hex; none: the device holds nothing there.
    pub hash: Option<String>,
}

/// A file that the device deleted and the tree is to lose.
#[derive(Debug, Clone)]
pub struct DeletedFile {
    /// Relative to the base path.
    pub path: String,
    /// The version that it had.
    pub version: i64,
}

/// What a device did of what a report offered.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The device.
    pub device_id: String,
    /// As in the report.
    pub base_path: Option<String>,
    /// The report's.
    pub change_token: String,
    /// What it now holds, at most [`MAX_FILES`].
    pub applied: Vec<AppliedFile>,
    /// What it deleted, at most [`MAX_FILES`].
    pub deleted: Vec<DeletedFile>,
}

/// An item that changed nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAccepted {
    /// As it was sent.
    pub path: String,
    /// `ack.not_offered`, `ack.not_current`, `ack.not_allowed` or `ack.held`.
    pub code: &'static str,
}

/// What came of an acknowledgement.
#[derive(Debug, Clone)]
pub struct Acked {
    /// The device's cursor now.
    pub change_token: Cursor,
    /// Items of `applied` that hold.
    pub applied: usize,
    /// Files that the tree lost.
    pub deleted: usize,
    /// Items that changed nothing.
    pub not_accepted: Vec<NotAccepted>,
    /// Files offered up to the token that the device has not acknowledged.
    pub remaining: i64,
    /// The run in which deletions wait for a person.
    pub run_id: Option<Uuid>,
}

/// An item of `applied`, checked.
struct Item {
    n: usize,
    path: TreePath,
    what: Option<(i64, ContentHash)>,
}

/// A file that the device asks to delete, as the tree has it.
struct Doomed {
    n: usize,
    path: TreePath,
    version: i64,
    hash: ContentHash,
    half_of_move: bool,
}

struct Sorted {
    changes: Vec<Change>,
    applied: usize,
    deletions: usize,
    run: Option<Uuid>,
    not_accepted: Vec<NotAccepted>,
}

/// Takes an acknowledgement in.
pub async fn acknowledge(domain: &Domain, actor: &Actor, ack: &Ack) -> Result<Acked, Error> {
    let mut tx = domain.begin(actor).await?;
    let device = Device::load(&mut tx, actor, &ack.device_id).await?;
    let scope = device.scope(ack.base_path.as_deref())?;
    let head = tree::head(&mut tx, actor).await?;
    let token: Cursor = ack.change_token.parse()?;
    feed::check(&head, token)?;
    let items = check(ack, &scope)?;
    let doomed = check_deleted(ack, &scope)?;
    // Acknowledgements of one device take turns where they count its deletions.
    sqlx::query("select from devices where id = $1 for no key update").bind(device.id).execute(&mut *tx).await?;
    device.seen(&mut tx).await?;
    let mut sorted = sort_applied(&mut tx, actor, &device, token, ack, items).await?;
    sort_deleted(&mut tx, actor, &device, &head, ack, doomed, &mut sorted).await?;
    tx.commit().await?;

    let deletes = sorted.changes.len() - sorted.deletions;
    let mut deleted = 0;
    if !sorted.changes.is_empty() {
        let batch = Batch::new(Origin::Device { device: device.id }, sorted.changes);
        let outcomes = commit::apply(domain, actor, batch).await?;
        deleted = outcomes.into_iter().skip(deletes).filter(|o| !matches!(o, commit::Outcome::Refused(_))).count();
    }
    let mut tx = domain.begin(actor).await?;
    let (change_token, remaining) = move_cursor(&mut tx, actor, &device, token).await?;
    tx.commit().await?;
    let Sorted { applied, not_accepted, run, .. } = sorted;
    Ok(Acked { change_token, applied, deleted, not_accepted, remaining, run_id: run })
}

fn check(ack: &Ack, scope: &TreePath) -> Result<Vec<Item>, Error> {
    if ack.applied.len() > MAX_FILES {
        return Err(invalid("report.too_many_files", "applied", format!("at most {MAX_FILES} files at once")));
    }
    let item = |(n, file): (usize, &AppliedFile)| {
        let field = |name: &str| format!("applied[{n}].{name}");
        let path = below(&file.path, scope).map_err(|e| invalid(e.code(), field("path"), e.to_string()))?;
        let hash: Option<ContentHash> = match file.hash.as_deref().map(str::parse).transpose() {
            Ok(hash) => hash,
            Err(_) => return Err(invalid("hash.invalid", field("hash"), "a SHA-256 has 64 hex digits")),
        };
        let what = match (file.version, hash) {
            (Some(version), Some(hash)) => Some((version, hash)),
            (None, None) => None,
            (Some(_), None) => return Err(invalid("ack.hash_missing", field("hash"), "a version comes with its hash")),
            (None, Some(_)) => {
                return Err(invalid("ack.version_missing", field("version"), "a hash comes with its version"));
            }
        };
        Ok(Item { n, path, what })
    };
    ack.applied.iter().enumerate().map(item).collect()
}

fn check_deleted(ack: &Ack, scope: &TreePath) -> Result<Vec<(usize, TreePath, i64)>, Error> {
    if ack.deleted.len() > MAX_FILES {
        return Err(invalid("report.too_many_files", "deleted", format!("at most {MAX_FILES} files at once")));
    }
    let item = |(n, file): (usize, &DeletedFile)| {
        let field = format!("deleted[{n}].path");
        let path = below(&file.path, scope).map_err(|e| invalid(e.code(), field, e.to_string()))?;
        Ok((n, path, file.version))
    };
    ack.deleted.iter().enumerate().map(item).collect()
}

/// What `applied` means for the baseline.
async fn sort_applied(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    token: Cursor,
    ack: &Ack,
    items: Vec<Item>,
) -> Result<Sorted, Error> {
    let offered = offered(tx, actor, device, token, &items).await?;
    let paths: Vec<TreePath> = items.iter().map(|item| item.path.clone()).collect();
    let rows = baselines::at_paths(tx, actor, device.id, &paths).await?;
    let mut rows_at: HashMap<&TreePath, Vec<i64>> = HashMap::new();
    for row in &rows {
        rows_at.entry(&row.held.path).or_default().push(row.entry_id);
    }
    let nodes = tree::stat_many(tx, actor, &paths).await?;
    let there: HashMap<&TreePath, i64> = nodes.iter().map(|node| (&node.path, node.entry_id)).collect();
    let agreed: HashSet<i64> = offered.values().copied().collect();
    let mut sorted = Sorted { changes: Vec::new(), applied: 0, deletions: 0, run: None, not_accepted: Vec::new() };
    let mut gone = Vec::new();
    for item in &items {
        let others = rows_at.get(&item.path).into_iter().flatten().copied();
        match (item.what, offered.get(&item.n)) {
            (Some((version, _)), Some(entry)) => {
                let forget = others.filter(|other| !agreed.contains(other));
                sorted.changes.extend(forget.map(|entry_id| Change::Forget { entry_id }));
                let held = Held { path: item.path.clone(), spelling: None, fingerprint: None };
                sorted.changes.push(Change::Agree { entry_id: *entry, version, held });
            }
            (None, _) if others.clone().all(|other| there.get(&item.path) != Some(&other)) => {
                for entry_id in others.filter(|other| !agreed.contains(other)) {
                    gone.push(entry_id);
                    sorted.changes.push(Change::Forget { entry_id });
                }
            }
            _ => {
                let path = ack.applied[item.n].path.clone();
                sorted.not_accepted.push(NotAccepted { path, code: "ack.not_offered" });
                continue;
            }
        }
        sorted.applied += 1;
    }
    let lost = deleted_entries(tx, actor, &gone).await?;
    commit::count_deletions(tx, actor.user_id(), device.id, "device", lost).await?;
    Ok(sorted)
}

#[derive(FromRow)]
struct Version {
    n: i64,
    entry_id: i64,
    sha256: Option<Vec<u8>>,
    parent_id: i64,
    name: String,
}

/// The entries of those items whose version and contents were at their path when the token was given, or came from the device.
async fn offered(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    token: Cursor,
    items: &[Item],
) -> Result<HashMap<usize, i64>, Error> {
    let asked: Vec<(&Item, i64, ContentHash)> =
        items.iter().filter_map(|item| item.what.map(|(version, hash)| (item, version, hash))).collect();
    let rows: Vec<Version> = sqlx::query_as(
        "select u.n, v.entry_id, v.sha256, coalesce(m.old_parent_id, e.parent_id) as parent_id, coalesce(m.old_name, e.name) as name
         from unnest($2::bigint[]) with ordinality u(seq, n)
         cross join lateral (select entry_id, sha256, device_id from versions
                             where user_id = $1 and seq = u.seq and kind in (1, 6) limit 1) v
         cross join lateral (select parent_id, name from entries where user_id = $1 and id = v.entry_id limit 1) e
         left join lateral (select old_parent_id, old_name from versions where user_id = $1 and entry_id = v.entry_id
                            and seq > greatest($3, u.seq) and kind in (3, 5) order by seq limit 1) m on true
         where case when u.seq > $3 then v.device_id = $4
                    else not exists (select from versions where user_id = $1 and entry_id = v.entry_id
                                     and seq > u.seq and seq <= $3 and kind in (1, 6)) end",
    )
    .bind(actor.user_id())
    .bind(asked.iter().map(|(_, version, _)| *version).collect::<Vec<_>>())
    .bind(token.seq)
    .bind(device.id)
    .fetch_all(&mut **tx)
    .await?;
    let parents: Vec<i64> = rows.iter().map(|row| row.parent_id).collect();
    let folders = tree::folder_paths(tx, actor.user_id(), &parents).await?;
    let fitting = rows.into_iter().filter_map(|row| {
        let (item, _, hash) = asked.get(usize::try_from(row.n - 1).ok()?)?;
        let path = folders.get(&row.parent_id)?.path.join(&row.name).ok()?;
        (path == item.path && row.sha256? == hash.0).then_some((item.n, row.entry_id))
    });
    Ok(fitting.collect())
}

/// How many of these entries the tree has deleted: what is merely elsewhere was moved.
async fn deleted_entries(tx: &mut Tx, actor: &Actor, entries: &[i64]) -> Result<i64, Error> {
    if entries.is_empty() {
        return Ok(0);
    }
    let rows: Vec<(i64, bool)> = sqlx::query_as(
        "select e.parent_id, e.deleted from unnest($2::bigint[]) u(id)
         cross join lateral (select parent_id, deleted from entries where user_id = $1 and id = u.id limit 1) e",
    )
    .bind(actor.user_id())
    .bind(entries)
    .fetch_all(&mut **tx)
    .await?;
    let parents: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let folders = tree::folder_paths(tx, actor.user_id(), &parents).await?;
    let gone = |(parent, deleted): &(i64, bool)| *deleted || folders.get(parent).is_none_or(|folder| folder.deleted);
    Ok(rows.iter().filter(|row| gone(row)).count() as i64)
}

/// Which of the files in `deleted` the tree loses now, and which wait for a person.
async fn sort_deleted(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    head: &Head,
    ack: &Ack,
    asked: Vec<(usize, TreePath, i64)>,
    sorted: &mut Sorted,
) -> Result<(), Error> {
    if asked.is_empty() {
        return Ok(());
    }
    let not = |n: usize, code| NotAccepted { path: ack.deleted[n].path.clone(), code };
    if let Some((_, options)) = runs::held::claimed(tx, device.id).await?
        && (!options.sync_deletions || options.direction == Direction::Download)
    {
        sorted.not_accepted.extend(asked.iter().map(|(n, ..)| not(*n, "ack.not_allowed")));
        return Ok(());
    }
    let paths: Vec<TreePath> = asked.iter().map(|(_, path, _)| path.clone()).collect();
    let nodes = tree::stat_many(tx, actor, &paths).await?;
    let there: HashMap<&TreePath, &Node> = nodes.iter().map(|node| (&node.path, node)).collect();
    let mut doomed = Vec::new();
    let mut twice = HashSet::new();
    for (n, path, version) in asked {
        match there.get(&path).map(|node| (node.version, &node.file)) {
            // Gone already, as the device wants it.
            None => {}
            Some((current, Some(file))) if current == version => {
                if twice.insert(path.clone()) {
                    doomed.push(Doomed { n, path, version, hash: file.hash, half_of_move: false });
                }
            }
            Some(_) => sorted.not_accepted.push(not(n, "ack.not_current")),
        }
    }
    mark_moves(ack, &mut doomed);
    let held = judge_deletions(tx, actor, device, head, &doomed).await?;
    if !held.is_empty() {
        sorted.run = Some(runs::held::hold(tx, actor, device.id, &held, false).await?);
    }
    let waits: HashSet<&str> = held.iter().map(|d| d.path.as_str()).collect();
    let mut counted = 0;
    for file in &doomed {
        if waits.contains(file.path.as_str()) {
            sorted.not_accepted.push(not(file.n, "ack.held"));
            continue;
        }
        counted += i64::from(!file.half_of_move);
        sorted.deletions += 1;
        sorted.changes.push(Change::Delete {
            path: file.path.clone(),
            base: Base::Version(file.version),
            recursive: false,
            // Counted right here, before it is carried out, so that two requests at once can't pass together.
            half_of_move: true,
        });
    }
    Ok(commit::count_deletions(tx, actor.user_id(), device.id, "server", counted).await?)
}

/// A deletion is half of a move when the same contents were acknowledged at another path along with it, one for one.
fn mark_moves(ack: &Ack, doomed: &mut [Doomed]) {
    let mut arrived: HashMap<ContentHash, usize> = HashMap::new();
    for file in &ack.applied {
        if let Some(hash) = file.hash.as_deref().and_then(|hash| hash.parse().ok()) {
            *arrived.entry(hash).or_default() += 1;
        }
    }
    for file in doomed {
        if let Some(left) = arrived.get_mut(&file.hash).filter(|left| **left > 0) {
            *left -= 1;
            file.half_of_move = true;
        }
    }
}

/// The deletions that must wait for a person; all that nobody approved, or none.
async fn judge_deletions(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    head: &Head,
    doomed: &[Doomed],
) -> Result<Vec<HeldDeletion>, Error> {
    let approved: HashSet<HeldDeletion> = runs::held::approved(tx, device.id).await?.into_iter().collect();
    let held = |file: &Doomed| HeldDeletion { side: Side::Server, path: file.path.to_string(), version: file.version };
    let unapproved: Vec<HeldDeletion> =
        doomed.iter().filter(|file| !file.half_of_move).map(held).filter(|d| !approved.contains(d)).collect();
    if unapproved.is_empty() {
        return Ok(unapproved);
    }
    let last_hour = deleted_last_hour(tx, device.id).await?;
    let total = if device.base.is_root() {
        head.files.unsigned_abs()
    } else {
        tree::below(tx, actor, &device.base).await?.iter().filter(|node| !node.is_folder()).count() as u64
    };
    // Of what was there an hour ago, so that a list that a report let pass is not held halfway.
    let loss = Loss { last_hour, planned: unapproved.len() as u64, total: total + last_hour, emptied: false };
    Ok(if judge(loss) == Verdict::Held { unapproved } else { Vec::new() })
}

/// How many files that changed in the tree up to `to` a client device has not acknowledged.
pub(crate) async fn unacknowledged(tx: &mut Tx, user_id: i64, device: i64, to: i64) -> Result<i64, Error> {
    let device = Device::by_id(tx, device).await?;
    let from: i64 = sqlx::query_scalar(
        "select case when d.cursor_epoch = h.epoch then d.cursor_seq else 0 end
         from devices d join heads h on h.user_id = d.user_id where d.id = $1",
    )
    .bind(device.id)
    .fetch_one(&mut **tx)
    .await?;
    remaining(tx, user_id, &device, from, to).await
}

/// Moves the cursor to the token when nothing is left out. Answers where it is, and how many files are.
async fn move_cursor(tx: &mut Tx, actor: &Actor, device: &Device, token: Cursor) -> Result<(Cursor, i64), Error> {
    let (epoch, seq): (Uuid, i64) = sqlx::query_as(
        "select h.epoch, case when d.cursor_epoch = h.epoch then d.cursor_seq else 0 end
         from devices d join heads h on h.user_id = d.user_id where d.id = $1",
    )
    .bind(device.id)
    .fetch_one(&mut **tx)
    .await?;
    if token.seq <= seq {
        return Ok((Cursor { epoch, seq }, 0));
    }
    let remaining = remaining(tx, actor.user_id(), device, seq, token.seq).await?;
    if remaining > 0 {
        return Ok((Cursor { epoch, seq }, remaining));
    }
    sqlx::query("update devices set cursor_epoch = $2, cursor_seq = $3 where id = $1 and (cursor_epoch <> $2 or cursor_seq < $3)")
        .bind(device.id)
        .bind(token.epoch)
        .bind(token.seq)
        .execute(&mut **tx)
        .await?;
    Ok((token, 0))
}

#[derive(FromRow)]
struct Changed {
    parent_id: i64,
    name: String,
    deleted: bool,
    seq: i64,
    held_seq: Option<i64>,
    held_path: Option<String>,
}

/// How many files that others changed in the tree after `from` up to `to`, and not since, the device does not hold as they are.
async fn remaining(tx: &mut Tx, user_id: i64, device: &Device, from: i64, to: i64) -> Result<i64, Error> {
    let rows: Vec<Changed> = sqlx::query_as(
        "with recursive t as (
             select e.id, e.kind from (select distinct entry_id from versions where user_id = $1 and seq > $3 and seq <= $4
                                       and kind <> 7 and device_id is distinct from $2) c
             cross join lateral (select id, kind from entries where user_id = $1 and id = c.entry_id limit 1) e
             union
             select e.id, e.kind from t cross join lateral (
                 select id, kind from entries where user_id = $1 and parent_id = t.id and not deleted offset 0) e
             where t.kind = 0)
         select e.parent_id, e.name, e.deleted, e.seq, b.seq as held_seq, b.path as held_path
         from t cross join lateral (select * from entries where user_id = $1 and id = t.id and kind = 1 limit 1) e
         left join lateral (select seq, path from baselines where device_id = $2 and entry_id = t.id limit 1) b on true
         where not exists (select from versions where user_id = $1 and entry_id = t.id and seq > $4 and kind <> 7)",
    )
    .bind(user_id)
    .bind(device.id)
    .bind(from)
    .bind(to)
    .fetch_all(&mut **tx)
    .await?;
    let parents: Vec<i64> = rows.iter().map(|row| row.parent_id).collect();
    let folders = tree::folder_paths(tx, user_id, &parents).await?;
    let taken_in = |row: &Changed| {
        let folder = folders.get(&row.parent_id);
        let path = folder.and_then(|folder| folder.path.join(&row.name).ok());
        let there = !row.deleted && folder.is_some_and(|folder| !folder.deleted);
        match path.filter(|path| there && path.starts_with(&device.base)) {
            Some(path) if device.leaves_out(&path) => true,
            Some(path) => row.held_seq == Some(row.seq) && row.held_path.as_deref() == Some(path.as_str()),
            None => row.held_seq.is_none(),
        }
    };
    Ok(rows.iter().filter(|row| !taken_in(row)).count() as i64)
}
