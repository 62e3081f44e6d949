//! Who gets which job, when, and in which order.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::Utc;
use driftless_queue::{
    Context, JobError, NewJob, Process, Registry, Serve, Waker, enqueue, enqueue_batch, pause, resume,
};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{Db, Worker, effect_job, effects, gated_effects, gated_job, until, wire::Wire};

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_run_each_of_3000_jobs_exactly_once() {
    let db = Db::create().await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(Worker::serve(&db, Serve::new("q", 32), &effects(&db.pool)).await);
    }
    for _ in 0..30 {
        db.enqueue((0..100).map(|_| effect_job(0))).await;
        Waker::new(db.pool.clone()).wake("q");
    }
    db.until_empty().await;
    assert_eq!(db.effects().await, (3000, 3000));
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(db.count("select count(*) from queue.workers").await, 0, "all signed off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_committed_while_the_worker_is_idle_starts_at_once() {
    let db = Db::create().await;
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    let waker = Waker::new(db.pool.clone());
    db.enqueue([effect_job(0)]).await;
    db.until_empty().await;
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        db.enqueue([effect_job(0)]).await;
        waker.wake("q");
        db.until_empty().await;
        took.push(begun.elapsed());
    }
    took.sort();
    // Each job is made right after a look: one that waits for the next waits for nearly a second.
    assert!(took[5] < Duration::from_millis(500), "nothing waits for the rhythm of a second: {took:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_unique_key_is_refused_while_its_job_waits_and_taken_while_it_runs() {
    let db = Db::create().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let job = gated_job().unique_key("once");
    assert!(enqueue(&mut conn, &job).await.unwrap().is_some());
    assert_eq!(enqueue(&mut conn, &job).await.unwrap(), None);
    assert_eq!(enqueue_batch(&mut conn, &[job.clone(), effect_job(0)]).await.unwrap(), 1);
    let gate = Arc::new(Semaphore::new(0));
    let worker = Worker::start(&db, &gated_effects(&db.pool, &gate)).await;
    db.until_count(1, "select count(*) from queue.jobs where kind = 'gated' and lease_token is not null").await;
    assert!(enqueue(&mut conn, &job).await.unwrap().is_some(), "a request made while the job runs is not swallowed");
    gate.add_permits(2);
    db.until_empty().await;
    assert_eq!(db.effects().await, (3, 3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_priorities_run_first_and_far_ahead_jobs_do_not_stand_in_their_way() {
    let db = Db::create().await;
    let later = Utc::now() + chrono::TimeDelta::hours(1);
    let soon = Utc::now() + chrono::TimeDelta::seconds(50);
    let job = |name: &str| NewJob::new("q", "named", &json!({ "name": name }));
    db.enqueue([
        job("low").priority(-5),
        job("usual"),
        job("far").priority(9).run_at(later),
        job("soon").priority(9).run_at(soon),
        job("high").priority(5),
    ])
    .await;
    let ran: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = ran.clone();
    let registry = Registry::new().kind("named", move |_: Context, job: serde_json::Value| {
        record.lock().unwrap().push(job["name"].as_str().unwrap().to_owned());
        async { Ok::<(), JobError>(()) }
    });
    let worker = Worker::serve(&db, Serve::new("q", 1), &registry).await;
    db.until_count(2, "select count(*) from queue.jobs").await;
    assert_eq!(*ran.lock().unwrap(), ["high", "usual", "low"]);
    assert_eq!(db.count("select count(*) from queue.jobs where not ready").await, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_start_at_their_time_whether_near_or_far() {
    let db = Db::create().await;
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    let mut late = Vec::new();
    // A machine may stand still when they are due, but not each time.
    while late.len() < 5 && late.last().is_none_or(|late| *late >= chrono::TimeDelta::milliseconds(900)) {
        let due = Utc::now() + chrono::TimeDelta::milliseconds(1500);
        db.enqueue((0..20).map(|_| effect_job(0).run_at(due))).await;
        sqlx::query("update queue.jobs set ready = false where id % 2 = 0").execute(&db.pool).await.unwrap();
        db.until_empty().await;
        late.push(Utc::now() - due);
    }
    assert!(late.iter().all(|late| *late >= chrono::TimeDelta::zero()), "early: {late:?}");
    assert!(late[late.len() - 1] < chrono::TimeDelta::milliseconds(900), "late: {late:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_queue_is_not_hoarded_by_one_process() {
    let db = Db::create().await;
    db.enqueue((0..8).map(|_| effect_job(200))).await;
    db.enqueue((0..32).map(|_| gated_job())).await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = Worker::serve(&db, Serve::new("q", 4), &gated_effects(&db.pool, &gate)).await;
    db.until_count(32, "select count(*) from queue.jobs").await;
    until("four run", || async { (worker.process.metrics().running == 4).then_some(()) }).await;
    let claimed = db.count("select count(*) from queue.jobs where lease_token is not null").await;
    assert!(claimed <= 5, "{claimed} claimed for 4 places");
    gate.add_permits(32);
    db.until_empty().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_full_and_never_analysed_table_read_no_more_than_they_take() {
    let db = Db::create().await;
    let (wire, begun) = (Wire::to(&db.url).await, Instant::now());
    // The worker's statements are planned while the table is empty, and go on with these plans.
    let process = Process::start(&PgPool::connect(&wire.url).await.unwrap()).await.unwrap();
    let worker = Worker::of(process, Serve::new("q", 50), &effects(&db.pool));
    db.enqueue([effect_job(0)]).await;
    db.until_count(1, "select count(*) from effects").await;
    pause(&mut db.pool.acquire().await.unwrap(), "q").await.unwrap();
    sqlx::query(
        "insert into queue.jobs (queue, kind, payload, priority)
         select case when i % 1000 = 0 then 'q' else 'other' end, 'effect', '{\"sleep_ms\": 0}', i % 3 from generate_series(1, 200000) i",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    resume(&mut db.pool.acquire().await.unwrap(), "q").await.unwrap();
    db.until_count(201, "select count(*) from effects").await;
    worker.stop().await;
    // Statistics arrive when the connections that gathered them end.
    let read = || async {
        let (connections, scanned, read): (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from pg_stat_activity where datname = current_database() and application_name = 'driftless-queue'),
                    (select seq_tup_read from pg_stat_user_tables where relname = 'jobs'),
                    (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'jobs')",
        )
        .fetch_one(&db.pool)
        .await
        .unwrap();
        (connections == 0).then_some((scanned, read))
    };
    let (scanned, read) = until("the worker's connections are gone", read).await;
    // After a heartbeat that the machine held up, the process compares itself with all of the table.
    let compared = wire.sent(begun).iter().filter(|text| text.contains("where ready and lease_token = $1")).count();
    assert!(scanned < 10_000 + 201_000 * compared as i64, "{scanned} rows read by scans of the whole table");
    assert!(read < 10_000, "{read} index entries read for 201 jobs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_job_overtakes_those_that_were_fetched_ahead() {
    let db = Db::create().await;
    let gate = Arc::new(Semaphore::new(0));
    let ran: Arc<Mutex<Vec<i64>>> = Arc::default();
    let gated = || {
        let (pass, record) = (gate.clone(), ran.clone());
        move |_: Context, rank: i64| {
            record.lock().unwrap().push(rank);
            let pass = pass.clone();
            async move {
                pass.acquire().await.map(SemaphorePermit::forget)?;
                Ok::<(), JobError>(())
            }
        }
    };
    let registry = Registry::new()
        .kind("quick", |_: Context, (): ()| async { Ok::<(), JobError>(()) })
        .kind("usual", gated())
        .kind("urgent", gated());
    // Quick jobs teach the worker to fetch many ahead; then come such that do not end.
    db.enqueue((0..500).map(|_| NewJob::new("q", "quick", &()))).await;
    let worker = Worker::serve(&db, Serve::new("q", 1), &registry).await;
    db.until_empty().await;
    db.enqueue((0..3000).map(|_| NewJob::new("q", "usual", &-1).priority(-1))).await;
    let waker = Waker::new(db.pool.clone());
    waker.wake("q");
    until("one runs", || async { (!ran.lock().unwrap().is_empty()).then_some(()) }).await;
    db.enqueue([0_i16, 1, 2].map(|rank| NewJob::new("q", "urgent", &rank).priority(rank))).await;
    waker.wake("q");
    for (nth, rank) in [2_i64, 1, 0].into_iter().enumerate() {
        // No place is free: it is fetched beside those that were there before. The table tells it before the worker has it.
        until("it is fetched", || async {
            let metrics = worker.process.metrics();
            let urgent = metrics.kinds.iter().find(|kind| kind.kind == "urgent")?;
            (urgent.pickup.counts.iter().sum::<u64>() > nth as u64).then_some(())
        })
        .await;
        // The worker counts it a moment before it lines it up: one of the others may begin in between.
        until("it runs", || async {
            if ran.lock().unwrap().contains(&rank) {
                return Some(());
            }
            if gate.available_permits() == 0 {
                gate.add_permits(1);
            }
            None
        })
        .await;
    }
    let ran = ran.lock().unwrap().clone();
    let urgent: Vec<i64> = ran.iter().copied().filter(|rank| *rank >= 0).collect();
    assert_eq!(urgent, [2, 1, 0]);
    assert!(ran.len() < 50, "{} jobs ran, though 500 and more were fetched ahead", ran.len());
    gate.close();
    worker.stop().await;
}
