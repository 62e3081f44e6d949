//! Packs that are no longer needed, and their objects.
//!
//! Invariant: the row says `dead` before the object goes, and goes after it; so no object is ever without a row. An object stays for a day
//! after that, for downloads that began before; when the disk is full it goes at once, if nothing in reach is being downloaded.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Counts, Error};
use crate::{Domain, store};

/// Objects removed between two looks at the rows.
const BATCH: i64 = 100;

/// Packs that were being written by a process that no longer holds its lease. Should it live after all, the transaction that would
/// record the pack finds it dead and is repeated.
pub(super) async fn abandoned(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    let mut tx = domain.begin_system().await?;
    let dead = sqlx::query(
        "update packs set state = 'dead', dead_at = queue.now() where state = 'writing' and id in (
             select id from packs p where state = 'writing' and not exists (
                 select from queue.workers w where w.token = p.owner and w.lease_until > now())
             for update skip locked)",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    counts.packs_abandoned += dead.rows_affected();
    Ok(())
}

/// Removes the objects of packs that have been dead for a day, then their rows.
pub(super) async fn remove_dead(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    loop {
        let at_once = domain.store().is_full() && nobody_downloads(domain).await?;
        let mut tx = domain.begin_system().await?;
        let dead: Vec<(i64, Uuid)> = sqlx::query_as(
            "select id, name from packs where state = 'dead' and ($1 or dead_at <= queue.now() - interval '1 day')
             order by id limit $2",
        )
        .bind(at_once)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        drop(tx);
        for (id, name) in &dead {
            domain.store().blobs().remove(*name).await.map_err(store::Error::Write)?;
            let mut tx = domain.begin_system().await?;
            let gone = sqlx::query("delete from packs where id = $1").bind(id).execute(&mut *tx).await?;
            tx.commit().await?;
            counts.packs_removed += gone.rows_affected();
        }
        if (dead.len() as i64) < BATCH {
            return Ok(());
        }
    }
}

/// Whether this process, the only one alive, sends nobody anything. A dead pack has no chunks in the tables, so no download that
/// begins after this can want it.
async fn nobody_downloads(domain: &Domain) -> Result<bool, Error> {
    let mut tx = domain.begin_system().await?;
    let others: bool =
        sqlx::query_scalar("select exists (select from queue.workers where token <> $1 and lease_until > now())")
            .bind(domain.process())
            .fetch_one(&mut *tx)
            .await?;
    Ok(!others && !domain.store().is_read())
}

/// The objects that no row names. There should be none; removing what nobody understands is a person's business.
pub(crate) async fn unknown_objects(domain: &Domain) -> Result<Vec<Uuid>, Error> {
    let mut found = Vec::new();
    for shard in 0..=u8::MAX {
        let unknown = unknown(domain, shard).await?;
        // A pack that went between the two looks was known; such an object is not there the second time.
        if !unknown.is_empty() {
            let again = self::unknown(domain, shard).await?;
            found.extend(unknown.intersection(&again));
        }
    }
    Ok(found)
}

async fn unknown(domain: &Domain, shard: u8) -> Result<HashSet<Uuid>, Error> {
    let there = domain.store().blobs().list(shard).await.map_err(store::Error::Read)?;
    let mut unknown: HashSet<Uuid> = there.iter().copied().collect();
    if unknown.is_empty() {
        return Ok(unknown);
    }
    let mut tx = domain.begin_system().await?;
    let known: Vec<Uuid> = sqlx::query_scalar(
        "select p.name from unnest($1::uuid[]) u(name) cross join lateral (select name from packs where name = u.name limit 1) p",
    )
    .bind(&there)
    .fetch_all(&mut *tx)
    .await?;
    for name in known {
        unknown.remove(&name);
    }
    Ok(unknown)
}
