//! Many paths, or all below one, in one statement.
//!
//! Invariant: the answer is of the moment of that statement. Left out: listings of folders and of whole trees (`tree`).

use driftless_sync::path::TreePath;
use sqlx::FromRow;

use super::{Error, Node, Row, head, stat};
use crate::{Actor, Tx, db};

/// What is at each of `paths` now, in no particular order; paths with nothing there are left out.
pub async fn stat_many(tx: &mut Tx, actor: &Actor, paths: &[TreePath]) -> Result<Vec<Node>, db::Error> {
    #[derive(FromRow)]
    struct Numbered {
        n: i64,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Numbered> = sqlx::query_as(
        "with recursive w as (
             select u.n, 0 as depth, 0::bigint as id, 0::bigint as seq, string_to_array(substr(u.path, 2), '/') as names
             from unnest($2::text[]) with ordinality u(path, n)
             union all
             select w.n, w.depth + 1, e.id, e.seq, w.names from w cross join lateral (
                 select id, seq from entries
                 where user_id = $1 and parent_id = w.id and name = w.names[w.depth + 1] and not deleted limit 1) e
             where w.depth < cardinality(w.names))
         select w.n, w.id, w.seq, case when v.kind = 2 then 0 else 1 end::smallint as kind, v.size, v.sha256,
                v.modified_at, v.executable
         from w cross join lateral (select * from versions where user_id = $1 and seq = w.seq limit 1) v
         where w.depth = cardinality(w.names)",
    )
    .bind(actor.user_id)
    .bind(paths.iter().map(TreePath::as_str).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    let node = |r: Numbered| Some(r.row.node(paths.get(usize::try_from(r.n - 1).ok()?)?.clone()));
    Ok(rows.into_iter().filter_map(node).collect())
}

/// How many files live below a folder; none where it is not.
pub async fn count_files(tx: &mut Tx, actor: &Actor, path: &TreePath) -> Result<u64, Error> {
    if path.is_root() {
        return Ok(head(tx, actor).await?.files.unsigned_abs());
    }
    let Some(folder) = stat(tx, actor, path).await? else { return Ok(0) };
    let files: i64 = sqlx::query_scalar(
        "with recursive t as (
             select $2::bigint as id, 0::smallint as kind
             union all
             select e.id, e.kind from t cross join lateral (
                 select id, kind from entries where user_id = $1 and parent_id = t.id and not deleted offset 0) e
             where t.kind = 0)
         select count(*) filter (where kind = 1) from t",
    )
    .bind(actor.user_id)
    .bind(folder.entry_id)
    .fetch_one(&mut **tx)
    .await?;
    Ok(files.unsigned_abs())
}
