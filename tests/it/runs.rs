//! Runs of client devices over HTTP, and the sweep over runs.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use driftless_domain::runs::rescue;

use crate::support::{App, until};

const NULL: Value = Value::Null;

/// An app with a device, a schedule, and a worker.
async fn app() -> (App, String, i64) {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let schedule = app.schedule(&token, json!({"device_id": "laptop"})).await["schedule_id"].as_i64().unwrap();
    app.work().await;
    (app, token, schedule)
}

async fn run_now(app: &App, token: &str, schedule: i64) -> String {
    let path = format!("/api/sync/schedule/{schedule}/run");
    app.call(token, Method::POST, &path, NULL).await.expect(202).json()["run_id"].as_str().unwrap().to_owned()
}

/// A run that waits for its device.
async fn waiting(app: &App, token: &str, schedule: i64) -> String {
    let run = run_now(app, token, schedule).await;
    in_state(app, token, &run, "waiting_for_device").await;
    app.idle().await;
    run
}

async fn in_state(app: &App, token: &str, run: &str, state: &str) -> Value {
    until(state, async || Some(app.run(token, run).await).filter(|r| r["state"] == state)).await
}

async fn post(app: &App, token: &str, run: &str, verb: &str, body: Value) -> crate::support::Answer {
    app.call(token, Method::POST, &format!("/api/sync/runs/{run}/{verb}"), body).await
}

