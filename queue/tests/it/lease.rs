//! Leases: the killed, the stopped and the blocked, and the fence that keeps them apart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use driftless_queue::{Claim, Context, Error, JobError, JobId, NewJob, Process, Registry, Serve, Workers, fence};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{ChildWorker, Db, Effect, PATIENCE, Standstill, Worker, effect_job, effects, until, write_effect};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_killed_worker_run_again_within_ten_seconds() {
    let db = Db::create().await;
    let survivor = Worker::serve(&db, Serve::new("other", 1), &Registry::new()).await;
    let victim = ChildWorker::start(&db);
    db.enqueue((0..16).map(|_| effect_job(600_000)).chain([effect_job(600_000).max_attempts(1)])).await;
    db.until_count(16, "select count(*) from queue.jobs where lease_token is not null").await;
    sqlx::query("update queue.jobs set payload = '{\"sleep_ms\": 0}'").execute(&db.pool).await.unwrap();
    let heir = Worker::start(&db, &effects(&db.pool)).await;
    // Nobody may judge before its own heart has beaten for 8 s.
    until("the heirs are steady", || async { (started_seconds_ago(&db).await > 9.0).then_some(()) }).await;
    db.until_count(1, "select count(*) from effects").await;
    assert_eq!(db.count("select count(*) from queue.jobs").await, 16, "while it lives, its jobs are its own");
    drop(victim);
    let (killed, standstill) = (Instant::now(), Standstill::watch());
    db.until_empty().await;
    let (took, still) = (killed.elapsed(), standstill.lasted());
    assert!(took < Duration::from_secs(10) + still, "{took:?}, {still:?} of them nobody could work");
    assert_eq!(db.effects().await, (17, 17));
    assert_eq!(db.count("select count(*) from queue.workers").await, 2);
    heir.stop().await;
    survivor.stop().await;
}

/// A beat that finds its row gone would take it for a lost lease, and register anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_leaves_during_a_heartbeat_leaves_no_row_behind() {
    let db = Db::create().await;
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    sqlx::raw_sql(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1.5); return null; end $$;
         create trigger slow before update on queue.workers for each statement execute function slow()",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let ours = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    db.until_count(1, ours).await;
    worker.stop().await;
    let ours = "select count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'driftless-queue'";
    db.until_count(0, ours).await;
    assert_eq!(db.count("select count(*) from queue.workers").await, 0);
}

