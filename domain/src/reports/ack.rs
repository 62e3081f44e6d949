//! What a device has taken in: its baselines, and the cursor once nothing is left out.

use std::collections::HashMap;

use driftless_sync::{
    deletions::{Loss, Verdict, judge},
    hash::ContentHash,
    manifest::Content,
    path::TreePath,
    plan::{Deletion, Side},
};
use uuid::Uuid;

use super::{Error, Ground, Scope, approved, held_run, last_hour};
use crate::{
    Actor, Domain,
    commit::{self, Base, Batch, Change, Held, Origin, Refusal},
    error::Fault,
    tree::{self, Cursor},
};

/// A path and what the device now holds there.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Where, relative to the base path.
    pub path: TreePath,
    /// The version; none: nothing any more.
    pub version: Option<i64>,
    /// SHA-256 of what it holds.
    pub hash: Option<ContentHash>,
}

/// A file that was deleted on the device.
#[derive(Debug, Clone)]
pub struct Gone {
    /// Where, relative to the base path.
    pub path: TreePath,
    /// The version that the device had.
    pub version: i64,
}

/// An acknowledgement.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The device's own id.
    pub device_id: String,
    /// From the answer that was worked off.
    pub cursor: Cursor,
    /// What the device now holds.
    pub applied: Vec<Applied>,
    /// What is to be deleted in the tree.
    pub deleted: Vec<Gone>,
}

/// A path that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub path: TreePath,
    /// Stable code.
    pub code: &'static str,
    /// Why.
    pub detail: String,
}

/// What came of an acknowledgement.
#[derive(Debug, Clone)]
pub struct Acked {
    /// Baselines that moved.
    pub applied: u64,
    /// Files that were deleted in the tree.
    pub deleted: u64,
    /// Left as it was.
    pub refused: Vec<Refused>,
    /// Changes up to the token that the device has not taken in.
    pub remaining: u64,
    /// Where the device's cursor stands now.
    pub cursor: Cursor,
    /// Too many deletions: none was carried out, and this run waits for a person.
    pub held: Option<Uuid>,
}

/// Moves the baselines that the device names, deletes what it says is gone, and moves its cursor when nothing is left out.
pub async fn ack(domain: &Domain, actor: &Actor, ack: Ack) -> Result<Acked, Error> {
    let mut tx = domain.begin(actor).await?;
    let scope = Scope::load(&mut tx, actor, &ack.device_id, None).await?;
    let head = tree::head(&mut tx, actor).await?;
    crate::feed::check(&head, ack.cursor).map_err(|_| Error::Expired)?;
    let ground = Ground::read(&mut tx, actor, &scope).await?;
    let mut refused = Vec::new();
    let mut changes: Vec<(TreePath, Change)> = Vec::new();
    for applied in &ack.applied {
        let path = scope.absolute(&applied.path)?;
        match agreement(&mut tx, actor, &ground, &path, applied).await? {
            Ok(change) => changes.extend(change.into_iter().map(|c| (applied.path.clone(), c))),
            Err(refusal) => refused.push(refusal),
        }
    }
    let gone = deletions(&scope, &ground, &ack.deleted, &mut refused)?;
    let held = hold(&mut tx, actor, &scope, &ground, &gone).await?;
    tx.commit().await?;
    let applied = changes.len() as u64;
    if held.is_none() {
        changes.extend(gone.into_iter().map(|(path, d)| {
            let base = Base::Version(d.version.unwrap_or(0));
            (path, Change::Delete { path: d.path, base, recursive: false, half_of_move: false })
        }));
    }
    let (paths, changes): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
    let batch = Batch::new(Origin::Device { device: scope.device }, changes);
    let outcomes = commit::apply(domain, actor, batch).await?;
    let mut deleted = 0;
    for (i, (outcome, path)) in outcomes.into_iter().zip(paths).enumerate() {
        match outcome.applied() {
            Ok(_) => deleted += u64::from(i as u64 >= applied),
            Err(refusal) => refused.push(refusal_of(path, &refusal)),
        }
    }
    let (remaining, cursor) = move_cursor(domain, actor, &scope, ack.cursor).await?;
    Ok(Acked { applied, deleted, refused, remaining, cursor, held })
}

fn refusal_of(path: TreePath, refusal: &Refusal) -> Refused {
    Refused { path, code: refusal.code(), detail: refusal.to_string() }
}

