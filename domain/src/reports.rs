//! Device reports: a client says what it holds and hears what to do ([`report`]), then says what it did ([`acknowledge`]).
//!
//! Invariant: a report changes nothing in tree, baseline and cursor; only what a device acknowledges moves its baseline, and only by what
//! the server really offered. What a device does not know is left alone: a path without a hash that can't be told from the
//! tree's is left out, never guessed. Reports speak of files; folders follow from them, so none is made or deleted here, and
//! modification times decide conflicts but are not synced.
//! Left out: deciding (`sync::plan`), carrying out (`commit`), runs of devices (`runs::client`).

mod ack;
mod answer;
mod parts;
mod view;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use driftless_sync::{
    conflict::Policy,
    deletions::{self, Totals},
    hash::ContentHash,
    ignore::IgnoreError,
    path::{PathError, TreePath},
    plan::{self, Deletion, Plan, Rules, Side},
};
use serde::{Deserialize, Serialize};

pub(crate) use ack::unacknowledged;
pub use ack::{Ack, Acked, AppliedFile, DeletedFile, NotAccepted, acknowledge};
pub use answer::{Answer, Collided, Delete, Download, Settled, Upload};
pub use parts::Part;

use self::view::{Device, View};
use crate::{
    Actor, Domain, Tx, baselines, commit, db, devices,
    error::{Fault, Kind},
    feed,
    runs::{self, HeldDeletion},
    schedules, tree,
};

/// Most files in one request.
pub const MAX_FILES: usize = 10_000;

