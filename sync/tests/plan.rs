//! Owns the properties of the plan, on a model of both sides that carries plans out and checks each step as a real one would.
//!
//! Invariant: whatever happened on both sides, plans converge, nothing that was reachable is lost, unknown paths stay untouched,
//! and all of this holds as well when a run breaks off after any step.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use driftless_sync::conflict::Policy;
use driftless_sync::hash::ContentHash;
use driftless_sync::manifest::{Content, File, Manifest, Node};
use driftless_sync::path::TreePath;
use driftless_sync::plan::{Action, Direction, Plan, Record, Rules, Side, Step, plan};
use proptest::prelude::*;

type Tree = BTreeMap<TreePath, Node>;

/// Both sides, what they last agreed on, and every contents that the server ever held.
#[derive(Clone, Default, Debug)]
struct World {
    base: Tree,
    device: Tree,
    server: Tree,
    history: HashSet<ContentHash>,
    unknown: Vec<TreePath>,
    numbers: u64,
}

/// What people do.
#[derive(Clone, Debug)]
enum Deed {
    Write(TreePath, u8, u8, bool),
    Mkdir(TreePath),
    Delete(TreePath),
    Rename(TreePath, TreePath),
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn file(contents: u8, time: u8, executable: bool) -> Content {
    // Time 0 is implausible, the others lie minutes apart.
    let modified_at = if time == 0 {
        DateTime::from_timestamp(7, 0)
    } else {
        DateTime::from_timestamp(1_790_000_000 + 60 * i64::from(time), 0)
    };
    Content::File(File { hash: ContentHash::of(&[contents]), size: 1, modified_at, executable: Some(executable) })
}

impl World {
    fn side(&mut self, side: Side) -> &mut Tree {
        match side {
            Side::Device => &mut self.device,
            Side::Server => &mut self.server,
        }
    }

    fn put(&mut self, side: Side, at: &TreePath, content: Content) {
        self.numbers += 1;
        let number = self.numbers;
        if let (Side::Server, Content::File(file)) = (side, &content) {
            self.history.insert(file.hash);
        }
        let old = self.side(side).get(at).cloned();
        let node = match side {
            Side::Device => Node { inode: Some(old.and_then(|old| old.inode).unwrap_or(number)), ..Node::new(content) },
            Side::Server => Node {
                entry: Some(old.and_then(|old| old.entry).unwrap_or(number as i64)),
                version: Some(number as i64),
                ..Node::new(content)
            },
        };
        self.side(side).insert(at.clone(), node);
    }

    fn below(&mut self, side: Side, at: &TreePath) -> Vec<TreePath> {
        self.side(side).keys().filter(|path| path.starts_with(at)).cloned().collect()
    }

    /// Does what is possible and skips the rest, as a shell would refuse it.
    fn person(&mut self, side: Side, deed: &Deed) {
        // Makes the folders above, unless a file is in the way.
        let folder = |world: &mut World, at: &TreePath| {
            let mut above: Vec<TreePath> = std::iter::successors(at.parent(), TreePath::parent).collect();
            above.retain(|folder| !folder.is_root());
            let free = above.iter().all(|folder| world.side(side).get(folder).is_none_or(Node::is_folder));
            for folder in above.iter().rev().filter(|_| free) {
                if !world.side(side).contains_key(folder) {
                    world.put(side, folder, Content::Folder);
                }
            }
            free
        };
        match deed {
            Deed::Write(at, contents, time, executable) => {
                if folder(self, at) && !self.side(side).get(at).is_some_and(Node::is_folder) {
                    self.put(side, at, file(*contents, *time, *executable));
                }
            }
            Deed::Mkdir(at) => {
                if folder(self, at) && !self.side(side).contains_key(at) {
                    self.put(side, at, Content::Folder);
                }
            }
            Deed::Delete(at) => {
                for path in self.below(side, at) {
                    self.side(side).remove(&path);
                }
            }
            Deed::Rename(from, to) => {
                if self.side(side).contains_key(from)
                    && !to.starts_with(from)
                    && !self.side(side).contains_key(to)
                    && folder(self, to)
                {
                    for old in self.below(side, from) {
                        let node = self.side(side).remove(&old).unwrap();
                        let new = old.relative_to(from).unwrap().below(to).unwrap();
                        self.side(side).insert(new, node);
                    }
                }
            }
        }
    }

    fn manifest(&self, tree: &Tree, unknown: bool) -> Manifest {
        let hidden = |path: &TreePath| self.unknown.iter().any(|prefix| path.starts_with(prefix));
        let entries = tree.iter().filter(|(path, _)| !unknown || !hidden(path));
        Manifest {
            entries: entries.map(|(path, node)| (path.clone(), node.clone())).collect(),
            unknown: if unknown { self.unknown.clone() } else { Vec::new() },
        }
    }