async fn claim(app: &App, token: &str, run: &str) -> i64 {
    post(app, token, run, "claim", NULL).await.expect(200).json()["fence"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_claims_its_run_tells_how_far_it_is_and_reports() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let claimed = post(&app, &token, &run, "claim", NULL).await.expect(200).json();
    assert_eq!(
        claimed["options"],
        json!({"sync_deletions": true, "resolve_conflicts": "keep_newest", "direction": "both"})
    );
    let fence = &claimed["fence"];
    assert_eq!(post(&app, &token, &run, "claim", NULL).await.expect(409).code(), "run.wrong_state");

    let told = json!({"fence": fence, "files_done": 3, "files_total": 10, "bytes_done": 5, "bytes_total": 50});
    let lease = post(&app, &token, &run, "progress", told).await.expect(200).json();
    let until = |told: &Value| told["lease_until"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(until(&lease) >= until(&claimed));
    let shown = app.run(&token, &run).await;
    assert_eq!((&shown["state"], &shown["progress"]["files_done"]), (&json!("running"), &json!(3)));

    let report = json!({
        "fence": fence, "planned": 3, "counts": {"executed": 2, "uploaded": 2, "bytes_uploaded": 50, "skipped": 1},
        "left_out": [{"path": "/a", "reason": "file.unstable", "planned": true}],
    });
    let ended = post(&app, &token, &run, "report", report.clone()).await.expect(200).json();
    assert_eq!((&ended["state"], &ended["counts"]["uploaded"]), (&json!("succeeded"), &json!(2)));
    assert_eq!((&ended["left_out_count"], &ended["left_out"][0]["path"]), (&json!(1), &json!("/a")));
    // The answer was lost: saying so again answers the same.
    let again = post(&app, &token, &run, "report", report).await.expect(200).json();
    assert_eq!(again, ended);
    let late = json!({"fence": fence, "files_done": 9});
    assert_eq!(post(&app, &token, &run, "progress", late).await.expect(409).code(), "run.superseded");
    let device = app.call(&token, Method::GET, "/api/sync/devices/laptop", NULL).await.json();
    assert_eq!(device["last_sync_at"], ended["finished_at"]);
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_run_reported'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_can_not_be_changes_nothing() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    for (body, status, code, field) in [
        (json!({}), 422, "request.field_invalid", "fence"),
        (json!({"fence": fence, "planned": -1}), 422, "run.report_invalid", "planned"),
        (json!({"fence": fence, "counts": {"executed": -1}}), 422, "run.report_invalid", "counts"),
        (
            json!({"fence": fence, "left_out": [{"path": "/\u{0}", "reason": "x"}]}),
            422,
            "run.report_invalid",
            "left_out",
        ),
        (json!({"fence": fence, "error": {"code": "", "detail": "x"}}), 422, "run.report_invalid", "error"),
        (json!({"fence": fence + 1}), 409, "run.superseded", ""),
        (json!({"fence": fence - 1}), 409, "run.superseded", ""),
    ] {
        let answer = post(&app, &token, &run, "report", body.clone()).await;
        assert_eq!((answer.status, answer.code(), answer.field()), (status, code, field), "{body}");
    }
    let negative = json!({"fence": fence, "files_done": -1});
    assert_eq!(post(&app, &token, &run, "progress", negative).await.expect(422).field(), "progress");
    assert_eq!(app.run(&token, &run).await["state"], "running");
    post(&app, &token, &run, "report", json!({"fence": fence})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_beyond_all_numbers_are_no_fault_of_ours() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    let report = json!({
        "fence": fence, "planned": i64::MAX, "counts": {"executed": i64::MAX},
        "left_out": [{"path": "/a", "reason": "file.unstable", "planned": true}],
    });
    post(&app, &token, &run, "report", report).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_not_believed_while_actions_or_changes_are_unaccounted_for() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    let short = json!({"fence": fence, "planned": 3, "counts": {"executed": 2}});
    let ended = post(&app, &token, &run, "report", short).await.expect(200).json();
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("run.incomplete")));

    // Two changes by a person that the device has not acknowledged; one of its own does not count.
    app.sql(
        "insert into versions (user_id, seq, entry_id, device_id, kind, modified_at, at, sha256)
             select u.id, n, n, case when n = 3 then d.id end, 1, queue.now(), queue.now(), sha256('')
             from users u, devices d, generate_series(1, 3) n;
         insert into entries (user_id, id, seq, kind, parent_id, name) select user_id, seq, seq, 1, 0, seq::text from versions;
         update heads set seq = 3",
    )
    .await;
    let run = waiting(&app, &token, schedule).await;
    assert_eq!(app.run(&token, &run).await["changes_detected"], 2);
    let fence = claim(&app, &token, &run).await;
    let ended = post(&app, &token, &run, "report", json!({"fence": fence})).await.expect(200).json();
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("run.incomplete")));

    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    app.sql("update devices set cursor_seq = 3").await;
    let ended = post(&app, &token, &run, "report", json!({"fence": fence})).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_waits_for_another_and_the_fifth_fails_the_run() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    for attempt in 1..=5 {
        let fence = claim(&app, &token, &run).await;
        let failed = json!({"fence": fence, "error": {"code": "disk.full", "detail": "no room left"}});
        let after = post(&app, &token, &run, "report", failed).await.expect(200).json();
        assert_eq!((&after["attempts"], &after["last_error"]), (&json!(attempt), &json!("disk.full: no room left")));
        assert_eq!(after["state"], if attempt < 5 { "waiting_for_device" } else { "failed" });
    }
    assert_eq!(app.run(&token, &run).await["error"], json!({"code": "disk.full", "detail": "no room left"}));
    assert_eq!(app.value::<i64>("select count(*) from audit where level = 'error' and code = 'disk.full'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_call_for_five_minutes_loses_the_run() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    rescue::rescue(&app.domain).await.unwrap();
    assert_eq!(app.run(&token, &run).await["state"], "running");
    app.database.move_clock("301 seconds").await;
    // The worker's own sweep, at a full minute, may be first.
    rescue::rescue(&app.domain).await.unwrap();
    let shown = app.run(&token, &run).await;
    assert_eq!((&shown["state"], &shown["attempts"]), (&json!("waiting_for_device"), &json!(1)));
    assert!(shown["last_error"].as_str().unwrap().starts_with("run.lease_expired"));
    let late = json!({"fence": fence, "counts": {"uploaded": 9}});
    assert_eq!(post(&app, &token, &run, "report", late).await.expect(409).code(), "run.superseded");
    // Without a sweep, the next claim does the same.
    let second = claim(&app, &token, &run).await;
    assert!(second > fence);
    app.database.move_clock("602 seconds").await;
    let third = claim(&app, &token, &run).await;
    assert!(third > second);
    assert_eq!(app.run(&token, &run).await["attempts"], 2);
    post(&app, &token, &run, "report", json!({"fence": third})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_now_twice_is_one_run_and_a_dry_run_shows_the_plan_and_changes_nothing() {
    let (app, token, schedule) = app().await;
    let path = format!("/api/sync/schedule/{schedule}/run");
    let many = futures::future::join_all((0..8).map(|_| run_now(&app, &token, schedule))).await;
    assert!(many.iter().all(|run| *run == many[0]), "{many:?}");
    let run = waiting(&app, &token, schedule).await;
    assert_eq!(run, many[0]);
    let fence = claim(&app, &token, &run).await;
    assert_eq!(run_now(&app, &token, schedule).await, run);
    let dry = app.call(&token, Method::POST, &format!("{path}?dry_run=true"), NULL).await.expect(202).json();
    let dry = in_state(&app, &token, dry["run_id"].as_str().unwrap(), "succeeded").await;
    assert_eq!((&dry["dry_run"], &dry["plan"]), (&json!(true), &json!({"changes_on_server": 0})));
    post(&app, &token, &run, "report", json!({"fence": fence})).await.expect(200);
    assert_ne!(run_now(&app, &token, schedule).await, run);
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_comes_for_is_missed_after_a_day() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    // Else its own next firing, within the day, may be first.
    app.call(&token, Method::POST, &format!("/api/sync/schedule/{schedule}/disable"), NULL).await.expect(200);
    app.database.move_clock("23 hours").await;
    rescue::rescue(&app.domain).await.unwrap();
    assert_eq!(app.value::<String>("select state from runs").await, "waiting_for_device");
    app.database.move_clock("25 hours").await;
    // The worker's own sweep, at a full minute, may be first.
    rescue::rescue(&app.domain).await.unwrap();
    let token = {
        drop(token);
        app.sign_in("anna").await
    };
    let shown = app.run(&token, &run).await;
    assert_eq!((&shown["state"], &shown["error"]["code"]), (&json!("missed"), &json!("run.device_absent")));
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_run_waits_for_its_device_is_the_operators_choice() {
    let app = App::start_with(|settings| settings.device_patience = std::time::Duration::from_secs(2 * 3600)).await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let schedule = app.schedule(&token, json!({"device_id": "laptop"})).await["schedule_id"].as_i64().unwrap();
    app.work().await;
    waiting(&app, &token, schedule).await;
    // Else its own next firing may be first.
    app.sql("delete from due").await;
    for (passed, state) in [("90 minutes", "waiting_for_device"), ("150 minutes", "missed")] {
        app.database.move_clock(passed).await;
        rescue::rescue(&app.domain).await.unwrap();
        assert_eq!(app.value::<String>("select state from runs").await, state, "after {passed}");
    }
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_run_whose_job_is_lost_gets_another_one() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let schedule = app.schedule(&token, json!({"device_id": "laptop"})).await["schedule_id"].as_i64().unwrap();
    let run = run_now(&app, &token, schedule).await;
    app.sql("delete from queue.jobs").await;
    app.database.move_clock("30 seconds").await;
    assert_eq!(rescue::rescue(&app.domain).await.unwrap().requeued, 0, "too young to be lost");
    app.database.move_clock("90 seconds").await;
    assert_eq!(rescue::rescue(&app.domain).await.unwrap().requeued, 1);
    assert_eq!(rescue::rescue(&app.domain).await.unwrap().requeued, 0, "its job waits");
    app.work().await;
    in_state(&app, &token, &run, "waiting_for_device").await;
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_ends_a_run_and_the_device_hears_of_it() {
    let (app, token, schedule) = app().await;
    let run = waiting(&app, &token, schedule).await;
    let fence = claim(&app, &token, &run).await;
    let ended = post(&app, &token, &run, "cancel", NULL).await.expect(200).json();
    assert_eq!(ended["state"], "cancelled");
    let told = json!({"fence": fence, "files_done": 1});
    assert_eq!(post(&app, &token, &run, "progress", told).await.expect(409).code(), "run.superseded");
    assert_eq!(post(&app, &token, &run, "cancel", NULL).await.expect(409).code(), "run.wrong_state");
    for verb in ["approve", "discard"] {
        assert_eq!(post(&app, &token, &run, verb, NULL).await.expect(409).code(), "run.wrong_state");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_by_filter_and_page_and_only_ones_own() {
    let (app, token, schedule) = app().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let run = waiting(&app, &token, schedule).await;
        let fence = claim(&app, &token, &run).await;
        post(&app, &token, &run, "report", json!({"fence": fence})).await.expect(200);
        all.insert(0, run);
    }
    let ids = async |query: &str| {
        let page = app.call(&token, Method::GET, &format!("/api/sync/runs?{query}"), NULL).await.expect(200).json();
        let ids: Vec<String> =
            page["runs"].as_array().unwrap().iter().map(|r| r["run_id"].as_str().unwrap().to_owned()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(ids("").await, (all.clone(), None));
    assert_eq!(ids("device_id=laptop&state=succeeded").await.0, all);
    assert_eq!(ids(&format!("schedule_id={schedule}")).await.0, all);
    assert_eq!(ids("state=held").await.0, Vec::<String>::new());
    assert_eq!(ids("device_id=other").await.0, Vec::<String>::new());
    let (first, next) = ids("limit=2").await;
    assert_eq!(first, all[..2]);
    assert_eq!(ids(&format!("limit=2&cursor={}", next.unwrap())).await, (all[2..].to_vec(), None));

    let bob = app.sign_up("bob").await;
    let path = format!("/api/sync/runs/{}", all[0]);
    assert_eq!(app.call(&bob, Method::GET, &path, NULL).await.expect(404).code(), "run.not_found");
    for verb in ["cancel", "approve", "discard", "claim"] {
        assert_eq!(post(&app, &bob, &all[0], verb, NULL).await.expect(404).code(), "run.not_found", "{verb}");
    }
    for verb in ["progress", "report"] {
        assert_eq!(
            post(&app, &bob, &all[0], verb, json!({"fence": 2})).await.expect(404).code(),
            "run.not_found",
            "{verb}"
        );
    }
    let theirs = app.call(&bob, Method::GET, "/api/sync/runs", NULL).await.expect(200).json();
    assert_eq!(theirs["runs"], json!([]));
    let held = app.call(&bob, Method::GET, &format!("{path}/held"), NULL).await.expect(404);
    assert_eq!(held.code(), "run.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_runs_go_but_the_newest_hundred_of_each_schedule_stay() {
    // No worker is there whose daily cleanup might do it first.
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop"})).await;
    app.sql(
        "insert into runs (id, user_id, device_id, schedule_id, trigger, sync_deletions, resolve_conflicts, direction, state, created_at, finished_at)
         select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, s.user_id, s.device_id,
                case when n <= 150 then s.id end, 'manual', true, 'keep_newest', 'both', 'succeeded',
                queue.now() - interval '91 days', queue.now() - interval '91 days'
         from schedules s, generate_series(1, 170) n;
         update runs set finished_at = queue.now() - interval '89 days' where id = '00000000-0000-7000-8000-000000000001'",
    )
    .await;
    assert_eq!(rescue::prune(&app.domain).await.unwrap(), 69);
    assert_eq!(app.value::<i64>("select count(*) from runs where schedule_id is not null").await, 101);
    assert_eq!(app.value::<i64>("select count(*) from runs where schedule_id is null").await, 0);
    assert_eq!(rescue::prune(&app.domain).await.unwrap(), 0);
}
