//! The worker's side of a run: what it may claim, and what becomes of a run whose worker fails, dies or lies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use driftless_domain::{
    Domain,
    runs::{self, Counts, Execution, HeldDeletion, Job, LeftOut, Side, Started},
};
use driftless_queue::{Context, JobError, Process, Registry, Serve, Workers};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{App, until};

const NULL: Value = Value::Null;

/// An app with a remote device whose runs no process of it serves, and one queued run.
async fn app() -> (App, String, Uuid) {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.sql(
        "insert into devices (user_id, device_id, device_name, kind, cursor_epoch, remote, remote_path, remote_root, remote_inode)
         select id, 'disk', 'disk', 'remote', gen_random_uuid(), '{}', '/nowhere', '00000000-0000-0000-0000-000000000001', 1 from users",
    )
    .await;
    let schedule = app.schedule(&token, json!({"device_id": "disk"})).await["schedule_id"].clone();
    let run =
        app.call(&token, Method::POST, &format!("/api/sync/schedule/{schedule}/run"), NULL).await.expect(202).json();
    (app, token, run["run_id"].as_str().unwrap().parse().unwrap())
}

/// Serves the runs of the remote with this executor, until the app ends.
async fn execute_with<F, Fut>(app: &App, executor: F)
where
    F: Fn(Box<Execution>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let process = Process::start(app.domain.pool()).await.unwrap();
    let domain: Domain = app.domain.clone();
    let handlers = Registry::new().kind("run_sync", move |context: Context, job: Value| {
        let (domain, executor) = (domain.clone(), executor.clone());
        async move {
            let run: Uuid = job["run_id"].as_str().unwrap().parse().unwrap();
            let job = Job { claim: context.claim(), cancel: context.cancelled().clone() };
            if let Started::Remote(execution) = runs::start(&domain, run, job).await? {
                executor(execution).await;
            }
            Ok::<(), JobError>(())
        }
    });
    let queue = driftless_domain::remotes::queue(Uuid::from_u128(1));
    let workers = Workers::new(&process).serve(Serve::new(queue, 2), &handlers);
    tokio::spawn(workers.run(app.stop.clone()));
}

