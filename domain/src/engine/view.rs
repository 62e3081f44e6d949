//! What device, tree and baseline hold, as the plan takes it.
//!
//! Invariant: all three speak of absolute paths of the tree, below the device's folder of it. What an ignore rule or the
//! selection leaves out is unknown on whichever side it shows up.
//! Left out: deciding.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use driftless_sync::{
    hash::ContentHash,
    ignore::{IgnoreList, SelectedFolder, is_selected},
    manifest::{Content, File, Manifest, Node},
    path::TreePath,
};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{
    Error,
    ledger::{InTree, Ledger, OnDevice, fingerprint},
};
use crate::{
    Actor, Tx,
    baselines::Baseline,
    remotes::{
        Placement,
        folder::{Kind, Stat},
        scan::{Found, Reason, Scan, Unknown},
    },
    tree,
};

/// A device, as a run needs it.
pub struct Device {
    /// Its row.
    pub id: i64,
    /// For the names of conflict copies.
    pub name: String,
    /// The folder of the tree that it is kept in step with.
    pub base: TreePath,
    /// Where it lies.
    pub place: Placement,
    /// Of all settings that decide what is to be done.
    pub settings: ContentHash,
    ignore: IgnoreList,
    selection: Vec<SelectedFolder>,
}

/// All that the plan compares, and what goes with it.
pub struct View {
    /// What both sides last agreed on.
    pub base: Manifest,
    /// What the device holds.
    pub device: Manifest,
    /// What the tree holds.
    pub server: Manifest,
    /// The same, to be kept up to date.
    pub ledger: Ledger,
    /// Files that are as agreed, whose fingerprint or spelling the baseline does not have.
    pub stale: Vec<(TreePath, InTree, Content)>,
    /// What is left out of this run, with the reason.
    pub unknown: Vec<Unknown>,
}

impl Device {
    /// Reads the device. An ignore rule that can't be read leaves nothing out silently: it is an error.
    pub async fn load(tx: &mut Tx, id: i64) -> Result<Device, Error> {
        #[derive(FromRow)]
        struct Row {
            device_name: String,
            base_path: String,
            ignore_rules: Vec<String>,
            selection: Json<Vec<SelectedFolder>>,
            remote_path: Option<String>,
            remote_root: Option<Uuid>,
            remote_inode: Option<i64>,
        }
        let row: Option<Row> = sqlx::query_as(
            "select device_name, base_path, ignore_rules, selection, remote_path, remote_root, remote_inode
             from devices where id = $1",
        )
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
        let row = row.ok_or(Error::NoDevice)?;
        let place = row.remote_path.zip(row.remote_root).zip(row.remote_inode).ok_or(Error::NoDevice)?;
        let ((path, root), inode) = place;
        let settings = format!("{:?}", (&path, root, inode, &row.base_path, &row.ignore_rules, &row.selection.0));
        Ok(Device {
            id,
            settings: ContentHash::of(settings.as_bytes()),
            name: row.device_name,
            base: TreePath::parse(&row.base_path)?,
            place: Placement { root, path, inode: inode as u64 },
            ignore: IgnoreList::new(row.ignore_rules.iter().map(String::as_str))?,
            selection: row.selection.0,
        })
    }

    /// Whether the path, relative to the device's folder, is left alone. The folders above it are not looked at.
    pub fn leaves_out(&self, path: &TreePath, is_folder: bool) -> bool {
        self.ignore.ignores_entry(path, is_folder) || !is_selected(&self.selection, path, is_folder)
    }
}