/// The changes of baselines that one line stands for: only when version and contents are the tree's.
async fn agreement(
    tx: &mut crate::Tx,
    actor: &Actor,
    ground: &Ground,
    path: &TreePath,
    applied: &Applied,
) -> Result<Result<Vec<Change>, Refused>, Error> {
    let refuse = |code, detail: &str| Ok(Err(Refused { path: applied.path.clone(), code, detail: detail.into() }));
    let others = |entry: Option<i64>| -> Vec<Change> {
        let rows = ground.base.get(path).into_iter().chain(ground.stale.iter().filter(|b| b.held.path == *path));
        rows.filter(|b| Some(b.entry_id) != entry).map(|b| Change::Forget { entry_id: b.entry_id }).collect()
    };
    let Some(version) = applied.version else {
        // Nothing there any more: only what the tree doesn't have there either.
        return match ground.server.get(path) {
            Some(_) => refuse("ack.still_there", "the tree has a file there; say that it was deleted instead"),
            None => Ok(Ok(others(None))),
        };
    };
    let Some(node) = ground.server.get(path) else {
        return refuse("ack.not_there", "the tree has no file there now");
    };
    let info = match node.file.as_ref().filter(|_| node.version == version) {
        Some(info) => info.clone(),
        // An older version of the same file: true, and the newer one is still to come.
        None => match tree::contents(tx, actor.user_id, version).await? {
            Some((entry, info, _)) if entry == node.entry_id => info,
            _ => return refuse("ack.version_unknown", "the file at this path never had this version"),
        },
    };
    if applied.hash != Some(info.hash) {
        return refuse("ack.hash_differs", "the device holds other contents than that version");
    }
    let mut changes = others(Some(node.entry_id));
    changes.push(Change::Agree {
        entry_id: node.entry_id,
        version,
        held: Held { path: path.clone(), spelling: None, fingerprint: None },
    });
    Ok(Ok(changes))
}

/// What is to be deleted in the tree: files that the baseline says the device had, still in that version.
fn deletions(
    scope: &Scope,
    ground: &Ground,
    gone: &[Gone],
    refused: &mut Vec<Refused>,
) -> Result<Vec<(TreePath, Deletion)>, Error> {
    let mut found = HashMap::new();
    for Gone { path: relative, version } in gone {
        let path = scope.absolute(relative)?;
        let mut refuse = |code, detail: &str| {
            refused.push(Refused { path: relative.clone(), code, detail: detail.into() });
        };
        match (ground.server.get(&path), ground.base.get(&path)) {
            // Carried out before: an acknowledgement that is repeated.
            (None, _) => {}
            (Some(node), _) if node.version != *version => refuse("file.changed", "the file has changed meanwhile"),
            (Some(node), Some(row)) if row.entry_id == node.entry_id && row.version == *version => {
                let Some(info) = &node.file else { continue };
                let deletion =
                    Deletion { on: Side::Server, path: path.clone(), version: Some(*version), hash: info.hash };
                found.insert(relative.clone(), deletion);
            }
            (Some(_), _) => refuse("ack.never_held", "this device never had that version, so it can't have deleted it"),
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

async fn hold(
    tx: &mut crate::Tx,
    actor: &Actor,
    scope: &Scope,
    ground: &Ground,
    gone: &[(TreePath, Deletion)],
) -> Result<Option<Uuid>, Error> {
    let approved = approved(tx, scope.device).await?;
    let unapproved: Vec<Deletion> = gone
        .iter()
        .map(|(_, d)| d)
        .filter(|d| !approved.contains(&(d.on, d.path.clone(), d.version.unwrap_or(0))))
        .cloned()
        .collect();
    let loss = Loss {
        last_hour: last_hour(tx, scope.device, Side::Server).await?,
        planned: unapproved.len() as u64,
        total: ground.server.len() as u64,
        emptied: false,
    };
    match judge(loss) {
        Verdict::Allowed => Ok(None),
        Verdict::Held => held_run(tx, actor, scope.device, &unapproved).await.map(Some),
    }
}

/// Counts what the device has not taken in up to the token, and moves its cursor there when that is nothing.
async fn move_cursor(domain: &Domain, actor: &Actor, scope: &Scope, token: Cursor) -> Result<(u64, Cursor), Error> {
    let mut tx = domain.begin(actor).await?;
    let ground = Ground::read(&mut tx, actor, scope).await?;
    let concerns = |path: &TreePath| scope.relative(path).is_some_and(|r| scope.concerns(&r));
    let open = ground.server.values().filter(|node| {
        let held = ground.base.get(&node.path);
        node.version <= token.seq
            && concerns(&node.path)
            && held.is_none_or(|row| row.entry_id != node.entry_id || row.version < node.version)
    });
    let gone = ground
        .base
        .values()
        .filter(|row| matches!(row.content, Content::File(_)) && row.version <= token.seq)
        .filter(|row| concerns(&row.held.path) && !ground.server.contains_key(&row.held.path));
    let remaining = (open.count() + gone.count()) as u64;
    if remaining == 0 {
        sqlx::query(
            "update devices set cursor_epoch = $2, cursor_seq = $3, last_seen_at = queue.now()
             where id = $1 and (cursor_epoch <> $2 or cursor_seq < $3)",
        )
        .bind(scope.device)
        .bind(token.epoch)
        .bind(token.seq)
        .execute(&mut *tx)
        .await?;
    }
    let (epoch, seq) = sqlx::query_as("select cursor_epoch, cursor_seq from devices where id = $1")
        .bind(scope.device)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok((remaining, Cursor { epoch, seq }))
}
