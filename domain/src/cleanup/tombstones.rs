//! Journal rows of deletions, once nobody needs to hear of them.
//!
//! Invariant: a row goes only when every client device has taken it in and it is a day old (pages without a device read the journal, too), or
//! after ninety days; the head's horizon moves in the same transaction, so a cursor that missed one is told so. Deleted
//! files stay in the trash: only the news of the deletion goes.

use super::{Counts, Error};
use crate::Domain;

/// Rows of one transaction.
const BATCH: i64 = 5000;

pub(super) async fn forget(domain: &Domain, counts: &mut Counts) -> Result<(), Error> {
    let mut after = 0;
    loop {
        let mut tx = domain.begin_system().await?;
        let user: Option<i64> =
            sqlx::query_scalar("select user_id from versions where kind = 4 and user_id > $1 order by user_id limit 1")
                .bind(after)
                .fetch_optional(&mut *tx)
                .await?;
        drop(tx);
        let Some(user) = user else { return Ok(()) };
        after = user;
        while of_user(domain, user, counts).await? == BATCH {}
    }
}

async fn of_user(domain: &Domain, user: i64, counts: &mut Counts) -> Result<i64, Error> {
    let mut tx = domain.begin_system().await?;
    // The head first, as everywhere.
    sqlx::query("select from heads where user_id = $1 for no key update").bind(user).execute(&mut *tx).await?;
    let gone: i64 = sqlx::query_scalar(
        "with passed as (
             -- A device at 0 has taken nothing in: it lists what there is and needs no news.
             select coalesce(min(d.cursor_seq), h.seq) as seq from heads h
             left join devices d on d.user_id = h.user_id and d.kind = 'client' and d.cursor_epoch = h.epoch and d.cursor_seq > 0
             where h.user_id = $1 group by h.seq),
         old as (
             select v.seq from (select seq, at from versions where user_id = $1 and kind = 4 order by seq limit $2) v, passed
             where v.at <= queue.now() - case when v.seq <= passed.seq then interval '1 day' else interval '90 days' end),
         gone as (delete from versions v using old where v.user_id = $1 and v.seq = old.seq returning v.seq),
         moved as (update heads set horizon = greatest(horizon, (select max(seq) from gone))
                   where user_id = $1 and exists (select from gone))
         select count(*) from gone",
    )
    .bind(user)
    .bind(BATCH)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    counts.tombstones += gone.unsigned_abs();
    Ok(gone)
}
