//! The law of imports (ARCHITECTURE.md): what each crate must not know. It keeps rules in `domain`, HTTP in `api`, machinery of
//! workers in `jobs`, and `sync` free of anything that the client could not run.

use super::{File, source::Source};

/// Crate folder, and the crates that it must not import or depend on.
const FORBIDDEN_CRATES: [(&str, &[&str]); 8] = [
    ("sync", &["tokio", "sqlx", "poem", "poem_openapi", "apalis", "driftless_domain", "driftless_queue"]),
    ("queue", &["driftless_domain", "driftless_sync", "driftless_api", "driftless_jobs", "poem", "poem_openapi"]),
    ("domain", &["poem", "poem_openapi", "clap", "apalis", "apalis_core", "driftless_api", "driftless_jobs"]),
    ("api", &["sqlx", "apalis", "apalis_core", "driftless_jobs"]),
    ("jobs", &["sqlx", "poem", "poem_openapi", "driftless_api"]),
    ("client", &["sqlx", "poem", "poem_openapi", "apalis", "driftless_domain", "driftless_queue", "driftless_api"]),
    ("src", &["sqlx", "apalis", "apalis_core"]),
    ("xtask", &["sqlx", "driftless_domain", "driftless_api"]),
];
/// The crates that make up the product. xtask and tests are tools beside it.
const PRODUCT: [&str; 7] = ["sync", "queue", "domain", "api", "jobs", "client", "src"];
/// Where files may be touched: the blob store, the folder remote and the engine that works on it, the audit file, the
/// private Postgres, the client's disk.
const MAY_TOUCH_FILES: [&str; 6] = [
    "domain/src/store",
    "domain/src/remotes",
    "domain/src/engine/",
    "domain/src/audit",
    "src/postgres/",
    "client/src/disk",
];
const FILE_ACCESS: [&str; 7] = ["std::fs", "tokio::fs", "fs", "File", "OpenOptions", "cap_std", "rustix::fs"];
const ENVIRONMENT: [&str; 4] = ["env::var", "env::vars", "env::set_var", "env::remove_var"];
const MAY_READ_ENVIRONMENT: &str = "domain/src/config.rs";
/// Time comes from `queue.now()` in SQL, so that all processes agree and tests can move it.
const CLOCKS: [&str; 4] = ["Utc::now", "Local::now", "SystemTime::now", "OffsetDateTime::now_utc"];
/// A file's times are compared with the clock that stamps them, that of the machine whose folder it is; and a tick of a cron
/// is a wake-up, after which the database says what is due.
const MAY_ASK_ITS_MACHINE: [&str; 2] = ["domain/src/remotes/", "jobs/src/crons.rs"];
const SQL_AREAS: [&str; 2] = ["domain", "queue"];
const SQL_BEGINNINGS: [&str; 10] = [
    "select ",
    "insert into ",
    "update ",
    "delete from ",
    "with ",
    "create table ",
    "alter table ",
    "notify ",
    "listen ",
    "truncate ",
];

/// What a Rust file may not import, read or say.
pub fn complaints(file: &File, source: &Source) -> Vec<String> {
    if file.is_test() || file.path == "build.rs" || file.path.ends_with("/build.rs") && file.area() != "xtask" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for name in forbidden(file.area()) {
        let lines = source.uses(name);
        found.extend(
            lines.into_iter().map(|line| file.complain(line, format!("{} must not import {name}", file.area()))),
        );
    }
    if !PRODUCT.contains(&file.area()) {
        return found;
    }
    found.extend(clock_complaints(file, source));
    found.extend(reach_complaints(file, source));
    found.extend(sql_complaints(file, source));
    found
}

/// What a crate may not even depend on. Development dependencies are free.
pub fn manifest_complaints(file: &File) -> Vec<String> {
    let area = if file.path == "Cargo.toml" { "src" } else { file.area() };
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let dependency = line.split(['=', '.', ' ']).next().unwrap_or_default().replace('-', "_");
        if section == "[dependencies]" && forbidden(area).contains(&dependency.as_str()) {
            found.push(file.complain(index + 1, format!("{area} must not depend on {dependency}")));
        }
    }
    found
}

fn forbidden(area: &str) -> &'static [&'static str] {
    FORBIDDEN_CRATES.iter().find(|(name, _)| *name == area).map_or(&[], |(_, crates)| crates)
}