    fn plan(&self, rules: &Rules) -> Plan {
        let (base, server) = (self.manifest(&self.base, false), self.manifest(&self.server, false));
        plan(&base, &self.manifest(&self.device, true), &server, rules)
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Forget { path } => {
                self.base.remove(path);
            }
            Record::Agree { path, content } => {
                let (device, server) = (&self.device[path], &self.server[path]);
                assert!(
                    same_kind(&device.content, content) && same_kind(&server.content, content),
                    "{path} is not agreed on"
                );
                let node = Node {
                    content: content.clone(),
                    inode: device.inode,
                    entry: server.entry,
                    version: server.version,
                };
                self.base.insert(path.clone(), node);
            }
        }
    }

    fn act(&mut self, action: &Action) {
        let Action { on, path, step, expects, .. } = action;
        for unknown in &self.unknown {
            assert!(!path.starts_with(unknown), "{action:?} touches an unknown path");
        }
        if !matches!(step, Step::DeleteFile(_) | Step::DeleteFolder) {
            let parent = path.parent().unwrap();
            assert!(parent.is_root() || self.side(*on)[&parent].is_folder(), "no folder for {action:?}");
        }
        let held = self.side(*on).get(path).map(|node| node.content.clone());
        assert_eq!(held, expects.as_ref().map(|node| node.content.clone()), "{action:?}");
        match step {
            Step::CreateFolder => self.put(*on, path, Content::Folder),
            Step::Write { file, from, ingest } => {
                let source = self.side(from.0)[&from.1].file().unwrap().clone();
                assert_eq!(source.hash, file.hash, "{action:?}");
                if let (Side::Device, Some(Content::File(old))) = (on, &held) {
                    assert!(*ingest || self.history.contains(&old.hash), "{action:?} loses contents");
                    self.history.insert(old.hash);
                }
                self.put(*on, path, Content::File(file.clone()));
            }
            Step::SetMetadata { file } => {
                assert!(same_kind(&Content::File(file.clone()), &held.unwrap()));
                self.put(*on, path, Content::File(file.clone()));
            }
            Step::Move { from, node } => {
                let moved = self.side(*on).remove(from).unwrap();
                assert_eq!(moved.content, node.content);
                self.side(*on).insert(path.clone(), moved);
            }
            Step::DeleteFile(deletion) => {
                let node = self.side(*on).remove(path).unwrap();
                assert_eq!(node.file().unwrap().hash, deletion.hash);
                assert!(self.history.contains(&deletion.hash), "{action:?} loses contents");
            }
            Step::DeleteFolder => {
                assert_eq!(self.below(*on, path).len(), 1, "{action:?}: the folder is not empty");
                self.side(*on).remove(path);
            }
        }
        action.records.iter().for_each(|record| self.record(record));
    }

    /// Whether a careful executor would find this step possible, after others failed.
    fn is_possible(&self, action: &Action) -> bool {
        let tree = |side: Side| if side == Side::Device { &self.device } else { &self.server };
        let parent = action.path.parent().unwrap();
        let held = tree(action.on).get(&action.path).map(|node| &node.content);
        let source = |side: Side, path: &TreePath, content: &Content| {
            tree(side).get(path).is_some_and(|node| same_kind(&node.content, content))
        };
        let source_is_there = match &action.step {
            Step::Write { file, from, .. } => source(from.0, &from.1, &Content::File(file.clone())),
            Step::Move { from, node } => source(action.on, from, &node.content),
            Step::DeleteFolder => {
                !tree(action.on).keys().any(|path| *path != action.path && path.starts_with(&action.path))
            }
            _ => true,
        };
        let parent_is_there = parent.is_root() || tree(action.on).get(&parent).is_some_and(Node::is_folder);
        parent_is_there && source_is_there && held == action.expects.as_ref().map(|node| &node.content)
    }

    /// Carries out a plan of which some steps fail: a bit of `failures` is set for each.
    fn run_badly(&mut self, plan: &Plan, failures: u64) {
        plan.records.iter().for_each(|record| self.record(record));
        let mut broken = HashSet::new();
        for (index, action) in plan.actions.iter().enumerate() {
            let relies = action.chain.as_ref().is_some_and(|chain| broken.contains(chain));
            if relies || failures >> (index % 64) & 1 == 1 || !self.is_possible(action) {
                broken.extend(action.chain.clone());
            } else {
                self.act(action);
            }
        }
    }

    /// Carries out the first `steps` actions.
    fn run(&mut self, plan: &Plan, steps: usize) {
        plan.records.iter().for_each(|record| self.record(record));
        plan.actions.iter().take(steps).for_each(|action| self.act(action));
    }

    fn reachable(&self) -> HashSet<ContentHash> {
        self.device.values().filter_map(Node::file).map(|file| file.hash).chain(self.history.iter().copied()).collect()
    }

    fn contents(tree: &Tree) -> Vec<(&TreePath, &Content)> {
        tree.iter().map(|(path, node)| (path, &node.content)).collect()
    }
}

fn same_kind(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::File(a), Content::File(b)) => a.same_contents(b),
        (a, b) => a == b,
    }
}

fn rules(direction: Direction, policy: Policy, sync_deletions: bool) -> Rules {
    Rules { direction, policy, sync_deletions, now: now(), device_name: "laptop".into() }
}

fn a_path() -> impl Strategy<Value = TreePath> {
    let name = || prop_oneof![Just("a"), Just("b.c"), Just("a b")];
    prop::collection::vec(name(), 1..=3).prop_map(|names| path(&format!("/{}", names.join("/"))))
}

