//! apalis 0.7 with apalis-sql 0.7.3: enq1 | drain | lat (it has no batches). The last line of the output is the figure.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apalis_sql::{
    Config,
    postgres::{PgPool, PostgresStorage},
};
use apalis07::prelude::*;
use driftless_bench_apalis::{Noop, Seen, now, setting};
use sqlx08::postgres::PgPoolOptions;

async fn handle(job: Noop, seen: Data<Seen>) -> Result<(), Error> {
    seen.note(&job);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let n = setting("N", 20_000);
    let pool: PgPool = PgPoolOptions::new().max_connections(20).connect(&std::env::var("DATABASE_URL")?).await?;
    PostgresStorage::setup(&pool).await?;
    sqlx08::raw_sql("truncate apalis.jobs, apalis.workers cascade").execute(&pool).await?;
    let config = Config::new("bench").set_buffer_size(setting("BATCH", 1000)).set_poll_interval(Duration::from_millis(10));
    let storage: PostgresStorage<Noop> = PostgresStorage::new_with_config(pool.clone(), config);
    let seen = Seen::default();
    let work = || {
        let worker = WorkerBuilder::new(format!("w{}", now())).data(seen.clone()).backend(storage.clone()).build_fn(handle);
        tokio::spawn(worker.run())
    };
    match mode.as_str() {
        "enq1" => {
            let connections = setting("ECONC", 1);
            let begun = Instant::now();
            let mut tasks = Vec::new();
            for _ in 0..connections {
                let mut storage = storage.clone();
                tasks.push(tokio::spawn(async move {
                    for _ in 0..n / connections {
                        storage.push(Noop { t: now() }).await?;
                    }
                    anyhow::Ok(())
                }));
            }
            for task in tasks {
                task.await??;
            }
            println!("{:.0}", n as f64 / begun.elapsed().as_secs_f64());
        }
        "drain" => {
            // As its own push writes them; one by one would take minutes.
            let fill = "insert into apalis.jobs (job, id, job_type)
                        select '{\"t\": 0}', lpad(g::text, 26, '0'), 'bench' from generate_series(1, $1::bigint) g";
            sqlx08::query(fill).bind(n as i64).execute(&pool).await?;
            sqlx08::raw_sql("analyze apalis.jobs").execute(&pool).await?;
            let begun = Instant::now();
            let _worker = work();
            let left = "select exists (select from apalis.jobs where status <> 'Done')";
            while seen.count() < n || sqlx08::query_scalar(left).fetch_one(&pool).await? {
                ensure!(begun.elapsed() < Duration::from_secs(90), "{} of {n} after 90 s", seen.count());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            println!("{:.0}", n as f64 / begun.elapsed().as_secs_f64());
        }
        _ => {
            let _worker = work();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut rhythm = tokio::time::interval(Duration::from_micros(1_000_000 / setting("RATE", 100) as u64));
            for _ in 0..n {
                rhythm.tick().await;
                storage.clone().push(Noop { t: now() }).await?;
            }
            let end = Instant::now() + Duration::from_secs(40);
            while seen.count() < n && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!("{}", seen.latency());
        }
    }
    std::process::exit(0)
}
