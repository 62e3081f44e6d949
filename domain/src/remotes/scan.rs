//! What a device's folder holds now: every name is found, or unknown with its reason, and only the rest is absent.
//!
//! Invariant: *unknown is not absent*. A folder counts as listed only when its listing ended without an error; whatever was
//! skipped, ignored, unreadable or unstable is named in [`Scan::unknown`], and nobody may act on it or below it. Nothing on the
//! disk is changed. Left out: what the tree holds, and what is to be done about the difference (that is `sync::plan`).

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use driftless_sync::{
    hash::{ContentHash, Hasher},
    path::{PathError, TreePath},
};

use super::folder::{Fingerprint, Folder, Kind, Stat, stat_open};

/// How our temporaries start; scans never take them for the user's.
pub const TEMPORARY: &str = ".driftless-tmp-";
/// The file in an allowed root that holds its id.
pub const ROOT_ID: &str = ".driftless-root";
/// A file younger than this when it was looked at can be written again without its times showing it.
const SETTLING_NS: i64 = 2_000_000_000;

/// Why a name is unknown in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It matches an ignore rule.
    Ignored,
    /// A symbolic link.
    Link,
    /// A socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A device file.
    Device,
    /// Its name is no UTF-8.
    NotUtf8,
    /// Its name or path can't be one of the tree.
    Name(PathError),
    /// Another name in the folder is the same in the tree, or on this file system.
    Clash,
    /// It could not be read, or its folder not listed.
    Unreadable,
    /// It changed or went away while it was looked at.
    Unstable,
    /// Another file system is mounted here; unmounted, it would look like deleted.
    OtherFileSystem,
}

impl Reason {
    /// The stable code that runs list it under.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Ignored => "name.ignored",
            Reason::Link => "file.link",
            Reason::Socket => "file.socket",
            Reason::Fifo => "file.fifo",
            Reason::Device => "file.device",
            Reason::NotUtf8 => "name.not_utf8",
            Reason::Name(e) => e.code(),
            Reason::Clash => "name.clash",
            Reason::Unreadable => "file.unreadable",
            Reason::Unstable => "file.unstable",
            Reason::OtherFileSystem => "folder.other_file_system",
        }
    }
}

/// A name that nothing is to be done about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Its path in the tree, which is unknown with all below; none when the name has no path of its own there.
    pub path: Option<TreePath>,
    /// The path as a person reads it.
    pub shown: String,
    /// Why.
    pub reason: Reason,
}

/// A file or folder that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below the device's folder.
    pub path: TreePath,
    /// Its name on the disk, where that differs from the path's.
    pub spelling: Option<Box<str>>,
    /// What the disk says.
    pub stat: Stat,
    /// The contents of a file; none for a folder.
    pub content: Option<ContentHash>,
    /// Whether the fingerprint will prove later that nothing changed.
    pub settled: bool,
}

/// One of our temporaries that an earlier attempt left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The folder it lies in.
    pub folder: TreePath,
    /// Its name.
    pub name: String,
}

/// The outcome of a scan.
#[derive(Debug, Default)]
pub struct Scan {
    /// What is there, in the order of paths.
    pub found: Vec<Found>,
    /// What can't be told, in the order of what is shown.
    pub unknown: Vec<Unknown>,
    /// Temporaries that lie about.
    pub leftovers: Vec<Leftover>,
}

/// The scan was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("the scan was cancelled")]
pub struct Cancelled;

/// How far a scan is, and the switch that ends it.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Files and folders looked at.
    pub names: AtomicU64,
    /// Bytes read to hash them.
    pub bytes: AtomicU64,
    /// Set to end the scan.
    pub cancel: AtomicBool,
}

/// Which files a scan reads, to tell their contents.
pub enum Reading<'a> {
    /// Those that differ from the trusted fingerprint that the baseline has of them, with their contents.
    Unless(&'a (dyn Fn(&TreePath) -> Option<(Fingerprint, ContentHash)> + Sync)),
    /// None: their contents are told as [`UNREAD`].
    None,
}

/// Stands for the contents of a file that was not read.
pub const UNREAD: ContentHash = ContentHash([0; 32]);

/// What a scan asks of its caller.
pub struct Eyes<'a> {
    /// Whether the path (a folder or not) is to be left alone.
    pub ignored: &'a (dyn Fn(&TreePath, bool) -> bool + Sync),
    /// Which files are read.
    pub reading: Reading<'a>,
    /// How far it is.
    pub gauge: &'a Gauge,
    /// How many threads look and hash.
    pub threads: usize,
}

/// Nanoseconds since 1970 by this machine's clock, the one that stamps its files.
pub fn disk_clock_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Whether a fingerprint taken at `taken_ns` will show every later change.
pub fn settled(print: &Fingerprint, taken_ns: i64) -> bool {
    print.mtime_ns <= taken_ns.saturating_sub(SETTLING_NS)
}

