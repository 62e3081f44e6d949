//! Reports of client devices: what a device holds, and what it has taken in.
//!
//! Invariant: answering a list changes nothing; a baseline moves only for what the device acknowledges, and only when version and contents
//! are those the tree has or had. A file that only the device has is to be uploaded and never deleted, unless the baseline
//! proves that the server deleted it. Left out: runs of client devices (`runs::client`).

mod ack;
mod parts;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use driftless_sync::{
    conflict::{Conflict, Policy},
    deletions::{Loss, Verdict, judge},
    hash::ContentHash,
    ignore::{IgnoreList, SelectedFolder, is_selected},
    manifest::{self, Content, File, Manifest},
    path::TreePath,
    plan::{self, Deletion, Direction, Rules, Side, Step},
};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use crate::{
    Actor, Domain, Tx,
    baselines::{self, Baseline},
    commit, db,
    error::{Fault, Kind},
    runs,
    tree::{self, Cursor, Node},
};

pub use ack::{Ack, Acked, Applied, Gone, Refused, ack};
pub use parts::{MAX_FILES, Part, collect};

/// Why a report could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The tree could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The commit failed.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// A run could not be held.
    #[error(transparent)]
    Runs(#[from] runs::Error),
    /// No such device.
    #[error("there is no device with this id")]
    NoDevice,
    /// A value that can't be.
    #[error("{problem}")]
    Invalid {
        /// Stable code.
        code: &'static str,
        /// The field at fault.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The token is of another course of history.
    #[error("this change token can't be continued from; list the files anew")]
    Expired,
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        Error::Database(e.into())
    }
}

impl Error {
    fn cause(&self) -> Option<&dyn Fault> {
        match self {
            Error::Database(e) => Some(e),
            Error::Tree(e) => Some(e),
            Error::Commit(e) => Some(e),
            Error::Runs(e) => Some(e),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoDevice => Kind::NotFound,
            Error::Invalid { .. } => Kind::Invalid,
            Error::Expired => Kind::Gone,
            other => other.cause().map_or(Kind::Internal, Fault::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NoDevice => "device.not_found",
            Error::Invalid { code, .. } => code,
            Error::Expired => "cursor.expired",
            other => other.cause().map_or("internal", Fault::code),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::NoDevice => Some("device_id"),
            Error::Invalid { field, .. } => Some(field),
            Error::Expired => Some("change_token"),
            other => other.cause().and_then(Fault::field),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        self.cause().and_then(Fault::retry_after)
    }
}

/// A file of a device's list; the path is relative to the base path.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listed {
    /// Where.
    pub path: TreePath,
    /// SHA-256, if the device knows it. Without it equal size and time stand for equal contents.
    pub hash: Option<ContentHash>,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// The device knows that it is gone.
    pub deleted: bool,
}

/// A device's list.
#[derive(Debug, Clone)]
pub struct Report {
    /// The device's own id.
    pub device_id: String,
    /// What it holds.
    pub files: Vec<Listed>,
    /// Whether the list is the whole device; else what it doesn't name is as last agreed.
    pub complete: bool,
    /// Paths that the device could not look at: they and all below are left alone.
    pub unknown: Vec<TreePath>,
    /// The folder of the tree that paths are relative to; the device's when absent.
    pub base_path: Option<TreePath>,
}

/// A file to move one way or the other. Paths are relative to the base path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Where it is to be.
    pub path: TreePath,
    /// Where it is now, on the side that has it, when that is another path.
    pub from: Option<TreePath>,
    /// Upload: the version to give as base (0: nothing is there). Download: the version.
    pub version: i64,
    /// The contents.
    pub file: File,
}

