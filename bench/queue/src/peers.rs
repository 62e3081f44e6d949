//! Peers: scripts on packages from npm, and programs on two generations of apalis. Each prints its figure as the last line of its output.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::server::Server;

/// The versions, for the report.
pub fn versions() -> String {
    let lock = std::fs::read_to_string(folder().join("package.json")).unwrap_or_default();
    let parsed: serde_json::Value = serde_json::from_str(&lock).unwrap_or_default();
    let of = |name: &str| format!("{name} {}", parsed["dependencies"][name].as_str().unwrap_or("?"));
    format!(
        "{}, {}, node-postgres {}, apalis-postgres 1.0.0, apalis 0.7.4 with apalis-sql 0.7.3",
        of("graphile-worker"),
        of("pg-boss"),
        of("pg")
    )
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))
}

/// Installs and builds them once.
pub async fn install() -> Result<()> {
    let built = Command::new("cargo")
        .args(["build", "--release", "--locked", "--quiet"])
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(folder().join("apalis"))
        .status()
        .await?;
    ensure!(built.success(), "the apalis peers do not build");
    if folder().join("node_modules").exists() {
        return Ok(());
    }
    let done = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder()).status().await?;
    ensure!(done.success(), "npm ci in {} failed", folder().display());
    Ok(())
}

/// Runs one of the apalis generations in a database of its own: both call their schema `apalis`.
pub async fn run_apalis(
    server: &Server,
    program: &'static str,
    mode: &str,
    settings: &[(&str, usize)],
) -> Result<Vec<f64>> {
    let mut command = Command::new(folder().join("apalis/target/release").join(program));
    command.arg(mode).env("DATABASE_URL", server.database(program).await?);
    conclude(command, program, mode, settings).await
}

/// Runs `SCRIPT MODE` with these settings and returns the numbers of its last line.
pub async fn run(server: &Server, script: &str, mode: &str, settings: &[(&str, usize)]) -> Result<Vec<f64>> {
    let mut command = Command::new("node");
    command.arg(folder().join(script)).arg(mode).env("DATABASE_URL", node_url(&server.url));
    conclude(command, script, mode, settings).await
}

async fn conclude(mut command: Command, script: &str, mode: &str, settings: &[(&str, usize)]) -> Result<Vec<f64>> {
    command.stderr(Stdio::inherit());
    for (name, value) in settings {
        command.env(name, value.to_string());
    }
    let output = command.output().await.with_context(|| format!("cannot run {script}"))?;
    ensure!(output.status.success(), "{script} {mode} failed");
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().unwrap_or_default();
    let numbers = last.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    numbers.with_context(|| format!("{script} {mode} said {text:?}"))
}

/// node-postgres takes the socket's folder as a query parameter.
fn node_url(url: &str) -> String {
    let Some((user, rest)) = url.strip_prefix("postgres://").and_then(|rest| rest.split_once('@')) else {
        return url.to_owned();
    };
    let Some((host, database)) = rest.split_once('/') else { return url.to_owned() };
    if host.contains("%2F") || host.contains("%2f") {
        format!("postgres://{user}@localhost/{database}?host={host}")
    } else {
        url.to_owned()
    }
}