async fn started_seconds_ago(db: &Db) -> f64 {
    sqlx::query_scalar("select extract(epoch from now() - max(started_at))::float8 from queue.workers")
        .fetch_one(&db.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_that_wakes_up_late_writes_nothing() {
    let db = Db::create().await;
    let stalled = ChildWorker::start(&db);
    // Longer than it takes to stop it, and shorter than it is stopped: it wakes up to write.
    db.enqueue((0..10).map(|_| effect_job(7000))).await;
    db.until_count(10, "select count(*) from queue.jobs where lease_token is not null").await;
    stalled.signal("-STOP");
    sqlx::query("update queue.jobs set payload = '{\"sleep_ms\": 0}'").execute(&db.pool).await.unwrap();
    let heir = Worker::start(&db, &effects(&db.pool)).await;
    db.until_empty().await;
    stalled.signal("-CONT");
    // It has surely woken up when it has registered anew.
    db.until_count(2, "select count(*) from queue.workers").await;
    db.enqueue((0..10).map(|_| effect_job(0))).await;
    db.until_empty().await;
    heir.stop().await;
    assert_eq!(db.effects().await, (20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_block_every_thread_do_not_cost_the_lease() {
    let db = Db::create().await;
    let rival = Worker::serve(&db, Serve::new("other", 1), &Registry::new()).await;
    db.enqueue((0..4).map(|_| NewJob::new("q", "blocking", &()).max_attempts(1))).await;
    let url = db.url.clone();
    let pool = db.pool.clone();
    let blocked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let own = sqlx::PgPool::connect(&url).await.unwrap();
            let process = driftless_queue::Process::start(&own).await.unwrap();
            let registry = Registry::new().kind("blocking", |_: Context, (): ()| async {
                std::thread::sleep(Duration::from_secs(11));
                Ok::<(), JobError>(())
            });
            let workers = driftless_queue::Workers::new(&process).serve(Serve::new("q", 8), &registry);
            let stop = tokio_util::sync::CancellationToken::new();
            let run = tokio::spawn(workers.run(stop.clone()));
            process.until_idle(Duration::from_secs(1)).await;
            stop.cancel();
            run.await.unwrap();
        });
        drop(pool);
    });
    until("all are done", || async { blocked.is_finished().then_some(()) }).await;
    blocked.join().unwrap();
    assert_eq!(db.count("select count(*) from queue.dead_jobs").await, 0, "no lease was lost");
    assert_eq!(db.count("select count(*) from queue.jobs").await, 0);
    rival.stop().await;
}

/// Runs each job of `q` by blocking its thread until `go_on`, then writes its effect, or tries to.
fn numb(url: String, go_on: Arc<AtomicBool>, stop: CancellationToken) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = PgPool::connect(&url).await.unwrap();
            let process = Process::start_numb_after(&pool, Duration::from_secs(4)).await.unwrap();
            let write = effects(&pool);
            let blocking = Registry::new().kind("effect", move |context: Context, job: Effect| {
                let (go_on, pool) = (go_on.clone(), pool.clone());
                async move {
                    let end = Instant::now() + 2 * PATIENCE;
                    while !go_on.load(Relaxed) && Instant::now() < end {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    write_effect(&pool, &context, &job).await
                }
            });
            let workers =
                Workers::new(&process).serve(Serve::new("q", 8), &blocking).serve(Serve::new("own", 1), &write);
            workers.run(stop).await;
        });
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_threads_are_all_blocked_lets_its_lease_go_writes_nothing_late_and_begins_anew() {
    let db = Db::create().await;
    let (go_on, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let blocked = numb(db.url.clone(), go_on.clone(), stop.clone());
    db.enqueue((0..4).map(|_| effect_job(0))).await;
    db.until_count(4, "select count(*) from queue.jobs where lease_token is not null").await;
    let first: Uuid = sqlx::query_scalar("select token from queue.workers").fetch_one(&db.pool).await.unwrap();
    let heir = Worker::start(&db, &effects(&db.pool)).await;
    db.until_empty().await;
    assert_eq!(db.effects().await, (4, 4), "the heir has done them");
    assert_eq!(db.count("select count(*) from queue.workers").await, 1, "the other has no lease");
    go_on.store(true, Relaxed);
    // It begins anew, and works.
    db.until_count(2, "select count(*) from queue.workers where lease_until > now()").await;
    let tokens: Vec<Uuid> = sqlx::query_scalar("select token from queue.workers").fetch_all(&db.pool).await.unwrap();
    assert!(!tokens.contains(&first));
    db.enqueue([NewJob::new("own", "effect", &Effect::default())]).await;
    db.until_empty().await;
    heir.stop().await;
    stop.cancel();
    until("it has drained", || async { blocked.is_finished().then_some(()) }).await;
    blocked.join().unwrap();
    assert_eq!(db.effects().await, (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_runtime_has_ended_lets_its_lease_go() {
    let db = Db::create().await;
    let pool = db.pool.clone();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let process = runtime.block_on(Process::start(&pool)).unwrap();
        drop(runtime);
        drop(process);
    });
    until("its runtime has ended", || async { ended.is_finished().then_some(()) }).await;
    db.until_count(1, "select count(*) from queue.workers where lease_until < now()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_refuses_every_claim_but_the_present_one() {
    let db = Db::create().await;
    let token = Uuid::now_v7();
    db.enqueue([effect_job(0)]).await;
    let mut tx = db.pool.begin().await.unwrap();
    let claim = Claim { id: JobId(1), attempt: 1, lease_token: token };
    assert!(matches!(fence(&mut tx, &claim).await, Err(Error::LeaseLost)));
    sqlx::query("update queue.jobs set lease_token = $1, attempt = 1").bind(token).execute(&db.pool).await.unwrap();
    fence(&mut tx, &claim).await.unwrap();
    for late in
        [Claim { attempt: 2, ..claim }, Claim { lease_token: Uuid::now_v7(), ..claim }, Claim { id: JobId(2), ..claim }]
    {
        assert!(matches!(fence(&mut tx, &late).await, Err(Error::LeaseLost)));
    }
    let taken = sqlx::query(
        "update queue.jobs set lease_token = null where id in (select id from queue.jobs for update skip locked)",
    );
    assert_eq!(taken.execute(&db.pool).await.unwrap().rows_affected(), 0, "nobody takes a fenced job away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_handler_leaks_delays_its_own_job_only() {
    let db = Db::create().await;
    let pool = db.pool.clone();
    let registry = effects(&db.pool).kind("leaking", move |context: Context, (): ()| {
        let pool = pool.clone();
        async move {
            let mut tx = pool.begin().await?;
            fence(&mut tx, &context.claim()).await?;
            std::mem::forget(tx);
            Ok::<(), JobError>(())
        }
    });
    let worker = Worker::start(&db, &registry).await;
    db.enqueue([NewJob::new("q", "leaking", &())]).await;
    until("it has leaked", || async { (worker.process.metrics().kinds.iter().any(|k| k.done == 1)).then_some(()) })
        .await;
    db.enqueue((0..200).map(|_| effect_job(0))).await;
    db.until_count(200, "select count(*) from effects").await;
    db.until_empty().await;
    worker.stop().await;
}

/// The answer of a claim is lost with its connection: the job is then held by a process that does not know it.
#[tokio::test(flavor = "multi_thread")]
async fn lost_claims_are_handed_back_beside_one_that_somebody_has_locked() {
    let db = Db::create().await;
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    db.enqueue((0..3).map(|_| effect_job(0).run_at(Utc::now() + TimeDelta::seconds(50)))).await;
    let token = worker.process.token();
    sqlx::query("update queue.jobs set lease_token = $1, attempt = 1, run_at = now()")
        .bind(token)
        .execute(&db.pool)
        .await
        .unwrap();
    let mut somebody = db.pool.begin().await.unwrap();
    sqlx::query("select from queue.jobs where id = 2 for update").execute(&mut *somebody).await.unwrap();
    // The lease's connection breaks, as it does when the database goes away.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name = 'driftless-queue' and query like '%update queue.workers%'";
    until("the first heartbeat's connection is cut", || async { (db.count(cut).await > 0).then_some(()) }).await;
    db.until_count(2, "select count(*) from effects").await;
    assert_eq!(db.count("select count(*) from queue.jobs").await, 1, "the locked one has to wait");
    somebody.rollback().await.unwrap();
    db.until_empty().await;
    assert_eq!(db.effects().await, (3, 3));
    worker.stop().await;
}