/// What makes device and tree agree.
#[derive(Debug, Clone)]
pub struct Answer {
    /// From the device.
    pub to_upload: Vec<Transfer>,
    /// To the device.
    pub to_download: Vec<Transfer>,
    /// From the device's folder; path and the version that it last had.
    pub to_delete: Vec<(TreePath, i64)>,
    /// From the tree, by acknowledging them as deleted.
    pub to_delete_on_server: Vec<(TreePath, i64)>,
    /// Equal on both sides already: acknowledge them.
    pub identical: Vec<Transfer>,
    /// What collided, and how it ends once the lists are worked off.
    pub conflicts: Vec<Conflict>,
    /// Everything up to here is in the answer.
    pub cursor: Cursor,
    /// Too many deletions: none is in the answer, and this run waits for a person.
    pub held: Option<Uuid>,
}

/// The device's row, as far as reports need it.
#[derive(FromRow)]
struct DeviceRow {
    id: i64,
    device_name: String,
    base_path: String,
    ignore_rules: Vec<String>,
    selection: Json<Vec<SelectedFolder>>,
}

/// A device, and which paths concern it.
struct Scope {
    device: i64,
    name: String,
    base: TreePath,
    ignore: IgnoreList,
    selection: Vec<SelectedFolder>,
}

impl Scope {
    async fn load(tx: &mut Tx, actor: &Actor, device_id: &str, base: Option<&TreePath>) -> Result<Scope, Error> {
        let device = crate::devices::find(tx, actor, device_id).await.map_err(|_| Error::NoDevice)?;
        let row: DeviceRow = sqlx::query_as(
            "select id, device_name, base_path, ignore_rules, selection from devices where id = $1 and user_id = $2",
        )
        .bind(device)
        .bind(actor.user_id)
        .fetch_optional(&mut **tx)
        .await?
        .ok_or(Error::NoDevice)?;
        let own = TreePath::parse(&row.base_path).unwrap_or(TreePath::root());
        Ok(Scope {
            device: row.id,
            name: row.device_name,
            base: base.cloned().unwrap_or(own),
            ignore: IgnoreList::new(row.ignore_rules.iter().map(String::as_str)).unwrap_or_default(),
            selection: row.selection.0,
        })
    }

    /// The path as the device names it, when it concerns the device at all.
    fn relative(&self, path: &TreePath) -> Option<TreePath> {
        path.relative_to(&self.base)
    }

    fn concerns(&self, relative: &TreePath) -> bool {
        !self.ignore.ignores(relative, false)
            && (self.selection.is_empty() || is_selected(&self.selection, relative, false))
    }

    fn absolute(&self, relative: &TreePath) -> Result<TreePath, Error> {
        relative.below(&self.base).map_err(|e| Error::Invalid {
            code: e.code(),
            field: "path".into(),
            problem: format!("{relative}: {e}"),
        })
    }
}

/// The tree and the baseline of a device, and the cursor from before they were read.
struct Ground {
    cursor: Cursor,
    server: HashMap<TreePath, Node>,
    base: HashMap<TreePath, Baseline>,
    /// Rows of entries whose path another row of the device has, too: the older ones.
    stale: Vec<Baseline>,
}

