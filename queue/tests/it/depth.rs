//! What people see of queues that are deep. Bounded by rows read, which do not depend on the machine.

use driftless_queue::{JobState, QueueState, jobs, queues, running_jobs, waiting_jobs};
use sqlx::PgConnection;

use crate::support::Db;

/// 100,000 jobs wait in `deep`, 7 of it and one of the lowest priority are at work; 3 wait in `small`, and 2 are ahead in `ahead`.
/// Nothing was ever analysed.
const DEEP: &str = "
    alter table queue.jobs set (autovacuum_enabled = off);
    insert into queue.workers (token, name, host, pid, lease_until)
        values ('00000000-0000-7000-8000-000000000000', 'w', 'h', 1, now() + interval '1 hour');
    insert into queue.jobs (queue, kind, payload, priority, run_at)
        select 'deep', 'k', '{}', 0, now() - interval '1 hour' + n * interval '1 ms' from generate_series(1, 100000) n;
    insert into queue.jobs (queue, kind, payload, priority) values ('deep', 'k', '{}', -5), ('deep', 'k', '{}', -5);
    insert into queue.jobs (queue, kind, payload) select 'small', 'k', '{}' from generate_series(1, 3);
    insert into queue.jobs (queue, kind, payload, ready, run_at)
        select 'ahead', 'k', '{}', false, now() + interval '1 hour' from generate_series(1, 2);
    update queue.jobs set lease_token = '00000000-0000-7000-8000-000000000000', attempt = 1 where id <= 7 or id = 100001;
    insert into queue.paused (queue) values ('quiet');";

async fn rows_read(conn: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_user_tables where relname = 'jobs'",
    )
    .fetch_one(conn)
    .await
    .unwrap()
}

fn ids(jobs: Vec<JobState>) -> Vec<i64> {
    jobs.iter().map(|job| job.id.0).collect()
}

fn counts(state: &QueueState) -> (&str, i64, i64, i64, bool) {
    (&state.queue, state.ready, state.scheduled, state.running, state.estimated)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_depth_of_a_deep_queue_is_estimated_and_of_a_small_one_counted() {
    let db = Db::create().await;
    sqlx::raw_sql(DEEP).execute(&db.pool).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let found = queues(&mut tx).await.unwrap();
    let read = rows_read(&mut tx).await;
    assert!(read < 30_000, "{read} rows read");
    let [ahead, deep, quiet, small] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(counts(ahead), ("ahead", 0, 2, 0, false));
    assert_eq!(counts(small), ("small", 3, 0, 0, false));
    assert_eq!((counts(quiet), quiet.paused), (("quiet", 0, 0, 0, false), true));
    assert_eq!((deep.queue.as_str(), deep.running, deep.estimated), ("deep", 8, true));
    assert!((70_000..130_000).contains(&deep.ready), "{}", deep.ready);
    assert!((3595.0..3700.0).contains(&deep.oldest_ready_seconds), "{}", deep.oldest_ready_seconds);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_at_work_of_a_deep_queue_are_found_at_its_front() {
    let db = Db::create().await;
    sqlx::raw_sql(DEEP).execute(&db.pool).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let all = running_jobs(&mut tx, None, None, 100).await.unwrap();
    let read = rows_read(&mut tx).await;
    assert!(read < 10_000, "{read} rows read");
    assert_eq!((all[0].state.as_str(), all[0].worker.as_deref()), ("running", Some("w")));
    let first = all[3].id;
    assert_eq!(ids(all), [100_001, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(ids(running_jobs(&mut tx, Some("deep"), Some(first), 2).await.unwrap()), [4, 3]);
    assert_eq!(ids(running_jobs(&mut tx, Some("small"), None, 100).await.unwrap()), [0_i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_small_queue_are_listed_without_reading_those_of_a_deep_one() {
    let db = Db::create().await;
    sqlx::raw_sql(DEEP).execute(&db.pool).await.unwrap();
    let claim =
        "update queue.jobs set lease_token = '00000000-0000-7000-8000-000000000000', attempt = 1 where id = 100003";
    sqlx::raw_sql(claim).execute(&db.pool).await.unwrap();
    // Newer ones of the deep queue lie before them.
    let more = "insert into queue.jobs (queue, kind, payload) select 'deep', 'k', '{}' from generate_series(1, 20000)";
    sqlx::raw_sql(more).execute(&db.pool).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    assert_eq!(ids(waiting_jobs(&mut tx, Some("small"), None, 50).await.unwrap()), [100_005, 100_004]);
    assert_eq!(ids(jobs(&mut tx, Some("small"), None, 50).await.unwrap()), [100_005, 100_004, 100_003]);
    assert_eq!(ids(waiting_jobs(&mut tx, Some("ahead"), None, 1).await.unwrap()), [100_007]);
    let read = rows_read(&mut tx).await;
    assert!(read < 20_000, "{read} rows read");
    let newest = ids(waiting_jobs(&mut tx, Some("deep"), None, 2).await.unwrap());
    assert_eq!(newest, [120_007, 120_006]);
}

#[tokio::test(flavor = "multi_thread")]
async fn far_ahead_jobs_are_counted_up_to_a_bound_and_estimated_beyond() {
    let db = Db::create().await;
    let far = "insert into queue.jobs (queue, kind, payload, ready, run_at)
               select 'ahead', 'k', '{}', false, now() + interval '1 day' from generate_series(1, 50000)";
    sqlx::raw_sql(far).execute(&db.pool).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let found = queues(&mut tx).await.unwrap();
    let read = rows_read(&mut tx).await;
    assert!(read < 25_000, "{read} rows read");
    let [ahead] = found.as_slice() else { panic!("{found:?}") };
    assert!(ahead.estimated && (35_000..65_000).contains(&ahead.scheduled), "{ahead:?}");
    assert_eq!((ahead.ready, ahead.running, ahead.oldest_ready_seconds), (0, 0, 0.0));
}
