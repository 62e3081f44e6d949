//! `cargo xtask test`: every check and test there is, cheap ones first. A part that fails does not stop the others, except those
//! that stand on it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use crate::{
    build::{web_app, with_tests},
    generate,
    machine::{cargo, install_frontend, npm, path_with_postgres, postgres_search, prepare_for_tests},
    postgres::{self, Options, PrivatePostgres},
    report::{Report, run},
    tidy,
};

/// A part of the tests that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// rustfmt
    Format,
    /// The rules that no compiler checks
    Tidy,
    /// Types, unit tests and build of the web app
    Frontend,
    /// Warnings are errors
    Clippy,
    /// Unit and integration tests on a throw-away Postgres
    Rust,
    /// Half a minute of faults; the commit is the seed
    Faults,
    /// Generated files are what the code generates
    Drift,
    /// The web app in a real browser against the real server
    Browser,
}

const ALL: [Part; 8] =
    [Part::Format, Part::Tidy, Part::Frontend, Part::Clippy, Part::Rust, Part::Faults, Part::Drift, Part::Browser];

impl Part {
    fn needs_the_server(self) -> bool {
        matches!(self, Part::Rust | Part::Faults | Part::Drift | Part::Browser)
    }
}

/// Runs `parts`, or all of them.
pub fn test(root: &Path, parts: &[Part]) -> Result<()> {
    let chosen = |part: &Part| parts.is_empty() || parts.contains(part);
    let mut report = Report::default();
    if !report.check("what the machine needs", || prepare(root)) {
        return report.close();
    }
    let mut server = None;
    for part in ALL.iter().filter(|part| chosen(part)) {
        if part.needs_the_server() && server.is_none() {
            let built = report.check("build of the server and the tests", || {
                server = Some(with_tests(root)?);
                Ok(())
            });
            if !built {
                return report.close();
            }
        }
        run_part(*part, root, server.as_deref().unwrap_or(Path::new("")), &mut report);
    }
    report.close()
}

fn run_part(part: Part, root: &Path, server: &Path, report: &mut Report) {
    match part {
        Part::Format => {
            report.check("format", || run(cargo(root).args(["fmt", "--all", "--check"])));
        }
        Part::Tidy => {
            report.check("tidy", || tidy::tidy(root));
        }
        Part::Frontend => frontend(root, report),
        Part::Clippy => {
            let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
            report.check("clippy", || run(cargo(root).args(arguments)));
        }
        Part::Rust => rust(root, report),
        Part::Faults => {
            report.check("faults", || chaos(root, &[]));
        }
        Part::Drift => {
            report.check("generated files", || generate::check(root, server));
        }
        Part::Browser => browser(root, server, report),
    }
}

fn prepare(root: &Path) -> Result<()> {
    install_frontend(root)?;
    prepare_for_tests(root)
}

fn frontend(root: &Path, report: &mut Report) {
    report.check("types of the web app", || run(npm(root).args(["run", "--silent", "check"])));
    report.tests("unit tests of the web app", npm(root).args(["run", "--silent", "test"]));
    report.check("build of the web app", || run(npm(root).args(["run", "--silent", "build"])));
}

fn rust(root: &Path, report: &mut Report) {
    let mut cluster = None;
    let started = report.check("a throw-away Postgres", || {
        cluster = Some(throw_away_postgres(root)?);
        Ok(())
    });
    if let Some(cluster) = cluster.filter(|_| started) {
        let mut command = cargo(root);
        command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
        command.env("DRIFTLESS_TEST_DATABASE_URL", &cluster.url).env("PATH", path_with_postgres(root));
        report.tests("unit and integration tests", &mut command);
    }
}

/// One cluster for all tests: each makes its own database from a template. It has a fixed place, so that a run that was
/// broken off leaves no more than one behind, which the next run adopts and stops; below /tmp, because tests run workers as
/// `nobody`, who may not pass through the folders above a clone.
fn throw_away_postgres(root: &Path) -> Result<PrivatePostgres> {
    let clone = fs::metadata(root).context("cannot look at the project's folder")?;
    let data_dir = PathBuf::from(format!("/tmp/driftless-test-{:x}-{:x}", clone.dev(), clone.ino()));
    match fs::symlink_metadata(&data_dir) {
        // Anybody may have made it before us.
        Ok(found) if !found.is_dir() || found.uid() != geteuid().as_raw() => {
            bail!("{} is not a folder of yours: remove it", data_dir.display())
        }
        Ok(_) if !data_dir.join("postgres/data/postmaster.pid").exists() => {
            fs::remove_dir_all(&data_dir).context("cannot remove the last run's Postgres")?;
        }
        _ => {}
    }
    let search = postgres_search(root);
    postgres::open(&Options { data_dir: &data_dir, bin: None, search: &search, throw_away: true })
}

fn browser(root: &Path, server: &Path, report: &mut Report) {
    if !report.check("the web app is built", || web_app(root)) {
        return;
    }
    let mut e2e = npm(root);
    e2e.args(["run", "e2e"]).env("DRIFTLESS_BIN", server).env("PATH", path_with_postgres(root));
    report.tests("browser tests", &mut e2e);
}

/// Faults against the shipped binary; tests/chaos says which, and what it takes.
pub fn chaos(root: &Path, given: &[(&str, Option<String>)]) -> Result<()> {
    let mut command = cargo(root);
    command.args(["test", "--locked", "--quiet", "--package", "driftless", "--test", "chaos", "--"]);
    command.env("PATH", path_with_postgres(root));
    for (name, value) in given {
        if let Some(value) = value {
            command.args([name, value.as_str()]);
        }
    }
    run(&mut command)
}
