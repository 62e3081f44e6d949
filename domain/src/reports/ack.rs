//! What a device did: its baseline moves, its deletions are carried out, its cursor goes on.
//!
//! Invariant: a path's baseline moves only to what the tree held there at the change token (or what the device itself committed since);
//! a deletion counts for deletion safety before it is carried out; the cursor passes the token only when the baseline says of
//! every file that others changed up to it that the device has it so. Repeating an acknowledgement does no harm.

use std::collections::{BTreeSet, HashMap, HashSet};

use driftless_sync::{
    deletions::{Loss, Verdict, judge},
    hash::ContentHash,
    path::TreePath,
};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Device, Error, MAX_FILES, below, invalid};
use crate::{
    Actor, Domain, Tx, baselines,
    commit::{self, Base, Batch, Change, Held, Origin, Outcome},
    devices, feed,
    runs::{self, HeldDeletion, Side},
    schedules::Direction,
    tree::{self, Cursor, Node},
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
    /// Where the device has the same file now, as the report told: then this is half of a move.
    pub moved_to: Option<String>,
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
    /// Files offered up to the token that the device has not acknowledged; of very many, only some are counted.
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

/// An item of `deleted`, checked.
struct Gone {
    n: usize,
    path: TreePath,
    version: i64,
    moved_to: Option<TreePath>,
}

/// A file that the tree is to lose.
struct Doomed {
    n: usize,
    path: TreePath,
    version: i64,
    half_of_move: bool,
}

/// What is to be done, and what is not.
#[derive(Default)]
struct Sorted {
    changes: Vec<Change>,
    applied: usize,
    /// Items of `deleted`, one for each of the last changes.
    deletions: Vec<usize>,
    run: Option<Uuid>,
    not_accepted: Vec<NotAccepted>,
}

/// What the tree holds at every path that an acknowledgement names.
type There = HashMap<TreePath, Node>;

/// Takes an acknowledgement in.
pub async fn acknowledge(domain: &Domain, actor: &Actor, ack: &Ack) -> Result<Acked, Error> {
    let mut tx = domain.begin(actor).await?;
    let device = Device::load(&mut tx, actor, &ack.device_id).await?;
    let scope = device.scope(ack.base_path.as_deref())?;
    let head = tree::head(&mut tx, actor).await?;
    let token: Cursor = ack.change_token.parse()?;
    feed::check(&head, token)?;
    let (items, gone) = (check(ack, &scope)?, check_deleted(ack, &scope)?);
    // Acknowledgements of one device take turns where they count its deletions.
    devices::lock(&mut tx, device.id).await?;
    device.seen(&mut tx).await?;
    let there = there(&mut tx, actor, &items, &gone).await?;
    let mut sorted = Sorted::default();
    let arrived = sort_applied(&mut tx, actor, &device, token, ack, &items, &there, &mut sorted).await?;
    sort_deleted(&mut tx, actor, &device, ack, gone, &there, arrived, &mut sorted).await?;
    tx.commit().await?;

    let mut deleted = sorted.deletions.len();
    if !sorted.changes.is_empty() {
        let first = sorted.changes.len() - deleted;
        let batch = Batch::new(Origin::Device { device: device.id }, sorted.changes);
        let outcomes = commit::apply(domain, actor, batch).await?;
        for (outcome, n) in outcomes.iter().skip(first).zip(sorted.deletions) {
            if matches!(outcome, Outcome::Refused(_)) {
                deleted -= 1;
                let path = ack.deleted[n].path.clone();
                sorted.not_accepted.push(NotAccepted { path, code: "ack.not_current" });
            }
        }
    }
    let mut tx = domain.begin(actor).await?;
    let (change_token, remaining) = move_cursor(&mut tx, actor, &device, token).await?;
    tx.commit().await?;
    let Sorted { applied, not_accepted, run, .. } = sorted;
    Ok(Acked { change_token, applied, deleted, not_accepted, remaining, run_id: run })
}

async fn there(tx: &mut Tx, actor: &Actor, items: &[Item], gone: &[Gone]) -> Result<There, Error> {
    let gone = gone.iter().flat_map(|gone| [Some(&gone.path), gone.moved_to.as_ref()]).flatten();
    let paths: BTreeSet<&TreePath> = items.iter().map(|item| &item.path).chain(gone).collect();
    let paths: Vec<TreePath> = paths.into_iter().cloned().collect();
    Ok(tree::stat_many(tx, actor, &paths).await?.into_iter().map(|node| (node.path.clone(), node)).collect())
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

fn check_deleted(ack: &Ack, scope: &TreePath) -> Result<Vec<Gone>, Error> {
    if ack.deleted.len() > MAX_FILES {
        return Err(invalid("report.too_many_files", "deleted", format!("at most {MAX_FILES} files at once")));
    }
    let item = |(n, file): (usize, &DeletedFile)| {
        let field = |name: &str| format!("deleted[{n}].{name}");
        let at = |path: &str, name| below(path, scope).map_err(|e| invalid(e.code(), field(name), e.to_string()));
        let moved_to = file.moved_to.as_deref().map(|to| at(to, "moved_to")).transpose()?;
        Ok(Gone { n, path: at(&file.path, "path")?, version: file.version, moved_to })
    };
    ack.deleted.iter().enumerate().map(item).collect()
}

/// What `applied` means for the baseline. Answers the paths of files that the device now holds.
#[allow(clippy::too_many_arguments)] // one acknowledgement, and what was read for it
async fn sort_applied<'a>(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    token: Cursor,
    ack: &Ack,
    items: &'a [Item],
    there: &There,
    sorted: &mut Sorted,
) -> Result<Vec<&'a TreePath>, Error> {
    let offered = offered(tx, actor, device, token, items).await?;
    let paths: Vec<TreePath> = items.iter().filter(|item| item.what.is_none()).map(|item| item.path.clone()).collect();
    let mut rows_at: HashMap<TreePath, Vec<i64>> = HashMap::new();
    for row in baselines::at_paths(tx, actor, device.id, &paths).await? {
        rows_at.entry(row.held.path).or_default().push(row.entry_id);
    }
    let agreed: HashSet<i64> = offered.values().copied().collect();
    let (mut arrived, mut taken, mut gone) = (Vec::new(), HashSet::new(), Vec::new());
    for item in items {
        let rows = || rows_at.get(&item.path).into_iter().flatten().copied();
        match (item.what, offered.get(&item.n)) {
            (Some((version, _)), Some(entry)) if taken.insert(&item.path) => {
                let held = Held { path: item.path.clone(), spelling: None, fingerprint: None };
                sorted.changes.push(Change::Agree { entry_id: *entry, version, held });
                arrived.push(&item.path);
            }
            // Nothing there: believed of all but what the tree still has at that very place.
            (None, _) if rows().all(|row| there.get(&item.path).is_none_or(|node| node.entry_id != row)) => {
                for entry_id in rows().filter(|row| !agreed.contains(row)) {
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
    Ok(arrived)
}

#[derive(FromRow)]
struct Version {
    n: i64,
    entry_id: i64,
    sha256: Option<Vec<u8>>,
    parent_id: i64,
    name: String,
}

/// The entries of those items whose version and contents were at their path when the token was given, or came from the device
/// since. What the journal says of the time after the token tells what was there before: deletions up to it may be forgotten.
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
         cross join lateral (select parent_id, name, deleted from entries where user_id = $1 and id = v.entry_id limit 1) e
         left join lateral (select old_parent_id, old_name from versions where user_id = $1 and entry_id = v.entry_id
                            and seq > greatest($3, u.seq) and kind in (3, 5) order by seq limit 1) m on true
         where case when u.seq > $3 then v.device_id = $4
                    else not exists (select from versions where user_id = $1 and entry_id = v.entry_id
                                     and seq > u.seq and seq <= $3 and kind in (1, 6))
                    and coalesce((select kind = 4 from versions where user_id = $1 and entry_id = v.entry_id
                                  and seq > $3 and kind in (4, 5) order by seq limit 1), not e.deleted) end",
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
#[allow(clippy::too_many_arguments)] // one acknowledgement, and what was read for it
async fn sort_deleted(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    ack: &Ack,
    gone: Vec<Gone>,
    there: &There,
    arrived: Vec<&TreePath>,
    sorted: &mut Sorted,
) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut not = |n: usize, code| {
        let path = ack.deleted[n].path.clone();
        sorted.not_accepted.push(NotAccepted { path, code });
    };
    let claimed = runs::held::claimed(tx, device.id).await?.map(|(_, options)| options);
    let allowed = claimed.is_none_or(|options| options.sync_deletions && options.direction != Direction::Download);
    let (mut doomed, mut twice) = (Vec::new(), HashSet::new());
    for file in &gone {
        match there.get(&file.path) {
            // Gone already, as the device wants it.
            None => {}
            Some(_) if !allowed || device.leaves_out(&file.path) => not(file.n, "ack.not_allowed"),
            Some(node) if node.is_folder() || node.version != file.version => not(file.n, "ack.not_current"),
            Some(_) if twice.insert(&file.path) => {
                let Gone { n, path, version, .. } = file;
                doomed.push(Doomed { n: *n, path: path.clone(), version: *version, half_of_move: false });
            }
            Some(_) => {}
        }
    }
    let empties = arrived.is_empty();
    mark_moves(&gone, there, arrived, &mut doomed);
    let held = judge_deletions(tx, actor, device, &doomed, empties).await?;
    for file in doomed.iter().filter(|file| held.contains(file.path.as_str())) {
        not(file.n, "ack.held");
    }
    if !held.is_empty() {
        let waits = doomed.iter().filter(|file| held.contains(file.path.as_str())).map(to_hold).collect::<Vec<_>>();
        sorted.run = Some(runs::held::hold(tx, actor, device.id, &waits, false).await?);
    }
    let mut counted = 0;
    for file in doomed.iter().filter(|file| !held.contains(file.path.as_str())) {
        counted += i64::from(!file.half_of_move);
        sorted.deletions.push(file.n);
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

fn to_hold(file: &Doomed) -> HeldDeletion {
    HeldDeletion { side: Side::Server, path: file.path.to_string(), version: file.version }
}

/// A deletion is half of a move when the tree got the same contents since, at another path: where the device says that it moved
/// the file, or at one that is acknowledged along with it. One for one.
fn mark_moves(gone: &[Gone], there: &There, arrived: Vec<&TreePath>, doomed: &mut [Doomed]) {
    let targets: BTreeSet<&TreePath> = gone.iter().filter_map(|gone| gone.moved_to.as_ref()).chain(arrived).collect();
    let mut came: HashMap<ContentHash, Vec<i64>> = HashMap::new();
    for node in targets.into_iter().filter_map(|path| there.get(path)) {
        if let Some(file) = &node.file {
            came.entry(file.hash).or_default().push(node.version);
        }
    }
    for file in doomed {
        let hash = there.get(&file.path).and_then(|node| node.file.as_ref()).map(|file| file.hash);
        let Some(versions) = hash.and_then(|hash| came.get_mut(&hash)) else { continue };
        if let Some(at) = versions.iter().position(|version| *version > file.version) {
            versions.swap_remove(at);
            file.half_of_move = true;
        }
    }
}

/// The paths of deletions that must wait for a person: all that nobody approved, or none. `empties`: nothing came for what goes.
async fn judge_deletions<'a>(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    doomed: &'a [Doomed],
    empties: bool,
) -> Result<HashSet<&'a str>, Error> {
    let approved: HashSet<HeldDeletion> = runs::held::approved(tx, device.id).await?.into_iter().collect();
    let unapproved = doomed.iter().filter(|file| !file.half_of_move && !approved.contains(&to_hold(file)));
    let unapproved: HashSet<&str> = unapproved.map(|file| file.path.as_str()).collect();
    if unapproved.is_empty() {
        return Ok(unapproved);
    }
    let last_hour = commit::deleted_last_hour(tx, device.id).await?;
    let loss = Loss {
        last_hour,
        planned: unapproved.len() as u64,
        // Of what was there an hour ago, so that a list that a report let pass is not held halfway.
        total: tree::count_files(tx, actor, &device.base).await? + last_hour,
        emptied: empties && baselines::count(tx, actor, device.id).await? <= unapproved.len() as u64,
    };
    Ok(if judge(loss) == Verdict::Held { unapproved } else { HashSet::new() })
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
    if token.seq < seq {
        return Ok((Cursor { epoch, seq }, 0));
    }
    let remaining = remaining(tx, actor.user_id(), device, seq, token.seq).await?;
    if remaining > 0 {
        return Ok((Cursor { epoch, seq }, remaining));
    }
    Ok((devices::advance(tx, device.id, token).await?, 0))
}

/// Most missing files that are counted while there are more: enough to outnumber what a run may name as left out.
const COUNTED: i64 = 20_000;

/// How many files that others changed in the tree after `from` up to `to`, and not since, the device does not hold as they are.
async fn remaining(tx: &mut Tx, user_id: i64, device: &Device, from: i64, to: i64) -> Result<i64, Error> {
    // While a device takes in a large tree piece by piece, looking at all of it each time would take longer and longer.
    let some = missing(tx, user_id, device, from, to).await?;
    if some.len() as i64 == COUNTED {
        let missing = count(tx, user_id, device, &some).await?;
        if missing > 0 {
            return Ok(missing);
        }
    }
    let changed = changed(tx, user_id, device, from, to).await?;
    count(tx, user_id, device, &changed).await
}

/// A file that changed, and what the device holds of it.
#[derive(FromRow)]
struct Changed {
    parent_id: i64,
    name: String,
    deleted: bool,
    seq: i64,
    held_seq: Option<i64>,
    held_path: Option<String>,
}

/// The newest of the files that others put there and the device holds in no or another version; whether it is to hold them is not
/// asked.
async fn missing(tx: &mut Tx, user_id: i64, device: &Device, from: i64, to: i64) -> Result<Vec<Changed>, Error> {
    Ok(sqlx::query_as(
        "select e.parent_id, e.name, false as deleted, e.seq, null::bigint as held_seq, null::text as held_path
         from (select seq, entry_id from versions where user_id = $1 and seq > $3 and seq <= $4 and kind in (1, 6)
               and device_id is distinct from $2 order by seq desc) v
         cross join lateral (select parent_id, name, seq from entries
                             where user_id = $1 and id = v.entry_id and seq = v.seq and not deleted limit 1) e
         left join lateral (select seq from baselines where device_id = $2 and entry_id = v.entry_id limit 1) b on true
         where b.seq is distinct from v.seq limit $5",
    )
    .bind(user_id)
    .bind(device.id)
    .bind(from)
    .bind(to)
    .bind(COUNTED)
    .fetch_all(&mut **tx)
    .await?)
}

/// All files that others changed, moved or deleted, with or without a folder above them.
async fn changed(tx: &mut Tx, user_id: i64, device: &Device, from: i64, to: i64) -> Result<Vec<Changed>, Error> {
    Ok(sqlx::query_as(
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
    .await?)
}

/// How many of these the device does not hold as it should.
async fn count(tx: &mut Tx, user_id: i64, device: &Device, rows: &[Changed]) -> Result<i64, Error> {
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
