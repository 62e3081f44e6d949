//! What a process costs that has nothing to do, and that it still hears of everything.

use std::time::{Duration, Instant};

use driftless_domain::{
    Domain,
    audit::{self, Entry},
    db,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    App, Database,
    binary::{DataDir, Process},
    until,
    wire::Wire,
};

/// Counted on the wire: on a slow machine they are fewer. The jobs of a full minute may fall into one span, not into all.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_sends_at_most_three_statements_a_second() {
    const SPAN: Duration = Duration::from_secs(6);
    let (database, data) = (Database::create().await, DataDir::new());
    let wire = Wire::to(&database.url).await;
    let worker = Process::work(&data.path(), &[("DRIFTLESS_DATABASE_URL", &wire.url)]);
    let begun = Instant::now();
    until("a span has few statements, and the lease among them", async || {
        let sent = wire.sent(Instant::now() - SPAN);
        let beats = sent.iter().filter(|text| text.contains("update queue.workers")).count();
        (begun.elapsed() > SPAN && beats > 0 && sent.len() <= 18).then_some(())
    })
    .await;
    assert!(worker.terminate().success());
    database.drop_now().await;
}

/// A process of its own on the app's database, that records and ends without sealing: as a command does.
async fn command(app: &App) -> Domain {
    Domain::new(db::connect(&app.database.url, 2).await.unwrap(), app.domain.settings().clone(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_process_without_a_sealer_is_sealed_by_another() {
    let app = App::start().await;
    let stop = CancellationToken::new();
    let sealer = tokio::spawn(audit::run_sealer(app.domain.clone(), stop.clone()));
    until("the sealer has begun", async || app.data_dir().join("audit").exists().then_some(())).await;
    let mut tx = command(&app).await.begin_system().await.unwrap();
    audit::record(&mut tx, Entry::new("tested")).await.unwrap();
    tx.commit().await.unwrap();
    let sealed = "select count(*) from audit where action = 'tested' and chain_seq is not null";
    until("it is sealed", async || (app.value::<i64>(sealed).await == 1).then_some(())).await;
    stop.cancel();
    sealer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_another_process_wrote_fires_though_nobody_was_told() {
    let app = App::start().await;
    app.database.move_clock_to_noon().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop", "time_of_day": "11:00"})).await;
    app.work().await;
    until("it looks", async || {
        let looks = "select count(*) from pg_stat_activity
                     where datname = current_database() and query like 'select extract(epoch from (select min(next_run_at)%'";
        (app.value::<i64>(looks).await > 0).then_some(())
    })
    .await;
    app.sql("update due set next_run_at = next_run_at - interval '1 day'").await;
    let fired = "select count(*) from runs where trigger = 'schedule'";
    until("it has fired", async || (app.value::<i64>(fired).await == 1).then_some(())).await;
    app.idle().await;
}
