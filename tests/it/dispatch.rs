//! Firing: on time, once, late as the rules say, and what is in the way.

mod processes;

use chrono::{DateTime, NaiveDate, TimeDelta, Timelike, Utc};
use driftless_domain::dispatch;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{App, until};

const NULL: Value = Value::Null;

/// A full minute, far enough ahead to prepare for it.
fn soon() -> DateTime<Utc> {
    (Utc::now() + TimeDelta::minutes(10)).with_second(0).unwrap().with_nanosecond(0).unwrap()
}

/// The offset that sets the clock to `seconds` before `minute`.
fn offset_to(seconds: i64, minute: DateTime<Utc>) -> String {
    format!("{} milliseconds", (minute - TimeDelta::seconds(seconds) - Utc::now()).num_milliseconds())
}

/// The states of all runs by nominal date, oldest first.
async fn fired(app: &App) -> Vec<(NaiveDate, String, i32)> {
    sqlx::query_as("select nominal_date, state, missed_count from runs order by nominal_date, rule_revision")
        .fetch_all(app.domain.pool())
        .await
        .unwrap()
}

async fn states(app: &App) -> Vec<String> {
    fired(app).await.into_iter().map(|(_, state, _)| state).collect()
}

/// Fires all that is due, without a worker.
async fn fire(app: &App) {
    while dispatch::fire(&app.domain).await.unwrap() > 0 {}
}

/// Lets workers plan what is queued.
async fn plan(app: &App) {
    app.work().await;
    app.idle().await;
}

/// A machine that stands still over the minute makes it late: then there is another minute.
#[tokio::test(flavor = "multi_thread")]
async fn within_a_second_of_its_minute_a_schedule_has_run_and_the_audit_says_so() {
    until("a schedule fires within a second of its minute", async || {
        (lateness_of_a_firing().await < TimeDelta::seconds(1)).then_some(())
    })
    .await;
}

