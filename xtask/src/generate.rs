//! What is generated and kept in git, so that reviews see it: the OpenAPI document comes from the server itself, the TypeScript
//! client from the document.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    build::driftless,
    machine::{install_frontend, npm},
    report::run,
    shown,
};

const CLIENT: &str = "frontend/src/api/generated";

/// `cargo xtask gen`.
pub fn write(root: &Path) -> Result<()> {
    write_with(root, &driftless(root, false)?)
}

fn write_with(root: &Path, binary: &Path) -> Result<()> {
    write_document(root, binary)?;
    install_frontend(root)?;
    run(npm(root).args(["run", "--silent", "gen"]))
}

/// Generates anew with the server at `binary` and complains if that changed anything. The new files stay, to be reviewed and committed.
pub fn check(root: &Path, binary: &Path) -> Result<()> {
    let before = generated(root)?;
    write_with(root, binary)?;
    let after = generated(root)?;
    let mut differing: Vec<&PathBuf> =
        before.iter().filter(|(path, text)| after.get(*path) != Some(text)).map(|(path, _)| path).collect();
    differing.extend(after.keys().filter(|path| !before.contains_key(*path)));
    if differing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = differing.iter().map(|path| shown(path).display().to_string()).collect();
    bail!(
        "these were not what the server's code generates; they are now, so review and commit them:\n{}",
        list.join("\n")
    )
}

fn document(root: &Path) -> PathBuf {
    root.join("openapi/openapi.json")
}

fn write_document(root: &Path, binary: &Path) -> Result<()> {
    let output = Command::new(binary)
        .arg("openapi")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run driftless openapi")?;
    ensure!(output.status.success(), "driftless openapi ended with {}", output.status);
    let path = document(root);
    // Left alone when nothing changed: its time decides whether the web app is built anew.
    if fs::read(&path).is_ok_and(|old| old == output.stdout) {
        return Ok(());
    }
    fs::create_dir_all(root.join("openapi"))
        .and_then(|()| fs::write(&path, output.stdout))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn generated(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.join(CLIENT)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
            }
        }
    }
    if let Ok(text) = fs::read(document(root)) {
        files.insert(document(root), text);
    }
    Ok(files)
}
