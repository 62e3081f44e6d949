//! What monitoring and autoscalers read: `/metrics` in the exposition format, and the view `demand`.

use std::collections::{BTreeMap, BTreeSet};

use driftless_queue::{NewJob, enqueue};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    App, Database,
    binary::{DataDir, Process, driftless},
    ready, until,
};

/// A parsed exposition: the type of each family, and its samples by name with labels.
#[derive(Debug, Default)]
struct Exposition {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

/// Parses the OpenMetrics text format and fails on what it forbids.
fn parse(text: &str) -> Exposition {
    let mut found = Exposition::default();
    let (mut family, mut help) = (String::new(), BTreeSet::new());
    let body = text.strip_suffix("# EOF\n").expect("an exposition ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            family = name.to_owned();
            assert!(found.types.insert(family.clone(), kind.to_owned()).is_none(), "{name} is there twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(help.insert(rest.split_once(' ').unwrap().0.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(name.ends_with(&format!("_{unit}")), "the unit must end the name: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} is outside of {family}"));
            let allowed: &[&str] = match found.types[&family].as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{family} is a {other}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            assert!(found.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
    }
    assert_eq!(help, found.types.keys().cloned().collect(), "each family says what it is");
    found
}

impl Exposition {
    fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }
}

async fn scrape(base: &str) -> Exposition {
    let answer = reqwest::get(format!("{base}/metrics")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    parse(&answer.text().await.unwrap())
}

async fn put(app: &App, job: NewJob) -> i64 {
    let mut tx = app.domain.begin_system().await.unwrap();
    let id = enqueue(&mut tx, &job).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    id.0
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_hold_all_that_operators_were_promised_in_base_units_and_without_ids() {
    let app = App::start().await;
    let begun = std::time::Instant::now();
    let root = uuid::Uuid::new_v4();
    let far = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    for queue in ["mail".to_owned(), format!("folder:{root}"), format!("folder:{}", uuid::Uuid::new_v4())] {
        put(&app, NewJob::new(&queue, "nothing", &json!({})).run_at(far)).await;
        put(&app, NewJob::new(&queue, "nothing", &json!({}))).await;
    }
    app.sql("update queue.jobs set run_at = run_at - interval '90 s' where run_at <= queue.now()").await;
    put(&app, NewJob::new("system", "cleanup", &json!("what can not be read"))).await;
    put(&app, NewJob::new("system", "rescue_runs", &json!({}))).await;
    app.work().await;
    until("one job is done and one is dead", async || {
        app.value::<bool>("select exists (select from queue.dead_jobs) and not exists (select from queue.jobs where queue = 'system')").await.then_some(())
    })
    .await;
    // The app's own process runs no jobs; what the worker did is told by the worker.
    let found = until("both processes show alive", async || {
        Some(scrape(&app.base).await).filter(|found| found.value("driftless_workers_alive") == 2.0)
    })
    .await;
    for (series, value) in [
        ("driftless_jobs_ready{queue=\"mail\"}", 1.0),
        ("driftless_jobs_ready{queue=\"folder\"}", 2.0),
        ("driftless_jobs_scheduled{queue=\"folder\"}", 2.0),
        ("driftless_jobs_running{queue=\"mail\"}", 0.0),
        ("driftless_jobs_dead{queue=\"system\"}", 1.0),
        ("driftless_jobs_demand{queue=\"folder\"}", 2.0),
        ("driftless_schedules_overdue", 0.0),
        ("driftless_leases_expired_total", 0.0),
        ("driftless_listener_reconnects_total", 0.0),
    ] {
        assert_eq!(found.value(series), value, "{series}");
    }
    let age = found.value("driftless_jobs_oldest_ready_age_seconds{queue=\"mail\"}");
    assert!((90.0..=91.0 + begun.elapsed().as_secs_f64()).contains(&age), "{age}");
    for series in [
        "driftless_postgres_xmin_age_transactions",
        "driftless_postgres_oldest_transaction_seconds",
        "driftless_queue_table_dead_rows",
        "driftless_queue_table_live_rows",
    ] {
        assert!(found.value(series) >= 0.0, "{series}");
    }
    assert!(!format!("{found:?}").contains(&root.to_string()), "no id is a label");
    assert!(found.types.keys().all(|name| name.starts_with("driftless_") && !name.ends_with("_total")), "{found:?}");
    app.sql("delete from queue.jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_api_can_be_watched_and_tells_what_it_did() {
    let (database, data) = (Database::create().await, DataDir::new());
    let settings = [("DRIFTLESS_DATABASE_URL", database.url.as_str()), ("DRIFTLESS_METRICS_LISTEN", "127.0.0.1:0")];
    let worker = Process::work(&data.path(), &settings);
    let base = worker.wait_for_line("Driftless can be watched at ");
    assert_eq!(reqwest::get(format!("{base}/healthz")).await.unwrap().status(), 200);
    ready(&base).await;
    assert_eq!(reqwest::get(format!("{base}/api/auth/me")).await.unwrap().status(), 404);
    let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
    let jobs = "insert into queue.jobs (queue, kind, payload) values ('system', 'rescue_runs', '{}'), ('sync', 'run_sync', '1')";
    sqlx::raw_sql(jobs).execute(&pool).await.unwrap();
    let of_dead = "{queue=\"sync\",kind=\"run_sync\"}";
    // Counted one by one: a scrape may come in between.
    let counts = [
        "driftless_jobs_done_total{queue=\"system\",kind=\"rescue_runs\"}".to_owned(),
        format!("driftless_jobs_failed_total{of_dead}"),
        format!("driftless_jobs_died_total{of_dead}"),
        format!("driftless_job_run_seconds_count{of_dead}"),
    ];
    let found = until("both have ended", async || {
        let found = scrape(&base).await;
        counts.iter().all(|series| found.samples.get(series).is_some_and(|count| *count >= 1.0)).then_some(found)
    })
    .await;
    assert_eq!((found.value(&counts[1]), found.value(&counts[2])), (1.0, 1.0));
    for name in ["driftless_job_run_seconds", "driftless_job_pickup_seconds"] {
        assert_eq!(found.types[name], "histogram");
        let count = found.value(&format!("{name}_count{of_dead}"));
        assert_eq!(count, 1.0);
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = found
            .samples
            .iter()
            .filter(|(series, _)| series.starts_with(&prefix) && series.contains("kind=\"run_sync\""))
            .map(|(series, value)| {
                (series[prefix.len()..].split('"').next().unwrap().replace("+Inf", "inf").parse().unwrap(), *value)
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "buckets add up: {buckets:?}");
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count));
    }
    pool.close().await;
    assert!(!worker.err().contains("apalis"), "no noise of libraries: {}", worker.err());
    assert!(worker.terminate().success());
    database.drop_now().await;
}

#[tokio::test]
async fn a_taken_address_for_metrics_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let ended = crate::support::binary::run(driftless(&["work"], &[("DRIFTLESS_METRICS_LISTEN", &listen)]), "");
    assert!(ended.err.contains("DRIFTLESS_METRICS_LISTEN") && ended.err.contains(&listen), "{}", ended.err);
}

/// The demand of a queue: running, ready, soon, schedules, jobs.
async fn demand(app: &App, queue: &str) -> Option<(i64, i64, i64, i64, i64)> {
    sqlx::query_as("select running, ready, soon, schedules, jobs from demand where queue = $1")
        .bind(queue)
        .fetch_optional(app.domain.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn demand_is_what_runs_waits_or_will_within_a_minute_schedules_too() {
    let app = App::start().await;
    let token = app.sign_up_admin("root").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop"})).await;
    assert_eq!(demand(&app, "sync").await, None, "tomorrow's schedule wants nobody today");
    app.sql("update due set next_run_at = queue.now() + interval '50 s'").await;
    let now = chrono::Utc::now();
    for seconds in [0, 0, 45, 50, 1800, 3600] {
        put(&app, NewJob::new("sync", "nothing", &json!({})).run_at(now + chrono::TimeDelta::seconds(seconds))).await;
    }
    app.sql("update queue.jobs set lease_token = gen_random_uuid(), attempt = 1 where id = (select min(id) from queue.jobs)").await;
    // One that the sweep has not made ready yet.
    app.sql("update queue.jobs set run_at = queue.now() + interval '40 s' where id = (select max(id) from queue.jobs)")
        .await;
    assert_eq!(demand(&app, "sync").await, Some((1, 1, 3, 1, 6)));
    app.call(&token, Method::POST, "/api/jobs/queues/sync/pause", Value::Null).await.expect(200);
    assert_eq!(demand(&app, "sync").await, None, "a paused queue wants nobody");
    app.sql("delete from queue.jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demand_reads_no_job_and_no_schedule_that_lies_further_ahead() {
    let app = App::start().await;
    let token = app.sign_up("anna").await;
    app.device(&token, "laptop").await;
    app.schedule(&token, json!({"device_id": "laptop"})).await;
    app.sql(
        "insert into queue.jobs (queue, kind, payload, ready, run_at)
             select 'sync', 'nothing', '{}', false, queue.now() + interval '1 day' + n * interval '1 s' from generate_series(1, 20000) n;
         insert into queue.jobs (queue, kind, payload) select 'sync', 'nothing', '{}' from generate_series(1, 20);
         insert into schedules (user_id, device_id, schedule_type) select user_id, device_id, 'daily' from schedules, generate_series(1, 20000);
         insert into due (schedule_id, user_id, next_run_at)
             select id, user_id, queue.now() + interval '1 hour' + id * interval '1 s' from schedules on conflict do nothing;
         analyze queue.jobs; analyze due; analyze schedules",
    )
    .await;
    let plan: Vec<String> =
        sqlx::query_scalar("explain select * from demand").fetch_all(app.domain.pool()).await.unwrap();
    let plan = plan.join("\n");
    for index in ["jobs_ready", "jobs_far_ahead", "due_at"] {
        assert!(plan.contains(index), "{index} is not used:\n{plan}");
    }
    for table in ["jobs", "due", "schedules"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "all of {table} is read:\n{plan}");
    }
    app.sql("delete from queue.jobs").await;
}
