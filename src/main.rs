//! The driftless binary: reads the settings, opens the database, and runs what the command line asks for.
//!
//! Wiring only: rules are in `driftless_domain`, HTTP in `driftless_api`, workers in `driftless_jobs`.

mod cli;
mod database;
mod limits;
mod postgres;
mod serve;
mod telemetry;
mod user;
mod web;
mod work;

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use driftless_domain::{audit, config::Settings};

use crate::{
    cli::{Audit, Cli, Command},
    database::Database,
};

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
    if matches!(command, Command::Openapi) {
        return print(&driftless_api::openapi());
    }
    limits::set();
    let settings = Settings::from_env()?;
    telemetry::start(&settings.log)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match command {
        Command::Serve { no_worker } => runtime.block_on(serve::serve(settings, !no_worker)),
        Command::Work { until_idle } => runtime.block_on(work::work(settings, until_idle)),
        Command::Migrate => runtime.block_on(migrate(settings)),
        Command::Verify { read } => runtime.block_on(verify(settings, read)),
        Command::User(command) => runtime.block_on(user::run(settings, command)),
        Command::Audit(Audit::Verify) => runtime.block_on(verify_audit(settings)),
        Command::Openapi => Ok(()),
    }
}

async fn migrate(settings: Settings) -> Result<()> {
    let database = Database::open(&settings).await?;
    let domain = database.domain(settings, 2).await;
    database.close().await;
    domain?;
    say("the database is up to date")
}

async fn verify_audit(settings: Settings) -> Result<()> {
    let database = Database::open(&settings).await?;
    let outcome = match database.domain(settings, 2).await {
        Ok(domain) => audit::verify(&domain).await.context("the audit does not hold"),
        Err(error) => Err(error),
    };
    database.close().await;
    let whole = outcome?;
    let until = whole.until.map_or_else(String::new, |at| format!(", up to {}", at.to_rfc3339()));
    say(&format!("the audit holds: {} entries and {} lines{until}", whole.entries, whole.lines))
}

async fn verify(settings: Settings, read: bool) -> Result<()> {
    let database = Database::open(&settings).await?;
    let looked = async {
        let domain = database.domain(settings, 2).await?;
        Ok::<_, anyhow::Error>(driftless_domain::verify::verify(&domain, read).await?)
    };
    let looked = looked.await;
    database.close().await;
    let found = looked?;
    for problem in &found.problems {
        say(problem)?;
    }
    for object in &found.unknown {
        say(&format!("object {object}: no pack names it; it is left alone"))?;
    }
    say(&format!("{} users, {} packs, {} chunks: {} problems", found.users, found.packs, found.chunks, found.broken))?;
    anyhow::ensure!(found.broken == 0, "the store is damaged");
    Ok(())
}

/// What a command answers, on standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn say(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}
