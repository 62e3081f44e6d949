//! `cargo xtask test`: every check and test there is, cheap ones first. A part that fails does not stop the others, except those
//! that stand on it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    build::{driftless, web_app},
    generate,
    machine::{cargo, install_frontend, npm, path_with_postgres, postgres_search, prepare_for_tests},
    postgres::{self, Options},
    report::{Report, run, say},
    tidy,
};

/// A part of the tests that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// rustfmt
    Format,
    /// The rules that no compiler checks
    Tidy,
    /// Warnings are errors
    Clippy,
    /// Unit and integration tests on a throw-away Postgres
    Rust,
    /// Generated files are what the code generates
    Drift,
    /// Types, unit tests and build of the web app
    Frontend,
    /// The web app in a real browser against the real server
    Browser,
}

const ALL: [Part; 7] = [Part::Format, Part::Tidy, Part::Clippy, Part::Rust, Part::Drift, Part::Frontend, Part::Browser];

/// Runs `parts`, or all of them.
pub fn test(root: &Path, parts: &[Part]) -> Result<()> {
    let chosen = |part: &Part| parts.is_empty() || parts.contains(part);
    let mut report = Report::default();
    if !report.check("what the machine needs", || prepare(root)) {
        return report.close();
    }
    for part in ALL.iter().filter(|part| chosen(part)) {
        match part {
            Part::Format => {
                report.check("format", || run(cargo(root).args(["fmt", "--all", "--check"])));
            }
            Part::Tidy => {
                report.check("tidy", || tidy::tidy(root));
            }
            Part::Clippy => {
                let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
                report.check("clippy", || run(cargo(root).args(arguments)));
            }
            Part::Rust => rust(root, &mut report),
            Part::Drift => {
                report.check("generated files", || generate::check(root));
            }
            Part::Frontend => frontend(root, &mut report),
            Part::Browser => browser(root, &mut report),
        }
    }
    report.close()
}

fn prepare(root: &Path) -> Result<()> {
    install_frontend(root)?;
    prepare_for_tests(root)
}

fn rust(root: &Path, report: &mut Report) {
    if !report.check("build of the tests", || run(cargo(root).args(["test", "--locked", "--workspace", "--no-run"]))) {
        return;
    }
    // One cluster for all tests: each makes its own database from a template.
    let folder = match tempfile::Builder::new().prefix("driftless-test-").tempdir() {
        Ok(folder) => folder,
        Err(error) => return say(&format!("cannot make a folder for the test database: {error}")),
    };
    let data_dir = folder.path().join("data");
    let mut cluster = None;
    let started = report.check("a throw-away Postgres", || {
        open_passage(folder.path())?;
        let search = postgres_search(root);
        cluster = Some(postgres::open(&Options { data_dir: &data_dir, bin: None, search: &search, throw_away: true })?);
        Ok(())
    });
    if let Some(cluster) = cluster.filter(|_| started) {
        let mut command = cargo(root);
        command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
        command.env("DRIFTLESS_TEST_DATABASE_URL", &cluster.url).env("PATH", path_with_postgres(root));
        report.tests("unit and integration tests", &mut command);
    }
}

/// A temporary folder is closed to all others, but for root the cluster runs as another account.
fn open_passage(folder: &Path) -> Result<()> {
    use std::{fs, os::unix::fs::PermissionsExt};
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).context("cannot open the temporary folder")
}

fn frontend(root: &Path, report: &mut Report) {
    report.check("types of the web app", || run(npm(root).args(["run", "--silent", "check"])));
    report.tests("unit tests of the web app", npm(root).args(["run", "--silent", "test"]));
    report.check("build of the web app", || run(npm(root).args(["run", "--silent", "build"])));
}

fn browser(root: &Path, report: &mut Report) {
    let mut binary = None;
    let built = report.check("build of the server", || {
        web_app(root)?;
        binary = Some(driftless(root, false)?);
        Ok(())
    });
    if let Some(binary) = binary.filter(|_| built) {
        let mut e2e = npm(root);
        e2e.args(["run", "e2e"]).env("DRIFTLESS_BIN", binary).env("PATH", path_with_postgres(root));
        report.tests("browser tests", &mut e2e);
    }
}