fn deeds(most: usize) -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        8 => (a_path(), 0u8..6, 0u8..4, any::<bool>()).prop_map(|(at, contents, time, x)| Deed::Write(at, contents, time, x)),
        1 => a_path().prop_map(Deed::Mkdir),
        2 => a_path().prop_map(Deed::Delete),
        2 => (a_path(), a_path()).prop_map(|(from, to)| Deed::Rename(from, to)),
    ];
    prop::collection::vec(deed, 0..most)
}

/// Sides that agreed once and then went their ways.
fn a_world() -> impl Strategy<Value = World> {
    let unknown = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(a_path(), 1..3)];
    (deeds(30), deeds(10), deeds(10), unknown).prop_map(|(common, on_device, on_server, unknown)| {
        let mut world = World::default();
        common.iter().for_each(|deed| world.person(Side::Device, deed));
        let first = world.plan(&rules(Direction::Both, Policy::KeepNewest, true));
        world.run(&first, usize::MAX);
        assert_eq!(World::contents(&world.device), World::contents(&world.server));
        on_device.iter().for_each(|deed| world.person(Side::Device, deed));
        on_server.iter().for_each(|deed| world.person(Side::Server, deed));
        world.unknown = unknown;
        world
    })
}

fn some_rules() -> impl Strategy<Value = Rules> {
    let direction =
        prop_oneof![3 => Just(Direction::Both), 1 => Just(Direction::Upload), 1 => Just(Direction::Download)];
    let policy = prop_oneof![
        2 => Just(Policy::KeepNewest),
        1 => Just(Policy::KeepLocal),
        1 => Just(Policy::KeepServer),
        3 => Just(Policy::KeepBoth),
        1 => Just(Policy::Ask)
    ];
    (direction, policy, prop::bool::weighted(0.8))
        .prop_map(|(direction, policy, deletions)| rules(direction, policy, deletions))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_converge_and_lose_nothing_even_when_a_run_breaks_off(
        world in a_world(), rules in some_rules(), breaks in prop::option::of(0usize..12),
    ) {
        let mut world = world;
        let before = world.reachable();
        if let Some(steps) = breaks {
            world.run(&world.plan(&rules), steps);
        }
        world.run(&world.plan(&rules), usize::MAX);
        let second = world.plan(&rules);
        prop_assert!(second.is_empty(), "{second:#?}");
        let lost: Vec<_> = before.difference(&world.reachable()).copied().collect();
        prop_assert!(lost.is_empty(), "{lost:?} is lost");
        let free = rules.direction == Direction::Both && rules.policy != Policy::Ask && rules.sync_deletions;
        if free && world.unknown.is_empty() {
            prop_assert_eq!(World::contents(&world.device), World::contents(&world.server));
            prop_assert!(second.conflicts.is_empty());
        }
    }

    #[test]
    fn steps_that_fail_lose_nothing_and_are_made_up_for(
        world in a_world(), rules in some_rules(), failures in any::<(u64, u64)>(), twice: bool,
    ) {
        let mut world = world;
        let before = world.reachable();
        world.run_badly(&world.plan(&rules), failures.0 & failures.1);
        if twice {
            world.run_badly(&world.plan(&rules), failures.1);
        }
        world.run(&world.plan(&rules), usize::MAX);
        prop_assert!(world.plan(&rules).is_empty());
        let lost: Vec<_> = before.difference(&world.reachable()).copied().collect();
        prop_assert!(lost.is_empty(), "{lost:?} is lost");
        let free = rules.direction == Direction::Both && rules.policy != Policy::Ask && rules.sync_deletions;
        if free && world.unknown.is_empty() {
            prop_assert_eq!(World::contents(&world.device), World::contents(&world.server));
        }
    }

    #[test]
    fn the_order_of_the_listings_does_not_matter(world in a_world(), rules in some_rules(), turn in 0usize..40) {
        let turned = |tree: &Tree, hide| {
            let mut manifest = world.manifest(tree, hide);
            manifest.entries.reverse();
            let turn = turn % manifest.entries.len().max(1);
            manifest.entries.rotate_left(turn);
            manifest.unknown.reverse();
            manifest
        };
        let other = plan(&turned(&world.base, false), &turned(&world.device, true), &turned(&world.server, false), &rules);
        prop_assert_eq!(world.plan(&rules), other);
    }

    #[test]
    fn holding_the_deletions_leaves_a_plan_that_can_be_carried_out(world in a_world(), rules in some_rules()) {
        let mut world = world;
        let mut plan = world.plan(&rules);
        let all = plan.deletions().count();
        let held = plan.hold_deletions(&HashSet::new());
        prop_assert_eq!((held.len(), plan.deletions().count()), (all, 0));
        world.run(&plan, usize::MAX);
        let mut again = world.plan(&rules);
        prop_assert_eq!(again.hold_deletions(&held.iter().cloned().collect()), vec![]);
        world.run(&again, usize::MAX);
        prop_assert!(world.plan(&rules).is_empty());
    }
}
