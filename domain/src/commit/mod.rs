//! The one commit path: every change of a user's tree, whatever door it came by, is decided and written here.
//!
//! Invariant: all changes of one transaction are made under the lock of the user's head row, so commit order is seq order; a file exists
//! from the commit of its version on and not before. A change that can't be is refused alone and leaves nothing; the others of its
//! batch are carried out. Inside a process one task a user commits all that wait, so that they share a lock and a sync.
//! Left out: taking contents in (`ingest`), reading (`tree`), choosing what to do (`sync::plan`).

mod decide;
mod state;
mod write;

pub(crate) use write::{count_deletions, deleted_last_hour};

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use driftless_sync::path::TreePath;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    Actor, Domain, db,
    error::{Fault, Kind},
    ingest::{Contents, Ingested},
    store,
    tree::Node,
};

/// Requests that share a transaction at most.
const TOGETHER: usize = 256;

/// Through which door changes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A signed-in person; what he deletes goes to trash and counts for no device.
    Person,
    /// A device that reports by itself; `device` is the row's id.
    Device {
        /// Id of the device's row.
        device: i64,
    },
    /// A run that works for a device. Refused as a whole unless the run still is at this fence.
    Run {
        /// Id of the device's row.
        device: i64,
        /// The run.
        run: Uuid,
        /// The run's fence when it was taken over.
        fence: i64,
    },
}

impl Origin {
    pub(crate) fn device(&self) -> Option<i64> {
        match self {
            Origin::Person => None,
            Origin::Device { device } | Origin::Run { device, .. } => Some(*device),
        }
    }
}

/// What the caller believes to be at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Whatever there is.
    Any,
    /// Nothing.
    Absent,
    /// A file in this version.
    Version(i64),
}

/// What to do when something else than the base is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse; the caller decides.
    Refuse,
    /// Put it beside, as `name (conflict 2026-11-22 <who>).ext`.
    KeepBoth {
        /// Whose copy it is: the device's name.
        who: String,
    },
}

/// How the device holds an entry from now on: recorded as its baseline in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where the device has it, in the tree's terms (absolute, base path included).
    pub path: TreePath,
    /// How the device spells it, where that differs.
    pub spelling: Option<String>,
    /// The folder remote's fingerprint, when it can be trusted.
    pub fingerprint: Option<Fingerprint>,
}

/// What a file system says of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Bytes.
    pub size: i64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number, bit for bit.
    pub inode: i64,
}

/// One change. Folders on the way to a path are made where they are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Contents at a path. Equal contents change nothing but time and mode where those are given and differ.
    Put {
        /// Where.
        path: TreePath,
        /// What; from the batch's ingest, from an upload or of a version.
        contents: Contents,
        /// Modification time; now where none is given and the contents are new.
        modified_at: Option<DateTime<Utc>>,
        /// Executable bit; as before where none is given.
        executable: Option<bool>,
        /// What the caller believes to be there.
        base: Base,
        /// When it isn't.
        on_conflict: OnConflict,
        /// The device's baseline for it.
        held: Option<Held>,
    },
    /// Contents into the history of a path, without becoming current: what lost a conflict.
    Keep {
        /// Whose history; without an entry there, one in the trash is made.
        path: TreePath,
        /// What.
        contents: Contents,
        /// Modification time.
        modified_at: DateTime<Utc>,
        /// Executable bit.
        executable: bool,
    },
    /// A folder; one that exists is fine.
    Folder {
        /// Where.
        path: TreePath,
        /// The device's baseline for it.
        held: Option<Held>,
    },
    /// Time or mode of a file, contents as they are.
    Touch {
        /// Where.
        path: TreePath,
        /// New modification time.
        modified_at: Option<DateTime<Utc>>,
        /// New executable bit.
        executable: Option<bool>,
        /// What the caller believes to be there.
        base: Base,
        /// The device's baseline for it.
        held: Option<Held>,
    },
    /// A file or folder to another place, with its history.
    Move {
        /// From here.
        from: TreePath,
        /// To here; nothing may be there.
        to: TreePath,
        /// What the caller believes to be at `from`.
        base: Base,
        /// The device's baseline for it.
        held: Option<Held>,
    },
    /// Into the trash.
    Delete {
        /// What.
        path: TreePath,
        /// What the caller believes to be there.
        base: Base,
        /// Whether a folder takes with it what is in it; else one that is not empty is refused.
        recursive: bool,
        /// Half of a move: not counted for deletion safety.
        half_of_move: bool,
    },
    /// Out of the trash.
    Restore {
        /// The entry in the trash.
        entry_id: i64,
        /// To here; nothing may be there.
        to: TreePath,
    },
    /// Only the device's baseline: it holds this version of this entry. The tree stays as it is.
    Agree {
        /// The entry.
        entry_id: i64,
        /// Its version that the device has.
        version: i64,
        /// How the device holds it.
        held: Held,
    },
    /// Only the device's baseline: it no longer has this entry.
    Forget {
        /// The entry.
        entry_id: i64,
    },
}

