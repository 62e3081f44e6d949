//! The queue as admins see and steer it, and the metrics.

use driftless_queue::{NewJob, enqueue};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{App, until};

/// A job of a queue that nobody serves; answers its id.
async fn queued(app: &App, run_in: &str) -> i64 {
    let mut tx = app.domain.begin_system().await.unwrap();
    let id = enqueue(&mut tx, &NewJob::new("nobody", "nothing", &json!({"n": 1}))).await.unwrap().unwrap();
    // Not due, so that the app's end finds nothing left to do.
    sqlx::query("update queue.jobs set run_at = queue.now() + $2::text::interval, ready = false where id = $1")
        .bind(id)
        .bind(run_in)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    id.0
}

async fn die(app: &App, id: i64) {
    let mut tx = app.domain.begin_system().await.unwrap();
    sqlx::query(
        "with gone as (delete from queue.jobs where id = $1 returning *)
         insert into queue.dead_jobs (id, queue, kind, payload, priority, attempt, max_attempts, keep, error, created_at)
         select id, queue, kind, payload, priority, max_attempts, max_attempts, keep, 'it broke', created_at from gone",
    )
    .bind(id)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// The actions of the audit, newest first.
async fn actions(app: &App, token: &str) -> Vec<String> {
    let page = app.call(token, Method::GET, "/api/audit", Value::Null).await.expect(200).json();
    page["entries"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_sees_a_job_cancels_it_and_both_are_told_by_the_audit() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    let id = queued(&app, "1 hour").await;
    let queues = app.call(&admin, Method::GET, "/api/jobs/queues", Value::Null).await.expect(200).json();
    assert_eq!((&queues[0]["queue"], &queues[0]["scheduled"]), (&json!("nobody"), &json!(1)));
    let page = app.call(&admin, Method::GET, "/api/jobs?queue=nobody", Value::Null).await.expect(200).json();
    assert_eq!((&page["jobs"][0]["job_id"], &page["jobs"][0]["state"]), (&json!(id), &json!("scheduled")));
    let cancel = format!("/api/jobs/{id}/cancel");
    let answer = app.call(&admin, Method::POST, &cancel, Value::Null).await.expect(200);
    assert_eq!(answer.json(), json!({"was_running": false}));
    let again = app.call(&admin, Method::POST, &cancel, Value::Null).await.expect(409);
    assert_eq!(again.code(), "job.ended");
    let job = app.call(&admin, Method::GET, &format!("/api/jobs/{id}"), Value::Null).await.expect(200).json();
    assert_eq!(job["state"], "cancelled");
    assert_eq!(actions(&app, &admin).await[0], "job_cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_shows_its_error_and_can_be_put_back_once() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    app.call(&admin, Method::POST, "/api/jobs/queues/nobody/pause", Value::Null).await.expect(200);
    let id = queued(&app, "1 hour").await;
    die(&app, id).await;
    let dead = app.call(&admin, Method::GET, "/api/jobs?list=dead", Value::Null).await.expect(200).json();
    assert_eq!((&dead["jobs"][0]["job_id"], &dead["jobs"][0]["last_error"]), (&json!(id), &json!("it broke")));
    let retry = format!("/api/jobs/{id}/retry");
    app.call(&admin, Method::POST, &retry, Value::Null).await.expect(200);
    assert_eq!(app.call(&admin, Method::POST, &retry, Value::Null).await.expect(409).code(), "job.not_dead");
    let job = app.call(&admin, Method::GET, &format!("/api/jobs/{id}"), Value::Null).await.expect(200).json();
    assert_eq!((&job["state"], &job["attempt"]), (&json!("ready"), &json!(0)));
    assert_eq!(actions(&app, &admin).await[..2], ["job_retried", "queue_paused"]);
    app.call(&admin, Method::POST, &format!("/api/jobs/{id}/cancel"), Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_job_can_be_discarded_and_the_audit_keeps_what_it_was() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    let id = queued(&app, "1 hour").await;
    let discard = format!("/api/jobs/{id}/discard");
    assert_eq!(app.call(&admin, Method::POST, &discard, Value::Null).await.expect(409).code(), "job.not_dead");
    die(&app, id).await;
    app.call(&admin, Method::POST, &discard, Value::Null).await.expect(200);
    assert_eq!(app.call(&admin, Method::POST, &discard, Value::Null).await.expect(404).code(), "job.not_found");
    let page = app.call(&admin, Method::GET, "/api/audit", Value::Null).await.expect(200).json();
    let entry = &page["entries"][0];
    assert_eq!((&entry["action"], &entry["resource_id"]), (&json!("job_discarded"), &json!(id.to_string())));
    assert_eq!((&entry["details"]["error"], &entry["details"]["payload"]), (&json!("it broke"), &json!({"n": 1})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_that_an_admin_starts_is_audited_and_tells_its_next_tick() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    let now = app.value::<chrono::DateTime<chrono::Utc>>("select queue.now()").await;
    driftless_jobs::crons::tick(&app.domain, &mut Default::default()).await.unwrap();
    let crons = app.call(&admin, Method::GET, "/api/jobs/crons", Value::Null).await.expect(200).json();
    let cron = &crons[0];
    assert_eq!((&cron["name"], &cron["rule"]), (&json!("cleanup"), &json!("daily at 03:00 UTC")));
    assert_eq!(
        (&cron["every"], &cron["time_of_day"], &cron["timezone"]),
        (&json!("day"), &json!("03:00"), &json!("UTC"))
    );
    assert_eq!((&crons[1]["every"], crons[1].get("time_of_day")), (&json!("minute"), None));
    let next = cron["next_tick"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let latest = app.value::<chrono::DateTime<chrono::Utc>>("select queue.now()").await + chrono::TimeDelta::days(1);
    assert!(next > now && next <= latest, "{cron}");
    assert!(next.to_string().contains(" 03:00:00"), "{cron}");
    assert_eq!(cron.get("last_run"), None, "it was registered just now");
    let job = app.call(&admin, Method::POST, "/api/jobs/crons/cleanup/run", Value::Null).await.expect(200).json();
    let page = app.call(&admin, Method::GET, "/api/audit", Value::Null).await.expect(200).json();
    let entry = &page["entries"][0];
    assert_eq!((&entry["action"], &entry["resource_id"]), (&json!("cron_run"), &json!("cleanup")));
    assert_eq!((&entry["actor"], &entry["details"]["job_id"]), (&json!("root"), &job["job_id"]));
    let crons = app.call(&admin, Method::GET, "/api/jobs/crons", Value::Null).await.expect(200).json();
    assert!(crons[0]["last_run"].is_string() && crons[1].get("last_run").is_none(), "{crons}");
    let cancel = format!("/api/jobs/{}/cancel", job["job_id"]);
    app.call(&admin, Method::POST, &cancel, Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_by_what_has_become_of_them_page_by_page() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    let ids = [queued(&app, "1 hour").await, queued(&app, "1 hour").await, queued(&app, "1 hour").await];
    let list = async |query: &str| app.call(&admin, Method::GET, &format!("/api/jobs?{query}"), Value::Null).await;
    let first = list("list=waiting&limit=2").await.expect(200).json();
    assert_eq!((&first["jobs"][0]["job_id"], &first["jobs"][1]["job_id"]), (&json!(ids[2]), &json!(ids[1])));
    let cursor = first["next_cursor"].as_str().expect("a cursor is text");
    let last = list(&format!("list=waiting&limit=2&cursor={cursor}")).await.expect(200).json();
    assert_eq!((&last["jobs"][0]["job_id"], last.get("next_cursor")), (&json!(ids[0]), None));
    assert_eq!(list("cursor=nonsense").await.expect(422).code(), "cursor.invalid");
    assert_eq!(list("list=running").await.expect(200).json()["jobs"], json!([]));
    // As a claim of another worker leaves it.
    let claim = "with other as (
            insert into queue.workers (token, name, host, pid, lease_until)
                values (gen_random_uuid(), 'other', 'elsewhere', 1, now() + interval '1 hour') returning token)
        update queue.jobs set ready = true, attempt = 1, lease_token = (select token from other) where id = $1";
    sqlx::query(claim).bind(ids[1]).execute(app.domain.pool()).await.unwrap();
    let running = list("list=running").await.expect(200).json();
    assert_eq!((&running["jobs"][0]["job_id"], &running["jobs"][0]["state"]), (&json!(ids[1]), &json!("running")));
    assert_eq!(list("list=waiting").await.expect(200).json()["jobs"].as_array().unwrap().len(), 2);
    app.sql("delete from queue.jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_twice_is_one_act_and_resuming_undoes_it() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    for _ in 0..2 {
        app.call(&admin, Method::POST, "/api/jobs/queues/sync/pause", Value::Null).await.expect(200);
    }
    let queues = app.call(&admin, Method::GET, "/api/jobs/queues", Value::Null).await.json();
    assert_eq!((&queues[0]["queue"], &queues[0]["paused"]), (&json!("sync"), &json!(true)));
    app.call(&admin, Method::POST, "/api/jobs/queues/sync/resume", Value::Null).await.expect(200);
    assert_eq!(actions(&app, &admin).await[..2], ["queue_resumed", "queue_paused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_list_shows_this_process_with_a_lease_that_holds() {
    let app = App::start().await;
    let admin = app.sign_up_admin("root").await;
    // A machine that stands still for longer than a lease lets it go for a moment.
    until("it shows alive", async || {
        let workers = app.call(&admin, Method::GET, "/api/jobs/workers", Value::Null).await.expect(200).json();
        let ours = json!([std::process::id(), true]);
        workers.as_array().unwrap().iter().any(|w| json!([w["pid"], w["alive"]]) == ours).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_admin_sees_or_steers_the_queue() {
    let app = App::start().await;
    let anna = app.sign_up("anna").await;
    for (method, path) in [
        (Method::GET, "/api/jobs"),
        (Method::GET, "/api/jobs/1"),
        (Method::GET, "/api/jobs/stats"),
        (Method::GET, "/api/jobs/queues"),
        (Method::GET, "/api/jobs/workers"),
        (Method::GET, "/api/jobs/crons"),
        (Method::POST, "/api/jobs/1/cancel"),
        (Method::POST, "/api/jobs/1/retry"),
        (Method::POST, "/api/jobs/1/discard"),
        (Method::POST, "/api/jobs/queues/sync/pause"),
        (Method::POST, "/api/jobs/queues/sync/resume"),
        (Method::POST, "/api/jobs/crons/cleanup/run"),
    ] {
        let answer = app.call(&anna, method.clone(), path, Value::Null).await;
        assert_eq!((answer.status, answer.code()), (403, "admin.required"), "{method} {path}");
    }
}
