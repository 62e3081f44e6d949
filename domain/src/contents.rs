//! Reading the contents of a version, whole or in a range, with or without the user's bandwidth limit.
//!
//! Invariant: a reader that was opened reads to its end: what it names was referred to when it was opened, and objects stay a day
//! after the last reference. Left out: conditions of HTTP (`api`).

use std::{io, ops::Range};

use bytes::Bytes;
use driftless_sync::path::TreePath;
use futures::{Stream, StreamExt};

use crate::{
    Actor, Domain, Tx,
    bandwidth::Direction,
    db,
    error::{Fault, Kind},
    store::{self, Place, Store},
    tree::{self, FileInfo},
};

/// A failure to open contents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The tree.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// A version refers to chunks that are not stored: a defect of ours.
    #[error("version {version} refers to {missing} pieces that are not stored")]
    Broken {
        /// The version.
        version: i64,
        /// How many chunks are missing.
        missing: usize,
    },
}

impl From<db::Error> for Error {
    fn from(e: db::Error) -> Self {
        Error::Store(e.into())
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Tree(e) => e.kind(),
            Error::Broken { .. } => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Store(e) => e.code(),
            Error::Tree(e) => e.code(),
            Error::Broken { .. } => "internal",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Error::Tree(e) => e.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Store(e) => e.retry_after(),
            Error::Tree(e) => e.retry_after(),
            Error::Broken { .. } => None,
        }
    }
}

/// Contents ready to be read.
#[derive(Clone)]
pub struct Reader {
    /// The entry.
    pub entry_id: i64,
    /// The version.
    pub version: i64,
    /// What it is.
    pub file: FileInfo,
    places: Vec<Place>,
    store: Store,
}

impl Reader {
    /// The bytes of `range`, clamped to the contents, in pieces of at most 1 MiB.
    pub fn stream(&self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        store::stream(self.store.clone(), self.places.clone(), range)
    }

    /// All bytes.
    pub fn all(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        self.stream(0..self.file.size)
    }
}

/// Opens a version of the actor's.
pub async fn open(tx: &mut Tx, domain: &Domain, actor: &Actor, version: i64) -> Result<Reader, Error> {
    // Before the places are looked up: from now on the cleanup knows that somebody reads.
    let store = domain.store().reading();
    let found = tree::contents(tx, actor.user_id, version).await?;
    let (entry_id, file, contents) = found.ok_or(tree::Error::NoVersion)?;
    let places = match store::places(tx, actor.user_id, contents.chunks()).await {
        Err(store::Error::Missing(chunks)) => return Err(Error::Broken { version, missing: chunks.len() }),
        places => places?,
    };
    Ok(Reader { entry_id, version, file, places, store })
}

/// Opens the file at `path` as it is now.
pub async fn open_path(tx: &mut Tx, domain: &Domain, actor: &Actor, path: &TreePath) -> Result<Reader, Error> {
    let node = tree::node(tx, actor, path).await?;
    if node.is_folder() {
        return Err(tree::Error::IsAFolder(path.clone()).into());
    }
    open(tx, domain, actor, node.version).await
}

/// Passes a stream through the user's bandwidth limit of its direction.
pub fn metered<S, E>(
    domain: &Domain,
    actor: &Actor,
    direction: Direction,
    stream: S,
) -> impl Stream<Item = Result<Bytes, E>> + Send + use<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Send,
{
    let (domain, user_id) = (domain.clone(), actor.user_id);
    stream.then(move |piece| {
        let domain = domain.clone();
        async move {
            if let Ok(bytes) = &piece {
                domain.meter().take(user_id, direction, bytes.len()).await;
            }
            piece
        }
    })
}
