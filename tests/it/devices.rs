//! Devices over HTTP: registering, changing, removing, and what a device may be called.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::App;

const NULL: Value = Value::Null;

#[tokio::test(flavor = "multi_thread")]
async fn registering_twice_is_registering_once() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    let body = json!({"device_id": "test-laptop", "device_name": "Test Laptop"});
    let first = app.call(&token, Method::POST, "/api/sync/register", body.clone()).await.expect(200).json();
    assert_eq!((&first["status"], &first["device_name"]), (&json!("registered"), &json!("Test Laptop")));
    assert!(first["change_token"].as_str().unwrap().ends_with(".0"));
    let mut second = app.call(&token, Method::POST, "/api/sync/register", body).await.expect(200).json();
    assert_eq!(second["status"], "already_registered");
    second["status"] = json!("registered");
    assert_eq!(first, second);
    assert_eq!(app.value::<i64>("select count(*) from devices").await, 1);
    assert_eq!(app.value::<i64>("select count(*) from audit where action = 'device_registered'").await, 1);
    // The same id is another device for another user.
    let other = app.sign_up("bob").await;
    let theirs =
        app.call(&other, Method::POST, "/api/sync/register", json!({"device_id": "test-laptop"})).await.expect(200);
    assert_eq!(theirs.json()["status"], "registered");
    assert_eq!(theirs.json()["device_name"], "test-laptop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_can_not_be_is_refused_by_code_and_field() {
    let app = App::start().await;
    let token = app.sign_up_admin("root").await;
    let long = "x".repeat(10_000);
    for (body, status, code, field) in [
        (json!({"device_id": ""}), 422, "device.id_invalid", "device_id"),
        (json!({"device_id": long}), 422, "device.id_invalid", "device_id"),
        (json!({"device_id": "a\u{0}b"}), 422, "device.id_invalid", "device_id"),
        (json!({"device_id": "a\nb"}), 422, "device.id_invalid", "device_id"),
        (json!({"device_id": ["a"]}), 422, "request.field_invalid", "device_id"),
        (json!({}), 422, "request.field_invalid", "device_id"),
        (json!({"device_id": "a", "device_name": " "}), 422, "device.name_invalid", "device_name"),
        (json!({"device_id": "a", "kind": "toaster"}), 422, "request.field_invalid", "kind"),
        (json!({"device_id": "a", "base_path": "/x/../y"}), 422, "device.base_path_invalid", "base_path"),
        (json!({"device_id": "a", "base_path": "x"}), 422, "device.base_path_invalid", "base_path"),
        (json!({"device_id": "a", "kind": "remote"}), 422, "remote.invalid", "remote"),
        (json!({"device_id": "a", "remote": {"type": "folder", "path": "/srv"}}), 422, "remote.invalid", "remote"),
        (
            json!({"device_id": "a", "kind": "remote", "remote": {"type": "folder", "path": "/srv"}}),
            422,
            "remote.not_allowed",
            "remote",
        ),
    ] {
        let answer = app.call(&token, Method::POST, "/api/sync/register", body.clone()).await;
        assert_eq!((answer.status, answer.code(), answer.field()), (status, code, field), "{body}");
    }
    let broken = app.request(Method::POST, "/api/sync/register").bearer_auth(&token);
    let broken = broken.header("content-type", "application/json").body("{\"device_id\": ").send().await.unwrap();
    assert_eq!(broken.status(), 400);
    assert_eq!(app.value::<i64>("select count(*) from devices").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_patch_leaves_out_stays_and_null_sets_it_back() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "lap/top ä").await;
    let path = "/api/sync/devices/lap%2Ftop%20%C3%A4";
    let edit = json!({"device_name": "Mine", "ignore": ["*.bak", "!keep.bak"], "base_path": "/docs"});
    let changed = app.call(&token, Method::PATCH, path, edit).await.expect(200).json();
    assert_eq!((&changed["device_name"], &changed["base_path"]), (&json!("Mine"), &json!("/docs")));
    let changed = app.call(&token, Method::PATCH, path, json!({"ignore": null})).await.expect(200).json();
    assert_eq!((&changed["device_name"], &changed["ignore"]), (&json!("Mine"), &json!([])));
    let changed = app.call(&token, Method::PATCH, path, json!({"device_name": null, "base_path": null})).await;
    let changed = changed.expect(200).json();
    assert_eq!((&changed["device_name"], &changed["base_path"]), (&json!("lap/top ä"), &json!("/")));
    let refused = app.call(&token, Method::PATCH, path, json!({"ignore": [""]})).await.expect(422);
    assert_eq!((refused.code(), refused.field()), ("device.ignore_invalid", "ignore"));
    // Nor one that no sync could go by.
    for rule in ["[a".to_owned(), "x".repeat(1001)] {
        let refused = app.call(&token, Method::PATCH, path, json!({"ignore": ["*.o", rule]})).await.expect(422);
        assert_eq!((refused.code(), refused.field()), ("ignore.pattern_invalid", "ignore"));
    }
    app.call(&token, Method::DELETE, path, NULL).await.expect(204);
    assert_eq!(app.call(&token, Method::GET, path, NULL).await.expect(404).code(), "device.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_folder_starts_the_device_anew_and_not_while_a_run_holds_it() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.sql(
        "update heads set seq = 7; update devices set cursor_seq = 5;
         insert into baselines (user_id, device_id, entry_id, seq, path) select user_id, id, 1, 1, '/a' from devices;
         insert into runs (id, user_id, device_id, trigger, sync_deletions, resolve_conflicts, direction, state)
         select gen_random_uuid(), user_id, id, 'manual', true, 'keep_newest', 'both', 'held' from devices",
    )
    .await;
    let path = "/api/sync/devices/laptop";
    assert_eq!(app.call(&token, Method::GET, path, NULL).await.json()["pending_changes"], 2);
    let refused = app.call(&token, Method::PATCH, path, json!({"base_path": "/docs"})).await.expect(409);
    assert_eq!(refused.code(), "device.in_use");
    app.sql("update runs set state = 'cancelled', finished_at = queue.now()").await;
    let moved = app.call(&token, Method::PATCH, path, json!({"base_path": "/docs"})).await.expect(200).json();
    assert_eq!(moved["pending_changes"], 7);
    assert_eq!(app.value::<i64>("select count(*) from baselines").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_show_only_ones_own() {
    let app = App::start().await;
    let (anna, bob) = (app.sign_up("anna").await, app.sign_up("bob").await);
    for name in ["c", "a", "b"] {
        app.device(&anna, name).await;
    }
    app.device(&bob, "theirs").await;
    let page = app.call(&anna, Method::GET, "/api/sync/devices?limit=2", NULL).await.expect(200).json();
    assert_eq!((&page["devices"][0]["device_id"], &page["next_cursor"]), (&json!("a"), &json!("b")));
    let page = app.call(&anna, Method::GET, "/api/sync/devices?limit=2&cursor=b", NULL).await.expect(200).json();
    assert_eq!((page["devices"].as_array().unwrap().len(), &page["next_cursor"]), (1, &NULL));
    for limit in ["0", "1001", "-1"] {
        let refused = app.call(&anna, Method::GET, &format!("/api/sync/devices?limit={limit}"), NULL).await.expect(422);
        assert_eq!((refused.code(), refused.field()), ("limit.invalid", "limit"));
    }
    for (method, path) in [
        (Method::GET, "/api/sync/devices/theirs"),
        (Method::PATCH, "/api/sync/devices/theirs"),
        (Method::DELETE, "/api/sync/devices/theirs"),
        (Method::GET, "/api/sync/status/theirs"),
    ] {
        let body = if method == Method::PATCH { json!({"device_name": "mine"}) } else { NULL };
        let refused = app.call(&anna, method, path, body).await.expect(404);
        assert_eq!(refused.code(), "device.not_found", "{path}");
    }
    assert_eq!(
        app.call(&bob, Method::GET, "/api/sync/devices/theirs", NULL).await.expect(200).json()["device_name"],
        "theirs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_device_tells_its_most_telling_run() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    let status = || async { app.call(&token, Method::GET, "/api/sync/status/laptop", NULL).await.expect(200).json() };
    assert_eq!(status().await["status"], "idle");
    for (state, shown) in
        [("queued", "queued"), ("waiting_for_device", "waiting"), ("held", "held"), ("running", "syncing")]
    {
        sqlx::query(
            "insert into runs (id, user_id, device_id, trigger, sync_deletions, resolve_conflicts, direction, state, started_at)
             select gen_random_uuid(), user_id, id, 'manual', true, 'keep_newest', 'both', $1, queue.now() from devices",
        )
        .bind(state)
        .execute(app.domain.pool())
        .await
        .unwrap();
        assert_eq!(status().await["status"], shown);
    }
    app.call(&token, Method::DELETE, "/api/sync/devices/laptop", NULL).await.expect(204);
    assert_eq!(app.value::<i64>("select count(*) from runs").await, 0);
}
