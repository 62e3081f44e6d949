//! One open folder of a device's disk: the only way in which files of a folder remote are reached.
//!
//! Invariant: everything is opened by a single name below an open descriptor and never through a symbolic link, so no
//! path that anybody writes or swaps can lead out of the folder. What is read was a regular file when it was opened.
//! Left out: extended attributes, access control lists and hard links; a replaced file keeps its owner and mode only.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use cap_std::fs::Dir;
use chrono::{DateTime, Utc};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps},
    io::Errno,
};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; never followed.
    Link,
    /// A socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A block or character device, or something this system has no name for.
    Device,
}

/// By what a file is recognised as untouched, without reading it. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Length in bytes.
    pub size: u64,
    /// When the contents changed, or what somebody set it to.
    pub mtime_ns: i64,
    /// When anything about the file changed; only the kernel sets it.
    pub ctime_ns: i64,
    /// The file's number on its disk.
    pub inode: u64,
}

impl Fingerprint {
    /// Whether `other` can be the same file after a rename, which moves the change time of a file and nothing else.
    pub fn same_but_renamed(&self, other: &Fingerprint) -> bool {
        (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)
    }
}

/// What the disk says of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Size, times and number.
    pub print: Fingerprint,
    /// The file system it lies on.
    pub dev: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Stat {
    /// Whether its owner may execute it.
    pub fn executable(&self) -> bool {
        self.mode & 0o100 != 0
    }

    /// Modification time, to the nanosecond where a date can hold it.
    pub fn modified_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.print.mtime_ns)
    }

    /// The folder or file itself, whatever name led to it.
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.print.inode)
    }
}

// The fields' types differ between systems and widths; each is widened without loss or cut at the ends of the range.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn stat_of(s: rustix::fs::Stat) -> Stat {
    let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stat {
        kind: match FileType::from_raw_mode(s.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            FileType::Socket => Kind::Socket,
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Device,
        },
        print: Fingerprint {
            size: s.st_size as u64,
            mtime_ns: ns(s.st_mtime as i64, s.st_mtime_nsec as i64),
            ctime_ns: ns(s.st_ctime as i64, s.st_ctime_nsec as i64),
            inode: s.st_ino as u64,
        },
        dev: s.st_dev as u64,
        mode: (s.st_mode as u32) & 0o7777,
        uid: s.st_uid,
        gid: s.st_gid,
    }
}

/// What the disk says of an open file.
pub fn stat_open(file: impl AsFd) -> io::Result<Stat> {
    Ok(stat_of(rustix::fs::fstat(file)?))
}

/// An open folder.
#[derive(Debug)]
pub struct Folder(Dir);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const OPEN: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a folder that an administrator named. Links on the way to it are his, and are followed.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Folder(Dir::from_std_file(File::from(fd))))
    }

    /// Opens the folder `name` in this one; a link is refused.
    pub fn enter(&self, name: &str) -> io::Result<Folder> {
        let fd = rustix::fs::openat(&self.0, plain(name)?, OPEN | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Folder(Dir::from_std_file(File::from(fd))))
    }

    /// A second descriptor of this folder.
    pub fn again(&self) -> io::Result<Folder> {
        self.0.try_clone().map(Folder)
    }

    /// The folder's own identity, then those of the folders that really hold it, up to the top one.
    pub fn lineage(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut lineage = vec![self.stat()?.identity()];
        let mut up = String::from("..");
        loop {
            // Looking needs no right to read the folders above, as opening them would.
            let above = stat_of(rustix::fs::statat(&self.0, up.as_str(), AtFlags::empty())?).identity();
            if lineage.last() == Some(&above) {
                return Ok(lineage);
            }
            lineage.push(above);
            up.push_str("/..");
        }
    }

    /// What the disk says of this folder.
    pub fn stat(&self) -> io::Result<Stat> {
        stat_open(&self.0)
    }

    /// What the disk says of `name`, a link itself if it is one.
    pub fn stat_name(&self, name: &str) -> io::Result<Stat> {
        Ok(stat_of(rustix::fs::statat(&self.0, plain(name)?, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// All names, as bytes. Only an answer without error says that a name is absent.
    pub fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Opens the regular file `name` for reading and says what it is; anything else is `InvalidInput`.
    pub fn read(&self, name: &str) -> io::Result<(File, Stat)> {
        // Opening a device can do things, so it is looked at first; a swap in between is caught by the second look.
        if self.stat_name(name)?.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::from(rustix::fs::openat(&self.0, name, OPEN | OFlags::RDONLY, Mode::empty())?);
        let stat = stat_open(&file)?;
        if stat.kind != Kind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((file, stat))
    }

    /// Creates the file `name` for writing, readable by its owner only; fails when the name is taken.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OPEN | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(rustix::fs::openat(&self.0, plain(name)?, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Creates the folder `name`; fails when the name is taken.
    pub fn make_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, plain(name)?, Mode::from_raw_mode(0o777))?)
    }

    /// Removes the folder `name` if it is empty.
    pub fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, plain(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes the file `name`.
    pub fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, plain(name)?, AtFlags::empty())?)
    }

    /// Renames `from` to `to` in the folder `target`; never takes the place of something (`AlreadyExists`).
    ///
    /// Some file systems can't promise that (NFS, some FUSE): there the name is looked at right before.
    pub fn rename_into_free(&self, from: &str, target: &Folder, to: &str) -> io::Result<()> {
        let (from, to) = (plain(from)?, plain(to)?);
        match rustix::fs::renameat_with(&self.0, from, &target.0, to, RenameFlags::NOREPLACE) {
            Err(e) if unsupported(e) => match target.stat_name(to) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Ok(rustix::fs::renameat(&self.0, from, &target.0, to)?)
                }
                Err(e) => Err(e),
            },
            other => Ok(other?),
        }
    }

    /// Swaps two names in one step. False when this file system can't.
    pub fn exchange(&self, a: &str, b: &str) -> io::Result<bool> {
        match rustix::fs::renameat_with(&self.0, plain(a)?, &self.0, plain(b)?, RenameFlags::EXCHANGE) {
            Err(e) if unsupported(e) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Renames over whatever `to` is. For file systems without [`Folder::exchange`], after looking.
    pub fn rename_over(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, plain(from)?, &self.0, plain(to)?)?)
    }

    /// Gives the regular file `name` a second name `to`, which must be free. False when this file system can't.
    pub fn link(&self, name: &str, to: &str) -> io::Result<bool> {
        match rustix::fs::linkat(&self.0, plain(name)?, &self.0, plain(to)?, AtFlags::empty()) {
            Err(e) if unsupported(e) || e == Errno::PERM || e == Errno::MLINK => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Brings everything on the folder's file system to the disk.
    #[cfg(target_os = "linux")]
    pub fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    /// Brings everything on all file systems to the disk.
    #[cfg(not(target_os = "linux"))]
    pub fn sync_all(&self) -> io::Result<()> {
        rustix::fs::sync();
        Ok(())
    }

    /// Brings the folder's names to the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

/// Sets mode, owner (as far as this process may) and modification time of an open file.
pub fn dress(file: &File, mode: u32, owner: Option<(u32, u32)>, mtime_ns: i64) -> io::Result<()> {
    // Looking costs less than a change that changes nothing.
    let now = stat_open(file)?;
    let chown = owner.filter(|owner| *owner != (now.uid, now.gid));
    if let Some((uid, gid)) = chown {
        // Before the mode, because a change of owner can take bits away. A process without the right keeps its own.
        let _ = std::os::unix::fs::fchown(file, Some(uid), Some(gid));
    }
    if chown.is_some() || now.mode != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
    }
    set_mtime(file, mtime_ns)
}

/// Sets the modification time of an open file or folder; the time of the last reading stays.
pub fn set_mtime(file: impl AsFd, mtime_ns: i64) -> io::Result<()> {
    let last_modification =
        Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _ };
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access, last_modification })?)
}

