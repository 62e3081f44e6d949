//! The statements over the tables of files, on tables that were never analysed, for a new user and for one with 100,000 files.

use bytes::Bytes;
use driftless_domain::{
    Actor, baselines, cleanup,
    commit::{self, Batch, Origin},
    contents, feed,
    ingest::Ingest,
    tree::{self, Cursor},
};
use driftless_sync::path::TreePath;
use futures::stream;

use super::{actor, told};
use crate::support::{App, put_change};

/// 100 folders of 1,000 files each, with contents, versions and what one device holds.
const GROW: &str = "
    alter table entries set (autovacuum_enabled = off);
    alter table versions set (autovacuum_enabled = off);
    alter table chunks set (autovacuum_enabled = off);
    alter table packs set (autovacuum_enabled = off);
    alter table baselines set (autovacuum_enabled = off);
    alter table pins set (autovacuum_enabled = off);
    alter table uploads set (autovacuum_enabled = off);
    create view u as select id from users where name = 'many';
    insert into packs (user_id, name, state, owner, size, chunks, live_bytes)
        select u.id, gen_random_uuid(), 'live', gen_random_uuid(), 1000, 1000, 1000 from u, generate_series(1, 100);
    insert into chunks select u.id, sha256(n::text::bytea), (select min(id) from packs) + n % 100, n, 1
        from u, generate_series(1, 100000) n;
    insert into entries (user_id, id, seq, kind, parent_id, name) select u.id, n, n, 0, 0, 'f' || n from u, generate_series(1, 100) n;
    insert into versions (user_id, seq, entry_id, kind, modified_at, at) select u.id, n, n, 2, now(), now() from u, generate_series(1, 100) n;
    insert into entries (user_id, id, seq, kind, parent_id, name)
        select u.id, 100 + n, 100 + n, 1, 1 + n % 100, 'n' || n from u, generate_series(1, 100000) n;
    insert into versions (user_id, seq, entry_id, kind, size, modified_at, at, sha256)
        select u.id, 100 + n, 100 + n, 1, 1, now(), now(), sha256(n::text::bytea) from u, generate_series(1, 100000) n;
    update heads set seq = 100100, files = 100000, bytes = 100000 where user_id = (select id from u);
    insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
        select id, 'laptop', 'd', 'client', gen_random_uuid() from users where name in ('many', 'new');
    insert into baselines (user_id, device_id, entry_id, seq, path)
        select e.user_id, d.id, e.id, e.seq, '/f' || e.parent_id || '/' || e.name
        from entries e join devices d using (user_id) where e.kind = 1;
    insert into uploads (id, user_id, path, total_size, chunk_size)
        select gen_random_uuid(), u.id, '/up' || n, 1, 65536 from u, generate_series(1, 1000) n;
    insert into pins select u.id, o.id, 0, sha256(row_number() over ()::text::bytea), 1 from u, uploads o;";

const TABLES: &str = "'entries', 'versions', 'chunks', 'packs', 'baselines', 'pins', 'uploads', 'ingests'";

/// Asks for whole scans of the tables of files, and rows read from them.
fn counts(view: &str) -> String {
    format!(
        "select coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint
         from {view} where relname in ({TABLES})"
    )
}