impl Ground {
    async fn read(tx: &mut Tx, actor: &Actor, scope: &Scope) -> Result<Ground, Error> {
        let cursor = tree::head(tx, actor).await?.cursor();
        let nodes = match tree::below(tx, actor, &scope.base).await {
            Ok(nodes) => nodes,
            // A base path that nobody has made yet is an empty folder.
            Err(tree::Error::NotFound(_)) => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let server = nodes.into_iter().filter(|n| !n.is_folder()).map(|n| (n.path.clone(), n)).collect();
        let (mut base, mut stale) = (HashMap::new(), Vec::new());
        let mut rows = baselines::of_device(tx, actor, scope.device).await?;
        rows.retain(|b| b.content != Content::Folder && b.held.path.starts_with(&scope.base));
        rows.sort_by_key(|b| b.version);
        for row in rows {
            stale.extend(base.insert(row.held.path.clone(), row));
        }
        Ok(Ground { cursor, server, base, stale })
    }
}

fn file_of(node: &Node) -> Option<File> {
    let info = node.file.as_ref()?;
    Some(File {
        hash: info.hash,
        size: info.size,
        modified_at: Some(info.modified_at),
        executable: Some(info.executable),
    })
}

/// Compares a device's list with the tree. Changes nothing but, when deletions are held, the list of the held run.
pub async fn answer(domain: &Domain, actor: &Actor, report: Report) -> Result<Answer, Error> {
    let mut tx = domain.begin(actor).await?;
    let scope = Scope::load(&mut tx, actor, &report.device_id, report.base_path.as_ref()).await?;
    let ground = Ground::read(&mut tx, actor, &scope).await?;
    let now = tx.now().await?;
    let device = device_manifest(&scope, &ground, &report)?;
    let emptied = report.complete && device.entries.is_empty() && !ground.base.is_empty();
    let rules = Rules {
        direction: Direction::Both,
        policy: Policy::KeepBoth,
        sync_deletions: true,
        now,
        device_name: scope.name.clone(),
    };
    let base = Manifest {
        entries: ground.base.iter().map(|(path, row)| (path.clone(), row.node())).collect(),
        unknown: Vec::new(),
    };
    let server = Manifest { entries: ground.server.iter().filter_map(server_entry).collect(), unknown: Vec::new() };
    let files_on_device = device.files() as u64;
    // Millions of paths may be compared: off the runtime's threads.
    let mut plan = tokio::task::spawn_blocking(move || plan::plan(&base, &device, &server, &rules))
        .await
        .map_err(|e| Error::Tree(tree::Error::Database(sqlx::Error::Io(std::io::Error::other(e)).into())))?;
    let approved = approved(&mut tx, scope.device).await?;
    let held =
        hold(&mut tx, actor, &scope, &mut plan, &approved, [files_on_device, ground.server.len() as u64], emptied)
            .await?;
    let mut answer = lists(&scope, &ground, &plan);
    answer.held = held;
    tx.commit().await?;
    Ok(answer)
}

fn server_entry((path, node): (&TreePath, &Node)) -> Option<(TreePath, manifest::Node)> {
    let content = Content::File(file_of(node)?);
    let mut entry = manifest::Node::new(content);
    (entry.entry, entry.version) = (Some(node.entry_id), Some(node.version));
    Some((path.clone(), entry))
}

/// What the device holds, in the tree's terms.
fn device_manifest(scope: &Scope, ground: &Ground, report: &Report) -> Result<Manifest, Error> {
    let mut device = Manifest::default();
    let mut named = HashSet::new();
    for (i, listed) in report.files.iter().enumerate() {
        let path = scope.absolute(&listed.path)?;
        if !named.insert(path.clone()) {
            return Err(Error::Invalid {
                code: "file_list.twice",
                field: format!("file_list[{i}].path"),
                problem: format!("{} is in the list twice", listed.path),
            });
        }
        if !listed.deleted && scope.concerns(&listed.path) {
            let file = listed_file(listed, &path, ground);
            device.entries.push((path, manifest::Node::new(Content::File(file))));
        }
    }
    if !report.complete {
        // What a partial list does not name is as it was last agreed.
        let silent = ground.base.iter().filter(|(path, _)| !named.contains(*path));
        device.entries.extend(silent.map(|(path, row)| {
            let mut node = row.node();
            (node.entry, node.version, node.inode) = (None, None, None);
            (path.clone(), node)
        }));
    }
    for path in &report.unknown {
        device.unknown.push(scope.absolute(path)?);
    }
    let everywhere = ground.server.keys().chain(ground.base.keys());
    device.unknown.extend(everywhere.filter(|path| scope.relative(path).is_some_and(|r| !scope.concerns(&r))).cloned());
    Ok(device)
}

/// A listed file with its hash. Without one, a file that looks like the baseline's or the tree's is taken for it; any other has
/// contents that nobody knows yet, which no hash in the tree equals.
fn listed_file(listed: &Listed, path: &TreePath, ground: &Ground) -> File {
    let modified_at = listed.modified_at;
    let alike = |known: &File| {
        known.size == listed.size
            && known.modified_at.zip(modified_at).is_some_and(|(a, b)| a.timestamp_micros() == b.timestamp_micros())
    };
    let base = ground.base.get(path).and_then(|row| match &row.content {
        Content::File(file) => Some(file.clone()),
        Content::Folder => None,
    });
    let server = ground.server.get(path).and_then(file_of);
    let hash = listed.hash.unwrap_or_else(|| {
        let known = [base, server].into_iter().flatten().find(alike).map(|f| f.hash);
        known.unwrap_or_else(|| ContentHash::of(format!("unknown contents\0{path}\0{}", listed.size).as_bytes()))
    });
    File { hash, size: listed.size, modified_at, executable: None }
}

/// What a person has approved for this device and no run has finished with.
async fn approved(tx: &mut Tx, device: i64) -> Result<HashSet<(Side, TreePath, i64)>, Error> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select h.side, h.path, h.version from runs r join held_deletions h on h.run_id = r.id
         where r.device_id = $1 and r.state in ('queued', 'running', 'waiting_for_device') and r.approved_at is not null",
    )
    .bind(device)
    .fetch_all(&mut **tx)
    .await?;
    let side = |text: &str| if text == "device" { Side::Device } else { Side::Server };
    Ok(rows.into_iter().filter_map(|(s, path, v)| Some((side(&s), TreePath::parse(&path).ok()?, v))).collect())
}

