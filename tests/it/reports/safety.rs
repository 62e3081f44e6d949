//! Deletion safety of reports and acknowledgements, and what a device has done with.

use super::*;

/// `count` files that laptop and tree agree on: names, which are the contents, and versions.
async fn agreed(laptop: &Laptop, count: usize) -> (Vec<String>, Vec<i64>) {
    let names: Vec<String> = (0..count).map(|n| format!("/f{n:02}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let versions = laptop.agree(&files).await;
    (names, versions)
}

fn held(names: &[String]) -> Value {
    names.iter().map(|name| file(name, name)).collect()
}

fn gone(names: &[String], versions: &[i64]) -> Value {
    names.iter().zip(versions).map(|(path, version)| json!({"path": path, "version": version})).collect()
}

impl Laptop {
    /// Uploads a file through the device.
    async fn upload(&self, path: &str, contents: &str) -> i64 {
        let body =
            json!({"device_id": "laptop", "file_path": path, "total_size": contents.len(), "chunk_size": 65_536});
        let id = self.post("/api/sync/upload/start", body).await.expect(200).json()["upload_id"].clone();
        let id = id.as_str().unwrap();
        let piece = self.app.request(Method::POST, &format!("/api/sync/upload/{id}/chunk/0"));
        let piece = piece.bearer_auth(&self.token).header("content-type", "application/octet-stream");
        send(piece.body(contents.to_owned())).await.expect(200);
        let done = self.post(&format!("/api/sync/upload/{id}/complete"), NULL).await.expect(200).json();
        done["version"].as_i64().unwrap()
    }

    async fn pending(&self) -> i64 {
        let status = self.app.call(&self.token, Method::GET, "/api/sync/status/laptop", NULL).await.expect(200).json();
        status["pending_changes"].as_i64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_moves_are_no_losses_and_a_move_is_not_believed_without_the_file() {
    let laptop = Laptop::new().await;
    let (names, versions) = agreed(&laptop, 26).await;
    // Twelve are moved: uploaded at the new place, and deleted by a request of its own.
    for name in &names[..12] {
        laptop.upload(&format!("/new{name}"), name).await;
    }
    let moved: Vec<String> = names[..12].iter().map(|name| format!("/new{name}")).collect();
    let now: Value = moved.iter().zip(&names).map(|(path, contents)| file(path, contents)).collect();
    let now: Value = [now.as_array().unwrap().clone(), held(&names[12..]).as_array().unwrap().clone()].concat().into();
    let answer = laptop.report(now, true).await;
    let deleted: Value = gone(&names[..12], &versions);
    let told: Value = names[..12]
        .iter()
        .zip(&versions)
        .map(|(path, version)| json!({"path": path, "version": version, "moved_to": format!("/new{path}")}))
        .collect();
    let acked = laptop.ack(&answer["change_token"], json!([]), told).await;
    assert_eq!((&acked["deleted"], &acked["not_accepted"]), (&json!(12), &json!([])), "{acked}");
    assert_eq!(laptop.app.value::<i64>("select count(*) from deletions").await, 0);
    assert_eq!((&acked["remaining"], laptop.pending().await), (&json!(0), 0));
    // Repeating it is harmless.
    let again = laptop.ack(&answer["change_token"], json!([]), deleted).await;
    assert_eq!((&again["deleted"], &again["not_accepted"]), (&json!(0), &json!([])));
    // Where nothing came, or something was there before, nothing was moved.
    let lies: Value = names[12..]
        .iter()
        .zip(&versions[12..])
        .zip(moved.iter().cycle())
        .map(|((path, version), to)| json!({"path": path, "version": version, "moved_to": to}))
        .collect();
    let acked = laptop.ack(&answer["change_token"], json!([]), lies).await;
    assert_eq!((&acked["deleted"], acked["run_id"].is_string()), (&json!(0), true), "{acked}");
    assert_eq!(acked["not_accepted"][0]["code"], "ack.held");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_on_the_device_count_beside_those_in_the_tree() {
    let laptop = Laptop::new().await;
    let (names, _) = agreed(&laptop, 50).await;
    laptop.post("/api/files/delete", json!({"paths": names[..20]})).await.expect(200);
    let answer = laptop.report(held(&names), true).await;
    assert_eq!((paths(&answer["to_delete"]).len(), &answer["held"]), (20, &json!(0)));
    let done: Value = names[..20].iter().map(|path| json!({"path": path, "version": null, "hash": null})).collect();
    for _ in 0..2 {
        let acked = laptop.ack(&answer["change_token"], done.clone(), json!([])).await;
        assert_eq!((&acked["applied"], &acked["remaining"]), (&json!(20), &json!(0)), "{acked}");
    }
    let counted = "select coalesce(sum(files), 0)::bigint from deletions where side = 'device'";
    assert_eq!(laptop.app.value::<i64>(counted).await, 20, "once");
    // Ten of the thirty that are left would pass alone.
    let answer = laptop.report(held(&names[30..]), true).await;
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"])), (&json!(10), vec![]));
    // An hour later they do, by the clock of the database.
    laptop.app.database.move_clock("1 hour 2 minutes").await;
    let token = laptop.app.sign_in("anna").await;
    let body = json!({"device_id": "laptop", "file_list": held(&names[30..]), "complete": true});
    let answer = laptop.app.call(&token, Method::POST, "/api/sync/changes", body).await.expect(200).json();
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"]).len()), (&json!(0), 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_acknowledgements_at_once_do_not_pass_together() {
    let laptop = Laptop::new().await;
    let (names, versions) = agreed(&laptop, 24).await;
    let token = laptop.report(held(&names), true).await["change_token"].clone();
    let (one, two) = (gone(&names[..9], &versions[..9]), gone(&names[9..18], &versions[9..18]));
    let (one, two) = tokio::join!(laptop.ack(&token, json!([]), one), laptop.ack(&token, json!([]), two));
    let deleted = [&one, &two].map(|acked| acked["deleted"].as_i64().unwrap());
    assert_eq!(deleted.iter().sum::<i64>(), 9, "{one} {two}");
    assert_eq!([&one, &two].iter().filter(|acked| acked["run_id"].is_string()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_device_is_held_also_when_it_only_acknowledges() {
    let laptop = Laptop::new().await;
    let (names, versions) = agreed(&laptop, 3).await;
    let answer = laptop.report(json!([]), true).await;
    assert_eq!((&answer["held"], paths(&answer["to_delete_on_server"])), (&json!(3), vec![]));
    let acked = laptop.ack(&answer["change_token"], json!([]), gone(&names, &versions)).await;
    assert_eq!((&acked["deleted"], &acked["run_id"]), (&json!(0), &answer["run_id"]), "{acked}");
    let acked = laptop.ack(&answer["change_token"], json!([]), gone(&names[..2], &versions)).await;
    assert_eq!(acked["deleted"], 2, "{acked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_approved_days_later_is_carried_out() {
    let laptop = Laptop::new().await;
    let (names, versions) = agreed(&laptop, 20).await;
    let answer = laptop.report(held(&names[15..]), true).await;
    let run = answer["run_id"].as_str().unwrap().to_owned();
    laptop.app.database.move_clock("3 days").await;
    let laptop = Laptop { token: laptop.app.sign_in("anna").await, ..laptop };
    laptop.app.work().await;
    laptop.post(&format!("/api/sync/runs/{run}/approve"), NULL).await.expect(200);
    laptop.app.idle().await;
    driftless_domain::runs::rescue::rescue(&laptop.app.domain).await.unwrap();
    assert_eq!(laptop.app.run(&laptop.token, &run).await["state"], "waiting_for_device", "approved just now");
    let claimed = laptop.post(&format!("/api/sync/runs/{run}/claim"), NULL).await.expect(200).json();
    let answer = laptop.report(held(&names[15..]), true).await;
    assert_eq!(paths(&answer["to_delete_on_server"]).len(), 15, "{answer}");
    let acked = laptop.ack(&answer["change_token"], json!([]), gone(&names[..15], &versions)).await;
    assert_eq!((&acked["deleted"], &acked["run_id"]), (&json!(15), &NULL), "{acked}");
    let report = json!({"fence": claimed["fence"], "planned": 15, "counts": {"executed": 15, "deleted_on_server": 15}});
    let ended = laptop.post(&format!("/api/sync/runs/{run}/report"), report).await.expect(200).json();
    assert_eq!((&ended["state"], laptop.pending().await), (&json!("succeeded"), 0), "{ended}");
    laptop.app.idle().await;
}
