//! queue-drain: how fast a full queue empties. 100,000 jobs without work, from the start of the worker until no row is left.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use driftless_queue::{Context, JobError, NewJob, Process, Registry, Serve, Workers, enqueue_batch};
use serde_json::json;
use sqlx::{Executor, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    peers,
    report::{Goal, Report, Side},
    server::Server,
};

/// Handlers of ours that run at once; graphile-worker gets as many.
const CONCURRENCY: usize = 100;

pub async fn bench(rounds: usize, jobs: usize) -> Result<()> {
    let server = Server::start().await?;
    peers::install().await?;
    let mut report = Report::new("queue-drain");
    for on in [false, true] {
        server.synchronous_commit(on).await?;
        let mut ours = Side::new("driftless");
        let mut raw = Side::new("raw SQL");
        let mut graphile = Side::new("graphile-worker");
        let mut boss = Side::new("pg-boss");
        let mut apalis = Side::new("apalis-postgres 1.0");
        let mut apalis_sql = Side::new("apalis-sql 0.7");
        for _ in 0..rounds {
            ours.values.push(drain_ours(&server, jobs).await?);
            raw.values.push(drain_raw(&server, jobs).await?);
            let settings = [("N", jobs), ("CONC", CONCURRENCY), ("SIZE", 1000)];
            graphile.values.push(peers::run(&server, "graphile_worker.mjs", "drain", &settings).await?[0]);
            boss.values.push(
                peers::run(&server, "pg_boss.mjs", "drain", &[("N", jobs), ("BATCH", 2000), ("LC", 4)]).await?[0],
            );
            let settings = [("N", jobs / 2), ("BATCH", 10_000)];
            apalis.values.push(peers::run_apalis(&server, "apalis_1", "drain", &settings).await?[0]);
            let settings = [("N", jobs / 2), ("BATCH", 3000)];
            apalis_sql.values.push(peers::run_apalis(&server, "apalis_07", "drain", &settings).await?[0]);
        }
        let what = if on { "synchronous_commit on" } else { "synchronous_commit off" };
        report.sides(what, "jobs/s", &[&ours, &raw, &graphile, &boss, &apalis, &apalis_sql]);
        let best = Side::most(&[&graphile, &boss, &apalis, &apalis_sql]);
        let figure = if on { "with synchronous_commit on" } else { "" };
        report.compare(figure, "jobs/s", &ours, best, Goal::Ratio(1.3));
        report.compare(figure, "jobs/s", &ours, &raw, Goal::Ratio(0.75));
    }
    let settings = format!(
        "{jobs} jobs. Ours: one process, concurrency {CONCURRENCY}, as shipped. graphile-worker: {CONCURRENCY} jobs at once, localQueue 1000, \
         no batch delay. pg-boss: batches of 2000, 4 at once. apalis-postgres: batches of 10,000, \
         half the jobs. apalis-sql: buffer of 3000, polled each 10 ms, half the jobs. Raw SQL: the better of one and two connections that \
         delete the last 500 and claim the next in one statement. (Ours does not wait for commits of claims and acknowledgements; see connect_options in \
         queue/src/process.rs.)"
    );
    report.write(&server, rounds, &settings)
}

/// Ours and bare SQL without peers, with the processor time of each job: for profiling on a machine that others use too.
pub async fn alone(rounds: usize, jobs: usize) -> Result<()> {
    let server = Server::start().await?;
    server.synchronous_commit(false).await?;
    for _ in 0..rounds {
        for ours in [true, false] {
            let before = cpu(&server);
            let rate = if ours { drain_ours(&server, jobs).await? } else { drain_raw(&server, jobs).await? };
            // Bare SQL runs twice: over one connection, over two.
            let runs = if ours { 1 } else { 2 } * jobs;
            let micros = |now: f64, then: f64| (now - then) * 1e6 / runs as f64;
            let after = cpu(&server);
            println!(
                "{}: {rate:.0} jobs/s, {:.1} us a job in Postgres, {:.1} us here, filling included",
                if ours { "driftless" } else { "raw SQL" },
                micros(after.0, before.0),
                micros(after.1, before.1)
            );
        }
    }
    Ok(())
}

