//! The shape of files: headers, names, sizes, and marks of unfinished work.

use std::path::Path;

use super::{File, source::Source};

const FILE_LIMIT: usize = 600;
const FUNCTION_LIMIT: usize = 80;
const HANDLER_LIMIT: usize = 40;
/// Names that say nothing of what a module owns.
const EMPTY_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "manager", "service", "services", "model", "models"];
/// Work that was put off belongs into an issue.
const PUT_OFF: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// What holds for every text file.
pub fn complaints(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let words = || line.split(|c: char| !c.is_alphanumeric());
        if let Some(mark) = PUT_OFF.iter().find(|mark| words().any(|word| word == **mark)) {
            // The rule has to name what it forbids.
            if file.path != "xtask/src/tidy/shape.rs"
                && file.path != "CONTRIBUTING.md"
                && !file.path.ends_with("package-lock.json")
            {
                found.push(file.complain(index + 1, format!("{mark}: do it, or file an issue")));
            }
        }
        if file.path.ends_with("package-lock.json") && line.trim_start().starts_with("\"resolved\": \"http") {
            found.push(
                file.complain(index + 1, "the lock file names a download address; .npmrc should have prevented it"),
            );
            break;
        }
    }
    if !file.path.ends_with(".svg") && !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(file.complain(file.text.lines().count(), "the last line has no end"));
    }
    found
}

/// What holds for Rust files.
pub fn rust_complaints(file: &File, source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !file.text.starts_with("//!") {
        found.push(file.complain(1, "starts without `//!`: say what it owns, its invariant, and what it leaves out"));
    }
    found.extend(name_complaints(file));
    if source.line_count > FILE_LIMIT {
        let what = format!("{} lines without inline tests; {FILE_LIMIT} are the limit", source.line_count);
        found.push(file.complain(1, what));
    }
    let limit = if is_handler(file) { HANDLER_LIMIT } else { FUNCTION_LIMIT };
    for (name, line, length) in source.functions() {
        if length > limit {
            found.push(file.complain(line, format!("fn {name} has {length} lines; {limit} are the limit")));
        }
    }
    found
}

/// Handlers parse, make one call into `domain`, and answer.
fn is_handler(file: &File) -> bool {
    file.path.starts_with("api/src/routes/") || file.path.starts_with("jobs/src/handlers")
}

fn name_complaints(file: &File) -> Option<String> {
    let path = Path::new(&file.path);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let mut names = path.parent().into_iter().flat_map(Path::iter).filter_map(|name| name.to_str()).chain([stem]);
    let empty = names.find(|name| EMPTY_NAMES.contains(name))?.to_owned();
    Some(file.complain(1, format!("`{empty}` does not say what the module owns")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        rust_complaints(&file, &Source::new(text))
    }

    #[test]
    fn a_file_needs_a_header_a_name_and_a_bound() {
        assert_eq!(rust("domain/src/runs.rs", "//! Runs.\nfn f() {}\n"), Vec::<String>::new());
        assert_eq!(rust("domain/src/runs.rs", "fn f() {}\n").len(), 1);
        assert_eq!(rust("domain/src/utils.rs", "//! x\n").len(), 1);
        assert_eq!(rust("domain/src/helpers/x.rs", "//! x\n").len(), 1);
        assert_eq!(rust("domain/src/runs.rs", &format!("//! x\n{}", "\n".repeat(600))).len(), 1);
    }

    #[test]
    fn long_functions_and_handlers_are_named() {
        let lines = |n: usize| format!("//! x\nfn long() {{\n{}}}\n", "\n".repeat(n));
        assert_eq!(rust("domain/src/runs.rs", &lines(78)), Vec::<String>::new());
        assert_eq!(
            rust("domain/src/runs.rs", &lines(79)),
            vec!["domain/src/runs.rs:2: fn long has 81 lines; 80 are the limit"]
        );
        assert_eq!(rust("api/src/routes/runs.rs", &lines(39)).len(), 1);
    }

    #[test]
    fn put_off_work_is_found_in_any_file() {
        let file = File { path: "docs/x.md".to_owned(), text: "fine\nTODO: later\n".to_owned() };
        assert_eq!(complaints(&file), vec!["docs/x.md:2: TODO: do it, or file an issue"]);
    }
}