/// Changes that belong to one request.
pub struct Batch {
    /// In this order.
    pub changes: Vec<Change>,
    /// The door.
    pub origin: Origin,
    /// The finished ingest that the contents came by.
    pub ingested: Option<Ingested>,
    /// The upload that the first change completes: marked done with its version, its references given back.
    pub upload: Option<Uuid>,
}

impl Batch {
    /// A batch without new contents.
    pub fn new(origin: Origin, changes: Vec<Change>) -> Self {
        Batch { changes, origin, ingested: None, upload: None }
    }

    /// A batch whose contents came by `ingested`.
    pub fn with(origin: Origin, changes: Vec<Change>, ingested: Ingested) -> Self {
        Batch { changes, origin, ingested: Some(ingested), upload: None }
    }
}

/// Where a change left its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub entry_id: i64,
    /// The version that it is at now.
    pub version: i64,
    /// Where it is (or was, when deleted).
    pub path: TreePath,
}

/// What came of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out.
    Done(Applied),
    /// The entry did not exist before, and was made.
    Created(Applied),
    /// There was something else than the base; the contents were put beside it.
    KeptBoth(Applied),
    /// The tree was so already.
    Unchanged(Applied),
    /// Not carried out.
    Refused(Refusal),
}

impl Outcome {
    /// Where the entry is now, or why not.
    pub fn applied(self) -> Result<Applied, Refusal> {
        match self {
            Outcome::Done(a) | Outcome::Created(a) | Outcome::KeptBoth(a) | Outcome::Unchanged(a) => Ok(a),
            Outcome::Refused(refusal) => Err(refusal),
        }
    }
}

/// Why a change was not carried out. It left nothing behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The path moved on: not what the caller believes is there.
    #[error("{path} has changed meanwhile")]
    Conflict {
        /// The path.
        path: TreePath,
        /// What is there now.
        current: Option<Box<Node>>,
    },
    /// Nothing is there.
    #[error("there is nothing at {0}")]
    NotFound(TreePath),
    /// Something is there already.
    #[error("there is something at {0} already")]
    Taken(TreePath),
    /// A folder was needed.
    #[error("{0} is a file, not a folder")]
    NotAFolder(TreePath),
    /// A file was needed.
    #[error("{0} is a folder, not a file")]
    IsAFolder(TreePath),
    /// The folder is not empty.
    #[error("the folder {0} is not empty")]
    NotEmpty(TreePath),
    /// A folder can't be moved into itself.
    #[error("{0} can't be moved into itself")]
    IntoItself(TreePath),
    /// The root can't be moved, replaced or deleted.
    #[error("the root folder can't be changed")]
    Root,
    /// A path below would break the limits of paths.
    #[error("a path below {0} would become too long or too deep")]
    TooLong(TreePath),
}

impl Fault for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Refusal::NotFound(_) => Kind::NotFound,
            Refusal::IntoItself(_) | Refusal::Root | Refusal::TooLong(_) => Kind::Invalid,
            _ => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Refusal::Conflict { .. } => "file.changed",
            Refusal::NotFound(_) => "file.not_found",
            Refusal::Taken(_) => "file.exists",
            Refusal::NotAFolder(_) => "file.not_a_folder",
            Refusal::IsAFolder(_) => "file.is_a_folder",
            Refusal::NotEmpty(_) => "file.not_empty",
            Refusal::IntoItself(_) => "file.into_itself",
            Refusal::Root => "file.is_root",
            Refusal::TooLong(_) => "path.too_long",
        }
    }

    fn field(&self) -> Option<&str> {
        Some("path")
    }
}

