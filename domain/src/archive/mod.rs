//! Many files in one request: a folder out as a tar, a tar into a folder.
//!
//! Invariant: names in an archive are an attacker's: none becomes a path but through [`TreePath`], nothing absolute, no `..`, no
//! link and no device is taken. Each file of an upload is committed or named as refused. Memory is bounded whatever the archive's
//! size. Left out: zip, and what a device holds.

mod format;

use std::io;

use bytes::Bytes;
use driftless_sync::path::TreePath;
use futures::{Stream, StreamExt};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    Actor, Domain,
    bandwidth::Direction,
    commit::{self, Base, Batch, Change, OnConflict, Origin},
    contents, db,
    error::{Fault, Kind},
    ingest::{self, Ingest},
    tree::{self, Node},
};

use format::{Entry, EntryKind, Reader};

/// Files of one transaction at most. So few, because the next ones come in while the database takes these.
const FILES_TOGETHER: usize = 2_000;
/// Bytes of one transaction at most, but for a single file that is larger.
const BYTES_TOGETHER: u64 = 256 << 20;
/// Entries of an archive at most.
const MAX_ENTRIES: u64 = 1_000_000;
/// Refusals that are told one by one.
const MAX_TOLD: usize = 1000;

/// Why an archive could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The folder.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// Contents could not be taken in.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    /// A commit failed; what was committed before it stays.
    #[error(transparent)]
    Commit(#[from] commit::Error),
    /// Not a tar, or cut short.
    #[error("this is no tar archive, or it is cut short: {0}")]
    Malformed(String),
    /// Too many entries.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooMany,
}

impl Error {
    fn cause(&self) -> Option<&dyn Fault> {
        match self {
            Error::Database(e) => Some(e),
            Error::Tree(e) => Some(e),
            Error::Ingest(e) => Some(e),
            Error::Commit(e) => Some(e),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Malformed(_) => Kind::Invalid,
            Error::TooMany => Kind::TooLarge,
            other => other.cause().map_or(Kind::Internal, Fault::kind),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Malformed(_) => "archive.malformed",
            Error::TooMany => "archive.too_many_entries",
            other => other.cause().map_or("internal", Fault::code),
        }
    }

    fn field(&self) -> Option<&str> {
        self.cause().and_then(Fault::field)
    }

    fn retry_after(&self) -> Option<u64> {
        self.cause().and_then(Fault::retry_after)
    }
}

/// What came of an archive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Received {
    /// Files that are in the tree now as the archive has them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that were not taken.
    pub refused: u64,
    /// The first thousand of those.
    pub refusals: Vec<Refused>,
}

/// An entry that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name in the archive.
    pub name: String,
    /// Stable code.
    pub code: &'static str,
    /// Why.
    pub detail: String,
}

impl Received {
    fn refuse(&mut self, name: String, code: &'static str, detail: impl Into<String>) {
        self.refused += 1;
        if self.refusals.len() < MAX_TOLD {
            self.refusals.push(Refused { name, code, detail: detail.into() });
        }
    }
}

/// A batch that fills up.
struct Filling {
    ingest: Ingest,
    changes: Vec<Change>,
    bytes: u64,
}

impl Filling {
    fn new(domain: &Domain, actor: &Actor) -> Self {
        Filling { ingest: Ingest::new(domain, actor), changes: Vec::new(), bytes: 0 }
    }

    async fn commit(self, domain: Domain, actor: Actor) -> Result<Received, Error> {
        let told: Vec<(String, Option<u64>)> = self
            .changes
            .iter()
            .map(|change| match change {
                Change::Put { path, contents, .. } => (path.to_string(), Some(contents.size())),
                Change::Folder { path, .. } => (path.to_string(), None),
                _ => (String::new(), None),
            })
            .collect();
        let batch = Batch::with(Origin::Person, self.changes, self.ingest.finish().await?);
        let mut received = Received::default();
        for (outcome, (path, size)) in commit::apply(&domain, &actor, batch).await?.into_iter().zip(told) {
            match (outcome.applied(), size) {
                (Ok(_), Some(size)) => {
                    received.files += 1;
                    received.bytes += size;
                }
                (Ok(_), None) => {}
                (Err(refusal), _) => received.refuse(path, refusal.code(), refusal.to_string()),
            }
        }
        Ok(received)
    }
}

/// An archive on its way into the tree: one batch is committed while the next fills up.
struct Intake {
    domain: Domain,
    actor: Actor,
    filling: Filling,
    committing: Option<JoinHandle<Result<Received, Error>>>,
    received: Received,
}

impl Intake {
    fn new(domain: &Domain, actor: &Actor) -> Self {
        let (domain, actor) = (domain.clone(), actor.clone());
        let filling = Filling::new(&domain, &actor);
        Intake { domain, actor, filling, committing: None, received: Received::default() }
    }

    /// Begins to commit what has come in, once what came before is committed: of two entries of one name the later wins.
    async fn commit(&mut self) -> Result<(), Error> {
        self.settle().await?;
        if !self.filling.changes.is_empty() {
            let full = std::mem::replace(&mut self.filling, Filling::new(&self.domain, &self.actor));
            self.committing = Some(tokio::spawn(full.commit(self.domain.clone(), self.actor.clone())));
        }
        Ok(())
    }

