//! Building and running: the web app first, because the binary carries it.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    machine::{cargo, install_frontend, npm, path_with_postgres},
    report::{run as run_step, say},
};

/// `cargo xtask build`: the path of the release binary is the last line.
pub fn build(root: &Path) -> Result<()> {
    web_app(root)?;
    let binary = driftless(root, true)?;
    say(&binary.display().to_string());
    Ok(())
}

/// `cargo xtask run`: becomes the server, so that Ctrl-C and its exit code are the server's own.
pub fn run(root: &Path, release: bool, arguments: &[String]) -> Result<()> {
    web_app(root)?;
    let binary = driftless(root, release)?;
    let error = Command::new(&binary)
        .arg("serve")
        .args(arguments)
        .current_dir(root)
        .env("PATH", path_with_postgres(root))
        .exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}

/// Builds `frontend/dist` unless it is newer than everything it is made of.
pub fn web_app(root: &Path) -> Result<()> {
    install_frontend(root)?;
    let frontend = root.join("frontend");
    let built = fs::metadata(frontend.join("dist/index.html")).and_then(|file| file.modified()).ok();
    let sources = ["src", "public", "index.html", "vite.config.ts", "package-lock.json"];
    let newest = sources.iter().filter_map(|name| newest_change(&frontend.join(name))).max();
    if built.is_some() && built > newest {
        return Ok(());
    }
    run_step(npm(root).args(["run", "--silent", "build"]))
}

/// Builds the server; its path, wherever the target folder is.
pub fn driftless(root: &Path, release: bool) -> Result<PathBuf> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    binary_of(cargo(root).args(["build", "--package", "driftless"]).args(profile))
}

/// Builds all tests; the path of the server that they run. A build of the server alone would choose other features of its
/// dependencies, and so compile many of them a second time.
pub fn with_tests(root: &Path) -> Result<PathBuf> {
    binary_of(cargo(root).args(["test", "--workspace", "--no-run"]))
}

fn binary_of(build: &mut Command) -> Result<PathBuf> {
    build.args(["--locked", "--message-format", "json-render-diagnostics"]);
    let output = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("it does not build");
    }
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no executable")
}

fn executable(messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == "driftless" && message["profile"]["test"] == false;
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    paths.next_back()
}

fn newest_change(path: &Path) -> Option<SystemTime> {
    let own = fs::metadata(path).and_then(|file| file.modified()).ok()?;
    let below = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest_change(&entry.path()));
    Some(below.fold(own, SystemTime::max))
}
