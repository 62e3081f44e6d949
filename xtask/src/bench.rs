//! Benchmarks: each is a program `run` in its own folder of bench/, which says itself what it measures and what it needs.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    build::driftless,
    report::{run, say},
};

/// Runs bench/NAME/run with the release binary's path in DRIFTLESS_BIN, or lists the names.
pub fn bench(root: &Path, name: Option<&str>, arguments: &[String]) -> Result<()> {
    let known = names(root);
    let Some(name) = name else {
        say(&known.join("\n"));
        return Ok(());
    };
    if !known.iter().any(|known| known == name) {
        bail!("there is no benchmark {name}; there are: {}", known.join(", "));
    }
    let binary = driftless(root, true)?;
    run(Command::new(root.join("bench").join(name).join("run"))
        .args(arguments)
        .current_dir(root)
        .env("DRIFTLESS_BIN", binary))
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("bench")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("run").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