/// Judges a plan's deletions; when one side loses too much, takes all out and puts them into a held run.
async fn hold(
    tx: &mut Tx,
    actor: &Actor,
    scope: &Scope,
    plan: &mut plan::Plan,
    approved: &HashSet<(Side, TreePath, i64)>,
    [on_device, on_server]: [u64; 2],
    emptied: bool,
) -> Result<Option<Uuid>, Error> {
    let granted: HashSet<Deletion> = plan
        .deletions()
        .filter(|d| approved.contains(&(d.on, d.path.clone(), d.version.unwrap_or(0))))
        .cloned()
        .collect();
    let planned = |side| plan.deletions().filter(|d| d.on == side && !granted.contains(d)).count() as u64;
    let mut too_much = false;
    for (side, total) in [(Side::Device, on_device), (Side::Server, on_server)] {
        let last_hour = last_hour(tx, scope.device, side).await?;
        let loss = Loss { last_hour, planned: planned(side), total, emptied: emptied && side == Side::Server };
        too_much |= judge(loss) == Verdict::Held;
    }
    if !too_much {
        return Ok(None);
    }
    let held = plan.hold_deletions(&granted);
    held_run(tx, actor, scope.device, &held).await.map(Some)
}

async fn held_run(tx: &mut Tx, actor: &Actor, device: i64, held: &[Deletion]) -> Result<Uuid, Error> {
    let deletions: Vec<runs::HeldDeletion> = held
        .iter()
        .map(|d| runs::HeldDeletion {
            side: if d.on == Side::Device { runs::Side::Device } else { runs::Side::Server },
            path: d.path.to_string(),
            version: d.version.unwrap_or(0),
        })
        .collect();
    Ok(runs::client::hold_reported(tx, actor, device, &deletions).await?)
}

async fn last_hour(tx: &mut Tx, device: i64, side: Side) -> Result<u64, Error> {
    let files: i64 = sqlx::query_scalar(
        "select coalesce(sum(files), 0)::bigint from deletions
         where device_id = $1 and side = $2 and minute > queue.now() - interval '1 hour'",
    )
    .bind(device)
    .bind(if side == Side::Device { "device" } else { "server" })
    .fetch_one(&mut **tx)
    .await?;
    Ok(files.unsigned_abs())
}

/// Where the tree gets a file as a copy of another of its files: the copy's path and the other's.
fn copies_on_the_server(plan: &plan::Plan) -> HashMap<&TreePath, &TreePath> {
    plan.actions
        .iter()
        .filter_map(|action| match &action.step {
            Step::Write { from: (Side::Server, from), .. } if action.on == Side::Server => Some((&action.path, from)),
            _ => None,
        })
        .collect()
}