/// Seconds of processor time so far: of this server's processes, living or ended, and of this one.
fn cpu(server: &Server) -> (f64, f64) {
    const TICKS: f64 = 100.0;
    let read = |folder: &Path| -> Option<Vec<f64>> {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
        Some(fields.filter_map(|field| field.parse().ok()).collect())
    };
    let mut postgres = 0.0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let here = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(server.folder()));
        if here {
            postgres += read(&entry.path()).unwrap_or_default().iter().sum::<f64>();
        }
    }
    let own: f64 = read(Path::new("/proc/self")).unwrap_or_default().iter().take(2).sum();
    (postgres / TICKS, own / TICKS)
}

async fn fill(pool: &PgPool, jobs: usize) -> Result<()> {
    let batch: Vec<NewJob> = (0..1000).map(|i| NewJob::new("bench", "noop", &json!({ "t": i }))).collect();
    let mut conn = pool.acquire().await?;
    for _ in 0..jobs / 1000 {
        enqueue_batch(&mut conn, &batch).await?;
    }
    pool.execute("analyze queue.jobs").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn until_gone(pool: &PgPool) -> Result<()> {
    while sqlx::query_scalar::<_, bool>("select exists (select from queue.jobs)").fetch_one(pool).await? {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn drain_ours(server: &Server, jobs: usize) -> Result<f64> {
    server.clear().await?;
    let pool = server.fresh_pool(3).await?;
    fill(&pool, jobs).await?;
    let (count, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, done) = (count.clone(), all.clone());
    let registry = Registry::new().kind("noop", move |_: Context, _: serde_json::Value| {
        if counted.fetch_add(1, Relaxed) + 1 == jobs {
            done.notify_one();
        }
        async { Ok::<(), JobError>(()) }
    });
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let process = Process::start(&pool).await?;
    let workers = Workers::new(&process).serve(Serve::new("bench", CONCURRENCY), &registry);
    let run = tokio::spawn(workers.run(stop.clone()));
    all.notified().await;
    until_gone(&pool).await?;
    let took = begun.elapsed();
    stop.cancel();
    run.await?;
    Ok(jobs as f64 / took.as_secs_f64())
}

const RAW: &str = "
    with done as (delete from queue.jobs where id = any ($1)),
         next as materialized (
             select id from queue.jobs where queue = 'bench' and ready and lease_token is null and run_at <= now()
             order by priority desc, run_at, id limit 500 for update skip locked)
    update queue.jobs job set lease_token = '00000000-0000-0000-0000-000000000001', attempt = attempt + 1
    from next where job.id = next.id returning job.id, job.payload::text";

/// The limit: nothing but the statements, on the same table.
async fn drain_raw(server: &Server, jobs: usize) -> Result<f64> {
    let mut best: f64 = 0.0;
    for connections in [1, 2] {
        server.clear().await?;
        let pool = server.fresh_pool(3).await?;
        fill(&pool, jobs).await?;
        let begun = Instant::now();
        let mut lanes = Vec::new();
        for _ in 0..connections {
            let pool = pool.clone();
            lanes.push(tokio::spawn(async move {
                let mut last: Vec<i64> = Vec::new();
                loop {
                    let rows: Vec<(i64, String)> = sqlx::query_as(RAW).bind(&last).fetch_all(&pool).await?;
                    last = rows.into_iter().map(|row| row.0).collect();
                    if last.is_empty() {
                        return Ok::<(), sqlx::Error>(());
                    }
                }
            }));
        }
        for lane in lanes {
            lane.await??;
        }
        until_gone(&pool).await?;
        best = best.max(jobs as f64 / begun.elapsed().as_secs_f64());
    }
    Ok(best)
}