fn unsupported(e: Errno) -> bool {
    matches!(e, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

// A name with a separator, or one that leads upwards, would leave the folder that it is opened below.
fn plain(name: &str) -> io::Result<&str> {
    match name {
        "" | "." | ".." => Err(io::ErrorKind::InvalidInput.into()),
        _ if name.contains(['/', '\0']) => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::fs::symlink};

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("in")).unwrap();
        std::fs::write(tmp.path().join("secret"), "s").unwrap();
        symlink("../secret", tmp.path().join("in/link")).unwrap();
        symlink("..", tmp.path().join("in/up")).unwrap();
        let folder = Folder::open(&tmp.path().join("in")).unwrap();
        for name in ["..", "../secret", "/etc/passwd", ".", "", "a\0b"] {
            assert!(folder.read(name).is_err(), "{name:?} was read");
            assert!(folder.enter(name).is_err(), "{name:?} was entered");
        }
        assert!(folder.read("link").is_err());
        assert!(folder.enter("up").is_err());
        assert_eq!(folder.stat_name("link").unwrap().kind, Kind::Link);
    }

    #[test]
    fn the_lineage_runs_from_the_folder_to_the_top() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("a/b")).unwrap();
        let of = |path: &Path| Folder::open(path).unwrap().lineage().unwrap();
        let (top, inner) = (of(tmp.path()), of(&tmp.path().join("a/b")));
        assert_eq!(inner[2..], top[..]);
        assert_eq!(of(Path::new("/")).len(), 1);
    }

    #[test]
    fn a_pipe_is_refused_and_never_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tmp.path().join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let folder = Folder::open(tmp.path()).unwrap();
        assert_eq!(folder.read("pipe").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(folder.stat_name("pipe").unwrap().kind, Kind::Fifo);
    }

    #[test]
    fn a_taken_name_is_not_renamed_over_and_an_exchange_swaps() {
        let tmp = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(tmp.path().join(name), name).unwrap();
        }
        let folder = Folder::open(tmp.path()).unwrap();
        let taken = folder.rename_into_free("a", &folder, "b").unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        if folder.exchange("a", "b").unwrap() {
            assert_eq!(std::fs::read(tmp.path().join("a")).unwrap(), b"b");
        }
    }

    #[test]
    fn times_before_1970_and_modes_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = Folder::open(tmp.path()).unwrap();
        let file = folder.create("old").unwrap();
        dress(&file, 0o755, None, -1_500_000_000).unwrap();
        let (mut file, stat) = folder.read("old").unwrap();
        assert_eq!((stat.print.mtime_ns, stat.executable(), stat.print.size), (-1_500_000_000, true, 0));
        assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);
    }
}