fn clock_complaints(file: &File, source: &Source) -> Vec<String> {
    if MAY_ASK_ITS_MACHINE.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let instant: &[&str] = if file.area() == "sync" { &["Instant::now"] } else { &[] };
    let lines = CLOCKS
        .iter()
        .chain(instant)
        .flat_map(|clock| source.mentions(clock).into_iter().map(move |line| (line, clock)));
    lines.map(|(line, clock)| file.complain(line, format!("{clock}: time comes from queue.now() in SQL"))).collect()
}

fn reach_complaints(file: &File, source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if file.path != MAY_READ_ENVIRONMENT {
        let lines = ENVIRONMENT.iter().flat_map(|call| source.mentions(call));
        found.extend(
            lines.map(|line| file.complain(line, format!("the environment is read in {MAY_READ_ENVIRONMENT} only"))),
        );
    }
    if !MAY_TOUCH_FILES.iter().any(|place| file.path.starts_with(place)) {
        let mut lines: Vec<usize> = FILE_ACCESS.iter().flat_map(|path| source.uses(path)).collect();
        lines.dedup();
        found.extend(lines.into_iter().map(|line| {
            file.complain(
                line,
                "files are touched in the store, the folder remote, the audit file and the private Postgres only",
            )
        }));
    }
    found
}

fn sql_complaints(file: &File, source: &Source) -> Vec<String> {
    if SQL_AREAS.contains(&file.area()) {
        return Vec::new();
    }
    let is_sql = |literal: &str| {
        let text = literal.trim_start_matches(|c: char| !c.is_alphabetic()).to_lowercase();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let statement = SQL_BEGINNINGS.iter().any(|beginning| text.starts_with(beginning));
        statement
            && [" from ", " into ", " set ", " as (", "table ", "listen ", "notify "]
                .iter()
                .any(|word| text.contains(word))
    };
    let literals = source.strings.iter().filter(|(_, literal)| is_sql(literal));
    literals.map(|(line, _)| file.complain(*line, "SQL is written in domain/ and queue/ only")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        complaints(&file, &Source::new(text))
    }

    #[test]
    fn each_law_catches_its_breach_and_names_the_line() {
        let cases = [
            ("sync/src/plan.rs", "fn f() {\n tokio::spawn(g); }", 2),
            ("sync/src/plan.rs", "use std::fs;", 1),
            ("sync/src/plan.rs", "let t = Instant::now();", 1),
            ("queue/src/lib.rs", "use driftless_domain::Domain;", 1),
            ("domain/src/runs.rs", "use poem::Route;", 1),
            ("domain/src/runs.rs", "let now = Utc::now();", 1),
            ("domain/src/runs.rs", "let v = std::env::var(\"X\");", 1),
            ("domain/src/runs.rs", "let f = File::open(p);", 1),
            ("api/src/lib.rs", "let q = \"select id from users\";", 1),
            ("jobs/src/lib.rs", "use sqlx::PgPool;", 1),
        ];
        for (path, text, line) in cases {
            let found = complaints_of(path, text);
            assert!(
                found.iter().any(|complaint| complaint.starts_with(&format!("{path}:{line}:"))),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        let cases = [
            ("domain/src/config.rs", "let v = std::env::var(\"X\");"),
            ("domain/src/store.rs", "use std::fs;\nlet f = File::open(p);"),
            ("domain/src/runs.rs", "let q = \"select id from runs\";"),
            ("api/src/lib.rs", "let t = \"Select a device with a name\"; let i = Instant::now();"),
            ("tests/it/runs.rs", "let now = Utc::now(); let q = \"select 1 from runs\";"),
            ("api/src/lib.rs", "let d = env!(\"CARGO_PKG_VERSION\");"),
        ];
        for (path, text) in cases {
            assert_eq!(complaints_of(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn a_forbidden_dependency_is_found_in_the_manifest() {
        let text = "[dependencies]\ntokio = \"1\"\n\n[dev-dependencies]\nsqlx.workspace = true\n".to_owned();
        let found = manifest_complaints(&File { path: "sync/Cargo.toml".to_owned(), text });
        assert_eq!(found, vec!["sync/Cargo.toml:2: sync must not depend on tokio"]);
    }
}
