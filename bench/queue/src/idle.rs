//! queue-idle: what a worker costs that has nothing to do, with 100,000 jobs far ahead.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::Executor;

use crate::{
    child::Worker,
    report::{Report, Side},
    server::Server,
};

const WATCH: Duration = Duration::from_secs(20);

pub async fn bench(rounds: usize) -> Result<()> {
    let server = Server::start().await?;
    server
        .pool
        .execute(
            "insert into queue.jobs (queue, kind, payload, ready, run_at)
             select 'bench', 'effect', '{}', false, now() + interval '1 day' from generate_series(1, 100000)",
        )
        .await?;
    let worker = Worker::start(&server.url)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let names = ["driftless"];
    let ([mut core], [mut statements]) = (names.map(Side::new), names.map(Side::new));
    for _ in 0..rounds {
        let begun = Instant::now();
        let (cpu, commits) = (processor_seconds(&worker), transactions(&server).await?);
        tokio::time::sleep(WATCH).await;
        let seconds = begun.elapsed().as_secs_f64();
        core.values.push((processor_seconds(&worker) - cpu) / seconds * 100.0);
        // One of them is the reading of this very number.
        statements.values.push((transactions(&server).await? - commits - 1) as f64 / seconds);
    }
    let mut report = Report::new("queue-idle");
    report.sides("of a core", "%", &[&core]);
    report.sides("transactions", "per s", &[&statements]);
    report.hold("of a core", "%", &core, 0.5);
    report.hold("statements", "per s", &statements, 3.0);
    let settings = format!(
        "One worker process on one queue, watched for {} s a round; 100,000 jobs a day ahead. The queue's part only: the dispatcher \
         of `driftless work` adds its own look each second.",
        WATCH.as_secs()
    );
    report.write(&server, rounds, &settings)
}

fn processor_seconds(worker: &Worker) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.0.id())).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

async fn transactions(server: &Server) -> Result<i64> {
    server.pool.execute("select pg_stat_force_next_flush()").await?;
    let all = sqlx::query_scalar(
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()",
    );
    Ok(all.fetch_one(&server.pool).await?)
}
