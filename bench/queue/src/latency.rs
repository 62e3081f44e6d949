//! queue-latency: from the call that enqueues until the handler runs, 100 jobs a second, on an otherwise idle worker.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use driftless_queue::{Context, JobError, NewJob, Process, Registry, Serve, Waker, Workers, enqueue};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    peers,
    report::{Goal, Report, Side},
    server::Server,
};

pub async fn bench(rounds: usize, jobs: usize) -> Result<()> {
    let server = Server::start().await?;
    peers::install().await?;
    server.synchronous_commit(false).await?;
    let names = ["driftless", "graphile-worker", "pg-boss", "apalis-postgres 1.0", "apalis-sql 0.7"];
    let (mut p50, mut p99) = (names.map(Side::new), names.map(Side::new));
    for _ in 0..rounds {
        let graphile = [("N", jobs), ("CONC", 24), ("SIZE", 0)];
        let runs = [
            ours(&server, jobs).await?,
            peers::run(&server, "graphile_worker.mjs", "lat", &graphile).await?,
            peers::run(&server, "pg_boss.mjs", "lat", &[("N", jobs)]).await?,
            peers::run_apalis(&server, "apalis_1", "lat", &[("N", jobs)]).await?,
            peers::run_apalis(&server, "apalis_07", "lat", &[("N", jobs)]).await?,
        ];
        for (side, run) in runs.iter().enumerate() {
            p50[side].values.push(run[0]);
            p99[side].values.push(run[1]);
        }
    }
    let mut report = Report::new("queue-latency");
    for (what, sides, goal) in [("p50", &p50, Goal::AtMost(5.0)), ("p99", &p99, Goal::RatioAtMost(1.0))] {
        let [ours, peers @ ..] = sides;
        report.sides(what, "ms", &sides.iter().collect::<Vec<_>>());
        let best = Side::least(&peers.iter().collect::<Vec<_>>());
        report.compare(what, "ms", ours, best, goal);
    }
    let settings =
        format!("synchronous_commit off. {jobs} jobs at 100 a second; the call that enqueues is counted in.");
    report.write(&server, rounds, &settings)
}

async fn ours(server: &Server, jobs: usize) -> Result<Vec<f64>> {
    server.clear().await?;
    let pool = server.fresh_pool(4).await?;
    let epoch = Instant::now();
    let took: Arc<Mutex<Vec<f64>>> = Arc::default();
    let record = took.clone();
    let registry = Registry::new().kind("noop", move |_: Context, sent: f64| {
        let waited = epoch.elapsed().as_secs_f64() * 1e3 - sent;
        record.lock().expect("no handler panics").push(waited);
        async { Ok::<(), JobError>(()) }
    });
    let process = Process::start(&pool).await?;
    let stop = CancellationToken::new();
    let run = tokio::spawn(Workers::new(&process).serve(Serve::new("bench", 24), &registry).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waker = Waker::new(pool.clone());
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..jobs {
        rhythm.tick().await;
        let sent = epoch.elapsed().as_secs_f64() * 1e3;
        let mut conn = pool.acquire().await?;
        enqueue(&mut conn, &NewJob::new("bench", "noop", &json!(sent))).await?;
        waker.wake("bench");
    }
    process.until_idle(Duration::from_millis(500)).await;
    stop.cancel();
    run.await?;
    let mut took = took.lock().expect("no handler panics").clone();
    took.sort_by(f64::total_cmp);
    ensure!(took.len() == jobs, "{} of {jobs} jobs ran", took.len());
    Ok(vec![took[jobs / 2], took[jobs * 99 / 100]])
}
