//! The blob store: packs of chunks, on a local folder.
//!
//! Invariant: bytes that a live pack's rows point to are on the disk, file and folder synced, and never change; an object goes
//! only after its pack's row says `dead`. No name that a user gave ever becomes a name here. Left out: which chunks are
//! needed (`commit`, `uploads`) and which are no longer (`cleanup`).

mod folder;
mod pack;
mod read;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use driftless_sync::hash::ContentHash;
use uuid::Uuid;

use crate::{
    config::Settings,
    db,
    error::{Fault, Kind},
};

pub use folder::Folder;
pub use pack::{Pack, PackWriter, record_and_claim};
pub use read::{Place, places, stream};

/// Largest pack in bytes; the next chunk begins another.
pub const MAX_PACK_BYTES: u64 = 64 << 20;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement about packs or chunks failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The store could not be written.
    #[error("the file store could not be written")]
    Write(#[source] io::Error),
    /// The store could not be read.
    #[error("the file store could not be read")]
    Read(#[source] io::Error),
    /// Less than DRIFTLESS_MIN_FREE would be left on the disk.
    #[error("the server's disk is full; nothing was stored")]
    Full,
    /// The pack was taken away while it was being written (this process was taken for dead).
    #[error("the transfer was interrupted; send it again")]
    PackLost,
    /// Chunks that the contents need are not, or no longer, stored.
    #[error("{} pieces of the contents are not stored; send them again", .0.len())]
    Missing(Vec<ContentHash>),
}

crate::db::from_sqlx!(Error::Database);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Database(e) => e.kind(),
            Error::Write(_) | Error::PackLost => Kind::Unavailable,
            Error::Read(_) => Kind::Internal,
            Error::Full => Kind::OverQuota,
            Error::Missing(_) => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Database(e) => e.code(),
            Error::Write(_) => "store.unwritable",
            Error::PackLost => "store.interrupted",
            Error::Read(_) => "internal",
            Error::Full => "store.full",
            Error::Missing(_) => "chunks.missing",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Database(e) => e.retry_after(),
            Error::Write(_) | Error::PackLost => Some(1),
            _ => None,
        }
    }
}

/// Where packs are kept: objects that are written once, read in ranges and removed whole.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Makes sure that objects can be written. Blocks for a moment.
    fn prepare(&self) -> io::Result<()>;
    /// Begins an object that must not exist yet.
    async fn create(&self, name: Uuid) -> io::Result<Box<dyn BlobWriter>>;
    /// Exactly `length` bytes from `offset` on; fewer is an error.
    async fn read(&self, name: Uuid, offset: u64, length: usize) -> io::Result<Bytes>;
    /// Removes an object; one that is not there is fine.
    async fn remove(&self, name: Uuid) -> io::Result<()>;
    /// The names of the objects whose name ends in this byte.
    async fn list(&self, last_byte: u8) -> io::Result<Vec<Uuid>>;
    /// Bytes free for us, and of how many; none where nobody can say.
    fn space(&self) -> io::Result<Option<Space>>;
}

/// An object that is being written. Dropped without `seal` it is left half written and unreachable.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends the pieces in their order; may return before they are written, a later call or `seal` then tells of the failure.
    async fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()>;
    /// Returns when the object and its name would survive a power cut.
    async fn seal(self: Box<Self>) -> io::Result<()>;
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Free for us.
    pub free: u64,
    /// The disk's size.
    pub total: u64,
}

/// The store of this process. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    blobs: Arc<dyn BlobStore>,
    data_dir: PathBuf,
    min_free: Option<u64>,
    readers: Arc<AtomicUsize>,
    _ticket: Option<Arc<Ticket>>,
}

/// Stands for one who reads.
struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Store {
    /// The store that the settings name. Nothing is touched before the first use.
    pub fn new(settings: &Settings) -> Self {
        Store {
            blobs: Arc::new(Folder::new(settings.store.clone())),
            data_dir: settings.data_dir.clone(),
            min_free: settings.min_free,
            readers: Arc::default(),
            _ticket: None,
        }
    }

    /// The store in the hands of one who is about to look up places in it and read them: until it and its clones are dropped,
    /// [`is_read`](Self::is_read).
    pub fn reading(&self) -> Store {
        self.readers.fetch_add(1, Ordering::AcqRel);
        Store { _ticket: Some(Arc::new(Ticket(self.readers.clone()))), ..self.clone() }
    }

    /// Whether anybody in this process reads what he looked up.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }

    /// The objects themselves.
    pub fn blobs(&self) -> &dyn BlobStore {
        &*self.blobs
    }

    /// Fails with [`Error::Full`] when taking `bytes` more would leave less than DRIFTLESS_MIN_FREE on the disk of the store
    /// or of the data folder, where the private database lives.
    pub fn check_room(&self, bytes: u64) -> Result<(), Error> {
        let disks = [self.blobs.space(), folder::space(&self.data_dir).map(Some)];
        for space in disks {
            let Some(space) = space.map_err(Error::Write)? else { continue };
            let floor = self.min_free.unwrap_or_else(|| (1 << 30).max(space.total / 50));
            if space.free < floor.saturating_add(bytes) {
                return Err(Error::Full);
            }
        }
        Ok(())
    }

    /// Whether the disk is below its floor, so that dead objects should go at once.
    pub fn is_full(&self) -> bool {
        matches!(self.check_room(0), Err(Error::Full))
    }
}
