//! What device, tree and baseline hold, as the plan takes it, from what a client lists.
//!
//! Invariant: all paths are the tree's. A path of which the client does not say enough is unknown, and so is what its ignore list
//! or its selection leaves out. Folders are no part of it, but where one stands in a file's place.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use driftless_sync::{
    hash::ContentHash,
    ignore::{IgnoreList, SelectedFolder, is_selected},
    manifest::{Content, File, Manifest, Node},
    path::TreePath,
};
use sqlx::{FromRow, types::Json};

use super::{Error, Listing, Reported, invalid};
use crate::{
    Actor, Tx,
    baselines::{self, Baseline},
    devices,
    tree::{self, FileInfo},
};

/// A client device, as reports need it.
pub(super) struct Device {
    /// Its row.
    pub id: i64,
    /// For the names of conflict copies.
    pub name: String,
    /// The folder of the tree that it is kept in step with.
    pub base: TreePath,
    ignore: IgnoreList,
    selection: Vec<SelectedFolder>,
    /// Folders that were asked about, and whether they are ignored: files share them.
    ignored: Mutex<HashMap<TreePath, bool>>,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    device_name: String,
    kind: devices::DeviceKind,
    base_path: String,
    ignore_rules: Vec<String>,
    selection: Json<Vec<SelectedFolder>>,
}

impl Device {
    pub async fn load(tx: &mut Tx, actor: &Actor, device_id: &str) -> Result<Device, Error> {
        let id = devices::find(tx, actor, device_id).await?;
        Device::by_id(tx, id).await
    }

    pub async fn by_id(tx: &mut Tx, id: i64) -> Result<Device, Error> {
        let row: Row = sqlx::query_as(
            "select id, device_name, kind, base_path, ignore_rules, selection from devices where id = $1",
        )
        .bind(id)
        .fetch_one(&mut **tx)
        .await?;
        if row.kind != devices::DeviceKind::Client {
            return Err(Error::Remote);
        }
        let base = TreePath::parse(&row.base_path).unwrap_or(TreePath::root());
        let ignore = IgnoreList::new(row.ignore_rules.iter().map(String::as_str))?;
        Ok(Device {
            id: row.id,
            name: row.device_name,
            base,
            ignore,
            selection: row.selection.0,
            ignored: Mutex::default(),
        })
    }

    /// The folder that a request speaks of.
    pub fn scope(&self, asked: Option<&str>) -> Result<TreePath, Error> {
        let Some(asked) = asked else { return Ok(self.base.clone()) };
        let asked = TreePath::parse(asked).map_err(|e| invalid(e.code(), "base_path", e.to_string()))?;
        if asked.starts_with(&self.base) { Ok(asked) } else { Err(Error::BasePath(self.base.clone())) }
    }

    pub async fn seen(&self, tx: &mut Tx) -> Result<(), Error> {
        sqlx::query("update devices set last_seen_at = queue.now() where id = $1")
            .bind(self.id)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Whether a file of the tree is left out of this device's sync, by itself or with a folder above it.
    pub fn leaves_out(&self, path: &TreePath) -> bool {
        let Some(relative) = path.relative_to(&self.base) else { return true };
        let mut known = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        relative.parent().is_some_and(|folder| self.ignores_folder(&folder, &mut known))
            || self.ignore.ignores_entry(&relative, false)
            || !is_selected(&self.selection, &relative, false)
    }

    fn ignores_folder(&self, folder: &TreePath, known: &mut HashMap<TreePath, bool>) -> bool {
        if let Some(ignored) = known.get(folder) {
            return *ignored;
        }
        let above = folder.parent().is_some_and(|above| self.ignores_folder(&above, known));
        let ignored = above || self.ignore.ignores_entry(folder, true);
        known.insert(folder.clone(), ignored);
        ignored
    }
}

/// All that the plan compares, and what the answer needs besides.
pub(super) struct View {
    pub base: Manifest,
    pub device: Manifest,
    pub server: Manifest,
    /// Paths that were left alone, with the reason.
    pub left_out: Vec<(TreePath, &'static str)>,
    /// Whether the device's times decide conflicts. Not where both files stay: the tree's then keeps the name, so that the device
    /// alone has something to rename.
    times: bool,
    /// Stand-ins for the hashes of contents that the client gave none for.
    pub stand_ins: HashSet<ContentHash>,
}

impl View {
    /// Everything below `scope`: what the client does not list, it does not hold.
    pub async fn of_all(
        tx: &mut Tx,
        actor: &Actor,
        device: &Device,
        scope: &TreePath,
        listed: &Listing,
        times: bool,
    ) -> Result<View, Error> {
        // The baseline first: a file that is committed in between is then in the tree and on the device, and no harm is done.
        let mut agreed = baselines::of_device(tx, actor, device.id).await?;
        agreed.retain(|row| row.held.path.starts_with(scope));
        let nodes = match tree::below(tx, actor, scope).await {
            Err(tree::Error::NotFound(_)) => Vec::new(),
            nodes => nodes?,
        };
        Ok(View::new(device, listed, &agreed, nodes, times))
    }

