//! Changing a device's folder so that nothing which somebody saved there can get lost, whenever it stops.
//!
//! Invariant: a name of the user's always holds its old or its new contents, whole; and what was taken away from a name lies
//! aside under a name of ours until the caller has seen that it is what was planned, or has put it into history. Two kinds of
//! our names exist: `.driftless-tmp-<run>-<entry>-w` is being written by us and holds nothing of anybody's;
//! `.driftless-tmp-<run>-<entry>` is whole, and may hold the only copy of something. Each step is safe to come late: it
//! never takes the place of what it did not expect, it fails or lays it aside.
//! Left out: history and the baseline, which the engine writes after the folder was synced.

use std::{fs::File, io};

use uuid::Uuid;

use super::{
    folder::{Fingerprint, Folder, Kind, Stat, dress, stat_open},
    scan::TEMPORARY,
};

/// Why a change of the folder was not made. In every case the user's names are as they were.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody changed the file since it was planned; the next plan will see it.
    #[error("somebody changed it meanwhile")]
    Changed,
    /// The name is taken by something that the scan did not see.
    #[error("the name is taken")]
    Taken,
    /// The folder still holds something.
    #[error("the folder is not empty")]
    NotEmpty,
    /// The disk refused.
    #[error("the disk refused it")]
    Disk(#[from] io::Error),
}

/// One of our names, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temporary {
    /// The run that made it.
    pub run: Uuid,
    /// The entry of the tree that it was about.
    pub entry: i64,
    /// Whether it may hold what somebody saved; else it is ours and perhaps half.
    pub whole: bool,
}

/// Makes the temporaries' names of one run.
#[derive(Debug, Clone, Copy)]
pub struct Namer {
    run: Uuid,
}

impl Namer {
    /// Names for `run`.
    pub fn new(run: Uuid) -> Self {
        Namer { run }
    }

    // The entry's number tells a later run whose history a leftover belongs to. The count steps past leftovers.
    fn name(&self, entry: i64, count: u32) -> String {
        let run = self.run.simple();
        if count == 0 { format!("{TEMPORARY}{run}-{entry}") } else { format!("{TEMPORARY}{run}-{entry}.{count}") }
    }

