//! Owns the bound on planning time: trees of a million entries are planned in seconds.
//!
//! Left out of an ordinary run, since it says something only when optimised:
//! `cargo test --release -p driftless-sync --test plan_scale -- --ignored`.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use driftless_sync::conflict::Policy;
use driftless_sync::hash::ContentHash;
use driftless_sync::manifest::{Content, File, Manifest, Node};
use driftless_sync::path::TreePath;
use driftless_sync::plan::{Direction, Rules, plan};

fn tree(files: u32, shift: u32) -> Manifest {
    let mut entries = Vec::new();
    for index in 0..files {
        let (top, middle) = (index / 10_000, index / 100);
        if index % 10_000 == 0 {
            entries.push((format!("/folder {top}"), Content::Folder));
        }
        if index % 100 == 0 {
            entries.push((format!("/folder {top}/part {middle}"), Content::Folder));
        }
        // With a shift, each tenth file has other contents and each tenth another name.
        let name = if index % 10 == 1 { index + shift } else { index };
        let contents = if index % 10 == 2 { index + shift } else { index };
        let hash = ContentHash::of(&contents.to_le_bytes());
        let file = File { hash, size: 4096, modified_at: None, executable: Some(false) };
        entries.push((format!("/folder {top}/part {middle}/file {name}.txt"), Content::File(file)));
    }
    let entries = entries.into_iter().map(|(path, content)| (TreePath::parse(&path).unwrap(), Node::new(content)));
    Manifest { entries: entries.collect(), unknown: Vec::new() }
}

#[test]
#[ignore = "says something only when optimised"]
fn a_million_entries_are_planned_in_seconds() {
    let rules = Rules {
        direction: Direction::Both,
        policy: Policy::KeepNewest,
        sync_deletions: true,
        now: "2026-11-22T12:00:00Z".parse().unwrap(),
        device_name: "laptop".into(),
    };
    let (base, changed, empty) = (tree(1_000_000, 0), tree(1_000_000, 1 << 30), Manifest::default());
    for (name, base, device, server) in [
        ("nothing to do", &base, &base, &base),
        ("a tenth changed and a tenth moved", &base, &changed, &base),
        ("first run", &empty, &base, &empty),
        ("all deleted", &base, &empty, &base),
    ] {
        let start = Instant::now();
        let plan = plan(base, device, server, &rules);
        let took = start.elapsed();
        eprintln!("{name}: {} actions in {took:.2?}", plan.actions.len());
        assert!(took < Duration::from_secs(10), "{name}: {took:?}");
    }
}
