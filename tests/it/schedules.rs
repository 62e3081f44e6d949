//! Schedules over HTTP: what they may be, what an edit does, and whose they are.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::App;

const NULL: Value = Value::Null;

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_schedule_has_the_documented_defaults_and_its_next_five_dates() {
    let app = App::start().await;
    app.database.move_clock_to_noon().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let create = app.call(&token, Method::POST, "/api/sync/schedule/create", json!({"device_id": "laptop"}));
    let made = create.await.expect(200).json();
    for (field, value) in [
        ("schedule_type", json!("daily")),
        ("time_of_day", json!("02:00")),
        ("day_of_week", json!(0)),
        ("day_of_month", json!(1)),
        ("timezone", json!("UTC")),
        ("sync_deletions", json!(true)),
        ("resolve_conflicts", json!("keep_newest")),
        ("direction", json!("both")),
        ("missed_run", json!("run_once")),
        ("overlap", json!("skip")),
        ("jitter_seconds", json!(0)),
        ("enabled", json!(true)),
        ("device_name", json!("laptop")),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    let upcoming = made["upcoming"].as_array().unwrap();
    assert_eq!((upcoming.len(), &upcoming[0]["at"]), (5, &made["next_run_at"]));
    assert_eq!(time(&upcoming[1]["at"]) - time(&upcoming[0]["at"]), TimeDelta::days(1));
    let listed = app.call(&token, Method::GET, "/api/sync/schedule/list", NULL).await.expect(200).json();
    assert_eq!(listed["schedules"], json!([made]));
    let id = &made["schedule_id"];
    let got = app.call(&token, Method::GET, &format!("/api/sync/schedule/{id}"), NULL).await.expect(200).json();
    assert_eq!(got, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_listed_page_by_page_with_the_cursor_that_each_page_gives() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(app.schedule(&token, json!({"device_id": "laptop"})).await["schedule_id"].clone());
    }
    let mut listed = Vec::new();
    let mut more = String::new();
    loop {
        let path = format!("/api/sync/schedule/list?limit=2{more}");
        let page = app.call(&token, Method::GET, &path, NULL).await.expect(200).json();
        listed.extend(page["schedules"].as_array().unwrap().iter().map(|s| s["schedule_id"].clone()));
        match page.get("next_cursor") {
            Some(cursor) => more = format!("&cursor={}", cursor.as_str().expect("a cursor is text")),
            None => break,
        }
    }
    assert_eq!(listed, made);
    let refused = app.call(&token, Method::GET, "/api/sync/schedule/list?cursor=x", NULL).await.expect(422);
    assert_eq!((refused.code(), refused.json()["field"].clone()), ("cursor.invalid", json!("cursor")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_can_not_be_is_refused_by_code_and_field_and_changes_nothing() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let id = app.schedule(&token, json!({"device_id": "laptop"})).await["schedule_id"].clone();
    let before: String = app.value("select row_to_json(schedules)::text from schedules").await;
    for (field, value, code) in [
        ("time_of_day", json!("25:00"), "schedule.time_invalid"),
        ("time_of_day", json!("2:00"), "schedule.time_invalid"),
        ("time_of_day", json!("02:00\u{0}"), "schedule.time_invalid"),
        ("day_of_month", json!(32), "schedule.day_of_month_invalid"),
        ("day_of_month", json!(0), "schedule.day_of_month_invalid"),
        ("day_of_month", json!(99_999_999_999_u64), "request.field_invalid"),
        ("day_of_week", json!(7), "schedule.day_of_week_invalid"),
        ("day_of_week", json!(-1), "schedule.day_of_week_invalid"),
        ("timezone", json!("Mars/Olympus"), "schedule.timezone_unknown"),
        ("timezone", json!(""), "schedule.timezone_unknown"),
        ("jitter_seconds", json!(-1), "schedule.jitter_invalid"),
        ("jitter_seconds", json!(3601), "schedule.jitter_invalid"),
        ("schedule_type", json!("on_change"), "schedule.on_change_unavailable"),
        ("schedule_type", json!("hourly"), "request.field_invalid"),
        ("resolve_conflicts", json!("ask"), "schedule.ask_unavailable"),
        ("resolve_conflicts", json!("coin"), "request.field_invalid"),
        ("sync_deletions", json!("yes"), "request.field_invalid"),
        ("direction", json!("sideways"), "request.field_invalid"),
    ] {
        let create = json!({"device_id": "laptop", field: value});
        let edit = json!({field: value});
        for (method, path, body) in [
            (Method::POST, "/api/sync/schedule/create".to_owned(), &create),
            (Method::POST, "/api/sync/schedule/preview".to_owned(), &edit),
            (Method::PATCH, format!("/api/sync/schedule/{id}"), &edit),
        ] {
            let answer = app.call(&token, method, &path, body.clone()).await;
            assert_eq!((answer.status, answer.code(), answer.field()), (422, code, field), "{path} {body}");
        }
    }
    let nobody =
        app.call(&token, Method::POST, "/api/sync/schedule/create", json!({"device_id": "none"})).await.expect(404);
    assert_eq!((nobody.code(), nobody.field()), ("device.not_found", "device_id"));
    let missing = app.call(&token, Method::POST, "/api/sync/schedule/create", json!({})).await.expect(422);
    assert_eq!(missing.field(), "device_id");
    assert_eq!(app.value::<String>("select row_to_json(schedules)::text from schedules").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_marks_what_is_clamped_or_moved_by_the_clocks() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let rule = json!({"schedule_type": "monthly", "day_of_month": 31, "time_of_day": "12:00"});
    let preview = app.call(&token, Method::POST, "/api/sync/schedule/preview", rule).await.expect(200).json();
    let notes: Vec<_> = preview["upcoming"].as_array().unwrap().iter().map(|u| u["note"].clone()).collect();
    assert_eq!(notes.len(), 5);
    assert!(notes.contains(&json!("clamped")) && notes.contains(&NULL), "{notes:?}");
    assert_eq!(app.value::<i64>("select count(*) from schedules").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_keeps_what_it_leaves_out_and_only_a_new_rule_raises_the_revision() {
    let app = App::start().await;
    app.database.move_clock_to_noon().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let made = app
        .schedule(
            &token,
            json!({"device_id": "laptop", "time_of_day": "18:00", "timezone": "Europe/Berlin", "overlap": "queue_one"}),
        )
        .await;
    let path = format!("/api/sync/schedule/{}", made["schedule_id"]);
    let revision = || app.value::<i32>("select rule_revision from schedules");
    let patch = |body| app.call(&token, Method::PATCH, &path, body);

    let edited = patch(json!({"resolve_conflicts": "create_version"})).await.expect(200).json();
    assert_eq!((&edited["resolve_conflicts"], &edited["time_of_day"]), (&json!("keep_both"), &json!("18:00")));
    assert_eq!((revision().await, &edited["next_run_at"]), (1, &made["next_run_at"]));

    let edited = patch(json!({"time_of_day": "19:00"})).await.expect(200).json();
    assert_eq!((revision().await, &edited["overlap"]), (2, &json!("queue_one")));
    assert_ne!(edited["next_run_at"], made["next_run_at"]);

    let edited = patch(json!({"timezone": null, "overlap": null})).await.expect(200).json();
    assert_eq!((&edited["timezone"], &edited["overlap"], revision().await), (&json!("UTC"), &json!("skip"), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn editing_the_jitter_moves_a_firing_and_does_not_lose_it() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let made = app.schedule(&token, json!({"device_id": "laptop", "jitter_seconds": 3600})).await;
    // As if the instant had passed and the jitter had not.
    app.sql("update due set next_run_at = queue.now() + interval '2 minutes'").await;
    let before: DateTime<Utc> = app.value("select next_run_at from due").await;
    let jitter = driftless_sync::cadence::jitter(made["schedule_id"].as_i64().unwrap(), 3600);
    let path = format!("/api/sync/schedule/{}", made["schedule_id"]);
    let edited = app.call(&token, Method::PATCH, &path, json!({"jitter_seconds": 0})).await.expect(200).json();
    assert_eq!(time(&edited["next_run_at"]), before - jitter);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_schedule_has_no_next_run_and_enabling_counts_from_now() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let made = app.schedule(&token, json!({"device_id": "laptop"})).await;
    let path = format!("/api/sync/schedule/{}", made["schedule_id"]);
    let off = app.call(&token, Method::POST, &format!("{path}/disable"), NULL).await.expect(200).json();
    assert_eq!(
        (&off["enabled"], &off["next_run_at"], off["upcoming"].as_array().unwrap().len()),
        (&json!(false), &NULL, 5)
    );
    assert_eq!(app.value::<i64>("select count(*) from due").await, 0);
    app.call(&token, Method::PATCH, &path, json!({"time_of_day": "05:00"})).await.expect(200);
    assert_eq!(app.value::<i64>("select count(*) from due").await, 0);
    app.database.move_clock("10 days").await;
    let token = app.sign_in("anna").await;
    let before: DateTime<Utc> = app.value("select queue.now()").await;
    let on = app.call(&token, Method::POST, &format!("{path}/enable"), NULL).await.expect(200).json();
    let after: DateTime<Utc> = app.value("select queue.now()").await;
    assert!(time(&on["next_run_at"]) > before && time(&on["next_run_at"]) <= after + TimeDelta::days(1));
    assert_eq!(app.value::<i64>("select count(*) from runs").await, 0);
    let actions: Vec<String> =
        sqlx::query_scalar("select action from audit where resource_type = 'sync_schedule' order by id")
            .fetch_all(app.domain.pool())
            .await
            .unwrap();
    assert_eq!(actions, ["schedule_created", "schedule_disabled", "schedule_changed", "schedule_enabled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_schedule_leaves_its_runs_and_cancels_those_that_had_not_begun() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let made = app.schedule(&token, json!({"device_id": "laptop"})).await;
    let path = format!("/api/sync/schedule/{}", made["schedule_id"]);
    let run = app.call(&token, Method::POST, &format!("{path}/run"), NULL).await.expect(202).json()["run_id"].clone();
    app.call(&token, Method::DELETE, &path, NULL).await.expect(204);
    app.call(&token, Method::GET, &path, NULL).await.expect(404);
    let run = run.as_str().unwrap();
    let left = app.call(&token, Method::GET, &format!("/api/sync/runs/{run}"), NULL).await.expect(200).json();
    assert_eq!((&left["state"], &left["schedule_id"]), (&json!("cancelled"), &NULL));
    assert_eq!(app.value::<i64>("select count(*) from due").await, 0);
    app.work().await;
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_users_does_not_exist() {
    let app = App::start().await;
    let (anna, bob) = (app.sign_up("anna").await, app.sign_up("bob").await);
    app.device(&bob, "theirs").await;
    let id = app.schedule(&bob, json!({"device_id": "theirs", "time_of_day": "02:00"})).await["schedule_id"].clone();
    let path = format!("/api/sync/schedule/{id}");
    for (method, path, body) in [
        (Method::GET, path.clone(), NULL),
        (Method::PATCH, path.clone(), json!({"time_of_day": "03:00"})),
        (Method::DELETE, path.clone(), NULL),
        (Method::POST, format!("{path}/enable"), NULL),
        (Method::POST, format!("{path}/disable"), NULL),
        (Method::POST, format!("{path}/run"), NULL),
    ] {
        let refused = app.call(&anna, method.clone(), &path, body).await.expect(404);
        assert_eq!(refused.code(), "schedule.not_found", "{method} {path}");
    }
    let refused =
        app.call(&anna, Method::POST, "/api/sync/schedule/create", json!({"device_id": "theirs"})).await.expect(404);
    assert_eq!(refused.code(), "device.not_found");
    let listed = app.call(&anna, Method::GET, "/api/sync/schedule/list", NULL).await.expect(200).json();
    assert_eq!(listed["schedules"], json!([]));
    assert_eq!(app.call(&bob, Method::GET, &path, NULL).await.expect(200).json()["time_of_day"], "02:00");
}
