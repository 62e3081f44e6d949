//! queue-churn: jobs come and go for minutes beside a reader that holds a transaction open for a minute at a time, so that nothing
//! dead can be cleared away meanwhile. Sizes level off, and the pickup of the last minute is that of the first.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use driftless_queue::{Context, JobError, NewJob, Process, Registry, Serve, Waker, Workers, enqueue_batch};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    report::{Goal, Report, Side},
    server::Server,
};

const PER_TICK: usize = 40;
const TICK: Duration = Duration::from_millis(20);
const OPEN: Duration = Duration::from_secs(60);

pub async fn bench(minutes: usize) -> Result<()> {
    let server = Server::start().await?;
    let pool = server.fresh_pool(6).await?;
    let epoch = Instant::now();
    let took: Arc<Mutex<Vec<f64>>> = Arc::default();
    let record = took.clone();
    let registry = Registry::new().kind("noop", move |_: Context, sent: f64| {
        record.lock().expect("no handler panics").push(epoch.elapsed().as_secs_f64() * 1e3 - sent);
        async { Ok::<(), JobError>(()) }
    });
    let process = Process::start(&pool).await?;
    let stop = CancellationToken::new();
    let run = tokio::spawn(Workers::new(&process).serve(Serve::new("bench", 100), &registry).run(stop.clone()));
    let reader = tokio::spawn(read_for_ever(server.url.clone()));
    let waker = Waker::new(pool.clone());
    let (mut first, mut last) = (Side::new("first minute"), Side::new("last minute"));
    let (mut pickup, mut size) = (Vec::new(), Vec::new());
    for minute in 0..minutes {
        let mut rhythm = tokio::time::interval(TICK);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            rhythm.tick().await;
            let sent = epoch.elapsed().as_secs_f64() * 1e3;
            let jobs = vec![NewJob::new("bench", "noop", &json!(sent)); PER_TICK];
            enqueue_batch(&mut *pool.acquire().await?, &jobs).await?;
            waker.wake("bench");
        }
        let mut waits = std::mem::take(&mut *took.lock().expect("no handler panics"));
        waits.sort_by(f64::total_cmp);
        let at = |share: usize| waits[waits.len() * share / 100];
        let bytes: i64 = sqlx::query_scalar("select pg_total_relation_size('queue.jobs')").fetch_one(&pool).await?;
        println!(
            "minute {}: {} jobs, p50 {:.1} ms, p99 {:.1} ms, {} KiB",
            minute + 1,
            waits.len(),
            at(50),
            at(99),
            bytes >> 10
        );
        pickup.push(at(99));
        size.push(bytes as f64 / f64::from(1 << 20));
    }
    reader.abort();
    process.until_idle(Duration::from_secs(1)).await;
    stop.cancel();
    run.await?;
    first.values.push(pickup[0]);
    last.values.push(pickup[pickup.len() - 1]);
    let mut report = Report::new("queue-churn");
    report.compare("p99 pickup", "ms", &last, &first, Goal::RatioAtMost(1.1));
    let (mut half, mut end) = (Side::new("half time"), Side::new("end"));
    half.values.push(size[size.len() / 2]);
    end.values.push(size[size.len() - 1]);
    report.sides("table and indexes", "MiB", &[&half, &end]);
    report.compare("table and indexes", "MiB", &end, &half, Goal::RatioAtMost(1.1));
    let settings = format!(
        "{minutes} minutes at {} jobs a second beside a reader whose transactions stay open for {} s. p99 by minute, ms: {}. Table and \
         indexes by minute, MiB: {}.",
        PER_TICK * 1000 / TICK.as_millis() as usize,
        OPEN.as_secs(),
        pickup.iter().map(|ms| format!("{ms:.1}")).collect::<Vec<_>>().join(" "),
        size.iter().map(|mib| format!("{mib:.1}")).collect::<Vec<_>>().join(" "),
    );
    report.write(&server, 1, &settings)
}

/// A transaction that sees the tables as they were a minute ago, again and again.
async fn read_for_ever(url: String) -> Result<(), sqlx::Error> {
    let mut conn = PgConnection::connect(&url).await?;
    loop {
        conn.execute("begin isolation level repeatable read").await?;
        conn.execute("select count(*) from queue.jobs").await?;
        tokio::time::sleep(OPEN).await;
        conn.execute("commit").await?;
    }
}
