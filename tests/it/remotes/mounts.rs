//! Disks that come after the start of the worker.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{App, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_root_whose_disk_is_mounted_after_the_start_is_served_without_a_restart() {
    let disks = tempfile::TempDir::new().unwrap();
    let (unmounted, root) = (disks.path().join("unmounted"), disks.path().join("root"));
    fs::create_dir_all(unmounted.join("photos")).unwrap();
    fs::write(unmounted.join("photos/a.jpg"), "a").unwrap();
    let app = App::start_with(|settings| settings.remote_roots = vec![root.clone()]).await;
    let admin = app.sign_up_admin("anna").await;
    app.work().await;
    let served = async |what: &'static str| {
        let workers = app.call(&admin, Method::GET, "/api/jobs/workers", Value::Null).await.expect(200).json();
        workers.to_string().contains(what).then_some(())
    };
    until("the worker works", async || served("sync").await).await;
    assert_eq!(served("folder:").await, None);
    fs::rename(&unmounted, &root).unwrap();
    let remote = json!({"type": "folder", "path": root.join("photos")});
    let device = json!({"device_id": "photos", "kind": "remote", "remote": remote});
    app.call(&admin, Method::POST, "/api/sync/register", device).await.expect(200);
    let schedule = app.schedule(&admin, json!({"device_id": "photos"})).await["schedule_id"].to_string();
    let started = app.call(&admin, Method::POST, &format!("/api/sync/schedule/{schedule}/run"), Value::Null).await;
    let run = started.expect(202).json()["run_id"].as_str().unwrap().to_owned();
    until("the run has succeeded", async || (app.run(&admin, &run).await["state"] == "succeeded").then_some(())).await;
    until("the list of workers shows it", async || served("folder:").await).await;
    app.idle().await;
}