/// Why a report or an acknowledgement was refused. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The device.
    #[error(transparent)]
    Device(#[from] devices::Error),
    /// Only clients report; a worker looks at remotes itself.
    #[error("this device is a remote: the server looks at it by itself")]
    Remote,
    /// The device is kept in step with another folder.
    #[error("this device is kept in step with {0}; report that folder or one below it")]
    BasePath(TreePath),
    /// A field that can't be.
    #[error("{problem}")]
    Invalid {
        /// Stable code.
        code: &'static str,
        /// The field at fault.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts of one list contradict each other.
    #[error("{0}")]
    Parts(&'static str),
    /// The tree could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The change token can't be continued from.
    #[error(transparent)]
    Token(#[from] feed::Error),
    /// The device's ignore list can't be used.
    #[error("the ignore list of this device can't be used")]
    Ignore(#[from] IgnoreError),
    /// The acknowledgement could not be committed.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// The held run could not be written.
    #[error(transparent)]
    Run(#[from] runs::Error),
    /// Comparing broke off.
    #[error("comparing the list with the tree failed")]
    Task(#[source] tokio::task::JoinError),
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        Error::Database(e.into())
    }
}

impl Error {
    fn cause(&self) -> Option<&dyn Fault> {
        Some(match self {
            Error::Database(e) => e,
            Error::Device(e) => e,
            Error::Tree(e) => e,
            Error::Token(e) => e,
            Error::Commit(e) => e,
            Error::Run(e) => e,
            _ => return None,
        })
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Remote | Error::BasePath(_) | Error::Parts(_) => Kind::Conflict,
            Error::Invalid { .. } | Error::Ignore(_) => Kind::Invalid,
            _ => self.cause().map_or(Kind::Internal, Fault::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Remote => "device.not_a_client",
            Error::BasePath(_) => "device.base_path_differs",
            Error::Parts(_) => "report.parts_differ",
            Error::Invalid { code, .. } => code,
            Error::Ignore(e) => e.code(),
            _ => self.cause().map_or("internal", Fault::code),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::BasePath(_) => Some("base_path"),
            Error::Parts(_) => Some("list_id"),
            Error::Invalid { field, .. } => Some(field),
            Error::Token(e) => e.field().map(|_| "change_token"),
            Error::Tree(tree::Error::BadCursor) => Some("change_token"),
            Error::Tree(tree::Error::NotAFolder(_)) => Some("base_path"),
            _ => self.cause().and_then(Fault::field),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        self.cause().and_then(Fault::retry_after)
    }
}

fn invalid(code: &'static str, field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Invalid { code, field: field.into(), problem: problem.into() }
}

/// What a device says of one path.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Relative to the base path.
    pub path: String,
    /// SHA-256 in hex. Without it the file counts as unchanged while size and time are those of the version last agreed on.
    pub hash: Option<String>,
    /// Bytes.
    pub size: i64,
    /// Modification time.
    pub modified_at: Option<DateTime<Utc>>,
    /// The device has nothing at the path.
    pub deleted: bool,
}

/// A list of what a device holds.
#[derive(Debug, Clone)]
pub struct Report {
    /// The device.
    pub device_id: String,
    /// The folder of the tree that the paths are relative to: the device's own, or one below it to speak of less.
    pub base_path: Option<String>,
    /// Whether the device holds nothing else. An incomplete list speaks of the listed paths only.
    pub complete: bool,
    /// The files, at most [`MAX_FILES`].
    pub files: Vec<Listed>,
    /// Paths relative to the base path that the device could not look at, at most [`MAX_FILES`]: they and all below are left alone.
    pub unknown: Vec<String>,
    /// Which part of a list in parts this is.
    pub part: Option<Part>,
}

/// A list, checked: what the device says it holds, in the tree's paths.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Listing {
    files: Vec<Reported>,
    unknown: Vec<TreePath>,
}

/// A listed file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reported {
    path: TreePath,
    hash: Option<ContentHash>,
    size: u64,
    modified_at: Option<DateTime<Utc>>,
    deleted: bool,
}

/// Compares what a device holds with the tree and answers what would make them agree. With a list in parts, an answer that is
/// not decided names the parts that are missing.
pub async fn report(domain: &Domain, actor: &Actor, report: &Report) -> Result<Answer, Error> {
    for (field, length) in [("file_list", report.files.len()), ("unknown", report.unknown.len())] {
        if length > MAX_FILES {
            let problem = format!("at most {MAX_FILES} at once; send longer lists in parts");
            return Err(invalid("report.too_many_files", field, problem));
        }
    }
    let mut tx = domain.begin(actor).await?;
    let device = Device::load(&mut tx, actor, &report.device_id).await?;
    let scope = device.scope(report.base_path.as_deref())?;
    let listed = Listing { files: check(&report.files, &scope)?, unknown: check_unknown(&report.unknown, &scope)? };
    let head = tree::head(&mut tx, actor).await?;
    device.seen(&mut tx).await?;
    let listed = match &report.part {
        None => listed,
        Some(part) => match parts::gather(&mut tx, actor, &device, &scope, report.complete, part, listed).await? {
            parts::Gathered::All(all) => all,
            parts::Gathered::Missing(missing) => {
                tx.commit().await?;
                return Ok(Answer::undecided(head.cursor(), missing));
            }
        },
    };
    let options = runs::held::claimed(&mut tx, device.id).await?.map(|(_, options)| options);
    let rules = rules(&mut tx, &device, options).await?;
    let times = rules.policy != Policy::KeepBoth;
    let view = if report.complete {
        View::of_all(&mut tx, actor, &device, &scope, &listed, times).await?
    } else {
        View::of_listed(&mut tx, actor, &device, &listed, times).await?
    };
    let (view, mut plan) = tokio::task::spawn_blocking(move || {
        let plan = plan::plan(&view.base, &view.device, &view.server, &rules);
        (view, plan)
    })
    .await
    .map_err(Error::Task)?;
    let held = hold(&mut tx, actor, &device, &view, report.complete, &mut plan).await?;
    let run = if held.is_empty() {
        if report.complete {
            runs::held::release(&mut tx, device.id).await?;
        }
        None
    } else {
        let list: Vec<HeldDeletion> = held.iter().map(to_hold).collect();
        Some(runs::held::hold(&mut tx, actor, device.id, &list, report.complete).await?)
    };
    tx.commit().await?;
    Ok(answer::answer(&view, &plan, &scope, head.cursor(), run, held.len()))
}

fn check(files: &[Listed], scope: &TreePath) -> Result<Vec<Reported>, Error> {
    let check = |(n, file): (usize, &Listed)| {
        let field = |name: &str| format!("file_list[{n}].{name}");
        let path = below(&file.path, scope).map_err(|e| invalid(e.code(), field("path"), e.to_string()))?;
        if path == *scope {
            return Err(invalid("path.is_root", field("path"), "the base folder itself is not listed"));
        }
        let hash = match file.hash.as_deref().map(str::parse).transpose() {
            Ok(hash) => hash,
            Err(_) => return Err(invalid("hash.invalid", field("hash"), "a SHA-256 has 64 hex digits")),
        };
        let size = u64::try_from(file.size)
            .map_err(|_| invalid("report.size_invalid", field("size"), "a size can't be negative"))?;
        Ok(Reported { path, hash, size, modified_at: file.modified_at, deleted: file.deleted })
    };
    files.iter().enumerate().map(check).collect()
}

fn check_unknown(paths: &[String], scope: &TreePath) -> Result<Vec<TreePath>, Error> {
    let check = |(n, path): (usize, &String)| {
        below(path, scope).map_err(|e| invalid(e.code(), format!("unknown[{n}]"), e.to_string()))
    };
    paths.iter().enumerate().map(check).collect()
}

fn below(path: &str, scope: &TreePath) -> Result<TreePath, PathError> {
    TreePath::parse(path)?.below(scope)
}

/// How conflicts end and which ways are open: by the options of the run that the device has claimed; outside a run both ways, both
/// sides of a conflict stay, and deletions travel.
async fn rules(tx: &mut Tx, device: &Device, options: Option<runs::Options>) -> Result<Rules, Error> {
    let outside = runs::Options {
        direction: schedules::Direction::Both,
        resolve_conflicts: schedules::Resolution::KeepBoth,
        sync_deletions: true,
    };
    Ok(options.unwrap_or(outside).rules(tx.now().await?, device.name.clone()))
}

/// Takes the deletions out when they are too many, except those that a person approved.
async fn hold(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    view: &View,
    complete: bool,
    plan: &mut Plan,
) -> Result<Vec<Deletion>, Error> {
    if plan.deletions().next().is_none() {
        return Ok(Vec::new());
    }
    let approved: HashSet<HeldDeletion> = runs::held::approved(tx, device.id).await?.into_iter().collect();
    let approved: HashSet<Deletion> = plan.deletions().filter(|d| approved.contains(&to_hold(d))).cloned().collect();
    // A list of a few paths is no measure of what there is.
    let totals = if complete {
        Totals::of(&view.base, &view.device, &view.server)
    } else {
        let held = baselines::count(tx, actor, device.id).await?;
        Totals { device: held, server: tree::count_files(tx, actor, &device.base).await?, emptied: false }
    };
    let last_hour = commit::deleted_last_hour(tx, device.id).await?;
    Ok(deletions::hold(plan, totals, last_hour, &approved))
}

fn to_hold(deletion: &Deletion) -> HeldDeletion {
    let side = match deletion.on {
        Side::Device => runs::Side::Device,
        Side::Server => runs::Side::Server,
    };
    HeldDeletion { side, path: deletion.path.to_string(), version: deletion.version.unwrap_or(0) }
}
