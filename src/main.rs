//! The driftless binary: reads the settings, opens the database, and runs what the command line asks for.
//!
//! Wiring only: rules are in `driftless_domain`, HTTP in `driftless_api`, workers in `driftless_jobs`.

mod cli;
mod database;
mod postgres;
mod serve;
mod telemetry;
mod web;

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use driftless_domain::config::Settings;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence with its causes; a backtrace tells an operator nothing.
            eprintln!("driftless: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let settings = Settings::from_env()?;
    telemetry::start(&settings.log)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match command {
        Command::Serve { no_worker } => runtime.block_on(serve::serve(settings, !no_worker)),
        _ => Ok(()),
    }
}

/// What a command answers, on standard output.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}
