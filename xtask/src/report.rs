//! Running the steps of a verb: each is announced, timed and counted, and a step that fails does not hide the next one's result.
//!
//! Test runners keep their own output; their closing lines are read for the sum.

use std::{
    io::{BufRead, BufReader, Write, stdout},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// What all steps so far came to.
#[derive(Debug, Default)]
pub struct Report {
    tally: Tally,
    failures: Vec<String>,
}

/// Tests or checks, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    failed: u64,
}

impl Report {
    /// A step that is one check: it holds or it doesn't.
    pub fn check(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        let begun = announce(name);
        let outcome = step();
        match &outcome {
            Ok(()) => self.tally.passed += 1,
            Err(error) => {
                say(&format!("{error:#}"));
                self.tally.failed += 1;
                self.failures.push(name.to_owned());
            }
        }
        conclude(name, outcome.is_ok(), begun);
        outcome.is_ok()
    }

    /// A test runner. It counts as one failure if it fails without having counted one itself, or runs no test at all.
    pub fn tests(&mut self, name: &str, command: &mut Command) -> bool {
        let begun = announce(name);
        let (tally, good) = match run_counting(command) {
            Ok((tally, success)) => (tally, success && tally.failed == 0 && tally.passed > 0),
            Err(error) => {
                say(&format!("{error:#}"));
                (Tally::default(), false)
            }
        };
        self.tally.passed += tally.passed;
        self.tally.failed += if good { 0 } else { tally.failed.max(1) };
        if !good {
            self.failures.push(name.to_owned());
        }
        conclude(name, good, begun);
        good
    }

    /// The sum as the last line; an error if anything failed.
    pub fn close(self) -> Result<()> {
        for name in &self.failures {
            say(&format!("failed: {name}"));
        }
        say(&format!("{} passed, {} failed", self.tally.passed, self.tally.failed));
        if self.tally.failed > 0 {
            std::process::exit(1); // an error's own text would come after the sum
        }
        Ok(())
    }
}

/// Runs a command to its end with our output; an error says which one failed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command_line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", command_line(command));
    }
    Ok(())
}

/// A line on standard output.
pub fn say(line: &str) {
    // Nobody is listening any more when this fails, and the exit code still tells.
    let _ = writeln!(stdout(), "{line}");
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn announce(name: &str) -> Instant {
    say(&format!("\n=== {name}"));
    Instant::now()
}

fn conclude(name: &str, good: bool, begun: Instant) {
    say(&format!("=== {name}: {} in {:.1} s", if good { "good" } else { "FAILED" }, begun.elapsed().as_secs_f32()));
}

fn run_counting(command: &mut Command) -> Result<(Tally, bool)> {
    let line_of = command_line(command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {line_of}"))?;
    let out = child.stdout.take().expect("its output was asked for");
    let mut sum = Tally::default();
    for line in BufReader::new(out).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from {line_of}"))?;
        let line = String::from_utf8_lossy(&line);
        say(&line);
        if let Some(tally) = closing_line(&line) {
            sum.passed += tally.passed;
            sum.failed += tally.failed;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {line_of}"))?;
    if !status.success() {
        say(&format!("{line_of} ended with {status}"));
    }
    Ok((sum, status.success()))
}

/// `test result: ok. 3 passed; 0 failed; ..` (cargo), `Tests  1 failed | 4 passed (5)` (vitest), `4 passed (2.1s)` and
/// `1 failed` (Playwright).
fn closing_line(line: &str) -> Option<Tally> {
    let plain = without_colour(line);
    let plain = plain.trim();
    let summary = plain.strip_prefix("test result:").or_else(|| plain.strip_prefix("Tests "));
    let text = match summary {
        Some(text) => text,
        None if is_playwright_sum(plain) => plain,
        None => return None,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let count = |outcome: &str| {
        words
            .windows(2)
            .find(|pair| pair[1].trim_end_matches([';', ',']) == outcome)
            .and_then(|pair| pair[0].parse().ok())
            .unwrap_or(0)
    };
    Some(Tally { passed: count("passed"), failed: count("failed") })
}

fn is_playwright_sum(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let counted = words.next().is_some_and(|word| word.parse::<u64>().is_ok());
    let outcome = words.next().is_some_and(|word| word == "passed" || word == "failed");
    let rest: Vec<&str> = words.collect();
    counted && outcome && (rest.is_empty() || rest[0].starts_with('('))
}

fn without_colour(line: &str) -> String {
    let mut plain = String::new();
    let mut parts = line.split('\u{1b}');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_all_runners_are_counted() {
        let cases = [
            ("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out", (12, 0)),
            ("test result: FAILED. 3 passed; 2 failed; 0 ignored", (3, 2)),
            (
                "\u{1b}[2m      Tests \u{1b}[22m \u{1b}[1m\u{1b}[31m1 failed\u{1b}[39m\u{1b}[22m | \u{1b}[32m4 passed\u{1b}[39m (5)",
                (4, 1),
            ),
            ("  5 passed (3.2s)", (5, 0)),
            ("  2 failed", (0, 2)),
        ];
        for (line, (passed, failed)) in cases {
            assert_eq!(closing_line(line), Some(Tally { passed, failed }), "{line}");
        }
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "test path::parses ... ok",
            "3 passed checks were skipped",
            " Test Files  2 passed (2)",
            "running 4 tests",
            "",
        ] {
            assert_eq!(closing_line(line), None, "{line}");
        }
    }
}
