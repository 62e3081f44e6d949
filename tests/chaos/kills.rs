//! Workers of the shipped binary are killed in the middle of their jobs, again and again: each time, the jobs must have been run by
//! another within 10 s.
//!
//! Several are killed at once, to be done with a hundred in minutes. Their jobs stand still because a transaction of ours holds
//! the rows of their runs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftless_queue::{pause, resume};
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::{
    server::Server,
    workers::{Breed, Workers},
    workload::Workload,
};

const AT_ONCE: usize = 5;
const LIMIT: Duration = Duration::from_secs(10);
/// Who has not watched for 8 s judges nobody.
const STEADY: Duration = Duration::from_secs(10);

pub async fn run(kills: usize) -> Result<()> {
    let mut server = Server::start()?;
    // Nine processes want more than the hundred connections that Postgres grants.
    PgConnection::connect(&server.url).await?.execute("alter system set max_connections = 400").await?;
    server.crash().await?;
    server.open()?;
    let mut workload = Workload::prepare(&server.url, 0, false).await?;
    let mut workers = Workers::new(&server.data_dir, &server.url);
    workers.add(Breed::Shipped);
    workers.add(Breed::Rascal);
    tokio::time::sleep(STEADY).await;
    let victims: Vec<usize> = (0..AT_ONCE).map(|_| workers.add(Breed::Shipped)).collect();
    let mut took = Vec::new();
    while took.len() < kills {
        let (pids, held) = hold(&mut workload, &workers, &victims).await?;
        victims.iter().try_for_each(|victim| workers.signal(*victim, Signal::KILL))?;
        let killed = Instant::now();
        let jobs = held.jobs;
        held.release.rollback().await?;
        for pid in pids {
            took.push(until_run(&workload.pool, &jobs, pid, killed).await?);
        }
        victims.iter().try_for_each(|victim| workers.revive(*victim))?;
    }
    took.sort();
    let outcome = workload.settle().await?;
    workers.end().await?;
    println!(
        "kills: {}, jobs of each run by another after {:.1} s (median), {:.1} s (longest), lost {}, doubled {}",
        took.len(),
        took[took.len() / 2].as_secs_f64(),
        took[took.len() - 1].as_secs_f64(),
        outcome.lost,
        outcome.doubled
    );
    ensure!(outcome.lost + outcome.doubled == 0, "work was lost or done twice");
    ensure!(took[took.len() - 1] <= LIMIT, "a killed worker's jobs waited longer than {LIMIT:?}");
    Ok(())
}

/// Jobs at work in the victims, and the transaction they wait for.
struct Held {
    /// Process id and job.
    jobs: Vec<(i32, i64)>,
    release: sqlx::Transaction<'static, sqlx::Postgres>,
}

/// Makes runs that nobody can go on with, and waits until each victim has some.
async fn hold(workload: &mut Workload, workers: &Workers, victims: &[usize]) -> Result<(Vec<i32>, Held)> {
    let pids: Vec<i32> = victims.iter().map(|victim| workers.pid(*victim)).collect();
    let end = Instant::now() + Duration::from_secs(60);
    let mut conn = workload.pool.acquire().await?;
    pause(&mut conn, "sync").await?;
    workload.add().await?;
    let mut release = workload.pool.begin().await?;
    // No run can be taken on while this lasts.
    sqlx::query("lock table runs in share row exclusive mode").execute(&mut *release).await?;
    resume(&mut conn, "sync").await?;
    loop {
        let jobs: Vec<(i32, i64)> = sqlx::query_as(
            "select worker.pid, job.id from queue.jobs job join queue.workers worker on worker.token = job.lease_token
             where job.queue = 'sync' and worker.pid = any ($1)",
        )
        .bind(&pids)
        .fetch_all(&workload.pool)
        .await?;
        if pids.iter().all(|pid| jobs.iter().any(|(holder, _)| holder == pid)) {
            return Ok((pids, Held { jobs, release }));
        }
        ensure!(Instant::now() < end, "not every worker has got a job");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How long after the kill the last of this process's jobs was gone.
async fn until_run(pool: &PgPool, jobs: &[(i32, i64)], pid: i32, killed: Instant) -> Result<Duration> {
    let theirs: Vec<i64> = jobs.iter().filter(|(holder, _)| *holder == pid).map(|(_, job)| *job).collect();
    while sqlx::query_scalar::<_, bool>("select exists (select from queue.jobs where id = any ($1))")
        .bind(&theirs)
        .fetch_one(pool)
        .await?
    {
        ensure!(killed.elapsed() < 3 * LIMIT, "jobs of a killed worker never ran");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(killed.elapsed())
}
