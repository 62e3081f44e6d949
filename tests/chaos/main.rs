//! Faults against the shipped binary: workers are killed, stopped and cut off, Postgres is restarted in immediate mode, while
//! runs with fenced side effects go through the queue. Nothing may be lost, nothing may happen twice.
//!
//! The side effect of a run is its audit entry: an append-only table without a unique key, written in the transaction that
//! passes the fence. `cargo xtask chaos --seed N --minutes M` runs it; without a seed, the commit is the seed. The last line is
//! `chaos: jobs N, kills N, restarts N, lost N, doubled N`, and the exit status says whether the last two are 0.

#![allow(missing_docs, clippy::print_stdout)]

mod faults;
#[path = "../../src/postgres/mod.rs"]
#[allow(dead_code)]
mod postgres;
mod workload;

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use rand::{SeedableRng, rngs::StdRng};

use crate::{faults::Faults, postgres::Options, workload::Workload};

/// How long the faults go on when nobody says.
const SLICE: Duration = Duration::from_secs(30);

struct Arguments {
    seed: u64,
    length: Duration,
}

fn arguments() -> Result<Arguments> {
    let given: Vec<String> = env::args().skip(1).collect();
    let value = |name: &str| given.iter().position(|a| a == name).and_then(|i| given.get(i + 1));
    let seed = match value("--seed") {
        Some(text) => text.parse().context("--seed must be a number")?,
        None => commit().context("without --seed, the seed is the commit's hash")?,
    };
    let length = match value("--minutes") {
        Some(text) => Duration::from_secs_f64(text.parse::<f64>().context("--minutes must be a number")? * 60.0),
        None => SLICE,
    };
    Ok(Arguments { seed, length })
}

/// The first 60 bits of the commit's hash.
fn commit() -> Result<u64> {
    let out = Command::new("git").args(["rev-parse", "HEAD"]).output().context("git must be there")?;
    let text = String::from_utf8(out.stdout)?;
    u64::from_str_radix(text.get(..15).context("no commit")?, 16).context("a commit's hash is hexadecimal")
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { seed, length } = arguments()?;
    println!("chaos: seed {seed}, {} s", length.as_secs());
    let folder = tempfile::TempDir::with_prefix("driftless-chaos-")?;
    open_passage(folder.path())?;
    let data_dir = folder.path().join("data");
    let search: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain([postgres::npm_binaries(env!("CARGO_MANIFEST_DIR").as_ref())])
        .collect();
    // Not a throw-away cluster: an immediate stop is a crash, and what was committed must be there afterwards.
    let open = || postgres::open(&Options { data_dir: &data_dir, bin: None, search: &search, throw_away: false });
    let cluster = open()?;
    let mut workload = Workload::prepare(&cluster.url).await?;
    let mut faults = Faults::new(StdRng::seed_from_u64(seed), &data_dir, &cluster.url, length);
    while faults.go_on() {
        workload.keep_busy().await;
        if faults.next().await? == faults::Happened::PostgresStopped {
            // Opening adopts or starts it; the share in the one before stays, so nobody stops it.
            std::mem::forget(open()?);
            faults.restarts += 1;
        }
    }
    faults.heal()?;
    let outcome = workload.settle().await?;
    let (kills, restarts) = (faults.kills, faults.restarts);
    faults.end()?;
    drop(open()?);
    drop(cluster);
    println!(
        "chaos: jobs {}, kills {kills}, restarts {restarts}, lost {}, doubled {}",
        outcome.jobs, outcome.lost, outcome.doubled
    );
    if outcome.lost + outcome.doubled > 0 {
        bail!("work was lost or done twice; `cargo xtask chaos --seed {seed}` repeats the faults");
    }
    Ok(())
}

/// A temporary folder is closed to all others, but for root the cluster runs as another account.
fn open_passage(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).context("cannot open the temporary folder")
}