/// The entries of the tree that the device is kept in step with.
pub async fn entries(tx: &mut Tx, actor: &Actor, device: &Device) -> Result<Vec<tree::Node>, Error> {
    match tree::below(tx, actor, &device.base).await {
        // Nobody has put anything there yet; what the device has makes the folder.
        Err(tree::Error::NotFound(_)) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// Turns the paths of what a scan left out into those of the tree, as far as they can be such.
pub fn in_tree(device: &Device, unknown: &mut [Unknown]) {
    for unknown in unknown {
        unknown.path = unknown.path.take().and_then(|path| path.below(&device.base).ok());
        if let Some(path) = &unknown.path {
            unknown.shown = path.to_string();
        }
    }
}

/// Modification time in the grain that the tree keeps, rounded down as the plan compares it.
pub fn modified_at(stat: &Stat) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(stat.print.mtime_ns.div_euclid(1000)).unwrap_or(DateTime::UNIX_EPOCH)
}

impl View {
    /// Puts together what was read.
    pub fn new(
        device: &Device,
        scan: Scan,
        clashes: Vec<Unknown>,
        agreed: &[Baseline],
        nodes: Vec<tree::Node>,
    ) -> View {
        let mut view = View {
            base: Manifest::default(),
            device: Manifest::default(),
            server: Manifest::default(),
            ledger: Ledger::default(),
            stale: Vec::new(),
            unknown: scan.unknown,
        };
        view.unknown.extend(clashes);
        for found in scan.found {
            view.take_found(device, found);
        }
        in_tree(device, &mut view.unknown);
        view.device.unknown.extend(view.unknown.iter().filter_map(|unknown| unknown.path.clone()));
        view.take_agreed(device, agreed);
        view.take_tree(device, nodes);
        view
    }

    /// Whether the tree holds something where the device could not be looked at.
    pub fn is_blind(&self) -> bool {
        let tree = &self.server.entries;
        self.device.unknown.iter().any(|unknown| {
            let at = tree.partition_point(|(path, _)| path < unknown);
            tree.get(at).is_some_and(|(path, _)| path.starts_with(unknown))
        })
    }

    fn take_found(&mut self, device: &Device, found: Found) {
        let path = match found.path.below(&device.base) {
            Ok(path) => path,
            Err(e) => {
                let shown = found.path.to_string();
                return self.unknown.push(Unknown { path: None, shown, reason: Reason::Name(e) });
            }
        };
        let content = match found.content {
            None => Content::Folder,
            Some(hash) => Content::File(File {
                hash,
                size: found.stat.print.size,
                modified_at: Some(modified_at(&found.stat)),
                executable: Some(found.stat.executable()),
            }),
        };
        let inode = found.content.map(|_| found.stat.print.inode);
        self.device.entries.push((path.clone(), Node { inode, ..Node::new(content) }));
        let on = OnDevice { stat: found.stat, settled: found.settled, spelling: found.spelling };
        self.ledger.on_device(path, on);
    }

    fn take_agreed(&mut self, device: &Device, agreed: &[Baseline]) {
        let held: HashMap<&TreePath, &Content> = self.device.entries.iter().map(|(p, n)| (p, &n.content)).collect();
        for row in agreed.iter().filter(|row| row.held.path.starts_with(&device.base)) {
            let path = &row.held.path;
            self.ledger.in_baseline(path.clone(), row.entry_id);
            self.base.entries.push((path.clone(), row.node()));
            let Some(on) = self.ledger.device(path) else { continue };
            let file = on.stat.kind == Kind::File;
            let blind = file && on.settled && row.held.fingerprint != Some(fingerprint(&on.stat.print));
            let respelt = on.spelling.as_deref() != row.held.spelling.as_deref();
            if (blind || respelt) && held.get(path).is_some_and(|now| same(now, &row.content)) {
                let there = InTree { entry: row.entry_id, version: row.version };
                self.stale.push((path.clone(), there, row.content.clone()));
            }
        }
    }

    fn take_tree(&mut self, device: &Device, mut nodes: Vec<tree::Node>) {
        nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut left_out: Option<TreePath> = None;
        for node in nodes {
            if left_out.as_ref().is_some_and(|above| node.path.starts_with(above)) {
                continue;
            }
            let folder = node.is_folder();
            self.ledger.in_tree(node.path.clone(), InTree { entry: node.entry_id, version: node.version });
            let Some(relative) = node.path.relative_to(&device.base) else { continue };
            if device.leaves_out(&relative, folder) {
                self.server.unknown.push(node.path.clone());
                left_out = Some(node.path);
                continue;
            }
            self.server.entries.push(node.into_entry());
        }
    }
}

fn same(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::File(a), Content::File(b)) => a.same_contents(b) && a.same_metadata(b),
        (Content::Folder, Content::Folder) => true,
        _ => false,
    }
}
