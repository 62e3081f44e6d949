//! `cargo xtask <verb>`: everything that a developer or CI does, in one place and in the order it has to happen.
//!
//! `.ci/run` calls `cargo xtask test` and nothing else, so what is green here is green there.

mod bench;
mod build;
mod generate;
mod machine;
#[path = "../../src/postgres/mod.rs"]
mod postgres;
mod report;
mod test;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer verbs of Driftless")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the web app and the server, and run it.
    Run {
        /// Optimised, with the web app inside; takes minutes to build.
        #[arg(long)]
        release: bool,
        /// Arguments for `driftless serve`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the binary to ship, with the web app inside. Its path is the last line.
    Build,
    /// Run every check and test. Without parts, all of them.
    Test {
        /// Only these parts, in their usual order.
        #[arg(value_enum)]
        parts: Vec<test::Part>,
    },
    /// Kill workers and Postgres under load and count what is lost or done twice; the last line says it.
    Chaos {
        /// Repeats the faults of a run; the commit's hash by default.
        #[arg(long)]
        seed: Option<u64>,
        /// How long the faults go on.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Instead: kill this many workers in the middle of their jobs and see them run again within 10 s.
        #[arg(long)]
        kills: Option<u32>,
        /// Instead: Postgres is away for so many seconds under load.
        #[arg(long)]
        outage: Option<u64>,
    },
    /// Write openapi/openapi.json and the TypeScript client anew.
    Gen,
    /// Check the rules of CONTRIBUTING.md that no compiler checks.
    Tidy,
    /// Run a benchmark of bench/ beside its peers.
    Bench {
        /// Its name; none lists them.
        name: Option<String>,
        /// Arguments for it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb, project_root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb, root: &Path) -> Result<()> {
    match verb {
        Verb::Run { release, arguments } => build::run(root, release, &arguments),
        Verb::Build => build::build(root),
        Verb::Test { parts } => test::test(root, &parts),
        Verb::Chaos { seed, minutes, kills, outage } => {
            let given = [
                ("--seed", seed.map(|n| n.to_string())),
                ("--minutes", Some(minutes.to_string())),
                ("--kills", kills.map(|n| n.to_string())),
                ("--outage", outage.map(|n| n.to_string())),
            ];
            test::chaos(root, &given)
        }
        Verb::Gen => generate::write(root),
        Verb::Tidy => tidy::tidy(root),
        Verb::Bench { name, arguments } => bench::bench(root, name.as_deref(), &arguments),
    }
}

fn project_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the project")
}

/// A path of the project for a message: without the part that is the same for all.
fn shown(path: &Path) -> PathBuf {
    path.strip_prefix(project_root()).unwrap_or(path).to_path_buf()
}