async fn ended(app: &App, token: &str, run: Uuid, state: &str) -> Value {
    until(state, async || Some(app.run(token, &run.to_string()).await).filter(|r| r["state"] == state)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_does_nothing_does_not_succeed() {
    let (app, token, run) = app().await;
    execute_with(&app, |execution| async move {
        execution.planned(3, 2, json!({"upload": 3})).await.unwrap();
        execution.succeed(&Counts::default(), &[], None).await.unwrap();
    })
    .await;
    let shown = ended(&app, &token, run, "failed").await;
    assert_eq!((&shown["error"]["code"], &shown["planned"]), (&json!("run.incomplete"), &json!(3)));
    let audited: (String, String, i64) = sqlx::query_as(
        "select level, code, (details->>'changes_detected')::bigint from audit where action = 'sync_schedule_execution'",
    )
    .fetch_one(app.domain.pool())
    .await
    .unwrap();
    assert_eq!(audited, ("error".into(), "run.incomplete".into(), 2));
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_out_with_a_reason_is_accounted_for() {
    let (app, token, run) = app().await;
    execute_with(&app, |execution| async move {
        execution.planned(3, 0, NULL).await.unwrap();
        let left = |path: &str, planned| LeftOut { path: path.into(), reason: "file.unstable".into(), planned };
        let counts = Counts { executed: 2, uploaded: 2, ..Counts::default() };
        execution.succeed(&counts, &[left("/a", true), left("/b", false)], None).await.unwrap();
    })
    .await;
    let shown = ended(&app, &token, run, "succeeded").await;
    assert_eq!((&shown["left_out_count"], &shown["counts"]["executed"]), (&json!(2), &json!(2)));
    let device = app.call(&token, Method::GET, "/api/sync/devices/disk", NULL).await.json();
    assert_eq!(device["last_sync_at"], shown["finished_at"]);
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_queued_again_with_a_pause_and_a_final_one_is_not() {
    let (app, token, run) = app().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let (counted, pool) = (attempts.clone(), app.domain.pool().clone());
    execute_with(&app, move |execution| {
        let attempt = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let pool = pool.clone();
        async move {
            // Nobody begins the second attempt before the test has looked at what the first one left.
            let pause = "insert into queue.paused (queue) select distinct queue from queue.jobs on conflict do nothing";
            sqlx::query(pause).execute(&pool).await.unwrap();
            execution.fail("remote.unreadable", "the disk said no", attempt == 2).await.unwrap();
        }
    })
    .await;
    let shown = until("the first attempt failed", async || {
        Some(app.run(&token, &run.to_string()).await).filter(|r| r["attempts"] == 1)
    })
    .await;
    assert_eq!(
        (&shown["state"], &shown["last_error"]),
        (&json!("queued"), &json!("remote.unreadable: the disk said no"))
    );
    let ahead: f64 = app
        .value(
            "select extract(epoch from min(run_at) - min(created_at))::float8 from queue.jobs where unique_key is not null",
        )
        .await;
    assert!((5.0..=10.0).contains(&ahead), "{ahead}");
    app.sql("update queue.jobs set run_at = queue.now(); delete from queue.paused").await;
    let shown = ended(&app, &token, run, "failed").await;
    assert_eq!((&shown["attempts"], &shown["error"]["code"]), (&json!(2), &json!("remote.unreadable")));
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_deletions_are_listed_approved_exactly_and_carried_out_by_the_next_execution() {
    let (app, token, run) = app().await;
    execute_with(&app, |execution| async move {
        let approved = execution.approved().await.unwrap();
        execution.planned(2, 0, NULL).await.unwrap();
        if approved.is_empty() {
            let gone = |n: i64| HeldDeletion { side: Side::Server, path: format!("/{n}"), version: n };
            execution.hold(&[gone(1), gone(2)], &Counts::default(), &[]).await.unwrap();
        } else {
            let counts = Counts { executed: 2, deleted_on_server: approved.len() as i64, ..Counts::default() };
            execution.succeed(&counts, &[], None).await.unwrap();
        }
    })
    .await;
    let shown = ended(&app, &token, run, "held").await;
    assert_eq!(shown["held_count"], 2);
    let path = format!("/api/sync/runs/{run}");
    let held = app.call(&token, Method::GET, &format!("{path}/held"), NULL).await.expect(200).json();
    assert_eq!(held["deletions"][1], json!({"side": "server", "path": "/2", "version": 2}));
    let page = app.call(&token, Method::GET, &format!("{path}/held?limit=1&cursor=1"), NULL).await.expect(200).json();
    assert_eq!(page["deletions"][0]["path"], "/2");
    app.call(&token, Method::POST, &format!("{path}/approve"), NULL).await.expect(200);
    let shown = ended(&app, &token, run, "succeeded").await;
    assert_eq!(shown["counts"]["deleted_on_server"], 2);
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_held_deletions_ends_the_run() {
    let (app, token, run) = app().await;
    execute_with(&app, |execution| async move {
        let gone = HeldDeletion { side: Side::Device, path: "/a".into(), version: 1 };
        execution.hold(&[gone], &Counts::default(), &[]).await.unwrap();
    })
    .await;
    ended(&app, &token, run, "held").await;
    let after = app.call(&token, Method::POST, &format!("/api/sync/runs/{run}/discard"), NULL).await.expect(200).json();
    assert_eq!(after["state"], "cancelled");
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_the_worker_at_its_next_step() {
    let (app, token, run) = app().await;
    execute_with(&app, |execution| async move {
        let done = runs::Progress { files_done: 1, files_total: 2, ..runs::Progress::default() };
        until("the cancel arrives", async || {
            (execution.progress(&done).await.unwrap() == runs::Signal::Cancel).then_some(())
        })
        .await;
        execution.cancelled(&Counts { uploaded: 1, ..Counts::default() }, &[]).await.unwrap();
    })
    .await;
    ended(&app, &token, run, "running").await;
    app.call(&token, Method::POST, &format!("/api/sync/runs/{run}/cancel"), NULL).await.expect(200);
    let shown = ended(&app, &token, run, "cancelled").await;
    assert_eq!((&shown["counts"]["uploaded"], &shown["progress"]["files_total"]), (&json!(1), &json!(2)));
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_job_steps_back_while_the_first_lives_and_takes_over_when_it_is_gone() {
    let (app, token, run) = app().await;
    let (began, refusals) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, refused) = (began.clone(), refusals.clone());
    let other = app.domain.clone();
    execute_with(&app, move |execution| {
        let (nth, refused, other) = (counted.fetch_add(1, Ordering::SeqCst), refused.clone(), other.clone());
        async move {
            if nth == 0 {
                // A stalled worker whose job the queue took away: what it writes from then on is refused.
                until("the run was taken over", async || {
                    let fence: i64 =
                        sqlx::query_scalar("select fence from runs").fetch_one(other.pool()).await.unwrap();
                    (fence > 1).then_some(())
                })
                .await;
                assert!(execution.begin().await.is_err());
                let late = execution.succeed(&Counts::default(), &[], None).await;
                assert!(matches!(late, Err(runs::Error::Superseded)));
                refused.fetch_add(1, Ordering::SeqCst);
                return;
            }
            execution.planned(0, 0, NULL).await.unwrap();
            execution.succeed(&Counts::default(), &[], None).await.unwrap();
        }
    })
    .await;
    ended(&app, &token, run, "running").await;
    let again = |app: &App| {
        let domain = app.domain.clone();
        async move {
            let mut tx = domain.begin_system().await.unwrap();
            let queue = driftless_domain::remotes::queue(Uuid::from_u128(1));
            let job = driftless_queue::NewJob::new(queue, "run_sync", &json!({"run_id": run}));
            tx.enqueue(&job).await.unwrap();
            tx.commit().await.unwrap();
        }
    };
    again(&app).await;
    until("the second job stepped back", async || {
        (app.value::<i64>("select count(*) from queue.jobs").await == 1).then_some(())
    })
    .await;
    assert_eq!((began.load(Ordering::SeqCst), app.value::<i64>("select fence from runs").await), (1, 1));
    // The first job's claim no longer holds, as after a lost lease.
    app.sql("update queue.jobs set attempt = attempt + 1").await;
    again(&app).await;
    ended(&app, &token, run, "succeeded").await;
    until("the first was refused", async || (refusals.load(Ordering::SeqCst) == 1).then_some(())).await;
    assert_eq!(began.load(Ordering::SeqCst), 2);
    // The job that the test spoilt belongs to nobody any more.
    app.sql("delete from queue.jobs").await;
}
