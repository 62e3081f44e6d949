//! The store on a local folder: `<store>/packs/<two digits>/<id>`.
//!
//! Invariant: `seal` returns after file and folder are synced. Writing runs one step behind the caller, on the blocking pool, and the
//! kernel is told to write back as bytes come, so that little is left to sync at the end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use super::{BlobStore, BlobWriter, Space};

/// A folder on a disk that all processes of the server see.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The store below `root`; folders are made when they are needed.
    pub fn new(root: PathBuf) -> Self {
        Folder { root }
    }

    fn place(&self, name: Uuid) -> PathBuf {
        // The last digits: version 7 ids begin with the time, and would all fall into one folder.
        let id = name.simple().to_string();
        self.root.join("packs").join(&id[30..]).join(id)
    }
}

/// Room on the disk that holds `folder` or would hold it once it exists.
pub(super) fn space(folder: &Path) -> io::Result<Space> {
    let existing = folder.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)?;
    Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[async_trait]
impl BlobStore for Folder {
    fn prepare(&self) -> io::Result<()> {
        let packs = self.root.join("packs");
        make_folder(&packs)?;
        Ok(rustix::fs::access(&packs, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?)
    }

    async fn create(&self, name: Uuid) -> io::Result<Box<dyn BlobWriter>> {
        let path = self.place(name);
        let file = blocking({
            let path = path.clone();
            move || create(&path)
        })
        .await?;
        Ok(Box::new(FolderWriter { path, state: State::Idle(file) }))
    }

    async fn read(&self, name: Uuid, offset: u64, length: usize) -> io::Result<Bytes> {
        let path = self.place(name);
        blocking(move || read_exact(&File::open(path)?, offset, length)).await
    }

    async fn remove(&self, name: Uuid) -> io::Result<()> {
        let path = self.place(name);
        blocking(move || match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }

    async fn list(&self, last_byte: u8) -> io::Result<Vec<Uuid>> {
        let folder = self.root.join("packs").join(format!("{last_byte:02x}"));
        blocking(move || {
            let entries = match fs::read_dir(folder) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let name = |entry: io::Result<fs::DirEntry>| match entry {
                Ok(entry) => entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Ok),
                Err(e) => Some(Err(e)),
            };
            entries.filter_map(name).collect()
        })
        .await
    }

    fn space(&self) -> io::Result<Option<Space>> {
        space(&self.root).map(Some)
    }
}

fn read_exact(file: &File, mut offset: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        // Into memory that nobody has to clear before.
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => offset += n as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bytes.truncate(length);
    Ok(Bytes::from(bytes))
}

/// Writes all pieces, many of them by one call.
fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = &mut slices[..];
    // Pieces without bytes would be taken for a disk that takes none.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().expect("an object lies in a folder");
            make_folder(folder)?;
            options.open(path)
        }
        done => done,
    }
}

/// Makes a folder and those above it, each synced into its parent: else the first object of a folder could vanish with it.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_folder(folder.parent().ok_or(e)?)?;
            // Once: where nothing can be made, the folder above is there all the time.
            match fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Err(e) => return Err(e),
    }
    match folder.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

struct FolderWriter {
    path: PathBuf,
    state: State,
}

enum State {
    Idle(File),
    Writing(JoinHandle<io::Result<File>>),
    Failed,
}

impl FolderWriter {
    async fn settled(&mut self) -> io::Result<File> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(file) => Ok(file),
            State::Writing(task) => task.await.map_err(io::Error::other)?,
            State::Failed => Err(io::Error::other("an earlier write to this object failed")),
        }
    }
}

#[async_trait]
impl BlobWriter for FolderWriter {
    async fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        let mut file = self.settled().await?;
        self.state = State::Writing(spawn_blocking(move || {
            write_all(&mut file, &pieces)?;
            start_write_back(&file);
            Ok(file)
        }));
        Ok(())
    }

    async fn seal(mut self: Box<Self>) -> io::Result<()> {
        let file = self.settled().await?;
        let folder = self.path.parent().expect("an object lies in a folder").to_owned();
        blocking(move || {
            file.sync_all()?;
            File::open(folder)?.sync_all()
        })
        .await
    }
}

/// Asks the kernel to write dirty pages out now, without waiting; a hint, so failures don't matter.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn start_write_back(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_write_back(_: &File) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn where_no_folder_can_be_made_the_store_says_so() {
        assert!(Folder::new("/proc/driftless/store".into()).prepare().is_err());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Folder::new(dir.path().join("deep/store"));
        store.prepare().expect("made");
        store.prepare().expect("there already");
    }

    #[tokio::test]
    async fn an_object_is_written_once_read_in_ranges_and_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Folder::new(dir.path().join("deep/store"));
        let name = Uuid::now_v7();
        let mut writer = store.create(name).await.expect("a new object");
        let pieces = ["", "hel", "", "lo ", ""].map(Bytes::from);
        writer.write(pieces.into()).await.expect("written");
        writer.write(vec![Bytes::from_static(b"world")]).await.expect("written");
        writer.seal().await.expect("synced");
        assert_eq!(&store.read(name, 6, 5).await.expect("readable")[..], b"world");
        assert!(store.read(name, 6, 6).await.is_err(), "a short read is an error");
        assert!(store.create(name).await.is_err(), "an object is never overwritten");
        let last = name.as_bytes()[15];
        assert_eq!(store.list(last).await.expect("listed"), [name]);
        assert!(store.list(last.wrapping_add(1)).await.expect("listed").is_empty());
        store.remove(name).await.expect("removed");
        store.remove(name).await.expect("removing again is fine");
        assert!(store.read(name, 0, 1).await.is_err());
    }
}
