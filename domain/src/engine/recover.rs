//! What an attempt that was killed left on the device's disk.
//!
//! Invariant: a temporary is removed only when it holds nothing of anybody's (it was being written by us), or when its very
//! contents are in the user's history. Those of runs that we know nothing of are left for a day: another
//! installation may be at work with them.

use std::io;

use driftless_sync::{hash::ContentHash, path::TreePath};

use super::{Error, Round, Run, steps::disk};
use crate::{
    remotes::{
        folder::Stat,
        hands::Hands,
        replace::{self, Temporary},
        scan::{Gauge, Leftover, TEMPORARY, disk_clock_ns, hash_open},
    },
    tree,
};

/// How long temporaries of strangers stay.
const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Deals with all leftovers of a scan. One that the disk does not give out stays.
pub(super) async fn leftovers(run: &mut Run<'_>, r: &mut Round, found: Vec<Leftover>) -> Result<(), Error> {
    for leftover in found {
        let Ok(folder) = leftover.folder.below(&r.device.base) else { continue };
        let temporary = replace::parse(&leftover.name);
        let ours = match temporary {
            Some(temporary) => made_for(run, r, &temporary).await?,
            None => false,
        };
        run.go_on().await?;
        let empty = temporary.is_some_and(|temporary| !temporary.whole);
        let (hands, at, name) = (r.hands.clone(), folder.clone(), leftover.name.clone());
        let looked = tokio::task::spawn_blocking(move || look(&hands, &at, &name, ours, empty)).await?;
        let (stat, hash) = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(folder = %folder, name = leftover.name, %error, "a leftover could not be looked at");
                continue;
            }
        };
        let entry = temporary.filter(|_| ours).map(|temporary| temporary.entry);
        if in_history(run, entry, &hash).await? {
            let (hands, at, name) = (r.hands.clone(), folder.clone(), leftover.name.clone());
            let gone = tokio::task::spawn_blocking(move || hands.discard(&at, &name, &stat.print)).await?;
            gone.map_err(|e| disk(&folder, &e))?;
        } else {
            let path = home(run, entry, &folder, &leftover.name).await?;
            run.keep_temporary(r, &folder, &leftover.name, &path).await?;
        }
    }
    Ok(())
}

/// Whether a run of this device made it. Its attempts before this one hold nothing any more.
async fn made_for(run: &Run<'_>, r: &Round, temporary: &Temporary) -> Result<bool, Error> {
    let mut tx = run.execution.begin().await?;
    Ok(sqlx::query_scalar("select exists (select from runs where id = $1 and device_id = $2)")
        .bind(temporary.run)
        .bind(r.device.id)
        .fetch_one(&mut *tx)
        .await?)
}

/// What a temporary holds that must not simply go. Removes it when it is nothing of anybody's. None: nothing more to do.
fn look(
    hands: &Hands,
    folder: &TreePath,
    name: &str,
    ours: bool,
    empty: bool,
) -> io::Result<Option<(Stat, ContentHash)>> {
    let (mut file, stat) = match hands.open_temporary(folder, name) {
        // No file: a worker stopped before it could give back what took a file's place.
        Err(e) if ours && e.kind() == io::ErrorKind::InvalidInput => return hands.reveal(folder, name).map(|_| None),
        opened => opened?,
    };
    if !ours && stat.print.ctime_ns > disk_clock_ns() - DAY_NS {
        return Ok(None);
    }
    if empty {
        hands.discard(folder, name, &stat.print)?;
        return Ok(None);
    }
    let (hash, _) = hash_open(&mut file, &mut vec![0; 256 * 1024], &Gauge::default())?;
    Ok(Some((stat, hash)))
}

/// Whether these contents are in the history of the entry; without one, in any.
async fn in_history(run: &Run<'_>, entry: Option<i64>, hash: &ContentHash) -> Result<bool, Error> {
    let mut tx = run.execution.begin().await?;
    Ok(sqlx::query_scalar(
        "select exists (select from versions where user_id = $1 and ($2::bigint is null or entry_id = $2) and sha256 = $3)",
    )
    .bind(run.execution.actor().user_id)
    .bind(entry)
    .bind(&hash.0[..])
    .fetch_one(&mut *tx)
    .await?)
}

/// In whose history a leftover belongs: the entry's that it was made for, else one of its own, in the trash.
async fn home(run: &Run<'_>, entry: Option<i64>, folder: &TreePath, name: &str) -> Result<TreePath, Error> {
    if let Some(entry) = entry {
        let mut tx = run.execution.begin().await?;
        let user = run.execution.actor().user_id;
        let place: Option<(i64, String)> =
            sqlx::query_as("select parent_id, name from entries where user_id = $1 and id = $2")
                .bind(user)
                .bind(entry)
                .fetch_optional(&mut *tx)
                .await?;
        if let Some((parent, name)) = place
            && let Some(folder) = tree::folder_paths(&mut tx, user, &[parent]).await?.remove(&parent)
            && let Ok(path) = folder.path.join(&name)
        {
            return Ok(path);
        }
    }
    Ok(folder.join(&format!("recovered {}", name.trim_start_matches(TEMPORARY)))?)
}
