//! queue-crash: two worker processes, 200 jobs running in one of them, kill -9 to that one. How long until the other has finished
//! them all.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftless_queue::{NewJob, enqueue_batch};
use sqlx::{Executor, PgPool};

use crate::{
    child::{Effect, Worker},
    peers,
    report::{Goal, Report, Side},
    server::Server,
};

const JOBS: i64 = 200;

pub async fn bench(rounds: usize) -> Result<()> {
    let server = Server::start().await?;
    peers::install().await?;
    let mut report = Report::new("queue-crash");
    let (mut ours, mut boss) = (Side::new("driftless"), Side::new("pg-boss"));
    for _ in 0..rounds {
        ours.values.push(crash(&server).await?);
        boss.values.push(peers::run(&server, "pg_boss_crash.mjs", "crash", &[("N", 200)]).await?[0]);
    }
    report.sides("all finished after the kill", "s", &[&ours, &boss]);
    report.compare("", "s", &ours, &boss, Goal::AtMost(10.0));
    let settings = format!(
        "{JOBS} running jobs; none was lost or ran its effect twice. pg-boss: heartbeats of 10 s (its shortest), supervised each second."
    );
    report.write(&server, rounds, &settings)
}

/// Seconds from the kill until the last effect.
async fn crash(server: &Server) -> Result<f64> {
    server.clear().await?;
    server.pool.execute("drop table if exists effects; create table effects (job bigint, attempt smallint)").await?;
    let victim = Worker::start(&server.url)?;
    let jobs = vec![NewJob::new("bench", "effect", &Effect { wait_ms: 600_000 }); JOBS as usize];
    enqueue_batch(&mut *server.pool.acquire().await?, &jobs).await?;
    let running = "select count(*) from queue.jobs where lease_token is not null";
    until(&server.pool, running, JOBS, Duration::from_secs(30)).await?;
    server.pool.execute("update queue.jobs set payload = '{\"wait_ms\": 0}'").await?;
    let _heir = Worker::start(&server.url)?;
    // Who has not watched for 8 s judges nobody.
    tokio::time::sleep(Duration::from_secs(12)).await;
    drop(victim);
    let killed = Instant::now();
    until(&server.pool, "select count(*) from effects", JOBS, Duration::from_secs(120)).await?;
    let took = killed.elapsed().as_secs_f64();
    let distinct: i64 = sqlx::query_scalar("select count(distinct job) from effects").fetch_one(&server.pool).await?;
    ensure!(distinct == JOBS, "{distinct} of {JOBS} jobs had their effect");
    Ok(took)
}

async fn until(pool: &PgPool, count: &'static str, want: i64, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let now: i64 = sqlx::query_scalar(count).fetch_one(pool).await?;
        if now == want {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{count}: {now} instead of {want} after {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
