//! A database that goes away and comes back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use driftless_queue::{Context, JobError, JobId, NewJob, Process, Registry, Serve, Workers};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::support::{Cluster, Db, Worker, effect_job, effects, until, wire::Wire};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgres_loses_no_job_and_no_acknowledgement() {
    let cluster = Cluster::start();
    let db = Db::create_on(&cluster.url()).await;
    let registry = effects(&db.pool).kind("slow", |_: Context, (): ()| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok::<(), JobError>(())
    });
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(Worker::serve(&db, Serve::new("q", 8), &registry).await);
    }
    // Slow ones end while the database is away: their acknowledgements wait for it. A second attempt would be a double run.
    db.enqueue((0..8).map(|_| NewJob::new("q", "slow", &()).max_attempts(1).priority(1))).await;
    db.enqueue((0..1500).map(|_| effect_job(1).max_attempts(1000))).await;
    until("work is under way", || async { (db.effects().await.0 > 100).then_some(()) }).await;
    cluster.crash();
    let gone = Instant::now();
    until("the slow ones are done", || async { (gone.elapsed() > Duration::from_secs(3)).then_some(()) }).await;
    cluster.up();
    let back = Instant::now();
    until("work goes on", || async {
        let done = sqlx::query_scalar::<_, i64>("select count(*) from effects").fetch_one(&db.pool).await.ok()?;
        let before = 100;
        (done > before).then_some(())
    })
    .await;
    until("all is done", || async {
        let left = sqlx::query_scalar::<_, i64>("select count(*) from queue.jobs").fetch_one(&db.pool).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    let (effects, jobs) = db.effects().await;
    assert_eq!((effects, jobs), (1500, 1500), "after {:?}", back.elapsed());
    assert_eq!(db.count("select count(*) from queue.dead_jobs").await, 0);
    for worker in workers {
        worker.stop().await;
    }
}

/// Claims and acknowledgements do not wait for the disk: a crash undoes the last of them. The processes say them again, and each
/// waits 800 ms for the others before it claims. On a machine that holds one of them up for longer than that, a job may run twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgres_makes_no_job_run_twice_whose_worker_lives() {
    const ROUNDS: usize = 6;
    let cluster = Cluster::start();
    let db = Db::create_on(&cluster.url()).await;
    let runs: Arc<Mutex<HashMap<JobId, u32>>> = Arc::default();
    let count = runs.clone();
    let registry = Registry::new().kind("plain", move |context: Context, (): ()| {
        *count.lock().unwrap().entry(context.claim().id).or_default() += 1;
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok::<(), JobError>(())
        }
    });
    let (mut workers, mut wires) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let wire = Wire::to(&db.url).await;
        let process = Process::start(&PgPool::connect(&wire.url).await.unwrap()).await.unwrap();
        workers.push(Worker::of(process, Serve::new("q", 16), &registry));
        wires.push(wire);
    }
    let mut quick = 0;
    for _ in 0..ROUNDS {
        db.enqueue((0..2500).map(|_| NewJob::new("q", "plain", &()))).await;
        until("work goes on", || async { (runs.lock().unwrap().len() > 1000).then_some(()) }).await;
        cluster.crash();
        let gone = Instant::now();
        cluster.up();
        until("all is done", || async {
            let left =
                sqlx::query_scalar::<_, i64>("select count(*) from queue.jobs").fetch_one(&db.pool).await.ok()?;
            (left == 0).then_some(())
        })
        .await;
        let again = runs.lock().unwrap().values().filter(|runs| **runs > 1).count();
        assert_eq!(runs.lock().unwrap().drain().count(), 2500);
        // Who claims has long said its own: none was early when their first claims lie close together.
        let claims = wires.iter().filter_map(|wire| wire.first(gone, "limit $5 for update skip locked"));
        let claims: Vec<Instant> = claims.collect();
        let [one, other] = claims.as_slice() else { continue };
        if one.max(other).duration_since(*one.min(other)) < Duration::from_millis(800) {
            assert_eq!(again, 0, "jobs ran twice, though the processes were back together");
            quick += 1;
        }
        if quick == 2 {
            break;
        }
    }
    assert!(quick > 0, "the processes were never back together in {ROUNDS} rounds");
    for worker in workers {
        worker.stop().await;
    }
}

/// The connection of the heartbeat may be the only one in use when Postgres crashes.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_compares_itself_with_the_table_after_a_lost_connection_and_not_at_its_start() {
    let db = Db::create().await;
    let wire = Wire::to(&db.url).await;
    let begun = Instant::now();
    let process = Process::start(&PgPool::connect(&wire.url).await.unwrap()).await.unwrap();
    let stop = CancellationToken::new();
    let workers = Workers::new(&process).serve(Serve::new("q", 8), &effects(&db.pool));
    let working = tokio::spawn(workers.run(stop.clone()));
    let sent = |part: &str| wire.sent(begun).iter().filter(|text| text.contains(part)).count();
    let (beat, comparison) = ("update queue.workers set lease_until", "where ready and lease_token = $1");
    until("it has beaten twice", || async { (sent(beat) >= 2).then_some(()) }).await;
    assert_eq!(sent(comparison), 0);
    db.count(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and ltrim(query, E' \\n') like 'with beat as%'",
    )
    .await;
    until("it has compared", || async { (sent(comparison) >= 1).then_some(()) }).await;
    stop.cancel();
    working.await.unwrap();
}
