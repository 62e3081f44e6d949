//! The device's side of a run: finding names on the disk, reading batches of files, carrying out batches of changes.
//!
//! Invariant: what is read is what the scan saw, else it is not answered; what is changed is synced, folder included, before
//! it is answered. Everything here blocks; files of a batch are worked on by several threads.
//! Left out: what the tree and the baseline make of it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use driftless_sync::{
    hash::{ContentHash, Hasher},
    path::TreePath,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::{
    folder::{Fingerprint, Folder, Stat, stat_open},
    replace::{self, Aside, Dress, Namer, Placed, Staged},
    scan::{disk_clock_ns, settled},
};

/// Files up to this size are read in one piece.
pub const SMALL: u64 = 1 << 20;
/// Bytes of a large file that are read at once.
const PIECE: usize = 1 << 20;
/// Threads that work on a batch: most of the time goes into waiting for the disk.
const THREADS: usize = 6;
/// So many files of a batch are brought to the disk together, fewer one by one.
const SYNCED_TOGETHER: usize = 16;

/// The device's folder with the names that differ from the tree's.
#[derive(Debug)]
pub struct Hands {
    top: Folder,
    base: TreePath,
    spellings: HashMap<TreePath, Box<str>>,
    namer: Namer,
}

/// The folders that one batch opened, each once.
#[derive(Debug, Default)]
pub struct Open(Mutex<HashMap<TreePath, Arc<Folder>>>);

/// A file to be read: what the scan saw of it.
#[derive(Debug, Clone)]
pub struct ToRead {
    /// Where.
    pub path: TreePath,
    /// As it was.
    pub print: Fingerprint,
}

/// A file that still is what the scan saw.
#[derive(Debug)]
pub enum Readable {
    /// All of it.
    Whole(Bytes),
    /// Open at its beginning; look with [`Hands::unchanged`] after reading.
    Large(File),
}

/// The bytes of an open file.
pub fn pieces(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send {
    ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE)
}

/// A file to be written.
#[derive(Debug)]
pub struct ToWrite {
    /// Where.
    pub path: TreePath,
    /// The entry of the tree that it comes from.
    pub entry: i64,
    /// Time and executable bit.
    pub look: Dress,
    /// What is there; none for nothing.
    pub replaces: Option<Stat>,
    /// The contents that it is to have; other bytes never reach the name.
    pub hash: ContentHash,
    /// Its bytes.
    pub source: Source,
}

/// Where the bytes of a file to be written come from.
#[derive(Debug)]
pub enum Source {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece; a piece that is an error ends it.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// Written, and waiting for its name.
struct Ready {
    staged: Staged,
    folder: Arc<Folder>,
    path: TreePath,
    replaces: Option<Stat>,
}

/// A change that was made.
#[derive(Debug)]
pub struct Made {
    /// What is there now, and whether its fingerprint can be trusted.
    pub stat: Stat,
    /// Whether the fingerprint will show every later change.
    pub settled: bool,
    /// What came out and is not what was planned: it goes into history, then [`Hands::discard`].
    pub surprise: Option<Aside>,
}

impl Hands {
    /// Hands for the folder `top`, which holds the tree from `base` on. `spellings` are of absolute paths of the tree.
    pub fn new(top: Folder, base: TreePath, spellings: HashMap<TreePath, Box<str>>, run: Uuid) -> Self {
        Hands { top, base, spellings, namer: Namer::new(run) }
    }

    /// How the device writes the last name of `path`, where that differs.
    pub fn spelling(&self, path: &TreePath) -> Option<&str> {
        self.spellings.get(path).map(|name| &**name)
    }

