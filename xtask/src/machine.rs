//! What the machine must have beside Rust and Node. Root on a Debian gets what is missing; anybody else is told what to install.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use rustix::process::geteuid;

use crate::report::{run, say};

/// Between the tries of what fetches from the network, which may fail for a moment, or of what waits for another installation.
const PAUSES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// A program that the tests use.
struct Need {
    name: &'static str,
    why: &'static str,
    /// Debian's package of it.
    package: &'static str,
    is_here: fn(&Path) -> bool,
}

const FOR_TESTS: [Need; 3] = [
    Need {
        name: "Chromium",
        why: "the browser tests run in it",
        package: "chromium",
        is_here: |_| on_path("chromium").is_some(),
    },
    Need {
        name: "Python 3.9 or later with pip",
        why: "schedules are compared with its calendar",
        package: "python3 python3-pip",
        is_here: |_| succeeds(Command::new("python3").args(["-c", "import pip, zoneinfo"])),
    },
    Need {
        name: "PostgreSQL 15 or later",
        why: "nothing is tested on a stand-in for the database",
        package: "postgresql",
        // Root's servers run as another account, which may not reach what npm brought into a closed home folder.
        is_here: |root| {
            has_installed_postgres()
                || (!geteuid().is_root() && crate::postgres::npm_binaries(root).join("postgres").is_file())
        },
    },
];

/// Sees to it that everything that the tests need is here.
pub fn prepare_for_tests(root: &Path) -> Result<()> {
    let missing: Vec<&Need> = FOR_TESTS.iter().filter(|need| !(need.is_here)(root)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.package.split(' ')).collect();
    if geteuid().is_root() && on_path("apt-get").is_some() {
        say(&format!("installing {}", packages.join(" ")));
        return again_after(&PAUSES, || install(&packages));
    }
    let list: Vec<String> = missing.iter().map(|need| format!("{} ({})", need.name, need.why)).collect();
    bail!("missing: {}. On Debian: sudo apt install {}", list.join(", "), packages.join(" "))
}

/// Another installation may be under way, the network may fail for a moment, and nobody is there to answer a question.
const APT: &str = "-qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold";

fn install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(APT.split(' ')).args(arguments);
        run(apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()))
    };
    // One source of many that does not answer need not matter; the installation tells.
    if let Err(error) = apt(&["update"]) {
        say(&format!("{error:#}"));
    }
    apt(&[&["install", "-y", "--no-install-recommends"], packages].concat())
}

/// Does a step until it succeeds, after each of these pauses once more.
fn again_after(pauses: &[Duration], mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for pause in pauses {
        match step() {
            Ok(()) => return Ok(()),
            Err(error) => say(&format!("{error:#}; once more in {} s", pause.as_secs())),
        }
        thread::sleep(*pause);
    }
    step()
}

/// Installs the packages of `frontend/` exactly as its lock file says, if that has not been done.
pub fn install_frontend(root: &Path) -> Result<()> {
    ensure!(
        on_path("npm").is_some(),
        "missing: Node.js 20 or later with npm (the web app is built with it). See nodejs.org, or on Debian: sudo apt install nodejs npm"
    );
    let frontend = root.join("frontend");
    let lock = fs::read(frontend.join("package-lock.json")).context("cannot read frontend/package-lock.json")?;
    let installed = frontend.join("node_modules/.installed-lock.json");
    if fs::read(&installed).is_ok_and(|done| done == lock) {
        return Ok(());
    }
    again_after(&PAUSES, || run(npm(root).args(["ci", "--no-audit", "--no-fund"]).stdin(Stdio::null())))?;
    fs::write(&installed, lock).context("cannot note what was installed")
}

/// npm in `frontend/`.
pub fn npm(root: &Path) -> Command {
    let mut npm = Command::new("npm");
    // In production npm would leave out what builds and tests.
    npm.current_dir(root.join("frontend")).env_remove("NODE_ENV");
    npm
}

/// cargo in the project, the one that runs us.
pub fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// Where the server binaries of Postgres may be beside installed ones: PATH, and what npm brought.
pub fn postgres_search(root: &Path) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain([crate::postgres::npm_binaries(root)]).collect()
}

/// PATH with the Postgres that npm brought at its end, for a binary that runs from a target folder elsewhere.
pub fn path_with_postgres(root: &Path) -> OsString {
    // Only a folder with a colon in its name can't be added.
    env::join_paths(postgres_search(root)).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// A server, not only the client's programs.
fn has_installed_postgres() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.into_iter().any(|version| version.path().join("bin/initdb").is_file()) || on_path("initdb").is_some()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_for_a_moment_is_done_once_more_and_one_that_fails_for_good_is_not_hidden() {
        for (failures, tries, good) in [(0, 1, true), (2, 3, true), (9, 3, false)] {
            let mut tried = 0;
            let outcome = again_after(&[Duration::ZERO; 2], || {
                tried += 1;
                ensure!(tried > failures, "not yet");
                Ok(())
            });
            assert_eq!((tried, outcome.is_ok()), (tries, good), "{failures} failures");
        }
    }
}
