//! Faults against the shipped binary and against the queue below bad handlers: nothing may be lost, nothing may happen twice.
//!
//! `cargo xtask chaos --seed N --minutes M`; without a seed, the commit is the seed. The last line is `chaos: jobs N, kills N,
//! restarts N, lost N, doubled N`, and the exit status says whether the last two are 0. A fault that can't be had on this machine is
//! named. `--kills N` and `--outage SECONDS` are trials of one fault each (kills.rs, outage.rs).
//!
//! Side effects are counted in append-only tables without a unique key: audit entries of runs, and rows of the rascals' jobs.

#![allow(missing_docs, clippy::print_stdout)]

mod faults;
mod kills;
mod outage;
#[path = "../../src/postgres/mod.rs"]
#[allow(dead_code)]
mod postgres;
mod rascal;
mod server;
mod workers;
mod workload;

use std::{env, process::Command, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use rand::{SeedableRng, rngs::StdRng};

use crate::{faults::Faults, server::Server, workload::Workload};

/// How many minutes the faults go on when nobody says.
const SLICE: f64 = 0.4;

#[tokio::main]
async fn main() -> Result<()> {
    let given: Vec<String> = env::args().skip(1).collect();
    if let [rascal, url, lines] = given.as_slice()
        && rascal == "rascal"
    {
        return rascal::work(url, lines.into()).await;
    }
    let seed = match value(&given, "--seed")? {
        Some(seed) => seed,
        None => commit().context("without --seed, the seed is the commit's hash")?,
    };
    if let Some(kills) = value(&given, "--kills")? {
        kills::run(kills).await
    } else if let Some(seconds) = value(&given, "--outage")? {
        outage::run(seed, Duration::from_secs(seconds)).await
    } else {
        let minutes: f64 = value(&given, "--minutes")?.unwrap_or(SLICE);
        chaos(seed, Duration::from_secs_f64(minutes * 60.0)).await
    }
}

fn value<T: FromStr>(given: &[String], name: &str) -> Result<Option<T>> {
    let Some(at) = given.iter().position(|a| a == name) else { return Ok(None) };
    let text = given.get(at + 1).map_or("", String::as_str);
    text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name} must be a number"))
}

/// The first 60 bits of the commit's hash.
fn commit() -> Result<u64> {
    let out = Command::new("git").args(["rev-parse", "HEAD"]).output().context("git must be there")?;
    let text = String::from_utf8(out.stdout)?;
    u64::from_str_radix(text.get(..15).context("no commit")?, 16).context("a commit's hash is hexadecimal")
}

async fn chaos(seed: u64, length: Duration) -> Result<()> {
    println!("chaos: seed {seed}, {} s", length.as_secs());
    let mut server = Server::start()?;
    if let Some(reason) = server.disk_refused() {
        println!("chaos: the disk can't be filled here: {reason}");
    }
    let mut workload = Workload::prepare(&server.url, seed, false).await?;
    let mut faults = Faults::new(StdRng::seed_from_u64(seed), &server, length);
    while faults.go_on() {
        workload.keep_busy().await;
        faults.strike(&mut server).await?;
    }
    faults.heal()?;
    let outcome = workload.settle().await?;
    faults.workers.end().await?;
    let struck = faults.struck;
    println!(
        "chaos: seed {seed}: {} workers stopped past their lease, {} late writes refused to rascals, {} storms of cut connections, \
         listeners cut {} times, disk filled {} times",
        struck.freezes, outcome.refused, struck.storms, struck.deafened, struck.full_disks
    );
    println!(
        "chaos: jobs {}, kills {}, restarts {}, lost {}, doubled {}",
        outcome.jobs, struck.kills, struck.restarts, outcome.lost, outcome.doubled
    );
    if outcome.lost + outcome.doubled > 0 {
        bail!("work was lost or done twice; `cargo xtask chaos --seed {seed}` repeats the faults");
    }
    Ok(())
}