/// Why a whole batch was not carried out. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The contents are not (or no longer) stored.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Another worker has taken the run over, or it was cancelled.
    #[error("the run is no longer held by this worker")]
    FenceLost,
    /// The device was removed meanwhile.
    #[error("no such device")]
    DeviceGone,
    /// The upload was completed or given up meanwhile.
    #[error("the upload was completed or given up meanwhile")]
    UploadOver,
    /// The process was stopping or lost its database; whether the change was carried out is not known.
    #[error("the change was interrupted; look, then send it again")]
    Interrupted,
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            Error::Store(e) => e.kind(),
            Error::FenceLost | Error::UploadOver => Kind::Conflict,
            Error::DeviceGone => Kind::NotFound,
            Error::Interrupted => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Database(e) => e.code(),
            Error::Store(e) => e.code(),
            Error::FenceLost => "run.taken_over",
            Error::DeviceGone => "device.not_found",
            Error::UploadOver => "upload.over",
            Error::Interrupted => "commit.interrupted",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            Error::Store(e) => e.retry_after(),
            _ => None,
        }
    }
}

type Answer = Result<Vec<Outcome>, Error>;

/// A batch with whoever waits for it.
struct Waiting {
    actor: Actor,
    batch: Batch,
    answer: oneshot::Sender<Answer>,
}

/// What waits to be committed in this process, by user. A user stands here as long as a task commits for him.
#[derive(Default, Clone)]
pub(crate) struct Writers(Arc<Mutex<HashMap<i64, Vec<Waiting>>>>);

impl Writers {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<i64, Vec<Waiting>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Carries `batch` out and answers one outcome for each of its changes, in their order.
pub async fn apply(domain: &Domain, actor: &Actor, batch: Batch) -> Result<Vec<Outcome>, Error> {
    let (answer, outcome) = oneshot::channel();
    let waiting = Waiting { actor: actor.clone(), batch, answer };
    let first = domain.writers().with(|users| match users.entry(actor.user_id) {
        Entry::Occupied(mut queue) => {
            queue.get_mut().push(waiting);
            false
        }
        Entry::Vacant(place) => {
            place.insert(vec![waiting]);
            true
        }
    });
    if first {
        // A task of its own: the commit goes on when the one who asked for it hangs up.
        tokio::spawn(commit_all_that_waits(domain.clone(), actor.user_id));
    }
    outcome.await.unwrap_or(Err(Error::Interrupted))
}

/// [`apply`] of one change.
pub async fn apply_one(domain: &Domain, actor: &Actor, origin: Origin, change: Change) -> Result<Outcome, Error> {
    let mut outcomes = apply(domain, actor, Batch::new(origin, vec![change])).await?;
    Ok(outcomes.pop().expect("each change has an outcome"))
}

async fn commit_all_that_waits(domain: Domain, user_id: i64) {
    /// Should a commit panic, those who wait are told, and the next one begins a new task.
    struct Place(Option<Writers>, i64);
    impl Drop for Place {
        fn drop(&mut self) {
            if let Some(writers) = &self.0 {
                writers.with(|users| users.remove(&self.1));
            }
        }
    }
    let mut place = Place(Some(domain.writers().clone()), user_id);
    loop {
        let together = domain.writers().with(|users| {
            let queue = users.get_mut(&user_id)?;
            if queue.is_empty() {
                users.remove(&user_id);
                return None;
            }
            Some(queue.drain(..queue.len().min(TOGETHER)).collect::<Vec<_>>())
        });
        match together {
            Some(together) => commit(&domain, together).await,
            None => break,
        }
    }
    place.0 = None;
}

/// Commits the requests in one transaction; when that fails for a reason of one of them, each alone. Not when the database went
/// away: the transaction may have been committed, and what was carried out would then be refused.
async fn commit(domain: &Domain, mut together: Vec<Waiting>) {
    for attempt in 1.. {
        match write::transact(domain, &together).await {
            Ok(answers) => {
                for (waiting, (answer, recorded)) in together.into_iter().zip(answers) {
                    if let (Ok(_), Some(ingested)) = (&answer, waiting.batch.ingested) {
                        ingested.committed(recorded);
                    }
                    // Whoever asked may have hung up.
                    let _ = waiting.answer.send(answer);
                }
                return;
            }
            Err(Error::Database(db::Error::Contended(_))) if attempt < 4 => continue,
            Err(Error::Interrupted | Error::Database(db::Error::Unreachable(_))) if together.len() > 1 => {
                for waiting in together {
                    let _ = waiting.answer.send(Err(Error::Interrupted));
                }
                return;
            }
            Err(_) if together.len() > 1 => {
                for waiting in together.drain(..) {
                    Box::pin(commit(domain, vec![waiting])).await;
                }
                return;
            }
            Err(error) => {
                if let Some(waiting) = together.pop() {
                    let _ = waiting.answer.send(Err(error));
                }
                return;
            }
        }
    }
}