/// Looks at everything in `folder`. Blocks.
pub fn scan(folder: Folder, eyes: &Eyes<'_>) -> Result<Scan, Cancelled> {
    let home = folder.stat();
    let started_ns = disk_clock_ns();
    let mut scan = Scan::default();
    match home {
        Ok(stat) => {
            let crew = Crew::new(Task::List { folder: Arc::new(folder), path: TreePath::root(), own: None });
            let walk = Walk { eyes, crew: &crew, dev: stat.dev, started_ns };
            std::thread::scope(|scope| {
                let hands: Vec<_> = (1..eyes.threads.max(1)).map(|_| scope.spawn(|| walk.work())).collect();
                scan.take(walk.work());
                for hand in hands {
                    scan.take(hand.join().expect("a scanning thread panics only by a defect"));
                }
            });
        }
        Err(_) => scan.unknown.push(unknown(&TreePath::root(), Reason::Unreadable)),
    }
    if eyes.gauge.cancel.load(Relaxed) {
        return Err(Cancelled);
    }
    scan.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    scan.unknown.sort_unstable_by(|a, b| (&a.shown, a.reason.code()).cmp(&(&b.shown, b.reason.code())));
    scan.leftovers.sort_unstable_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
    Ok(scan)
}

impl Scan {
    fn take(&mut self, mut part: Scan) {
        self.found.append(&mut part.found);
        self.unknown.append(&mut part.unknown);
        self.leftovers.append(&mut part.leftovers);
    }
}

fn unknown(path: &TreePath, reason: Reason) -> Unknown {
    Unknown { path: Some(path.clone()), shown: path.to_string(), reason }
}

enum Task {
    /// Opens `name` in `parent`, then lists it.
    Enter {
        parent: Arc<Folder>,
        name: String,
        path: TreePath,
    },
    List {
        folder: Arc<Folder>,
        path: TreePath,
        own: Option<Found>,
    },
    Hash {
        folder: Arc<Folder>,
        name: String,
        path: TreePath,
    },
}

/// The threads' common list of tasks. The newest goes first: files before the next folder, so few folders are open at once.
struct Crew {
    tasks: Mutex<(Vec<Task>, usize)>,
    bell: Condvar,
}

impl Crew {
    fn new(first: Task) -> Self {
        Crew { tasks: Mutex::new((vec![first], 0)), bell: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Task>, usize)> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; none when all are done and nobody can add one.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.0.pop() {
                state.1 += 1;
                return Some(task);
            }
            if state.1 == 0 {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a task that `next` gave, adding those that it found.
    fn done(&self, more: Vec<Task>) {
        let mut state = self.lock();
        let wake = !more.is_empty() || state.1 == 1;
        state.0.extend(more);
        state.1 -= 1;
        if wake {
            self.bell.notify_all();
        }
    }
}

struct Walk<'a> {
    eyes: &'a Eyes<'a>,
    crew: &'a Crew,
    dev: u64,
    started_ns: i64,
}

impl Walk<'_> {
    fn work(&self) -> Scan {
        let mut seen = Scan::default();
        let mut buffer = vec![0; 256 * 1024];
        while let Some(task) = self.crew.next() {
            let mut more = Vec::new();
            if !self.eyes.gauge.cancel.load(Relaxed) {
                match task {
                    Task::Enter { parent, name, path } => match self.enter(&parent, &name, &path) {
                        Ok((folder, own)) => self.list(Arc::new(folder), path, Some(own), &mut more, &mut seen),
                        Err(reason) => seen.unknown.push(unknown(&path, reason)),
                    },
                    Task::List { folder, path, own } => self.list(folder, path, own, &mut more, &mut seen),
                    Task::Hash { folder, name, path } => match self.hash(&folder, &name, &path, &mut buffer) {
                        Ok(found) => seen.found.push(found),
                        Err(reason) => seen.unknown.push(unknown(&path, reason)),
                    },
                }
            }
            self.crew.done(more);
        }
        seen
    }

    fn enter(&self, parent: &Folder, name: &str, path: &TreePath) -> Result<(Folder, Found), Reason> {
        let folder = parent.enter(name).map_err(reason)?;
        let stat = folder.stat().map_err(reason)?;
        if stat.dev != self.dev {
            return Err(Reason::OtherFileSystem);
        }
        Ok((folder, self.found(path, name, stat, None)))
    }

    fn found(&self, path: &TreePath, name: &str, stat: Stat, content: Option<ContentHash>) -> Found {
        Found {
            path: path.clone(),
            spelling: (path.name() != Some(name)).then(|| name.into()),
            stat,
            content,
            settled: settled(&stat.print, self.started_ns),
        }
    }

