//! Figures: medians of rounds, their ratios and goals, on the screen and in bench/results/.

use std::{fmt::Write as _, fs};

use anyhow::Result;

use crate::{
    peers,
    server::{SETTINGS, Server},
};

/// The values of one side over all rounds.
#[derive(Debug, Clone)]
pub struct Side {
    pub name: &'static str,
    pub values: Vec<f64>,
}

impl Side {
    pub fn new(name: &'static str) -> Self {
        Self { name, values: Vec::new() }
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The side with the largest median.
    pub fn most<'a>(sides: &[&'a Self]) -> &'a Self {
        sides.iter().max_by(|a, b| a.median().total_cmp(&b.median())).expect("there is a peer")
    }

    /// The side with the smallest median.
    pub fn least<'a>(sides: &[&'a Self]) -> &'a Self {
        sides.iter().min_by(|a, b| a.median().total_cmp(&b.median())).expect("there is a peer")
    }

    fn spread(&self) -> String {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{} to {}", shown(least), shown(most))
    }
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// ours / peer at least this.
    Ratio(f64),
    /// ours at most this.
    AtMost(f64),
    /// ours / peer at most this.
    RatioAtMost(f64),
}

/// The lines of one benchmark.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    lines: Vec<String>,
    sides: Vec<String>,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, lines: Vec::new(), sides: Vec::new() }
    }

    /// Puts down how every side did.
    pub fn sides(&mut self, what: &str, unit: &str, sides: &[&Side]) {
        for side in sides {
            let row = format!("| {what} | {} | {} {unit} | {} |", side.name, shown(side.median()), side.spread());
            println!("{row}");
            self.sides.push(row);
        }
    }

    /// Compares; `figure` is empty or says which part of the benchmark it is.
    pub fn compare(&mut self, figure: &str, unit: &str, ours: &Side, peer: &Side, goal: Goal) {
        let (value, against) = (ours.median(), peer.median());
        let ratio = value / against;
        let (met, wanted) = match goal {
            Goal::Ratio(least) => (ratio >= least, format!(">= {least} x")),
            Goal::AtMost(most) => (value <= most, format!("<= {most} {unit}")),
            Goal::RatioAtMost(most) => (ratio <= most, format!("<= {most} x")),
        };
        let name = if figure.is_empty() { self.name.to_owned() } else { format!("{} {figure}", self.name) };
        let line = format!(
            "{name}: ours {} {unit}, peer {} {} {unit}, ratio {ratio:.2}, goal {wanted}, {}",
            shown(value),
            peer.name,
            shown(against),
            if met { "met" } else { "short" }
        );
        println!("{line}");
        self.lines.push(line);
    }

    /// A figure without a peer.
    pub fn hold(&mut self, figure: &str, unit: &str, ours: &Side, most: f64) {
        let value = ours.median();
        let met = if value <= most { "met" } else { "short" };
        let line = format!("{} {figure}: ours {} {unit}, goal <= {most} {unit}, {met}", self.name, shown(value));
        println!("{line}");
        self.lines.push(line);
    }

    /// Writes bench/results/NAME.md.
    pub fn write(&self, server: &Server, rounds: usize, settings: &str) -> Result<()> {
        let cores = std::thread::available_parallelism()?;
        let mut text = format!("# {}\n\n```\n{}\n```\n\n", self.name, self.lines.join("\n"));
        writeln!(text, "{rounds} rounds in turn, medians; least to most says how noisy it was.\n")?;
        writeln!(text, "| | side | median | least to most |\n|---|---|---|---|\n{}\n", self.sides.join("\n"))?;
        writeln!(text, "{cores} cores, Postgres {}, {SETTINGS}. {}. {settings}", server.version, peers::versions())?;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../results");
        fs::create_dir_all(folder)?;
        fs::write(format!("{folder}/{}.md", self.name), text)?;
        Ok(())
    }
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