    fn name<'a>(&'a self, path: &'a TreePath) -> io::Result<&'a str> {
        self.spelling(path).or_else(|| path.name()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Opens the folder that is `path` in the tree.
    pub fn folder(&self, open: &Open, path: &TreePath) -> io::Result<Arc<Folder>> {
        if let Some(folder) = open.get(path) {
            return Ok(folder);
        }
        let folder = if *path == self.base {
            self.top.again()?
        } else {
            let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            self.folder(open, &parent)?.enter(self.name(path)?)?
        };
        let folder = Arc::new(folder);
        open.put(path.clone(), folder.clone());
        Ok(folder)
    }

    fn holder(&self, open: &Open, path: &TreePath) -> io::Result<Arc<Folder>> {
        self.folder(open, &path.parent().ok_or(io::ErrorKind::InvalidInput)?)
    }

    /// Reads files in the order given. None: it is no longer what the scan saw, or can't be read.
    pub fn read(&self, files: &[ToRead]) -> Vec<Option<Readable>> {
        let open = Open::default();
        side_by_side(files, |file| self.read_one(&open, file).ok().flatten())
    }

    fn read_one(&self, open: &Open, file: &ToRead) -> io::Result<Option<Readable>> {
        let (mut from, stat) = self.holder(open, &file.path)?.read(self.name(&file.path)?)?;
        if stat.print != file.print {
            return Ok(None);
        }
        if stat.print.size > SMALL {
            return Ok(Some(Readable::Large(from)));
        }
        let mut bytes = Vec::with_capacity(stat.print.size as usize + 1);
        from.read_to_end(&mut bytes)?;
        let same = Hands::unchanged(&from, &file.print) && bytes.len() as u64 == stat.print.size;
        Ok(same.then(|| Readable::Whole(bytes.into())))
    }

    /// Whether an open file still is what the scan saw.
    pub fn unchanged(file: &File, print: &Fingerprint) -> bool {
        stat_open(file).is_ok_and(|stat| stat.print == *print)
    }

    /// Writes files; all of them are on the disk, under their names, when this returns.
    ///
    /// Many small files are brought to the disk by one call for the whole file system before any of them gets its name: one wait
    /// for the disk instead of one a file.
    pub fn write(&self, files: Vec<ToWrite>) -> io::Result<Vec<Result<Made, replace::Error>>> {
        let open = Open::default();
        let together = files.len() >= SYNCED_TOGETHER;
        let files: Vec<Mutex<Option<ToWrite>>> = files.into_iter().map(|f| Mutex::new(Some(f))).collect();
        let staged = side_by_side(&files, |file| {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.stage_one(&open, file.expect("each file is taken once"), !together)
        });
        let synced = match together {
            true => self.top.sync_all(),
            false => Ok(()),
        };
        let staged: Vec<Mutex<Option<_>>> = staged.into_iter().map(|s| Mutex::new(Some(s))).collect();
        let made = side_by_side(&staged, |staged| {
            let staged = staged.lock().unwrap_or_else(PoisonError::into_inner).take();
            let ready = staged.expect("each file is taken once")?;
            match &synced {
                Ok(()) => self.place_one(ready),
                Err(e) => {
                    ready.staged.abandon(&ready.folder);
                    Err(io::Error::from(e.kind()).into())
                }
            }
        });
        open.sync()?;
        Ok(made)
    }

    fn stage_one(&self, open: &Open, file: ToWrite, sync: bool) -> Result<Ready, replace::Error> {
        let (folder, source) = (self.holder(open, &file.path)?, file.source);
        let staged = replace::stage(&folder, self.namer, file.entry, file.look, file.replaces.as_ref(), sync, |to| {
            fill(source, file.hash, to)
        })?;
        Ok(Ready { staged, folder, path: file.path, replaces: file.replaces })
    }

    fn place_one(&self, ready: Ready) -> Result<Made, replace::Error> {
        let Ready { staged, folder, path, replaces } = ready;
        let name = self.name(&path)?;
        let (placed, aside) = match &replaces {
            None => (replace::place(&folder, staged, name)?, None),
            Some(old) => replace::swap(&folder, staged, name, &old.print)?,
        };
        Ok(made(placed, self.dispose(&folder, aside)?))
    }

    /// Removes what came out if it is what was planned: that is in history. Else it is the caller's to deal with.
    fn dispose(&self, folder: &Folder, aside: Option<Aside>) -> Result<Option<Aside>, replace::Error> {
        match aside {
            Some(aside) if aside.as_planned && replace::discard(folder, &aside.name, &aside.stat.print)? => Ok(None),
            other => Ok(other),
        }
    }

    /// Deletes files, each if it is still what the scan saw. Answers what came out and was not that.
    pub fn delete(
        &self,
        files: &[(TreePath, i64, Fingerprint)],
    ) -> io::Result<Vec<Result<Option<Aside>, replace::Error>>> {
        let open = Open::default();
        let gone = side_by_side(files, |(path, entry, print)| {
            let folder = self.holder(&open, path)?;
            let aside = replace::set_aside(&folder, self.namer, *entry, self.name(path)?, print)?;
            self.dispose(&folder, Some(aside))
        });
        open.sync()?;
        Ok(gone)
    }

    /// Moves a file that is still what the scan saw to a free path.
    pub fn shift(&self, from: &TreePath, to: &TreePath, print: &Fingerprint) -> Result<Made, replace::Error> {
        let open = Open::default();
        let (source, target) = (self.holder(&open, from)?, self.holder(&open, to)?);
        let placed = replace::shift(&source, self.name(from)?, &target, self.name(to)?, print)?;
        open.sync()?;
        Ok(made(placed, None))
    }

    /// Sets time and executable bit of a file that is still what the scan saw.
    pub fn touch(&self, path: &TreePath, look: Dress, print: &Fingerprint) -> Result<Made, replace::Error> {
        let open = Open::default();
        let folder = self.holder(&open, path)?;
        Ok(made(replace::touch(&folder, self.name(path)?, look, print)?, None))
    }

    /// Makes a folder; one that is there is as good.
    pub fn make_folder(&self, open: &Open, path: &TreePath) -> Result<Stat, replace::Error> {
        replace::make_folder(&*self.holder(open, path)?, self.name(path)?)
    }

    /// Removes a folder that is empty.
    pub fn remove_folder(&self, open: &Open, path: &TreePath) -> Result<(), replace::Error> {
        let folder = self.holder(open, path)?;
        open.drop(path);
        replace::remove_folder(&folder, self.name(path)?)
    }

    /// Opens one of our own names in the folder `path`.
    pub fn open_temporary(&self, path: &TreePath, name: &str) -> io::Result<(File, Stat)> {
        self.folder(&Open::default(), path)?.read(name)
    }

    /// Gives what lies under one of our own names and is no file a name that people and scans see.
    pub fn reveal(&self, path: &TreePath, name: &str) -> io::Result<String> {
        let folder = self.folder(&Open::default(), path)?;
        let shown = replace::reveal(&folder, name)?;
        folder.sync().map(|()| shown)
    }

    /// Removes one of our own names, unless it was written to since `seen`; false then.
    pub fn discard(&self, path: &TreePath, name: &str, seen: &Fingerprint) -> io::Result<bool> {
        let folder = self.folder(&Open::default(), path)?;
        let gone = replace::discard(&folder, name, seen)?;
        folder.sync().map(|()| gone)
    }
}

impl Open {
    fn get(&self, path: &TreePath) -> Option<Arc<Folder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn put(&self, path: TreePath, folder: Arc<Folder>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path, folder);
    }

    fn drop(&self, path: &TreePath) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// Brings the names of all these folders to the disk.
    pub fn sync(&self) -> io::Result<()> {
        let folders: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        side_by_side(&folders, |folder| folder.sync()).into_iter().collect()
    }
}

fn fill(source: Source, hash: ContentHash, to: &mut File) -> io::Result<()> {
    let mut hasher = Hasher::new();
    match source {
        Source::Whole(bytes) => {
            hasher.update(&bytes);
            to.write_all(&bytes)?;
        }
        Source::Pieces(mut pieces) => {
            while let Some(piece) = pieces.blocking_recv() {
                let piece = piece?;
                hasher.update(&piece);
                to.write_all(&piece)?;
            }
        }
    }
    if hasher.finish() == hash {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the stored contents are damaged or cut short"))
    }
}

fn made(placed: Placed, surprise: Option<Aside>) -> Made {
    let settled = placed.untouched && settled(&placed.stat.print, disk_clock_ns());
    Made { stat: placed.stat, settled, surprise }
}

/// `work` on all items, in several threads; the answers in the items' order.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < 4 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut answers: Vec<(usize, R)> = std::thread::scope(|scope| {
        let crew: Vec<_> = (0..THREADS.min(items.len()))
            .map(|_| {
                scope.spawn(|| {
                    let take = || {
                        items.get(next.load(Relaxed)).and_then(|_| {
                            let n = next.fetch_add(1, Relaxed);
                            items.get(n).map(|item| (n, item))
                        })
                    };
                    std::iter::from_fn(take).map(|(n, item)| (n, work(item))).collect::<Vec<_>>()
                })
            })
            .collect();
        crew.into_iter().flat_map(|t| t.join().expect("work on a file panics only by a defect")).collect()
    });
    answers.sort_unstable_by_key(|(n, _)| *n);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
