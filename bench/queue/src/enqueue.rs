//! queue-enqueue: how fast jobs go in, one by one over 1 and 8 connections, and in batches of 1,000.

use std::time::Instant;

use anyhow::Result;
use driftless_queue::{NewJob, enqueue, enqueue_batch};
use serde_json::json;

use crate::{
    peers,
    report::{Goal, Report, Side},
    server::Server,
};

pub async fn bench(rounds: usize, jobs: usize) -> Result<()> {
    let server = Server::start().await?;
    peers::install().await?;
    server.synchronous_commit(false).await?;
    let mut report = Report::new("queue-enqueue");
    for connections in [1, 8] {
        let names = ["driftless", "graphile-worker", "pg-boss", "apalis-postgres 1.0", "apalis-sql 0.7"];
        let mut sides = names.map(Side::new);
        for _ in 0..rounds {
            sides[0].values.push(single(&server, jobs, connections).await?);
            let settings = [("N", jobs), ("ECONC", connections)];
            sides[1].values.push(peers::run(&server, "graphile_worker.mjs", "enq1", &settings).await?[0]);
            sides[2].values.push(peers::run(&server, "pg_boss.mjs", "enq1", &settings).await?[0]);
            sides[3].values.push(peers::run_apalis(&server, "apalis_1", "enq1", &settings).await?[0]);
            sides[4].values.push(peers::run_apalis(&server, "apalis_07", "enq1", &settings).await?[0]);
        }
        let what = if connections == 1 { "one by one, 1 connection" } else { "one by one, 8 connections" };
        conclude(&mut report, what, &sides);
    }
    // apalis-sql 0.7 has no batches.
    let mut sides = ["driftless", "graphile-worker", "pg-boss", "apalis-postgres 1.0"].map(Side::new);
    for _ in 0..rounds {
        sides[0].values.push(batches(&server, jobs * 25).await?);
        let settings = [("N", jobs * 25)];
        sides[1].values.push(peers::run(&server, "graphile_worker.mjs", "enqbatch", &settings).await?[0]);
        sides[2].values.push(peers::run(&server, "pg_boss.mjs", "enqbatch", &settings).await?[0]);
        sides[3].values.push(peers::run_apalis(&server, "apalis_1", "enqbatch", &settings).await?[0]);
    }
    conclude(&mut report, "batches of 1,000", &sides);
    let settings = format!(
        "synchronous_commit off. {jobs} jobs one by one, {} in batches. Ours goes in on a connection that the caller holds, as within his \
         transaction; the calls of the others take one from their pool each time.",
        jobs * 25
    );
    report.write(&server, rounds, &settings)
}

fn conclude(report: &mut Report, what: &str, sides: &[Side]) {
    let all: Vec<&Side> = sides.iter().collect();
    report.sides(what, "jobs/s", &all);
    // The goal speaks of graphile-worker; another may be faster.
    report.compare(what, "jobs/s", &sides[0], &sides[1], Goal::Ratio(2.0));
    report.compare(what, "jobs/s", &sides[0], Side::most(&all[2..]), Goal::Ratio(2.0));
}

async fn single(server: &Server, jobs: usize, connections: usize) -> Result<f64> {
    server.clear().await?;
    let pool = server.fresh_pool(connections.try_into()?).await?;
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let pool = pool.clone();
        tasks.push(tokio::spawn(async move {
            let mut conn = pool.acquire().await?;
            for i in 0..jobs / connections {
                enqueue(&mut conn, &NewJob::new("bench", "noop", &json!({ "t": i }))).await?;
            }
            Ok::<(), anyhow::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(jobs as f64 / begun.elapsed().as_secs_f64())
}

async fn batches(server: &Server, jobs: usize) -> Result<f64> {
    server.clear().await?;
    let mut conn = server.fresh_pool(1).await?.acquire().await?;
    let begun = Instant::now();
    for batch in 0..jobs / 1000 {
        let jobs: Vec<NewJob> =
            (0..1000).map(|i| NewJob::new("bench", "noop", &json!({ "t": batch * 1000 + i }))).collect();
        enqueue_batch(&mut conn, &jobs).await?;
    }
    Ok(jobs as f64 / begun.elapsed().as_secs_f64())
}
