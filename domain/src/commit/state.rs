//! The tree as the running transaction sees it: what the database has, under what this transaction has decided and not yet
//! written.
//!
//! Invariant: a (folder, name) that was decided here is never looked up again, so the order of changes is kept although rows are
//! written in bulk at the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use driftless_sync::path::TreePath;
use sqlx::{PgConnection, prelude::FromRow};
use uuid::Uuid;

use super::{Error, Held};
use crate::{
    ingest::Contents,
    tree::{FileInfo, Node, Row},
};

/// The root's id.
pub(super) const ROOT: i64 = 0;

/// A living entry.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub id: i64,
    pub seq: i64,
    pub file: Option<FileInfo>,
}

impl Slot {
    pub fn node(&self, path: &TreePath) -> Node {
        Node { entry_id: self.id, path: path.clone(), version: self.seq, file: self.file.clone() }
    }
}

/// An entry's row as it will be written.
#[derive(Debug, Clone)]
pub(super) struct EntryRow {
    pub seq: i64,
    pub kind: i16,
    pub deleted: bool,
    pub parent: i64,
    pub name: String,
    /// Not in the database yet.
    pub new: bool,
    /// Its place or deletion changed, so the unique index is touched.
    pub placed: bool,
}

/// A row of the journal that will be written.
#[derive(Debug, Clone)]
pub(super) struct VersionRow {
    pub seq: i64,
    pub entry: i64,
    pub device: Option<i64>,
    pub kind: i16,
    pub contents: Option<Contents>,
    pub modified_at: DateTime<Utc>,
    pub executable: bool,
    pub old: Option<(i64, String)>,
}

/// A baseline that will be written, or removed when there is nothing to hold.
#[derive(Debug, Clone)]
pub(super) struct BaselineRow {
    pub device: i64,
    pub entry: i64,
    pub held: Option<(i64, Held)>,
    /// Whatever else the device held at that path, it holds no more.
    pub alone: bool,
}

pub(super) struct State {
    pub user_id: i64,
    pub now: DateTime<Utc>,
    pub epoch: Uuid,
    /// The last seq given.
    pub seq: i64,
    /// Changes of the counts in the head.
    pub files: i64,
    pub bytes: i64,
    slots: HashMap<(i64, String), Option<Slot>>,
    new: HashSet<i64>,
    pub entries: BTreeMap<i64, EntryRow>,
    pub versions: Vec<VersionRow>,
    pub baselines: Vec<BaselineRow>,
    /// Files that unattended doors delete, by device.
    pub deletions: HashMap<i64, i64>,
}

impl State {
    pub fn new(user_id: i64, now: DateTime<Utc>, epoch: Uuid, seq: i64) -> Self {
        State {
            user_id,
            now,
            epoch,
            seq,
            files: 0,
            bytes: 0,
            slots: HashMap::new(),
            new: HashSet::new(),
            entries: BTreeMap::new(),
            versions: Vec::new(),
            baselines: Vec::new(),
            deletions: HashMap::new(),
        }
    }

    pub fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    /// Reads what is at the paths and the folders above them, one statement a level, so that [`child`](Self::child) finds it.
    pub async fn preload(&mut self, conn: &mut PgConnection, paths: &[&TreePath]) -> Result<(), Error> {
        let mut at: Vec<(i64, Vec<&str>)> = paths.iter().map(|p| (ROOT, p.segments().rev().collect())).collect();
        loop {
            // Down each path as far as it is known already.
            let mut wanted: HashSet<(i64, &str)> = HashSet::new();
            at.retain_mut(|(folder, rest)| {
                while let Some(name) = rest.last() {
                    match self.slots.get(&(*folder, (*name).to_owned())) {
                        None => {
                            wanted.insert((*folder, name));
                            return true;
                        }
                        Some(Some(slot)) if slot.file.is_none() => {
                            *folder = slot.id;
                            rest.pop();
                        }
                        Some(_) => return false,
                    }
                }
                false
            });
            if wanted.is_empty() {
                return Ok(());
            }
            let mut wanted: Vec<_> = wanted.into_iter().collect();
            wanted.sort_unstable();
            self.load(conn, &wanted).await?;
        }
    }

    async fn load(&mut self, conn: &mut PgConnection, wanted: &[(i64, &str)]) -> Result<(), Error> {
        #[derive(FromRow)]
        struct Numbered {
            n: i64,
            #[sqlx(flatten)]
            row: Row,
        }
        let (parents, names): (Vec<i64>, Vec<&str>) = wanted.iter().copied().unzip();
        // LIMIT inside the lateral: one probe of the index for each name, whatever the planner believes of the table.
        let rows: Vec<Numbered> = sqlx::query_as(
            "select u.n, e.id, e.seq, e.kind, v.size, v.sha256, v.modified_at, v.executable
             from unnest($2::bigint[], $3::text[]) with ordinality u(parent, name, n)
             cross join lateral (select id, seq, kind from entries
                 where user_id = $1 and parent_id = u.parent and name = u.name and not deleted limit 1) e
             cross join lateral (select * from versions where user_id = $1 and seq = e.seq limit 1) v",
        )
        .bind(self.user_id)
        .bind(parents)
        .bind(names)
        .fetch_all(conn)
        .await?;
        for (parent, name) in wanted {
            self.slots.insert((*parent, (*name).to_owned()), None);
        }
        for Numbered { n, row } in rows {
            let (parent, name) = wanted[n as usize - 1];
            let slot = Slot { id: row.id, seq: row.seq, file: row.file() };
            self.slots.insert((parent, name.to_owned()), Some(slot));
        }
        Ok(())
    }

    /// What is called `name` in `folder`.
    pub async fn child(&mut self, conn: &mut PgConnection, folder: i64, name: &str) -> Result<Option<Slot>, Error> {
        let key = (folder, name.to_owned());
        if !self.slots.contains_key(&key) {
            if self.new.contains(&folder) {
                return Ok(None);
            }
            self.load(conn, &[(folder, name)]).await?;
        }
        Ok(self.slots.get(&key).cloned().flatten())
    }

    /// Decides what is called `name` in `folder` from now on.
    pub fn place(&mut self, folder: i64, name: &str, slot: Option<Slot>) {
        self.slots.insert((folder, name.to_owned()), slot);
    }

    /// A new entry, made by the version `seq`.
    pub fn make(&mut self, seq: i64, kind: i16, parent: i64, name: &str, deleted: bool) {
        self.new.insert(seq);
        let row = EntryRow { seq, kind, deleted, parent, name: name.to_owned(), new: true, placed: true };
        self.entries.insert(seq, row);
    }

    /// The row of an existing entry, to change it.
    pub fn entry(&mut self, slot: &Slot, parent: i64, name: &str) -> &mut EntryRow {
        let kind = i16::from(slot.file.is_some());
        self.entries.entry(slot.id).or_insert_with(|| EntryRow {
            seq: slot.seq,
            kind,
            deleted: false,
            parent,
            name: name.to_owned(),
            new: false,
            placed: false,
        })
    }

    /// After everything decided was written: the database now knows it all.
    pub fn written(&mut self) {
        self.entries.clear();
        self.versions.clear();
        self.baselines.clear();
        self.deletions.clear();
        self.new.clear();
        (self.files, self.bytes) = (0, 0);
    }
}
