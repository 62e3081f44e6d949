//! apalis-postgres 1.0: enq1 | enqbatch | drain | lat. The last line of the output is the figure.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use driftless_bench_apalis::{Noop, Seen, now, setting};
use sqlx::postgres::PgPoolOptions;

async fn handle(job: Noop, seen: Data<Seen>) -> Result<(), BoxDynError> {
    seen.note(&job);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let n = setting("N", 20_000);
    let pool: PgPool = PgPoolOptions::new().max_connections(20).connect(&std::env::var("DATABASE_URL")?).await?;
    PostgresStorage::setup(&pool).await?;
    sqlx::raw_sql("truncate apalis.jobs, apalis.workers cascade").execute(&pool).await?;
    let config = Config::default().queue("bench").batch_size(setting("BATCH", 1000));
    let storage = || PostgresStorage::<Noop>::new(&pool).with_config(config.clone());
    let seen = Seen::default();
    let work = || {
        let name = format!("w{}", now());
        let worker = WorkerBuilder::new(name).backend(storage().with_pubsub()).data(seen.clone()).build(handle);
        tokio::spawn(async move { worker.run().await.map_err(|error| eprintln!("{error}")) })
    };
    match mode.as_str() {
        "enq1" => {
            let connections = setting("ECONC", 1);
            let begun = Instant::now();
            let mut tasks = Vec::new();
            for _ in 0..connections {
                let mut storage = storage();
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
        "enqbatch" | "drain" => {
            let begun = Instant::now();
            for _ in 0..n / 1000 {
                storage().push_bulk((0..1000).map(|_| Noop { t: now() }).collect()).await?;
            }
            println!("{:.0}", n as f64 / begun.elapsed().as_secs_f64());
            if mode == "drain" {
                sqlx::raw_sql("analyze apalis.jobs").execute(&pool).await?;
                // run_at has whole seconds.
                tokio::time::sleep(Duration::from_millis(1200)).await;
                let begun = Instant::now();
                let _worker = work();
                let left = "select exists (select from apalis.jobs where status <> 'Done')";
                while seen.count() < n || sqlx::query_scalar(left).fetch_one(&pool).await? {
                    ensure!(begun.elapsed() < Duration::from_secs(90), "{} of {n} after 90 s", seen.count());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                println!("{:.0}", n as f64 / begun.elapsed().as_secs_f64());
            }
        }
        _ => {
            let _worker = work();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut rhythm = tokio::time::interval(Duration::from_micros(1_000_000 / setting("RATE", 100) as u64));
            for _ in 0..n {
                rhythm.tick().await;
                storage().push(Noop { t: now() }).await?;
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
