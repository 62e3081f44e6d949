//! How runs end: failure, death, panic, time, and the drain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use driftless_queue::{
    Context, JobError, JobId, NewJob, Process, Registry, Serve, Stop, Workers, dead_jobs, job, redrive,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::{Db, Worker, effect_job, effects, gated_effects, gated_job, until};

fn failing(times: u32) -> (Registry, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let count = runs.clone();
    let registry =
        Registry::new().kind("failing", move |_: Context, _: serde_json::Value| {
            let run = count.fetch_add(1, SeqCst);
            async move {
                if run < times { Err(JobError::retry_after("not yet", Duration::from_millis(100))) } else { Ok(()) }
            }
        });
    (registry, runs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_runs_again_after_its_own_delay_until_it_succeeds() {
    let db = Db::create().await;
    let (registry, runs) = failing(3);
    let worker = Worker::start(&db, &registry).await;
    db.enqueue([NewJob::new("q", "failing", &json!({}))]).await;
    db.until_empty().await;
    assert_eq!(runs.load(SeqCst), 4);
    assert_eq!(db.count("select count(*) from queue.dead_jobs").await, 0);
    let failed = || db.count("select coalesce(sum(failed), 0)::bigint from queue.stats");
    until("stats are written", || async { (failed().await == 3).then_some(()) }).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_out_of_attempts_is_dead_with_its_error_and_redrive_brings_it_back() {
    let db = Db::create().await;
    let (registry, runs) = failing(2);
    let worker = Worker::start(&db, &registry).await;
    db.enqueue([NewJob::new("q", "failing", &json!({"a": 1})).max_attempts(2)]).await;
    db.until_count(1, "select count(*) from queue.dead_jobs").await;
    assert_eq!(runs.load(SeqCst), 2);
    let mut conn = db.pool.acquire().await.unwrap();
    let dead = dead_jobs(&mut conn, Some("q"), None, 10).await.unwrap();
    assert_eq!(dead[0].last_error.as_deref(), Some("not yet"));
    assert_eq!(dead[0].payload, json!({"a": 1}));
    assert_eq!(redrive(&mut conn, dead[0].id).await.unwrap().as_deref(), Some("q"));
    assert_eq!(redrive(&mut conn, dead[0].id).await.unwrap(), None);
    db.until_empty().await;
    assert_eq!(runs.load(SeqCst), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_backoff_doubles_with_full_jitter_up_to_an_hour() {
    let db = Db::create().await;
    let registry = Registry::new()
        .kind("failing", |_: Context, _: serde_json::Value| async { Err::<(), _>(JobError::retry("no")) });
    db.enqueue((0..200).map(|_| NewJob::new("q", "failing", &json!({})).max_attempts(30000))).await;
    sqlx::query("update queue.jobs set attempt = 20").execute(&db.pool).await.unwrap();
    let worker = Worker::serve(&db, Serve::new("q", 200), &registry).await;
    // Who drew a short wait may have run once more by now.
    db.until_count(200, "select count(*) from queue.jobs where lease_token is null and attempt > 20").await;
    let (least, mean, most): (f64, f64, f64) = sqlx::query_as(
        "select min(wait)::float8, avg(wait)::float8, max(wait)::float8
         from (select extract(epoch from run_at - queue.now()) as wait from queue.jobs) waits",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert!(most <= 3600.0 && (1400.0..2200.0).contains(&mean) && least < 400.0, "{least} {mean} {most}");
    assert!(
        db.count("select count(*) from queue.jobs where not ready").await > 150,
        "far-ahead retries leave the index"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_and_panics_end_their_own_job_only() {
    let db = Db::create().await;
    let registry = effects(&db.pool)
        .kind("panicking", |_: Context, (): ()| async { panic!("as planned") })
        .kind("picky", |_: Context, _: u32| async { Ok::<(), JobError>(()) });
    let worker = Worker::start(&db, &registry).await;
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    db.enqueue([
        NewJob::new("q", "picky", &json!({"not": "a number"})),
        NewJob::new("q", "picky", &deep),
        NewJob::new("q", "panicking", &()).max_attempts(1),
        NewJob::new("q", "never heard of", &()),
    ])
    .await;
    db.enqueue((0..50).map(|_| effect_job(0))).await;
    db.until_count(3, "select count(*) from queue.dead_jobs").await;
    db.until_count(50, "select count(*) from effects").await;
    db.until_count(1, "select count(*) from queue.jobs").await;
    let errors: Vec<String> =
        sqlx::query_scalar("select error from queue.dead_jobs order by id").fetch_all(&db.pool).await.unwrap();
    assert!(errors[0].starts_with("the payload does not fit"), "{errors:?}");
    assert!(errors[2].contains("as planned"), "{errors:?}");
    let waits = "select count(*) from queue.jobs where lease_token is null and last_error like '%no handler%'";
    db.until_count(1, waits).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_past_its_time_limit_is_told_and_then_taken_away() {
    let db = Db::create().await;
    let told = Arc::new(AtomicU32::new(0));
    let count = told.clone();
    let registry = Registry::new().kind("endless", move |context: Context, (): ()| {
        let told = count.clone();
        async move {
            context.cancelled().cancelled().await;
            assert_eq!(context.stop_reason(), Some(Stop::TimeLimit));
            told.fetch_add(1, SeqCst);
            std::future::pending::<Result<(), JobError>>().await
        }
    });
    let worker = Worker::serve(&db, Serve::new("q", 2).time_limit(Duration::from_millis(200)), &registry).await;
    db.enqueue([NewJob::new("q", "endless", &()).max_attempts(1)]).await;
    db.until_count(1, "select count(*) from queue.dead_jobs").await;
    assert_eq!(told.load(SeqCst), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_past_its_limit_loses_its_job_to_the_next_run() {
    let db = Db::create().await;
    let (runs, release) = (Arc::new(AtomicU32::new(0)), Arc::new(std::sync::Barrier::new(2)));
    let (count, barrier) = (runs.clone(), release.clone());
    let registry = Registry::new().kind("blocking", move |_: Context, (): ()| {
        let (first, barrier) = (count.fetch_add(1, SeqCst) == 0, barrier.clone());
        async move {
            if first {
                barrier.wait();
            }
            Ok::<(), JobError>(())
        }
    });
    let worker = Worker::serve(&db, Serve::new("q", 1).time_limit(Duration::from_millis(200)), &registry).await;
    db.enqueue([NewJob::new("q", "blocking", &())]).await;
    db.until_empty().await;
    assert_eq!(runs.load(SeqCst), 2, "the second run ended while the first was still blocked");
    let _ = tokio::task::spawn_blocking(move || release.wait()).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_short_jobs_finish_and_hands_back_the_rest_unburnt() {
    let db = Db::create().await;
    let gate = Arc::new(Semaphore::new(0));
    let registry = gated_effects(&db.pool, &gate)
        .kind("endless", |_: Context, (): ()| std::future::pending::<Result<(), JobError>>());
    let worker = Worker::serve(&db, Serve::new("q", 2), &registry).await;
    db.enqueue([NewJob::new("q", "endless", &()), gated_job(), gated_job(), gated_job()]).await;
    until("two run", || async { (worker.process.metrics().running == 2).then_some(()) }).await;
    let process = worker.process.clone();
    let mut drain = std::pin::pin!(process.drain(Duration::from_secs(6)));
    tokio::select! {
        biased;
        () = &mut drain => panic!("nothing has ended"),
        () = std::future::ready(()) => gate.add_permits(3),
    }
    drain.await;
    assert_eq!(db.effects().await, (1, 1), "the short one finished, no other was started");
    let attempts: Vec<(i16, bool)> = sqlx::query_as("select attempt, lease_token is null from queue.jobs order by id")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert_eq!(attempts, [(0, true); 3]);
    assert_eq!(db.count("select count(*) from queue.workers").await, 0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_idle_returns_when_the_queue_has_been_empty_for_a_while() {
    let db = Db::create().await;
    db.enqueue((0..20).map(|_| effect_job(50))).await;
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    worker.process.until_idle(Duration::from_millis(500)).await;
    assert_eq!(db.effects().await, (20, 20));
    worker.stop().await;
}

#[tokio::test]
async fn a_process_that_stood_still_is_not_idle() {
    let db = Db::create().await;
    db.enqueue((0..20).map(|_| effect_job(50))).await;
    let process = Process::start(&db.pool).await.unwrap();
    let (stop, quiet) = (CancellationToken::new(), Duration::from_millis(400));
    let idle = async {
        process.until_idle(quiet).await;
        let done = db.effects().await;
        stop.cancel();
        done
    };
    let work = async {
        // Between its start and its first work nothing here moves for a while, as on a machine that is suspended.
        let begin = Instant::now();
        while begin.elapsed() < quiet * 2 {}
        tokio::task::yield_now().await;
        Workers::new(&process).serve(Serve::new("q", 8), &effects(&db.pool)).run(stop.clone()).await;
    };
    let (done, ()) = tokio::join!(biased; idle, work);
    assert_eq!(done, (20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_marked_keep_leave_a_row_and_others_do_not() {
    let db = Db::create().await;
    let registry = effects(&db.pool).kind("plain", |_: Context, (): ()| async { Ok::<(), JobError>(()) });
    let worker = Worker::start(&db, &registry).await;
    db.enqueue([effect_job(0).keep(), NewJob::new("q", "plain", &()).keep(), NewJob::new("q", "plain", &())]).await;
    db.until_empty().await;
    let kept: Vec<(i64, String, Option<String>)> =
        sqlx::query_as("select id, outcome, worker from queue.finished order by id").fetch_all(&db.pool).await.unwrap();
    let name = Some(worker.process.name().to_owned());
    assert_eq!(kept, [(1, "done".to_owned(), name.clone()), (2, "done".to_owned(), name)]);
    let state = job(&mut db.pool.acquire().await.unwrap(), JobId(2)).await.unwrap().unwrap();
    assert_eq!(state.state, "done");
    worker.stop().await;
}
