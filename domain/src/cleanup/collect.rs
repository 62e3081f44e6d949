//! The collector: chunks that no version and no pin names.
//!
//! Invariant: a chunk is deleted by a statement that began after its row was locked and that saw every reference committed by then.
//! A commit that takes the chunk first holds its row (FOR KEY SHARE), and the lock is skipped; one that comes later waits, finds it gone and says
//! `chunks.missing`, or records its own copy. Versions only ever grow, so those up to the head that was read first are looked at once, and
//! in a batch's second statement only those after it.

use super::{Counts, Error};
use crate::{Domain, Tx};

/// Chunks of one transaction.
const BATCH: usize = 1000;
/// Chunks of one look at a user's versions.
const LOOK: i64 = 200_000;
/// Users of one page.
const USERS: i64 = 1000;

/// Collects every user's chunks.
pub(super) async fn collect(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    let mut after = 0;
    loop {
        let mut tx = domain.begin_system().await?;
        let users: Vec<i64> = sqlx::query_scalar("select id from users where id > $1 order by id limit $2")
            .bind(after)
            .bind(USERS)
            .fetch_all(&mut *tx)
            .await?;
        drop(tx);
        let Some(last) = users.last() else { return Ok(()) };
        after = *last;
        for user in users {
            of_user(domain, user, counts).await?;
        }
    }
}

async fn of_user(domain: &Domain, user: i64, counts: &mut Counts) -> Result<(), Error> {
    loop {
        let mut tx = domain.begin_system().await?;
        let Some((head, unnamed)) = unnamed(&mut tx, user).await? else { return Ok(()) };
        drop(tx);
        let before = counts.chunks;
        for batch in unnamed.chunks(BATCH) {
            let mut tx = domain.begin_system().await?;
            let locked = lock(&mut tx, user, batch).await?;
            delete(&mut tx, user, head, &locked, counts).await?;
            tx.commit().await?;
        }
        // What is left of a full look is in use just now; another one would find it again.
        if (unnamed.len() as i64) < LOOK || counts.chunks == before {
            return Ok(());
        }
    }
}

/// The head, and the chunks that nothing named after it was read, by hash.
async fn unnamed(tx: &mut Tx, user: i64) -> Result<Option<(i64, Vec<Vec<u8>>)>, Error> {
    let head: Option<i64> =
        sqlx::query_scalar("select seq from heads where user_id = $1").bind(user).fetch_optional(&mut **tx).await?;
    let Some(head) = head else { return Ok(None) };
    // EXCEPT is hashed or sorted whatever the statistics say; an anti-join may become a loop over all versions.
    let unnamed = sqlx::query_scalar(
        "select sha256 from (
             select sha256 from chunks where user_id = $1
             except (select sha256 from versions where user_id = $1 and sha256 is not null
                     union all select unnest(chunks) from versions where user_id = $1 and chunks is not null
                     union all select sha256 from pins where user_id = $1)) c order by sha256 limit $2",
    )
    .bind(user)
    .bind(LOOK)
    .fetch_all(&mut **tx)
    .await?;
    Ok(Some((head, unnamed)))
}

/// Locks those of the chunks that nobody else holds, in the order of their hashes.
pub(super) async fn lock(tx: &mut Tx, user: i64, chunks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
    Ok(sqlx::query_scalar(
        "select c.sha256 from unnest($2::bytea[]) u(h)
         cross join lateral (select sha256 from chunks where user_id = $1 and sha256 = u.h for update skip locked) c",
    )
    .bind(user)
    .bind(chunks)
    .fetch_all(&mut **tx)
    .await?)
}

/// Deletes those of the locked chunks that still nothing names, and counts them off their packs.
pub(super) async fn delete(
    tx: &mut Tx,
    user: i64,
    head: i64,
    locked: &[Vec<u8>],
    counts: &mut Counts,
) -> Result<(), Error> {
    let (chunks, bytes, emptied): (i64, i64, i64) = sqlx::query_as(
        "with free as (
             select h from unnest($3::bytea[]) u(h)
             except (select sha256 from versions where user_id = $1 and seq > $2 and sha256 is not null
                     union all select unnest(chunks) from versions where user_id = $1 and seq > $2 and chunks is not null
                     union all select p.sha256 from unnest($3::bytea[]) u(h)
                     cross join lateral (select sha256 from pins where user_id = $1 and sha256 = u.h limit 1) p)),
         gone as (delete from chunks c using free where c.user_id = $1 and c.sha256 = free.h
                  returning c.pack_id, c.length),
         lost as (select pack_id, count(*)::int as chunks, sum(length)::bigint as bytes from gone group by pack_id),
         left_over as (
             update packs p set chunks = p.chunks - lost.chunks, live_bytes = p.live_bytes - lost.bytes,
                    state = case when p.chunks = lost.chunks then 'dead' else p.state end,
                    dead_at = case when p.chunks = lost.chunks then queue.now() end
             from lost where p.id = lost.pack_id returning p.state)
         select (select count(*) from gone), (select coalesce(sum(length), 0)::bigint from gone),
                (select count(*) from left_over where state = 'dead')",
    )
    .bind(user)
    .bind(head)
    .bind(locked)
    .fetch_one(&mut **tx)
    .await?;
    counts.chunks += chunks.unsigned_abs();
    counts.bytes += bytes.unsigned_abs();
    counts.packs_emptied += emptied.unsigned_abs();
    Ok(())
}