    /// Only the listed paths.
    pub async fn of_listed(
        tx: &mut Tx,
        actor: &Actor,
        device: &Device,
        listed: &Listing,
        times: bool,
    ) -> Result<View, Error> {
        let paths: BTreeSet<TreePath> = listed.files.iter().map(|file| file.path.clone()).collect();
        // A listed file says that the folders above it are folders: what the tree has there instead collides.
        let above = listed.files.iter().filter(|file| !file.deleted).flat_map(|file| {
            std::iter::successors(file.path.parent(), TreePath::parent).filter(|folder| !folder.is_root())
        });
        let above: BTreeSet<TreePath> = above.filter(|folder| !paths.contains(folder)).collect();
        let asked: Vec<TreePath> = paths.iter().chain(&above).cloned().collect();
        // The baseline first, as above.
        let mut agreed = baselines::at_paths(tx, actor, device.id, &asked).await?;
        let mut nodes = tree::stat_many(tx, actor, &asked).await?;
        nodes.retain(|node| !node.is_folder() || paths.contains(&node.path));
        let there: HashSet<&TreePath> = nodes.iter().map(|node| &node.path).collect();
        agreed.retain(|row| paths.contains(&row.held.path) || there.contains(&row.held.path));
        Ok(View::new(device, listed, &agreed, nodes, times))
    }

    fn new(device: &Device, listed: &Listing, agreed: &[Baseline], nodes: Vec<tree::Node>, times: bool) -> View {
        let mut view = View {
            base: Manifest::default(),
            device: Manifest::default(),
            server: Manifest::default(),
            left_out: Vec::new(),
            times,
            stand_ins: HashSet::new(),
        };
        view.device.unknown.extend(listed.unknown.iter().cloned());
        let held: HashSet<&TreePath> = listed.files.iter().filter(|f| !f.deleted).map(|f| &f.path).collect();
        let base_at: HashMap<&TreePath, &File> = agreed
            .iter()
            .filter_map(|row| match &row.content {
                Content::File(file) => Some((&row.held.path, file)),
                Content::Folder => None,
            })
            .collect();
        let server_at: HashMap<&TreePath, &FileInfo> =
            nodes.iter().filter_map(|node| Some((&node.path, node.file.as_ref()?))).collect();
        let mut seen = HashSet::new();
        for file in &listed.files {
            if !seen.insert(&file.path) {
                // The manifest makes a path that is listed twice unknown.
                view.left_out.push((file.path.clone(), "path.twice"));
            }
            view.take_listed(device, file, base_at.get(&file.path).copied(), server_at.get(&file.path).copied());
        }
        for row in agreed.iter().filter(|row| matches!(row.content, Content::File(_))) {
            view.base.entries.push((row.held.path.clone(), row.node()));
        }
        for node in nodes {
            view.take_node(device, node, &held);
        }
        view
    }

    fn take_listed(&mut self, device: &Device, file: &Reported, base: Option<&File>, server: Option<&FileInfo>) {
        let leave = |view: &mut View, why| {
            view.left_out.push((file.path.clone(), why));
            view.device.unknown.push(file.path.clone());
        };
        if device.leaves_out(&file.path) {
            return leave(self, "path.ignored");
        }
        if file.deleted {
            return;
        }
        let Some(hash) = file.hash.or_else(|| self.hash_of(file, base, server)) else {
            return leave(self, "hash.wanted");
        };
        // Times that do not decide a conflict are kept out, for they are not synced.
        let differs = server.is_some_and(|server| server.hash != hash);
        let modified_at = file.modified_at.filter(|_| differs && self.times);
        let content = Content::File(File { hash, size: file.size, modified_at, executable: None });
        self.device.entries.push((file.path.clone(), Node::new(content)));
    }

    /// The hash of a file that came without one: the baseline's while size and time are; a stand-in where the contents
    /// can't be the tree's; none where only the hash can tell.
    fn hash_of(&mut self, file: &Reported, base: Option<&File>, server: Option<&FileInfo>) -> Option<ContentHash> {
        let same_time = |at: Option<chrono::DateTime<chrono::Utc>>| {
            let micros = |at: chrono::DateTime<chrono::Utc>| at.timestamp_micros();
            at.map(micros).is_some_and(|at| file.modified_at.map(micros) == Some(at))
        };
        if let Some(base) = base.filter(|base| base.size == file.size && same_time(base.modified_at)) {
            return Some(base.hash);
        }
        // Changed or not, it goes one way only while the tree has not changed. Else all depends on whose contents it has.
        let unchanged_in_tree = server.zip(base).is_some_and(|(server, base)| server.hash == base.hash);
        let may_be = [base.map(|base| base.size), server.map(|server| server.size)].contains(&Some(file.size));
        if may_be && !unchanged_in_tree {
            return None;
        }
        let text = format!("contents without a hash at {}", file.path);
        let stand_in = ContentHash::of(text.as_bytes());
        self.stand_ins.insert(stand_in);
        Some(stand_in)
    }

    fn take_node(&mut self, device: &Device, node: tree::Node, held: &HashSet<&TreePath>) {
        if device.leaves_out(&node.path) {
            self.server.unknown.push(node.path);
        } else if !node.is_folder() || held.contains(&node.path) {
            self.server.entries.push(node.into_entry());
        }
    }
}
