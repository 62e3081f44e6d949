//! What people do: cancel, pause, look.

use std::time::Duration;

use driftless_queue::{
    Cancelled, Context, JobError, JobId, NewJob, Registry, Waker, cancel, job, pause, queues, resume, workers,
};
use serde_json::json;

use crate::support::{Db, Worker, effect_job, effects, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told() {
    let db = Db::create().await;
    let registry = Registry::new().kind("patient", |context: Context, (): ()| async move {
        context.cancelled().cancelled().await;
        Err::<(), _>(JobError::retry("was told to stop"))
    });
    let mut conn = db.pool.acquire().await.unwrap();
    db.enqueue([NewJob::new("q", "patient", &()), NewJob::new("other", "patient", &())]).await;
    let worker = Worker::start(&db, &registry).await;
    until("one runs", || async { (worker.process.metrics().running == 1).then_some(()) }).await;
    assert_eq!(cancel(&mut conn, JobId(2)).await.unwrap(), Cancelled::Removed);
    assert_eq!(cancel(&mut conn, JobId(1)).await.unwrap(), Cancelled::Requested);
    db.until_empty().await;
    assert_eq!(cancel(&mut conn, JobId(1)).await.unwrap(), Cancelled::Unknown);
    assert_eq!(db.count("select count(*) from queue.finished where outcome = 'cancelled'").await, 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_handler_that_does_not_listen_is_dropped_after_five_seconds() {
    let db = Db::create().await;
    let registry = Registry::new().kind("deaf", |_: Context, (): ()| std::future::pending::<Result<(), JobError>>());
    db.enqueue([NewJob::new("q", "deaf", &())]).await;
    let worker = Worker::start(&db, &registry).await;
    until("it runs", || async { (worker.process.metrics().running == 1).then_some(()) }).await;
    cancel(&mut db.pool.acquire().await.unwrap(), JobId(1)).await.unwrap();
    db.until_empty().await;
    assert_eq!(db.count("select count(*) from queue.finished where outcome = 'cancelled'").await, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_is_not_claimed_from_until_it_is_resumed() {
    let db = Db::create().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let worker = Worker::start(&db, &effects(&db.pool)).await;
    assert!(pause(&mut conn, "q").await.unwrap());
    assert!(!pause(&mut conn, "q").await.unwrap());
    db.enqueue([effect_job(0)]).await;
    Waker::new(db.pool.clone()).wake("q");
    // Longer than the rhythm in which every worker looks.
    worker.process.until_idle(Duration::from_millis(1500)).await;
    assert_eq!(db.effects().await, (0, 0));
    let state = &queues(&mut conn).await.unwrap()[0];
    assert!(state.paused && state.ready == 1);
    assert!(resume(&mut conn, "q").await.unwrap());
    Waker::new(db.pool.clone()).wake("q");
    db.until_empty().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_workers_can_be_seen_while_a_job_runs() {
    let db = Db::create().await;
    let registry = Registry::new().kind("telling", |context: Context, (): ()| async move {
        for done in 0.. {
            context.progress(done, 0, "counting");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
                () = context.cancelled().cancelled() => break,
            }
        }
        Ok::<(), JobError>(())
    });
    db.enqueue([NewJob::new("q", "telling", &json!(null)).keep()]).await;
    let worker = Worker::start(&db, &registry).await;
    let mut conn = db.pool.acquire().await.unwrap();
    until("its progress is written", || async {
        let progress = sqlx::query_scalar::<_, bool>("select progress is not null from queue.jobs");
        progress.fetch_one(&db.pool).await.unwrap().then_some(())
    })
    .await;
    let seen = job(&mut conn, JobId(1)).await.unwrap().unwrap();
    assert_eq!(seen.state, "running");
    assert_eq!(seen.worker.as_deref(), Some(worker.process.name()));
    assert_eq!(seen.progress.unwrap()["message"], "counting");
    let all = workers(&mut conn).await.unwrap();
    assert!(all.len() == 1 && all[0].alive, "{all:?}");
    cancel(&mut conn, JobId(1)).await.unwrap();
    db.until_empty().await;
    worker.stop().await;
}