    /// A folder is found only once its listing is complete; else it is unknown with all below.
    fn list(&self, folder: Arc<Folder>, path: TreePath, own: Option<Found>, more: &mut Vec<Task>, seen: &mut Scan) {
        let mut names = match folder.names() {
            Ok(names) => names,
            Err(e) => return seen.unknown.push(unknown(&path, reason(e))),
        };
        names.sort_unstable();
        seen.found.extend(own);
        // Only names that are normalised can become alike.
        let alike = !names.iter().all(|name| name.is_ascii());
        let mut taken = HashSet::new();
        let mut files = Vec::new();
        for bytes in names {
            let name = match String::from_utf8(bytes) {
                Ok(name) => name,
                Err(e) => {
                    let shown = show(&path, &String::from_utf8_lossy(e.as_bytes()));
                    seen.unknown.push(Unknown { path: None, shown, reason: Reason::NotUtf8 });
                    continue;
                }
            };
            if name.starts_with(TEMPORARY) {
                seen.leftovers.push(Leftover { folder: path.clone(), name });
                continue;
            }
            if path.is_root() && name == ROOT_ID {
                continue;
            }
            let child = match path.join(&name) {
                Ok(child) if !alike || taken.insert(child.clone()) => child,
                other => {
                    let reason = other.map_or_else(Reason::Name, |_| Reason::Clash);
                    seen.unknown.push(Unknown { path: None, shown: show(&path, &name), reason });
                    continue;
                }
            };
            self.eyes.gauge.names.fetch_add(1, Relaxed);
            match self.look(&folder, &name, &child) {
                Ok(Look::Folder) => more.push(Task::Enter { parent: folder.clone(), name, path: child }),
                Ok(Look::Unchanged(found)) => seen.found.push(found),
                Ok(Look::Hash) => files.push(Task::Hash { folder: folder.clone(), name, path: child }),
                Err(reason) => seen.unknown.push(unknown(&child, reason)),
            }
        }
        more.append(&mut files);
    }

    fn look(&self, folder: &Folder, name: &str, path: &TreePath) -> Result<Look, Reason> {
        let stat = folder.stat_name(name).map_err(reason)?;
        let look = match stat.kind {
            Kind::Folder => Look::Folder,
            Kind::File => Look::Hash,
            Kind::Link => return Err(Reason::Link),
            Kind::Socket => return Err(Reason::Socket),
            Kind::Fifo => return Err(Reason::Fifo),
            Kind::Device => return Err(Reason::Device),
        };
        if (self.eyes.ignored)(path, stat.kind == Kind::Folder) {
            return Err(Reason::Ignored);
        }
        match self.known(path, &stat) {
            Some(content) if stat.kind == Kind::File => {
                Ok(Look::Unchanged(self.found(path, name, stat, Some(content))))
            }
            _ => Ok(look),
        }
    }

    /// The contents of a file as far as they can be told without reading it.
    fn known(&self, path: &TreePath, stat: &Stat) -> Option<ContentHash> {
        let known = match self.eyes.reading {
            Reading::None => return Some(UNREAD),
            Reading::Unless(known) => known(path),
        };
        let (print, content) = known?;
        (print == stat.print && settled(&print, self.started_ns)).then_some(content)
    }

    fn hash(&self, folder: &Folder, name: &str, path: &TreePath, buffer: &mut [u8]) -> Result<Found, Reason> {
        let (mut file, stat) = folder.read(name).map_err(reason)?;
        let content = hash_open(&mut file, buffer, self.eyes.gauge).map_err(reason)?;
        let after = stat_open(&file).map_err(reason)?;
        if after.print != stat.print || content.1 != stat.print.size {
            return Err(Reason::Unstable);
        }
        Ok(self.found(path, name, stat, Some(content.0)))
    }
}

enum Look {
    Folder,
    Unchanged(Found),
    Hash,
}

/// Reads `file` to its end: the hash and the number of bytes. Ends early, with an error, when the gauge says so.
pub fn hash_open(file: &mut File, buffer: &mut [u8], gauge: &Gauge) -> io::Result<(ContentHash, u64)> {
    let mut hasher = Hasher::new();
    loop {
        let n = file.read(buffer)?;
        if n == 0 {
            let length = hasher.length();
            return Ok((hasher.finish(), length));
        }
        if gauge.cancel.load(Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        hasher.update(&buffer[..n]);
        gauge.bytes.fetch_add(n as u64, Relaxed);
    }
}

fn show(folder: &TreePath, name: &str) -> String {
    if folder.is_root() { format!("/{name}") } else { format!("{folder}/{name}") }
}

// What is gone, or is something else than a moment ago, may be back in the next: that is no proof of absence either.
fn reason(e: io::Error) -> Reason {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => Reason::Unstable,
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Reason::Unstable,
        _ => Reason::Unreadable,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
