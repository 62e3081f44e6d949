//! Statements over tables that grow: they must go by index on tables that were never analysed, for a new user and for one
//! with many rows. Bounded by rows read, which do not depend on the machine.

mod files;

use driftless_domain::{Actor, Tx, baselines, devices, runs, schedules, sessions, tree};
use driftless_sync::path::TreePath;
use sqlx::Row;

use crate::support::App;

/// Many devices, schedules and runs of one user, none of them in the statistics.
const GROW: &str = "
    alter table devices set (autovacuum_enabled = off);
    alter table schedules set (autovacuum_enabled = off);
    alter table runs set (autovacuum_enabled = off);
    alter table due set (autovacuum_enabled = off);
    insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
        select u.id, 'd' || n, 'd', 'client', gen_random_uuid() from users u, generate_series(1, 5000) n where u.name = 'many';
    insert into schedules (user_id, device_id, schedule_type) select user_id, id, 'daily' from devices;
    insert into due (schedule_id, user_id, next_run_at) select id, user_id, queue.now() + interval '1 hour' from schedules;
    insert into runs (id, user_id, device_id, schedule_id, trigger, sync_deletions, resolve_conflicts, direction, state, finished_at)
        select gen_random_uuid(), user_id, device_id, id, 'manual', true, 'keep_newest', 'both', 'succeeded', queue.now()
        from schedules, generate_series(1, 8);";

async fn actor(app: &App, token: &str) -> Actor {
    sessions::authenticate(&app.domain, token).await.unwrap()
}

/// Whole scans of the growing tables, and rows read from them, that this connection has counted and not yet reported.
async fn read(tx: &mut Tx) -> (i64, i64) {
    let row = sqlx::query(
        "select coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint
         from pg_stat_xact_user_tables where relname in ('devices', 'schedules', 'runs', 'due')",
    )
    .fetch_one(&mut **tx)
    .await
    .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_read_no_more_than_they_show() {
    let app = App::start().await;
    let (many, new) = (app.sign_up("many").await, app.sign_up("new").await);
    app.sql(GROW).await;
    app.device(&new, "laptop").await;
    for (token, device) in [(many, "d4000"), (new, "laptop")] {
        let actor = actor(&app, &token).await;
        let filter = runs::Filter { limit: 50, ..runs::Filter::default() };
        let of_device = runs::Filter { device_id: Some(device.into()), ..filter.clone() };
        macro_rules! reads {
            ($bound:literal, $tx:ident => $call:expr) => {{
                let mut $tx = app.domain.begin(&actor).await.unwrap();
                let before = read(&mut $tx).await;
                $call.await.unwrap();
                let after = read(&mut $tx).await;
                let (scans, rows) = (after.0 - before.0, after.1 - before.1);
                assert!(scans == 0 && rows <= $bound, "{}: {scans} scans, {rows} rows", stringify!($call));
            }};
        }
        reads!(110, tx => devices::list(&mut tx, &actor, None, 50));
        reads!(5, tx => devices::get(&mut tx, &actor, device));
        reads!(700, tx => schedules::list(&mut tx, &actor, None, None, 50));
        reads!(60, tx => schedules::list(&mut tx, &actor, Some(device), None, 50));
        reads!(160, tx => runs::list(&mut tx, &actor, &filter));
        reads!(60, tx => runs::list(&mut tx, &actor, &of_device));
    }
}

/// A tree of 4,000 files, all of which six devices hold.
const GROW_TREE: &str = "
    alter table entries set (autovacuum_enabled = off);
    alter table versions set (autovacuum_enabled = off);
    alter table baselines set (autovacuum_enabled = off);
    insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
        select h.user_id, 'd' || n, 'd', 'client', h.epoch from heads h, generate_series(1, 6) n;
    insert into entries (user_id, id, seq, kind, parent_id, name)
        select h.user_id, n, n, 1, 0, 'f' || n from heads h, generate_series(1, 4000) n;
    insert into versions (user_id, seq, entry_id, kind, size, modified_at, at, sha256)
        select user_id, seq, id, 1, 1, queue.now(), queue.now(), sha256('x') from entries;
    insert into baselines (user_id, device_id, entry_id, seq, path)
        select e.user_id, d.id, e.id, e.seq, '/' || e.name from entries e join devices d on d.user_id = e.user_id;
    update heads set seq = 4000, files = 4000";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_of_a_few_paths_names_is_found_by_index() {
    let app = App::start().await;
    let token = app.sign_up("many").await;
    app.sql(GROW_TREE).await;
    let actor = actor(&app, &token).await;
    let paths: Vec<TreePath> = (100..110).map(|n| TreePath::parse(&format!("/f{n}")).unwrap()).collect();
    let counts = "select sum(seq_scan)::bigint, sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_user_tables
                  where relname in ('entries', 'versions', 'baselines')";
    let device = app.value("select id from devices where device_id = 'd3'").await;
    let mut tx = app.domain.begin(&actor).await.unwrap();
    let before: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(baselines::at_paths(&mut tx, &actor, device, &paths).await.unwrap().len(), 10);
    assert_eq!(tree::stat_many(&mut tx, &actor, &paths).await.unwrap().len(), 10);
    let after: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut *tx).await.unwrap();
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 40), "whole scans, and rows: two of each path each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_and_the_sweep_read_only_what_is_due() {
    let app = App::start().await;
    app.sign_up("many").await;
    app.sql(GROW).await;
    app.sql("update due set next_run_at = queue.now() where schedule_id in (select id from schedules order by id desc limit 10)").await;
    let counts = "select sum(seq_scan)::bigint, sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_user_tables
                  where relname in ('devices', 'schedules', 'runs', 'due')";
    let before = told(&app, counts).await;
    assert_eq!(driftless_domain::dispatch::fire(&app.domain).await.unwrap(), 10);
    runs::rescue::rescue(&app.domain).await.unwrap();
    let after = told(&app, counts).await;
    assert_eq!(after.0 - before.0, 0, "whole scans");
    assert!(after.1 - before.1 <= 400, "{} rows read", after.1 - before.1);
    app.work().await;
    app.idle().await;
}

/// Counts of the statistics, to which a session tells its own now and then, and at the latest when it ends.
async fn told(app: &App, sql: &str) -> (i64, i64) {
    app.database.end_sessions().await;
    sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(app.domain.pool()).await.unwrap()
}
