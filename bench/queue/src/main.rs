//! Side-by-side benchmarks of the queue: `cargo xtask bench queue-drain` and its siblings.
//!
//! One throw-away cluster of the installed Postgres, rounds in turn, medians. Ours is the crate as shipped: leases, fence, statistics,
//! apalis's workers and layers. Peers run with the best settings found for each; one that does not run makes the bench fail.

#![allow(clippy::print_stdout)]

mod child;
mod churn;
mod crash;
mod drain;
mod enqueue;
mod idle;
mod latency;
mod peers;
mod pickup;
#[path = "../../../src/postgres/mod.rs"]
mod postgres;
mod report;
mod server;
#[allow(clippy::unwrap_used)]
#[path = "../../../tests/it/support/wire.rs"]
mod wire;

use std::{error::Error, str::FromStr};

use anyhow::{Result, bail};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, options) = arguments.split_first().map_or(("", [].as_slice()), |(n, o)| (n.as_str(), o));
    let rounds = option(options, "--rounds")?;
    let jobs = option(options, "--jobs")?;
    match name {
        "queue-drain" => drain::bench(rounds.unwrap_or(5), jobs.unwrap_or(100_000)).await,
        "queue-enqueue" => enqueue::bench(rounds.unwrap_or(5), jobs.unwrap_or(4000)).await,
        "queue-latency" => latency::bench(rounds.unwrap_or(3), jobs.unwrap_or(1000)).await,
        "queue-crash" => crash::bench(rounds.unwrap_or(3)).await,
        "queue-idle" => idle::bench(rounds.unwrap_or(3)).await,
        "queue-pickup" => pickup::bench(rounds.unwrap_or(5)).await,
        "queue-churn" => churn::bench(option(options, "--minutes")?.unwrap_or(10)).await,
        "alone" => drain::alone(rounds.unwrap_or(5), jobs.unwrap_or(100_000)).await,
        "worker" => child::run(options.first().map_or("", String::as_str)).await,
        _ => bail!(
            "one of queue-drain, queue-enqueue, queue-latency, queue-crash, queue-idle, queue-pickup, queue-churn (--rounds N --jobs N), \
             or alone (drains ours and bare SQL, for profilers)"
        ),
    }
}

fn option<T: FromStr<Err: Error + Send + Sync + 'static>>(options: &[String], name: &str) -> Result<Option<T>> {
    let Some(at) = options.iter().position(|o| o == name) else { return Ok(None) };
    let Some(value) = options.get(at + 1) else { bail!("{name} needs a number") };
    Ok(Some(value.parse()?))
}