async fn lateness_of_a_firing() -> TimeDelta {
    let app = App::start().await;
    let minute = soon();
    let token = app.sign_up("anna").await;
    app.device(&token, "test-laptop").await;
    let time = minute.format("%H:%M").to_string();
    let made = app
        .schedule(
            &token,
            json!({"device_id": "test-laptop", "schedule_type": "daily", "time_of_day": time,
                   "sync_deletions": true, "resolve_conflicts": "keep_newest"}),
        )
        .await;
    assert_eq!(made["next_run_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), minute);
    app.database.move_clock(&offset_to(3, minute)).await;
    app.work().await;
    let path = "/api/audit?action=sync_schedule_execution";
    let entry = until("the firing is audited", async || {
        let page = app.call(&token, Method::GET, path, NULL).await.expect(200).json();
        page["entries"].get(0).cloned()
    })
    .await;
    let at: DateTime<Utc> = entry["at"].as_str().unwrap().parse().unwrap();
    assert!(at >= minute, "{minute} {at}");
    let run: uuid::Uuid = app.value("select id from runs").await;
    for (field, value) in [
        ("action", json!("sync_schedule_execution")),
        ("user_id", json!(app.value::<i64>("select id from users where name = 'anna'").await)),
        ("resource_type", json!("sync_schedule")),
        ("resource_id", json!("test-laptop")),
        ("level", json!("info")),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let details = &entry["details"];
    assert_eq!(details["schedule_id"], made["schedule_id"]);
    assert_eq!(details["device_id"], "test-laptop");
    assert_eq!((&details["run_id"], &details["changes_detected"]), (&json!(run), &json!(0)));
    assert_eq!(states(&app).await, ["waiting_for_device"]);
    app.idle().await;
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_schedule_execution'").await, 1);
    at - minute
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_fire_a_thousand_schedules_of_one_minute_exactly_once_each() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    drop(token);
    // What the runs table can't count twice, this one can: it has no key.
    app.sql(
        "create table fired (schedule_id bigint, nominal_date date);
         create function note() returns trigger language plpgsql as
             $$ begin insert into fired values (new.schedule_id, new.nominal_date); return null; end $$;
         create trigger note after insert on runs for each row execute function note();
         insert into devices (user_id, device_id, device_name, kind, cursor_epoch)
             select u.id, 'd' || n, 'd' || n, 'client', gen_random_uuid() from users u, generate_series(1, 1000) n;
         insert into schedules (user_id, device_id, schedule_type, time_of_day)
             select user_id, id, 'daily', to_char(queue.now() at time zone 'UTC', 'HH24:MI') from devices;
         insert into due (schedule_id, user_id, next_run_at)
             select id, user_id, (to_char(queue.now() at time zone 'UTC', 'YYYY-MM-DD ') || time_of_day)::timestamp at time zone 'UTC'
             from schedules;",
    )
    .await;
    tokio::join!(app.work(), app.work(), app.work());
    // In steps, so that a slow machine is given time as long as it gets on.
    for planned in (100..=1000).step_by(100) {
        until("more have fired", async || {
            let so_far: i64 = app.value("select count(*) from runs where state = 'waiting_for_device'").await;
            (so_far >= planned).then_some(())
        })
        .await;
    }
    app.idle().await;
    assert_eq!(app.value::<i64>("select count(*) from fired").await, 1000);
    assert_eq!(app.value::<i64>("select count(distinct schedule_id) from fired").await, 1000);
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_schedule_execution'").await, 1000);
    assert_eq!(app.value::<i64>("select count(*) from due where next_run_at <= queue.now()").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_was_there_the_newest_date_is_made_up_for_once_and_the_others_are_missed() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for (device, policy) in [("once", "run_once"), ("never", "skip")] {
        app.device(&token, device).await;
        app.schedule(&token, json!({"device_id": device, "missed_run": policy})).await;
    }
    let first: DateTime<Utc> = app.value("select min(next_run_at) from due").await;
    // Six hours after the third date since.
    let now: DateTime<Utc> = app.value("select queue.now()").await;
    app.database.move_clock(&format!("{} seconds", (first - now + TimeDelta::hours(54)).num_seconds())).await;
    fire(&app).await;
    let of = |policy: &'static str| {
        let pool = app.domain.pool().clone();
        async move {
            let states: Vec<String> = sqlx::query_scalar(
                "select r.state from runs r join schedules s on s.id = r.schedule_id where s.missed_run = $1 order by nominal_date",
            )
            .bind(policy)
            .fetch_all(&pool)
            .await
            .unwrap();
            states
        }
    };
    assert_eq!(of("run_once").await, ["missed", "missed", "queued"]);
    assert_eq!(of("skip").await, ["missed", "missed", "missed"]);
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_schedule_missed'").await, 5);
    assert_eq!(
        app.value::<i64>("select count(*) from runs where state = 'missed' and error_code = 'run.late'").await,
        5
    );
    let next: DateTime<Utc> = app.value("select min(next_run_at) from due").await;
    assert_eq!(next, first + TimeDelta::days(3));
    plan(&app).await;
    assert_eq!(of("run_once").await, ["missed", "missed", "waiting_for_device"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn some_minutes_late_is_on_time() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop", "missed_run": "skip"})).await;
    let first: DateTime<Utc> = app.value("select next_run_at from due").await;
    let now: DateTime<Utc> = app.value("select queue.now()").await;
    app.database.move_clock(&format!("{} seconds", (first - now).num_seconds() + 240)).await;
    fire(&app).await;
    assert_eq!(states(&app).await, ["queued"]);
    plan(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_silence_gets_a_hundred_rows_and_one_with_a_count() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop", "missed_run": "skip"})).await;
    let now: DateTime<Utc> = app.value("select queue.now()").await;
    let first: DateTime<Utc> = app.value("select next_run_at from due").await;
    app.database
        .move_clock(&format!("{} seconds", (first - now + TimeDelta::days(364) + TimeDelta::hours(1)).num_seconds()))
        .await;
    fire(&app).await;
    let runs = fired(&app).await;
    assert_eq!(runs.len(), 101);
    assert!(runs.iter().all(|(_, state, _)| state == "missed"));
    assert_eq!(runs[0].2, 265);
    assert_eq!(runs.iter().map(|(_, _, count)| count).sum::<i32>(), 365);
    assert_eq!(runs.last().unwrap().0, (first + TimeDelta::days(364)).date_naive());
}

/// A device with a run in `state`, and a schedule that is due.
async fn due_beside_a_run(state: &'static str, overlap: &str) -> (App, String) {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop", "overlap": overlap})).await;
    sqlx::query(
        "insert into runs (id, user_id, device_id, trigger, sync_deletions, resolve_conflicts, direction, state, started_at, lease_until)
         select '00000000-0000-7000-8000-000000000000', user_id, id, 'manual', true, 'keep_newest', 'both', $1, queue.now(),
                case when $1 = 'running' then queue.now() + interval '10 years' end from devices",
    )
    .bind(state)
    .execute(app.domain.pool())
    .await
    .unwrap();
    next_day(&app).await;
    (app, token)
}

/// Sets the clock to a minute after the schedule's next date.
async fn next_day(app: &App) {
    let (ahead, offset): (f64, String) = sqlx::query_as(
        "select extract(epoch from next_run_at - queue.now())::float8, current_setting('driftless.clock_offset', true) from due",
    )
    .fetch_one(app.domain.pool())
    .await
    .map(|(a, o): (f64, Option<String>)| (a, o.unwrap_or_default()))
    .unwrap();
    let offset: f64 = offset.trim_end_matches(" seconds").parse().unwrap_or(0.0);
    app.database.move_clock(&format!("{} seconds", (offset + ahead + 60.0).ceil())).await;
}

async fn of_schedule(app: &App) -> Vec<(String, Option<String>)> {
    sqlx::query_as("select state, error_code from runs where trigger = 'schedule' order by nominal_date")
        .fetch_all(app.domain.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_beside_a_running_or_held_run_is_skipped_openly() {
    for state in ["running", "held"] {
        let (app, _token) = due_beside_a_run(state, "skip").await;
        fire(&app).await;
        assert_eq!(of_schedule(&app).await, [("skipped".into(), Some("run.overlap".into()))]);
        assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_schedule_skipped'").await, 1);
        app.sql("delete from runs").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_one_waits_for_the_end_of_the_other_and_a_second_one_is_skipped() {
    let (app, token) = due_beside_a_run("running", "queue_one").await;
    fire(&app).await;
    next_day(&app).await;
    fire(&app).await;
    let states: Vec<String> = of_schedule(&app).await.into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["queued", "skipped"]);
    // Its job finds the other running and steps back without a trace.
    plan(&app).await;
    assert_eq!(of_schedule(&app).await[0].0, "queued");
    let token = {
        drop(token);
        app.sign_in("anna").await
    };
    let other = "/api/sync/runs/00000000-0000-7000-8000-000000000000/cancel";
    app.call(&token, Method::POST, other, NULL).await.expect(200);
    until("the queued run got its turn", async || (of_schedule(&app).await[0].0 == "waiting_for_device").then_some(()))
        .await;
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_only_waits_for_its_device_gives_way_to_the_next() {
    let (app, _token) = due_beside_a_run("waiting_for_device", "skip").await;
    fire(&app).await;
    assert_eq!(of_schedule(&app).await, [("queued".into(), None)]);
    let old: (String, String) = sqlx::query_as("select state, error_code from runs where trigger = 'manual'")
        .fetch_one(app.domain.pool())
        .await
        .unwrap();
    assert_eq!(old, ("missed".into(), "run.superseded_by_next".into()));
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'sync_schedule_missed'").await, 1);
    plan(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_rule_may_fire_the_same_date_again_and_an_old_one_never_does() {
    let app = App::start().await;
    // The hours ahead are still today's.
    let noon = app.database.move_clock_to_noon().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let made = app.schedule(&token, json!({"device_id": "laptop", "time_of_day": "12:30"})).await;
    app.database.move_clock(&format!("{} seconds", noon + 1801)).await;
    fire(&app).await;
    assert_eq!(app.value::<i64>("select count(*) from runs").await, 1);
    // A clock that goes back, or a row that is put back: the unique key holds.
    app.sql("update due set next_run_at = next_run_at - interval '1 day'").await;
    fire(&app).await;
    assert_eq!(app.value::<i64>("select count(*) from runs").await, 1);
    let token = {
        drop(token);
        app.sign_in("anna").await
    };
    let path = format!("/api/sync/schedule/{}", made["schedule_id"]);
    app.call(&token, Method::PATCH, &path, json!({"time_of_day": "12:40"})).await.expect(200);
    app.database.move_clock(&format!("{} seconds", noon + 2401)).await;
    fire(&app).await;
    let dates = app.value::<i64>("select count(distinct nominal_date) from runs").await;
    assert_eq!((app.value::<i64>("select count(*) from runs").await, dates), (2, 1));
    plan(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_can_no_longer_be_read_pauses_its_schedule_and_holds_up_no_other() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    for device in ["good", "bad"] {
        app.device(&token, device).await;
        app.schedule(&token, json!({"device_id": device})).await;
    }
    app.sql(
        "update schedules set timezone = 'Gone/Away' where device_id = (select id from devices where device_id = 'bad');
         update due set next_run_at = queue.now()",
    )
    .await;
    fire(&app).await;
    assert_eq!(
        app.value::<String>("select paused_code from schedules where not enabled").await,
        "schedule.rule_invalid"
    );
    assert_eq!(app.value::<i64>("select count(*) from audit where code = 'schedule.rule_invalid'").await, 1);
    assert_eq!(app.value::<i64>("select count(*) from due").await, 1);
    let shown = app.call(&token, Method::GET, "/api/sync/schedule/list", NULL).await.expect(200).json();
    assert_eq!(shown["schedules"][1]["paused_code"], "schedule.rule_invalid");
    plan(&app).await;
}