/// What this transaction has read.
async fn read(conn: &mut sqlx::PgConnection) -> (i64, i64) {
    sqlx::query_as(sqlx::AssertSqlSafe(counts("pg_stat_xact_user_tables"))).fetch_one(conn).await.unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_files_reads_no_more_rows_than_it_shows() {
    let app = App::start().await;
    let (many, new) = (app.sign_up("many").await, app.sign_up("new").await);
    app.sql(GROW).await;
    for token in [many, new] {
        let actor = actor(&app, &token).await;
        let has = actor.user_id() == app.value::<i64>("select id from users where name = 'many'").await;
        let rows = |rows: i64| if has { rows } else { 5 };
        let device: i64 = sqlx::query_scalar("select id from devices where user_id = $1")
            .bind(actor.user_id())
            .fetch_one(app.domain.pool())
            .await
            .unwrap();
        macro_rules! reads {
            ($bound:expr, $tx:ident => $call:expr) => {{
                let mut $tx = app.domain.begin(&actor).await.unwrap();
                let before = read(&mut $tx).await;
                let _ = $call.await;
                let after = read(&mut $tx).await;
                let (scans, read) = (after.0 - before.0, after.1 - before.1);
                assert!(scans == 0 && read <= $bound, "{}: {scans} scans, {read} rows", stringify!($call));
            }};
        }
        let mut tx = app.domain.begin(&actor).await.unwrap();
        let head = tree::head(&mut tx, &actor).await.unwrap();
        drop(tx);
        let file = path("/f8/n7");
        let some: Vec<TreePath> = (0..50).map(|n| path(&format!("/f8/n{}", n * 100 + 7))).collect();
        let late = Cursor { epoch: head.epoch, seq: (head.seq - 100).max(0) };
        reads!(rows(8), tx => tree::stat(&mut tx, &actor, &file));
        reads!(rows(410), tx => tree::stat_many(&mut tx, &actor, &some));
        reads!(rows(2_100), tx => tree::list(&mut tx, &actor, &path("/f8"), None));
        reads!(rows(6_000), tx => tree::page(&mut tx, &actor, &TreePath::root(), 5_000));
        reads!(rows(2_100), tx => tree::below(&mut tx, &actor, &path("/f8")));
        reads!(rows(60), tx => tree::history(&mut tx, &actor, &file, None));
        reads!(rows(1_200), tx => feed::read(&mut tx, &actor, late));
        reads!(rows(12), tx => contents::open_path(&mut tx, &app.domain, &actor, &file));
        reads!(rows(110), tx => baselines::at_paths(&mut tx, &actor, device, &some));
        // All that a device holds is what a run compares: its rows and their versions, each once.
        reads!(rows(200_000), tx => baselines::of_device(&mut tx, &actor, device));
    }
}

/// Puts 100 files into one folder.
async fn put_hundred(app: &App, actor: &Actor, round: u8) {
    let mut ingest = Ingest::new(&app.domain, actor);
    let mut changes = Vec::new();
    for n in 0..100_u8 {
        let bytes = Bytes::from(vec![round, n]);
        let contents = ingest.add(stream::iter([Ok::<_, std::io::Error>(bytes)])).await.unwrap();
        changes.push(put_change(&format!("/f8/n{n}07"), contents));
    }
    let batch = Batch::with(Origin::Person, changes, ingest.finish().await.unwrap());
    let outcomes = commit::apply(&app.domain, actor, batch).await.unwrap();
    assert!(outcomes.into_iter().all(|outcome| outcome.applied().is_ok()));
}

/// What all statements have read.
async fn reported(app: &App) -> (i64, i64) {
    told(app, &counts("pg_stat_user_tables")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_the_cleanup_read_only_what_they_change() {
    let app = App::start().await;
    let (many, new) = (app.sign_up("many").await, app.sign_up("new").await);
    app.sql(GROW).await;
    let (many, new) = (actor(&app, &many).await, actor(&app, &new).await);
    let mut before = reported(&app).await;
    // A new file in an old folder, the same again with other contents, and all of it for somebody who has nothing yet.
    for (n, (actor, round)) in [(&many, 1), (&many, 2), (&new, 1), (&new, 2)].into_iter().enumerate() {
        put_hundred(&app, actor, round).await;
        let after = reported(&app).await;
        let (scans, read) = (after.0 - before.0, after.1 - before.1);
        assert!(scans == 0 && read <= 2_000, "commit {n}: {scans} scans, {read} rows");
        before = after;
    }
    // Cleanup looks at everything once a day, but at each row only a few times.
    app.sql("update uploads set last_activity_at = queue.now() - interval '8 days' where path = '/up7'").await;
    let before = reported(&app).await;
    cleanup::run(&app.domain).await.unwrap();
    let after = reported(&app).await;
    assert!(after.1 - before.1 <= 1_500_000, "cleanup read {} rows of 100,000 files", after.1 - before.1);
}
