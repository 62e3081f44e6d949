//! Lines up base, device and server: one row a path, in tree order.
//!
//! Invariant: a row's folders come before it, and all rows of a folder come in one piece. Paths that a side lists twice, or
//! as a file with something below, are unknown.
//! Left out: what follows from a row.

use std::collections::HashSet;

use super::Side;
use crate::manifest::{Content, Manifest, Node};
use crate::path::{TreePath, parent_text};

/// What the three listings hold at one path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub path: &'a TreePath,
    pub base: Option<&'a Node>,
    pub device: Option<&'a Node>,
    pub server: Option<&'a Node>,
    /// Nothing may be done here, or somebody has taken care of it.
    pub closed: bool,
}

impl<'a> Row<'a> {
    /// What a side holds.
    pub fn on(&self, side: Side) -> Option<&'a Node> {
        match side {
            Side::Device => self.device,
            Side::Server => self.server,
        }
    }

    /// The side that holds a file where the other holds a folder.
    pub fn file_against_folder(&self) -> Option<Side> {
        match (self.device?.is_folder(), self.server?.is_folder()) {
            (false, true) => Some(Side::Device),
            (true, false) => Some(Side::Server),
            _ => None,
        }
    }
}

static IMPLIED: Node = Node { content: Content::Folder, inode: None, entry: None, version: None };

/// The listings, and the folders that their entries imply.
pub(super) struct Arena<'a> {
    sides: [&'a Manifest; 3],
    implied: [Vec<TreePath>; 3],
    unknown: Vec<TreePath>,
}

type Entry<'a> = (&'a TreePath, &'a Node);

impl<'a> Arena<'a> {
    pub fn new(base: &'a Manifest, device: &'a Manifest, server: &'a Manifest) -> Self {
        let sides = [base, device, server];
        let mut unknown: Vec<TreePath> = sides.iter().flat_map(|side| side.unknown.iter().cloned()).collect();
        let implied = sides.map(|side| implied_folders(&sorted(side), &mut unknown));
        unknown.sort();
        // What lies below an unknown path needs no mention of its own.
        unknown.dedup_by(|path, folder| path.starts_with(folder));
        Self { sides, implied, unknown }
    }

    /// All rows, those of unknown paths closed; and the unknown paths, in order, none below another.
    pub fn rows(&self) -> (Vec<Row<'_>>, &[TreePath]) {
        let mut lists: [_; 3] = std::array::from_fn(|side| {
            let mut list = sorted(self.sides[side]);
            list.dedup_by_key(|entry| entry.0);
            if !self.implied[side].is_empty() {
                list.extend(self.implied[side].iter().map(|path| (path, &IMPLIED)));
                list.sort_by_key(|entry| entry.0);
            }
            list.into_iter().peekable()
        });
        let mut rows = Vec::with_capacity(lists.iter().map(|list| list.len()).max().unwrap_or(0));
        let mut unknown = self.unknown.iter().peekable();
        while let Some(path) = lists.iter_mut().filter_map(|list| list.peek().map(|entry| entry.0)).min() {
            let [base, device, server] =
                std::array::from_fn(|side| lists[side].next_if(|entry| entry.0 == path).map(|entry| entry.1));
            while unknown.next_if(|prefix| *prefix < path && !path.starts_with(prefix)).is_some() {}
            let closed = path.is_root() || unknown.peek().is_some_and(|prefix| path.starts_with(prefix));
            rows.push(Row { path, base, device, server, closed });
        }
        (rows, &self.unknown)
    }
}

fn sorted(side: &Manifest) -> Vec<Entry<'_>> {
    let mut list: Vec<Entry> = side.entries.iter().map(|(path, node)| (path, node)).collect();
    if !list.is_sorted_by_key(|entry| entry.0) {
        list.sort_by_key(|entry| entry.0);
    }
    list
}

/// The folders that a sorted listing does not name. Adds what is listed twice, and files with something below, to `unknown`.
fn implied_folders(list: &[Entry], unknown: &mut Vec<TreePath>) -> Vec<TreePath> {
    let mut implied = HashSet::new();
    // The last entry and the folders above it, from the top down.
    let mut open: Vec<Entry> = Vec::new();
    for &(path, node) in list {
        while open.last().is_some_and(|(folder, _)| !path.starts_with(folder)) {
            open.pop();
        }
        match open.last() {
            Some((last, _)) if *last == path => unknown.push(path.clone()),
            Some((file, node)) if !node.is_folder() => unknown.push((*file).clone()),
            _ => {}
        }
        let above = open.last().map_or("/", |(folder, _)| folder.as_str());
        let mut missing = parent_text(path.as_str());
        while let Some(folder) = missing.filter(|folder| *folder != above) {
            if !implied.insert(folder.to_owned()) {
                break;
            }
            missing = parent_text(folder);
        }
        open.push((path, node));
    }
    implied.into_iter().filter_map(|text| TreePath::parse(&text).ok()).collect()
}