    /// The first name for `entry` that `take` finds free.
    fn free<T>(&self, entry: i64, mut take: impl FnMut(&str) -> io::Result<T>) -> io::Result<(String, T)> {
        for count in 0..1000 {
            let name = self.name(entry, count);
            match take(&name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => return Ok((name, other?)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Takes a name of ours apart; none for a name that we did not make.
pub fn parse(name: &str) -> Option<Temporary> {
    let rest = name.strip_prefix(TEMPORARY)?;
    let (rest, whole) = rest.strip_suffix("-w").map_or((rest, true), |rest| (rest, false));
    let (run, entry) = rest.split_once('-')?;
    let entry = entry.split_once('.').map_or(entry, |(entry, _)| entry);
    Some(Temporary { run: Uuid::try_parse(run).ok()?, entry: entry.parse().ok()?, whole })
}

/// How a file is to look beside its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dress {
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether it may be executed.
    pub executable: bool,
}

/// New contents, whole and on the disk, under a name of ours.
#[derive(Debug)]
pub struct Staged {
    file: File,
    writing: String,
    whole: String,
    size: u64,
    mtime_ns: i64,
}

/// What a name holds after a change of ours.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// What the disk says of it now.
    pub stat: Stat,
    /// Whether nobody has touched it since we wrote it. If somebody has, the fingerprint must not enter the baseline.
    pub untouched: bool,
}

/// What was taken away from a name, under a name of ours.
#[derive(Debug)]
pub struct Aside {
    /// Our name for it.
    pub name: String,
    /// What came out.
    pub stat: Stat,
    /// Whether it is the file that was planned. If not, it goes into history before [`discard`].
    pub as_planned: bool,
}

/// Writes new contents beside the name they are for, and brings them to the disk; without `sync` that is the caller's, before
/// they get their name. `like` is the file to be replaced, whose owner and mode they take; a new file takes those of its folder.
pub fn stage(
    folder: &Folder,
    namer: Namer,
    entry: i64,
    look: Dress,
    like: Option<&Stat>,
    sync: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<Staged, Error> {
    let (whole, mut file) = namer.free(entry, |name| folder.create(&format!("{name}-w")))?;
    let writing = format!("{whole}-w");
    let fill = |file: &mut File| {
        write(file)?;
        let (mode, owner) = mode_and_owner(folder, like, look.executable)?;
        dress(file, mode, owner, look.mtime_ns)?;
        if sync {
            file.sync_all()?;
        }
        stat_open(&*file)
    };
    match fill(&mut file) {
        Ok(stat) => Ok(Staged { file, writing, whole, size: stat.print.size, mtime_ns: stat.print.mtime_ns }),
        Err(e) => {
            let _ = folder.unlink(&writing);
            Err(e.into())
        }
    }
}

/// Whom a new file or folder belongs to, and what may be done with it.
fn mode_and_owner(folder: &Folder, like: Option<&Stat>, executable: bool) -> io::Result<(u32, Option<(u32, u32)>)> {
    let model = match like {
        Some(stat) => *stat,
        None => folder.stat()?,
    };
    let plain = model.mode & 0o666;
    // Whoever may read it may run it.
    let mode = if executable { plain | (plain & 0o444) >> 2 | 0o100 } else { plain };
    let owner = rustix::process::geteuid().is_root().then_some((model.uid, model.gid));
    Ok((mode | 0o600, owner))
}

/// Gives staged contents a name that is free.
pub fn place(folder: &Folder, staged: Staged, name: &str) -> Result<Placed, Error> {
    match folder.rename_into_free(&staged.writing, folder, name) {
        Ok(()) => staged.placed(),
        Err(e) => {
            let _ = folder.unlink(&staged.writing);
            Err(if e.kind() == io::ErrorKind::AlreadyExists { Error::Taken } else { e.into() })
        }
    }
}

/// Puts staged contents in the place of the file `name`, if that is still `planned`. The old file lies aside after it, also
/// when it was replaced in the very last moment; none where the file system can neither exchange nor link.
pub fn swap(
    folder: &Folder,
    staged: Staged,
    name: &str,
    planned: &Fingerprint,
) -> Result<(Placed, Option<Aside>), Error> {
    let undo = |name: &str, e: Error| {
        // Holds what we wrote, which the tree has.
        let _ = folder.unlink(name);
        e
    };
    expect(folder, name, planned).map_err(|e| undo(&staged.writing, e))?;
    folder.rename_into_free(&staged.writing, folder, &staged.whole).map_err(|e| undo(&staged.writing, e.into()))?;
    let aside = match folder.exchange(&staged.whole, name) {
        Ok(true) => {
            give_back(folder, &staged, name)?;
            Some(staged.whole.clone())
        }
        Ok(false) => swap_by_link(folder, &staged.whole, name, planned)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(undo(&staged.whole, Error::Changed)),
        Err(e) => return Err(undo(&staged.whole, e.into())),
    };
    let placed = staged.placed()?;
    Ok((placed, aside.map(|name| look_at(folder, name, planned)).transpose()?))
}

/// What an exchange took away from the name and is no file goes back at once: aside it would be out of sight, with all that is in it.
fn give_back(folder: &Folder, staged: &Staged, name: &str) -> Result<(), Error> {
    if folder.stat_name(&staged.whole)?.kind == Kind::File {
        return Ok(());
    }
    folder.exchange(&staged.whole, name)?;
    // Ours again. Else somebody saved in between, and the next run looks at it.
    if folder.stat_name(&staged.whole)?.identity() == stat_open(&staged.file)?.identity() {
        folder.unlink(&staged.whole)?;
    }
    Err(Error::Changed)
}

/// Where two names can't be swapped, the old file gets a second name before ours takes the first. A file put there
/// in between the two calls would be lost: such a file system offers nothing better.
fn swap_by_link(folder: &Folder, whole: &str, name: &str, planned: &Fingerprint) -> Result<Option<String>, Error> {
    let aside = format!("{whole}.0");
    let linked = folder.link(name, &aside).and_then(|linked| {
        let now = folder.stat_name(name)?;
        if planned.same_but_renamed(&now.print) {
            folder.rename_over(whole, name).map(|()| Ok(linked))
        } else {
            Ok(Err(()))
        }
    });
    match linked {
        Ok(Ok(linked)) => Ok(linked.then_some(aside)),
        failed => {
            let _ = folder.unlink(whole);
            let _ = folder.unlink(&aside);
            Err(failed.err().map_or(Error::Changed, Error::Disk))
        }
    }
}

/// Takes the file `name` away, if it is still `planned`.
pub fn set_aside(folder: &Folder, namer: Namer, entry: i64, name: &str, planned: &Fingerprint) -> Result<Aside, Error> {
    expect(folder, name, planned)?;
    let (aside, ()) = namer.free(entry, |aside| folder.rename_into_free(name, folder, aside)).map_err(gone)?;
    taken_away(folder, aside, name, planned)
}

fn taken_away(folder: &Folder, aside: String, name: &str, planned: &Fingerprint) -> Result<Aside, Error> {
    let aside = look_at(folder, aside, planned)?;
    if aside.stat.kind != Kind::File {
        folder.rename_into_free(&aside.name, folder, name)?;
        return Err(Error::Changed);
    }
    Ok(aside)
}

/// Gives what lies aside and is no file a name that scans see. It went aside by a worker that stopped right then.
pub fn reveal(folder: &Folder, aside: &str) -> io::Result<String> {
    let shown = format!("recovered {}", aside.trim_start_matches(TEMPORARY));
    for count in 0..1000 {
        let name = if count == 0 { shown.clone() } else { format!("{shown} {count}") };
        match folder.rename_into_free(aside, folder, &name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => return other.map(|()| name),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes what lies aside. False, and still there, when it was written to since `seen`: it must go into history again.
pub fn discard(folder: &Folder, aside: &str, seen: &Fingerprint) -> io::Result<bool> {
    match folder.stat_name(aside) {
        Ok(now) if now.print != *seen => Ok(false),
        Ok(_) => folder.unlink(aside).map(|()| true),
        // A worker that took over has dealt with it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Moves a file that is still `planned` to a free name. `untouched` is false when it was saved in the last moment.
pub fn shift(folder: &Folder, name: &str, target: &Folder, to: &str, planned: &Fingerprint) -> Result<Placed, Error> {
    expect(folder, name, planned)?;
    folder.rename_into_free(name, target, to).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Error::Taken,
        _ => gone(e),
    })?;
    let stat = target.stat_name(to)?;
    if stat.kind != Kind::File {
        target.rename_into_free(to, folder, name)?;
        return Err(Error::Changed);
    }
    Ok(Placed { stat, untouched: planned.same_but_renamed(&stat.print) })
}

/// Sets time and executable bit of a file that is still `planned`.
pub fn touch(folder: &Folder, name: &str, look: Dress, planned: &Fingerprint) -> Result<Placed, Error> {
    let (file, stat) = folder.read(name).map_err(gone)?;
    if stat.print != *planned {
        return Err(Error::Changed);
    }
    let readable = (stat.mode & 0o444) >> 2;
    let mode = if look.executable { stat.mode | readable | 0o100 } else { stat.mode & !0o111 };
    dress(&file, mode, None, look.mtime_ns)?;
    file.sync_all()?;
    let now = stat_open(&file)?;
    let untouched = (now.print.size, now.print.mtime_ns) == (stat.print.size, look.mtime_ns);
    Ok(Placed { stat: now, untouched })
}

/// Creates a folder; one that is there already is as good.
pub fn make_folder(folder: &Folder, name: &str) -> Result<Stat, Error> {
    match folder.make_folder(name) {
        Ok(()) => {
            let made = folder.enter(name)?;
            let model = folder.stat()?;
            let owner = rustix::process::geteuid().is_root().then_some((model.uid, model.gid));
            let file = File::from(rustix::io::dup(&made).map_err(io::Error::from)?);
            dress(&file, model.mode & 0o2777 | 0o700, owner, made.stat()?.print.mtime_ns)?;
            Ok(made.stat()?)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match folder.stat_name(name)? {
            stat if stat.kind == Kind::Folder => Ok(stat),
            _ => Err(Error::Taken),
        },
        Err(e) => Err(e.into()),
    }
}

/// Removes a folder that is empty; one that is gone already is as good.
pub fn remove_folder(folder: &Folder, name: &str) -> Result<(), Error> {
    match folder.remove_folder(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Err(Error::NotEmpty),
        // Some systems say so of a folder that is not empty.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::NotEmpty),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(Error::Changed),
        other => Ok(other?),
    }
}

impl Staged {
    fn placed(&self) -> Result<Placed, Error> {
        // Of the open file, whatever the name holds by now.
        let stat = stat_open(&self.file)?;
        Ok(Placed { stat, untouched: (stat.print.size, stat.print.mtime_ns) == (self.size, self.mtime_ns) })
    }

    /// Gives the contents up.
    pub fn abandon(self, folder: &Folder) {
        let _ = folder.unlink(&self.writing);
    }
}

fn expect(folder: &Folder, name: &str, planned: &Fingerprint) -> Result<(), Error> {
    let now = folder.stat_name(name).map_err(gone)?;
    if now.kind == Kind::File && now.print == *planned { Ok(()) } else { Err(Error::Changed) }
}

fn look_at(folder: &Folder, name: String, planned: &Fingerprint) -> Result<Aside, Error> {
    let stat = folder.stat_name(&name)?;
    Ok(Aside { as_planned: stat.kind == Kind::File && planned.same_but_renamed(&stat.print), name, stat })
}

fn gone(e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::NotFound { Error::Changed } else { Error::Disk(e) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs, io::Write, path::Path};

    const NEW: Dress = Dress { mtime_ns: 1_000_000_000_000_000_000, executable: false };

    struct Bench {
        tmp: tempfile::TempDir,
        folder: Folder,
        namer: Namer,
    }

    impl Bench {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            let folder = Folder::open(tmp.path()).unwrap();
            Bench { tmp, folder, namer: Namer::new(Uuid::from_u128(7)) }
        }

        fn path(&self) -> &Path {
            self.tmp.path()
        }

        fn save(&self, name: &str, text: &str) -> Fingerprint {
            fs::write(self.path().join(name), text).unwrap();
            self.folder.stat_name(name).unwrap().print
        }

        fn stage(&self, text: &str) -> Staged {
            stage(&self.folder, self.namer, 5, NEW, None, true, |f| f.write_all(text.as_bytes())).unwrap()
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path().join(name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                self.folder.names().unwrap().into_iter().map(|n| String::from_utf8(n).unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_created_file_is_whole_with_its_time_and_leaves_nothing_beside_it() {
        let b = Bench::new();
        let placed = place(&b.folder, b.stage("new"), "f").unwrap();
        assert!(placed.untouched);
        assert_eq!(b.names(), ["f"]);
        assert_eq!((b.text("f").as_str(), placed.stat.print.mtime_ns), ("new", NEW.mtime_ns));
        assert_eq!(placed.stat.print, b.folder.stat_name("f").unwrap().print, "it is the fingerprint of a later scan");
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_left_alone() {
        let b = Bench::new();
        let staged = b.stage("new");
        b.save("f", "somebody's");
        assert!(matches!(place(&b.folder, staged, "f"), Err(Error::Taken)));
        assert_eq!((b.names(), b.text("f").as_str()), (vec!["f".to_owned()], "somebody's"));
    }

    #[test]
    fn a_replaced_file_lies_aside_until_it_is_discarded() {
        let b = Bench::new();
        let planned = b.save("f", "old");
        let (placed, aside) = swap(&b.folder, b.stage("new"), "f", &planned).unwrap();
        let aside = aside.unwrap();
        assert!(placed.untouched && aside.as_planned);
        assert_eq!((b.text("f").as_str(), b.text(&aside.name).as_str()), ("new", "old"));
        assert_eq!(placed.stat.print, b.folder.stat_name("f").unwrap().print);
        assert!(discard(&b.folder, &aside.name, &aside.stat.print).unwrap());
        assert_eq!(b.names(), ["f"]);
    }

    #[test]
    fn a_file_saved_before_the_replacing_is_not_replaced() {
        let b = Bench::new();
        let planned = b.save("f", "old");
        let staged = b.stage("new");
        b.save("f", "saved");
        assert!(matches!(swap(&b.folder, staged, "f", &planned), Err(Error::Changed)));
        assert_eq!((b.names(), b.text("f").as_str()), (vec!["f".to_owned()], "saved"));
        fs::remove_file(b.path().join("f")).unwrap();
        assert!(matches!(swap(&b.folder, b.stage("new"), "f", &planned), Err(Error::Changed)));
        assert!(b.names().is_empty());
    }

    #[test]
    fn whatever_comes_out_at_the_last_moment_is_not_taken_for_the_planned_file() {
        // The last moment lies between a look and a system call; so the look is told of a file that is no longer there.
        let b = Bench::new();
        let planned = b.save("f", "old");
        fs::write(b.path().join("g"), "new inode").unwrap();
        fs::rename(b.path().join("g"), b.path().join("f")).unwrap();
        let staged = b.stage("new");
        b.folder.rename_into_free(&staged.writing, &b.folder, &staged.whole).unwrap();
        assert!(b.folder.exchange(&staged.whole, "f").unwrap());
        let aside = look_at(&b.folder, staged.whole.clone(), &planned).unwrap();
        assert!(!aside.as_planned);
        assert_eq!((b.text("f").as_str(), b.text(&aside.name).as_str()), ("new", "new inode"));
        b.save(&aside.name, "still being written to");
        assert!(!discard(&b.folder, &aside.name, &aside.stat.print).unwrap(), "it must be taken in again");
    }

    #[test]
    fn a_folder_that_took_the_place_at_the_last_moment_goes_back_with_all_that_is_in_it() {
        // As above: what is done after the look, by itself.
        let b = Bench::new();
        let planned = b.save("f", "old");
        fs::remove_file(b.path().join("f")).unwrap();
        fs::create_dir(b.path().join("f")).unwrap();
        fs::write(b.path().join("f/inside"), "somebody's").unwrap();
        let staged = b.stage("new");
        b.folder.rename_into_free(&staged.writing, &b.folder, &staged.whole).unwrap();
        assert!(b.folder.exchange(&staged.whole, "f").unwrap());
        assert!(matches!(give_back(&b.folder, &staged, "f"), Err(Error::Changed)));
        assert_eq!((b.names(), b.text("f/inside").as_str()), (vec!["f".to_owned()], "somebody's"));
        let aside = b.namer.name(5, 0);
        b.folder.rename_into_free("f", &b.folder, &aside).unwrap();
        assert!(matches!(taken_away(&b.folder, aside.clone(), "f", &planned), Err(Error::Changed)));
        assert_eq!((b.names(), b.text("f/inside").as_str()), (vec!["f".to_owned()], "somebody's"));
        // Of a worker that was killed in between.
        b.folder.rename_into_free("f", &b.folder, &aside).unwrap();
        let shown = reveal(&b.folder, &aside).unwrap();
        assert_eq!((b.names(), parse(&shown)), (vec![shown], None));
    }

    #[test]
    fn a_file_system_that_cannot_exchange_keeps_the_old_file_by_a_link() {
        let b = Bench::new();
        let planned = b.save("f", "old");
        b.save("whole", "new");
        let aside = swap_by_link(&b.folder, "whole", "f", &planned).unwrap().unwrap();
        assert_eq!((b.text("f").as_str(), b.text(&aside).as_str()), ("new", "old"));
        assert!(look_at(&b.folder, aside, &planned).unwrap().as_planned);
        b.save("later", "newer");
        let wrong = Fingerprint { size: 99, ..planned };
        assert!(matches!(swap_by_link(&b.folder, "later", "f", &wrong), Err(Error::Changed)));
        assert_eq!((b.text("f").as_str(), b.names().len()), ("new", 2));
    }

    #[test]
    fn a_deleted_file_lies_aside_and_a_saved_one_stays() {
        let b = Bench::new();
        let planned = b.save("f", "old");
        let aside = set_aside(&b.folder, b.namer, 5, "f", &planned).unwrap();
        assert!(aside.as_planned);
        assert_eq!(b.names(), std::slice::from_ref(&aside.name));
        b.save("f", "again");
        assert!(matches!(set_aside(&b.folder, b.namer, 5, "f", &planned), Err(Error::Changed)));
        let planned = b.folder.stat_name("f").unwrap().print;
        let second = set_aside(&b.folder, b.namer, 5, "f", &planned).unwrap();
        assert_ne!(second.name, aside.name, "a leftover is never overwritten");
    }

    #[test]
    fn names_of_ours_tell_run_entry_and_whether_they_are_whole() {
        let run = Uuid::from_u128(7);
        let namer = Namer::new(run);
        assert_eq!(parse(&namer.name(42, 0)), Some(Temporary { run, entry: 42, whole: true }));
        assert_eq!(parse(&format!("{}-w", namer.name(42, 3))), Some(Temporary { run, entry: 42, whole: false }));
        assert_eq!(parse(&format!("{}.0", namer.name(42, 3))), Some(Temporary { run, entry: 42, whole: true }));
        for foreign in ["f", ".driftless-tmp-", ".driftless-tmp-x-1", ".driftless-tmp-notes"] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_replacement_keeps_the_mode_and_takes_the_executable_bit_of_the_tree() {
        let b = Bench::new();
        let planned = b.save("f", "old");
        let file = fs::File::open(b.path().join("f")).unwrap();
        dress(&file, 0o640, None, planned.mtime_ns).unwrap();
        let stat = b.folder.stat_name("f").unwrap();
        let look = Dress { executable: true, ..NEW };
        let staged = stage(&b.folder, b.namer, 1, look, Some(&stat), true, |f| f.write_all(b"#!")).unwrap();
        let (placed, _) = swap(&b.folder, staged, "f", &stat.print).unwrap();
        assert_eq!(placed.stat.mode, 0o750);
    }

    #[test]
    fn time_and_executable_bit_are_set_in_place_unless_somebody_saved() {
        let b = Bench::new();
        let planned = b.save("f", "text");
        let touched = touch(&b.folder, "f", Dress { executable: true, ..NEW }, &planned).unwrap();
        assert!(touched.untouched && touched.stat.executable());
        assert_eq!((touched.stat.print.mtime_ns, touched.stat.print.inode), (NEW.mtime_ns, planned.inode));
        assert!(matches!(touch(&b.folder, "f", NEW, &planned), Err(Error::Changed)));
        let touched = touch(&b.folder, "f", NEW, &touched.stat.print).unwrap();
        assert!(!touched.stat.executable());
    }

    #[test]
    fn a_writing_that_fails_leaves_nothing() {
        let b = Bench::new();
        let failed = stage(&b.folder, b.namer, 5, NEW, None, true, |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(failed, Err(Error::Disk(_))));
        assert!(b.names().is_empty());
    }

    #[test]
    fn folders_are_made_once_and_removed_only_when_empty() {
        let b = Bench::new();
        assert_eq!(make_folder(&b.folder, "d").unwrap().print.inode, make_folder(&b.folder, "d").unwrap().print.inode);
        fs::write(b.path().join("d/f"), "x").unwrap();
        assert!(matches!(remove_folder(&b.folder, "d"), Err(Error::NotEmpty)));
        assert!(matches!(remove_folder(&b.folder, "d/f"), Err(Error::Disk(_))), "a path is no name");
        fs::remove_file(b.path().join("d/f")).unwrap();
        remove_folder(&b.folder, "d").unwrap();
        remove_folder(&b.folder, "d").unwrap();
    }

    #[test]
    fn a_move_never_lands_on_something() {
        let b = Bench::new();
        let planned = b.save("f", "x");
        b.save("g", "y");
        assert!(matches!(shift(&b.folder, "f", &b.folder, "g", &planned), Err(Error::Taken)));
        let moved = shift(&b.folder, "f", &b.folder, "h", &planned).unwrap();
        assert!(moved.untouched);
        assert_eq!(moved.stat.print, b.folder.stat_name("h").unwrap().print);
        assert_eq!(b.names(), ["g", "h"]);
    }
}
