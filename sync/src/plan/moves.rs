//! Finds files that only changed their place, so that no byte moves and no deletion is counted.
//!
//! Invariant: a move joins one path that is gone with one new path of the same contents, each used once; what is not clear stays
//! a deletion and a new file. An inode only decides between equal contents: file systems give a deleted file's inode to the next.
//! Left out: moved folders; their files move one by one.

use std::collections::HashMap;

use super::Side;
use super::rows::Row;
use crate::hash::ContentHash;
use crate::manifest::{File, Node};

/// A file that was moved on one side: indexes of rows.
pub(super) struct Moved {
    /// Where it was.
    pub from: usize,
    /// Where it is now.
    pub to: usize,
}

#[derive(Default)]
struct Group {
    gone: Vec<usize>,
    new: Vec<usize>,
}

/// The files moved on `side` while the other side left them as they were.
pub(super) fn find(rows: &[Row], side: Side) -> Vec<Moved> {
    let open = || rows.iter().enumerate().filter(|(_, row)| !row.closed);
    // Usually few files are new or few are gone; only contents that are both need a look.
    let mut groups: HashMap<ContentHash, Group> = HashMap::new();
    if open().any(|(_, row)| gone(row, side).is_some()) {
        for (index, row) in open() {
            if let Some(file) = new(row, side) {
                groups.entry(file.hash).or_default().new.push(index);
            }
        }
    }
    if groups.is_empty() {
        return Vec::new();
    }
    for (index, row) in open() {
        if let Some(group) = gone(row, side).and_then(|file| groups.get_mut(&file.hash)) {
            group.gone.push(index);
        }
    }
    let mut moved: Vec<Moved> = groups.into_values().flat_map(|group| pair(rows, side, group)).collect();
    moved.sort_by_key(|moved| moved.to);
    moved
}

fn gone<'a>(row: &Row<'a>, side: Side) -> Option<&'a File> {
    let base = row.base?.file()?;
    let kept = row.on(side.other())?.file()?;
    (row.on(side).is_none() && kept.same_contents(base)).then_some(base)
}

fn new<'a>(row: &Row<'a>, side: Side) -> Option<&'a File> {
    let fresh = row.base.is_none() && row.on(side.other()).is_none();
    row.on(side)?.file().filter(|_| fresh)
}

/// Pairs paths of the same contents: by identity, then by a name that is unique on both lists, then the only two left.
fn pair(rows: &[Row], side: Side, mut group: Group) -> Vec<Moved> {
    let identity = |node: &Node| match side {
        Side::Device => node.inode,
        Side::Server => node.entry.map(|entry| entry as u64),
    };
    let mut moved = Vec::new();
    take_pairs(&mut group, &mut moved, |index, gone| {
        let row = &rows[index];
        if gone { row.base } else { row.on(side) }.and_then(identity)
    });
    take_pairs(&mut group, &mut moved, |index, _| rows[index].path.name());
    if let ([from], [to]) = (group.gone.as_slice(), group.new.as_slice()) {
        moved.push(Moved { from: *from, to: *to });
    }
    moved
}

/// Moves the pairs with equal keys from the group to `moved`, where a key stands for one path only on either list.
fn take_pairs<K: std::hash::Hash + Eq>(
    group: &mut Group,
    moved: &mut Vec<Moved>,
    key: impl Fn(usize, bool) -> Option<K>,
) {
    let by_key = |list: &[usize], gone: bool| {
        let mut found: HashMap<K, Option<usize>> = HashMap::new();
        for &index in list {
            if let Some(key) = key(index, gone) {
                found.entry(key).and_modify(|only| *only = None).or_insert(Some(index));
            }
        }
        found
    };
    let new = by_key(&group.new, false);
    let mut used = Vec::new();
    for (key, from) in by_key(&group.gone, true) {
        if let (Some(from), Some(Some(to))) = (from, new.get(&key)) {
            used.push((from, *to));
        }
    }
    let (froms, tos): (std::collections::HashSet<_>, std::collections::HashSet<_>) = used.iter().copied().unzip();
    group.gone.retain(|index| !froms.contains(index));
    group.new.retain(|index| !tos.contains(index));
    moved.extend(used.into_iter().map(|(from, to)| Moved { from, to }));
}
