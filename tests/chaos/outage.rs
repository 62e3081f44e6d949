//! Postgres is away for a while under load. No job may run twice because of it, no worker may die, and work goes on within 2 s
//! of its return.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    rascal,
    server::Server,
    workers::{Breed, Workers},
    workload::Workload,
};

/// Load before and after the outage.
const LOAD: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(2);

pub async fn run(seed: u64, away: Duration) -> Result<()> {
    let mut server = Server::start()?;
    let mut workload = Workload::prepare(&server.url, seed, true).await?;
    let mut workers = Workers::new(&server.data_dir, &server.url);
    for breed in [Breed::Shipped, Breed::Rascal, Breed::Shipped, Breed::Rascal] {
        workers.add(breed);
    }
    load(&mut workload).await;
    // A quick machine has worked off what there was; who has nothing to do does not go on.
    workload.add().await?;
    server.crash().await?;
    tokio::time::sleep(away).await;
    let lines = || length(workers.lines());
    let before = lines();
    server.open()?;
    let back = Instant::now();
    while lines() == before && back.elapsed() < LOAD {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rascals = back.elapsed();
    // Every worker of the shipped binary fires, plans and audits again.
    let audited = "select count(*) from audit";
    let then: i64 = sqlx::query_scalar(audited).fetch_one(&workload.pool).await?;
    while sqlx::query_scalar::<_, i64>(audited).fetch_one(&workload.pool).await? == then && back.elapsed() < LOAD {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let shipped = back.elapsed();
    load(&mut workload).await;
    let outcome = workload.settle().await?;
    workers.all_must_live()?;
    let (plain, twice) = rascal::read_lines(workers.lines())?;
    workers.end().await?;
    println!(
        "outage: {} s, jobs {}, back at work after {:.2} s (rascals) and {:.2} s (shipped binary), ran twice {twice} of {plain} counted, \
         lost {}, doubled {}, workers died 0",
        away.as_secs(),
        outcome.jobs + plain,
        rascals.as_secs_f64(),
        shipped.as_secs_f64(),
        outcome.lost,
        outcome.doubled
    );
    ensure!(outcome.lost + outcome.doubled + twice == 0, "work was lost or done twice");
    ensure!(rascals.max(shipped) < BACK_WITHIN, "work did not go on within {BACK_WITHIN:?}");
    Ok(())
}

async fn load(workload: &mut Workload) {
    let end = Instant::now() + LOAD;
    while Instant::now() < end {
        workload.keep_busy().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |file| file.len())
}