    /// Waits for the commit that is under way.
    async fn settle(&mut self) -> Result<(), Error> {
        let Some(committing) = self.committing.take() else { return Ok(()) };
        let part = committing.await.map_err(ingest::Error::BrokeOff)??;
        self.received.files += part.files;
        self.received.bytes += part.bytes;
        self.received.refused += part.refused;
        self.received.refusals.extend(part.refusals);
        self.received.refusals.truncate(MAX_TOLD);
        Ok(())
    }

    async fn take<'a>(&mut self, path: &TreePath, mut reader: Reader<'a>) -> Result<(), Error> {
        let mut entries = 0;
        while let Some(entry) = reader.next_entry().await? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Error::TooMany);
            }
            match target(path, &entry) {
                Ok(Some(target)) => self.take_entry(&mut reader, entry, target).await?,
                Ok(None) => {}
                Err((code, detail)) => {
                    self.received.refuse(entry.name, code, detail);
                    reader.skip().await?;
                }
            }
        }
        self.commit().await
    }

    async fn take_entry(&mut self, reader: &mut Reader<'_>, entry: Entry, path: TreePath) -> Result<(), Error> {
        let (files, bytes) = (self.filling.changes.len(), self.filling.bytes);
        if files >= FILES_TOGETHER || (bytes > 0 && bytes + entry.size > BYTES_TOGETHER) {
            self.commit().await?;
        }
        if entry.kind == EntryKind::Folder {
            self.filling.changes.push(Change::Folder { path, held: None });
            return Ok(());
        }
        let contents = self.filling.ingest.add(reader.contents()).await?;
        self.filling.bytes += entry.size;
        self.filling.changes.push(Change::Put {
            path,
            contents,
            modified_at: entry.modified_at.filter(|at| tree::keeps(*at)),
            executable: Some(entry.executable),
            base: Base::Any,
            on_conflict: OnConflict::Refuse,
            held: None,
        });
        if entry.size > BYTES_TOGETHER { self.commit().await } else { Ok(()) }
    }
}

/// Takes a tar into the folder at `path`. Later entries of one name win, as with tar itself.
pub async fn upload<S, E>(domain: &Domain, actor: &Actor, path: &TreePath, body: S) -> Result<Received, Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let _place = domain.transfers().begin(actor).await?;
    let body = contents::metered(domain, actor, Direction::Upload, body).map(|piece| piece.map_err(Into::into));
    let mut intake = Intake::new(domain, actor);
    let taken = intake.take(path, Reader::new(Box::pin(body))).await;
    // Also after a failure: whoever hears of it finds the tree at rest.
    let settled = intake.settle().await;
    taken.and(settled).map(|()| intake.received)
}

/// Where an entry goes; none for the folder itself.
fn target(folder: &TreePath, entry: &Entry) -> Result<Option<TreePath>, (&'static str, String)> {
    if let EntryKind::Other(what) = entry.kind {
        return Err(("archive.not_a_file", format!("{what} are not taken")));
    }
    if entry.name.starts_with('/') {
        return Err(("archive.absolute", "absolute names are not taken".to_owned()));
    }
    let mut at = folder.clone();
    for segment in entry.name.split('/').filter(|s| !s.is_empty() && *s != ".") {
        at = at.join(segment).map_err(|e| (e.code(), e.to_string()))?;
    }
    Ok((at != *folder).then_some(at))
}

/// The folder at `path` as a tar: everything below it, as one moment saw it. The name of the folder leads each name.
pub async fn download(
    domain: &Domain,
    actor: &Actor,
    path: &TreePath,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Error> {
    let mut tx = domain.begin(actor).await?;
    let mut nodes = tree::below(&mut tx, actor, path).await?;
    drop(tx);
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    let (sender, receiver) = mpsc::channel(4);
    let (task_domain, task_actor, path) = (domain.clone(), actor.clone(), path.clone());
    tokio::spawn(async move {
        let sent = send(&task_domain, &task_actor, &path, nodes, &sender).await;
        if let Err(error) = sent {
            // The receiver may have gone; a reader that is still there must see that the archive is not whole.
            let _ = sender.send(Err(error)).await;
        }
    });
    let pieces = futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|piece| (piece, r)) });
    Ok(contents::metered(domain, actor, Direction::Download, pieces))
}

async fn send(
    domain: &Domain,
    actor: &Actor,
    base: &TreePath,
    nodes: Vec<Node>,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    for node in nodes {
        let name = node.path.relative_to(base).unwrap_or(node.path.clone());
        let name = match base.name() {
            Some(folder) => format!("{folder}{name}"),
            None => name.as_str()[1..].to_owned(),
        };
        to.send(Ok(format::header(&name, node.file.as_ref()))).await.map_err(gone)?;
        let Some(file) = node.file.filter(|f| f.size > 0) else { continue };
        let mut tx = domain.begin(actor).await.map_err(io::Error::other)?;
        let reader = contents::open(&mut tx, domain, actor, node.version).await.map_err(io::Error::other)?;
        drop(tx);
        let mut bytes = std::pin::pin!(reader.all());
        while let Some(piece) = bytes.next().await {
            to.send(Ok(piece?)).await.map_err(gone)?;
        }
        to.send(Ok(format::padding(file.size))).await.map_err(gone)?;
    }
    to.send(Ok(format::end())).await.map_err(gone)
}