/// What both sides hold alike and no baseline says yet.
fn identical(scope: &Scope, ground: &Ground, plan: &plan::Plan) -> Vec<Transfer> {
    let agreed = plan.records.iter().filter_map(|record| match record {
        plan::Record::Agree { path, content: Content::File(file) } => Some((path, file)),
        _ => None,
    });
    agreed
        .map(|(path, file)| Transfer {
            path: scope.relative(path).unwrap_or_else(|| path.clone()),
            from: None,
            version: ground.server.get(path).map_or(0, |n| n.version),
            file: file.clone(),
        })
        .collect()
}

/// The plan as lists for the device. A move is told as its two halves: contents that are known move no bytes.
fn lists(scope: &Scope, ground: &Ground, plan: &plan::Plan) -> Answer {
    let mut answer = Answer {
        to_upload: Vec::new(),
        to_download: Vec::new(),
        to_delete: Vec::new(),
        to_delete_on_server: Vec::new(),
        identical: Vec::new(),
        conflicts: Vec::new(),
        cursor: ground.cursor,
        held: None,
    };
    let relative = |path: &TreePath| scope.relative(path).unwrap_or_else(|| path.clone());
    let version = |path: &TreePath| ground.server.get(path).map_or(0, |n| n.version);
    let copies = copies_on_the_server(plan);
    for action in &plan.actions {
        let moved = |from: &TreePath| (from != &action.path).then(|| relative(from));
        match (&action.step, action.on) {
            // A copy on one side is the device's own affair, or comes with what it uploads; no byte is asked for.
            (Step::Write { from, .. }, on) if from.0 == on => {}
            (Step::Write { file, from, .. }, on) => {
                let list = if on == Side::Server { &mut answer.to_upload } else { &mut answer.to_download };
                // A copy that the tree does not have yet is made of the file that it is a copy of.
                let held = copies.get(&from.1).copied().unwrap_or(&from.1);
                let source = if on == Side::Server { &action.path } else { held };
                // What the tree gets only with this device's own upload is told by the next report.
                if on == Side::Device && version(source) == 0 {
                    continue;
                }
                let from = if on == Side::Server { &from.1 } else { held };
                list.push(Transfer {
                    path: relative(&action.path),
                    from: moved(from),
                    version: version(source),
                    file: file.clone(),
                });
            }
            (Step::SetMetadata { file }, on) => {
                let list = if on == Side::Server { &mut answer.to_upload } else { &mut answer.to_download };
                let path = relative(&action.path);
                list.push(Transfer { path, from: None, version: version(&action.path), file: file.clone() });
            }
            // The loser's new name on the device; the conflict tells it.
            (Step::Move { .. }, Side::Device) if action.phase == plan::Phase::Aside => {}
            (Step::Move { from, node }, on) => {
                let Some(file) = node.file() else { continue };
                let path = relative(&action.path);
                let old = ground.base.get(from).map_or(0, |row| row.version);
                let (list, gone) = match on {
                    Side::Server => (&mut answer.to_upload, &mut answer.to_delete_on_server),
                    Side::Device => (&mut answer.to_download, &mut answer.to_delete),
                };
                list.push(Transfer { path, from: None, version: version(&action.path), file: file.clone() });
                gone.push((relative(from), old));
            }
            (Step::DeleteFile(d), Side::Device) => {
                answer.to_delete.push((relative(&d.path), d.version.unwrap_or(0)));
            }
            (Step::DeleteFile(d), Side::Server) => {
                answer.to_delete_on_server.push((relative(&d.path), d.version.unwrap_or(0)));
            }
            (Step::CreateFolder | Step::DeleteFolder, _) => {}
        }
    }
    answer.identical = identical(scope, ground, plan);
    answer.conflicts = plan.conflicts.iter().cloned().map(|c| Conflict { path: relative(&c.path), ..c }).collect();
    answer
}
