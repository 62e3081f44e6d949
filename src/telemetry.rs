//! Logs: lines on standard error, chosen by DRIFTLESS_LOG. Standard output is for what a command answers.

use std::io::{IsTerminal, stderr};

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

/// What libraries say of their own work is for those who ask for it by name. Failed jobs are told by the queue, with the reason,
/// so apalis's own line about each is left out.
const QUIET: &str = "sqlx=warn,poem=warn,hyper=warn,apalis=warn,apalis::layers=off";

/// Starts logging. `filter` is DRIFTLESS_LOG, like `info` or `driftless_api=debug,sqlx=warn`.
pub fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| anyhow!("DRIFTLESS_LOG: must be like `info` or `driftless_api=debug,sqlx=warn` ({error})"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow!("cannot start logging: {error}"))
}
