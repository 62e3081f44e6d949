//! `cargo xtask tidy`: the rules of CONTRIBUTING.md that no compiler checks. Each complaint names file, line and rule.

mod law;
mod shape;
mod source;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use self::source::Source;

/// A file of the project with its path from the root.
struct File {
    path: String,
    text: String,
}

impl File {
    /// Its top folder: the crate, for Rust files.
    fn area(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Tests may look behind the curtain.
    fn is_test(&self) -> bool {
        self.area() == "tests" || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    fn complain(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Checks every file that git knows or would add.
pub fn tidy(root: &Path) -> Result<()> {
    let files = project_files(root)?;
    let mut complaints = Vec::new();
    for file in &files {
        complaints.extend(shape::complaints(file));
        if file.is_rust() {
            let source = Source::new(&file.text);
            complaints.extend(shape::rust_complaints(file, &source));
            complaints.extend(law::complaints(file, &source));
        } else if file.path.ends_with("Cargo.toml") {
            complaints.extend(law::manifest_complaints(file));
        }
    }
    if !complaints.is_empty() {
        bail!(
            "{}\n{} complaints; the rules and their reasons are in CONTRIBUTING.md",
            complaints.join("\n"),
            complaints.len()
        );
    }
    Ok(())
}

/// Text files only; generated ones answer to their generator.
fn project_files(root: &Path) -> Result<Vec<File>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files = Vec::new();
    for path in names.split('\0').filter(|path| !path.is_empty() && !path.contains("/generated/")) {
        let full: PathBuf = root.join(path);
        // Listed, but deleted in the work tree; or not text.
        if let Ok(text) = fs::read_to_string(&full) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}
