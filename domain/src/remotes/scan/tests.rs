//! Scanning real folders: what is seen, what is unknown, and what is left alone.

use super::*;
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

fn look(at: &Path) -> Scan {
    look_with(at, &|_, _| false, &|_| None)
}

type Ignored<'a> = &'a (dyn Fn(&TreePath, bool) -> bool + Sync);
type Baseline<'a> = &'a (dyn Fn(&TreePath) -> Option<(Fingerprint, ContentHash)> + Sync);

fn look_with(at: &Path, ignored: Ignored<'_>, known: Baseline<'_>) -> Scan {
    let gauge = Gauge::default();
    scan(Folder::open(at).unwrap(), &Eyes { ignored, reading: Reading::Unless(known), gauge: &gauge, threads: 4 })
        .unwrap()
}

fn paths(scan: &Scan) -> Vec<&str> {
    scan.found.iter().map(|f| f.path.as_str()).collect()
}

fn unknowns(scan: &Scan) -> Vec<(&str, &'static str)> {
    scan.unknown.iter().map(|u| (u.shown.as_str(), u.reason.code())).collect()
}

fn age(file: &Path, seconds: i64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    super::super::folder::set_mtime(&file, disk_clock_ns() - seconds * 1_000_000_000).unwrap();
}

#[test]
fn files_and_folders_are_found_in_the_order_of_the_tree() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("a/empty")).unwrap();
    for name in ["a/x", "a b", "a-c", ".hidden", "🦀"] {
        fs::write(tmp.path().join(name), name).unwrap();
    }
    let scan = look(tmp.path());
    assert_eq!(paths(&scan), ["/.hidden", "/a", "/a/empty", "/a/x", "/a b", "/a-c", "/🦀"]);
    assert!(scan.unknown.is_empty());
    let x = &scan.found[3];
    assert_eq!((x.content, x.stat.print.size), (Some(ContentHash::of(b"a/x")), 3));
    assert_eq!(scan.found[1].content, None);
}

#[test]
fn whatever_is_no_file_or_folder_is_named_and_never_opened() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("real"), "r").unwrap();
    symlink("real", tmp.path().join("link")).unwrap();
    symlink("/etc", tmp.path().join("link-to-folder")).unwrap();
    symlink("nowhere", tmp.path().join("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tmp.path().join("socket")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, tmp.path().join("pipe"), mode).unwrap();
    let scan = look(tmp.path());
    assert_eq!(paths(&scan), ["/real"]);
    assert_eq!(
        unknowns(&scan),
        [
            ("/dangling", "file.link"),
            ("/link", "file.link"),
            ("/link-to-folder", "file.link"),
            ("/pipe", "file.fifo"),
            ("/socket", "file.socket"),
        ]
    );
}

#[test]
fn names_that_the_tree_cannot_hold_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
    fs::write(tmp.path().join("two\nlines"), "n").unwrap();
    let scan = look(tmp.path());
    assert!(scan.found.is_empty());
    assert_eq!(unknowns(&scan), [("/caf\u{fffd}", "name.not_utf8"), ("/two\nlines", "path.control")]);
    assert!(scan.unknown.iter().all(|u| u.path.is_none()));
}

#[test]
fn of_two_names_for_one_path_the_first_by_bytes_is_found() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("e\u{301}"), "decomposed").unwrap();
    fs::write(tmp.path().join("\u{e9}"), "composed").unwrap();
    let scan = look(tmp.path());
    assert_eq!(paths(&scan), ["/\u{e9}"]);
    assert_eq!(scan.found[0].content, Some(ContentHash::of(b"decomposed")));
    assert_eq!(scan.found[0].spelling.as_deref(), Some("e\u{301}"));
    assert_eq!(unknowns(&scan), [("/\u{e9}", "name.clash")]);
    assert_eq!(scan.unknown[0].path, None, "the path itself is known");
}

#[test]
fn ignored_names_and_all_below_are_unknown() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("target")).unwrap();
    fs::write(tmp.path().join("target/x"), "x").unwrap();
    fs::write(tmp.path().join("kept"), "k").unwrap();
    let scan = look_with(tmp.path(), &|path, folder| folder && path.as_str() == "/target", &|_| None);
    assert_eq!(paths(&scan), ["/kept"]);
    assert_eq!(unknowns(&scan), [("/target", "name.ignored")]);
}

#[test]
fn our_own_files_are_not_the_users() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("d/.driftless-tmp-1-2"), "t").unwrap();
    fs::write(tmp.path().join(".driftless-root"), "id").unwrap();
    let scan = look(tmp.path());
    assert_eq!(paths(&scan), ["/d"]);
    assert!(scan.unknown.is_empty());
    let left = Leftover { folder: TreePath::parse("/d").unwrap(), name: ".driftless-tmp-1-2".into() };
    assert_eq!(scan.leftovers, [left]);
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("f");
    fs::write(&file, "contents").unwrap();
    age(&file, 10);
    let first = look(tmp.path());
    let known = (first.found[0].stat.print, ContentHash::of(b"what the baseline says"));
    let again = look_with(tmp.path(), &|_, _| false, &|_| Some(known));
    assert_eq!(again.found[0].content, Some(known.1), "it was hashed although nothing changed");
    fs::write(&file, "CONTENTS").unwrap();
    age(&file, 10);
    let edited = look_with(tmp.path(), &|_, _| false, &|_| Some(known));
    assert_eq!(edited.found[0].content, Some(ContentHash::of(b"CONTENTS")), "the change time tells");
}

#[test]
fn a_file_written_within_two_seconds_of_the_scan_is_not_settled_and_is_hashed_next_time() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("f");
    // Whoever stands still for so long meanwhile looks at a file that is no longer young, and tries again.
    let (scan, again) = (0..100)
        .find_map(|_| {
            let begin = Instant::now();
            fs::write(&file, "young").unwrap();
            let scan = look(tmp.path());
            let wrong = (scan.found[0].stat.print, ContentHash::of(b"other"));
            let again = look_with(tmp.path(), &|_, _| false, &|_| Some(wrong));
            (begin.elapsed() < Duration::from_secs(1)).then_some((scan, again))
        })
        .unwrap();
    assert!(!scan.found[0].settled);
    assert_eq!(again.found[0].content, Some(ContentHash::of(b"young")));
    age(&file, 3);
    assert!(look(tmp.path()).found[0].settled);
    age(&file, -3600);
    assert!(!look(tmp.path()).found[0].settled, "a time in the future proves nothing");
}

#[test]
fn a_file_that_grows_while_it_is_read_is_unstable() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("log");
    fs::write(&path, vec![b'x'; 4 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let is_unstable = |scan: &Scan| unknowns(scan) == [("/log", "file.unstable")];
    let scans: Vec<Scan> = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let mut log = fs::File::options().append(true).open(&path).unwrap();
            while !stop.load(Relaxed) {
                log.write_all(b"line\n").unwrap();
            }
        });
        let (mut scans, begun) = (Vec::new(), Instant::now());
        // It takes a while until both threads are at work on a busy machine.
        while scans.len() < 5 || !scans.iter().any(is_unstable) && begun.elapsed() < Duration::from_secs(60) {
            scans.push(look(tmp.path()));
        }
        stop.store(true, Relaxed);
        scans
    });
    assert!(scans.iter().any(is_unstable));
    for found in scans.iter().flat_map(|s| &s.found) {
        assert!(found.content.is_some());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_mounted_file_system_is_unknown() {
    let scan = look_with(Path::new("/"), &|path, _| path.as_str() != "/proc", &|_| None);
    assert!(unknowns(&scan).contains(&("/proc", "folder.other_file_system")));
    assert!(scan.found.is_empty());
}

#[test]
fn what_cannot_be_read_is_unknown_and_the_rest_is_found() {
    let tmp = tempfile::tempdir().unwrap();
    for name in ["closed", "open"] {
        fs::create_dir(tmp.path().join(name)).unwrap();
        fs::write(tmp.path().join(name).join("f"), name).unwrap();
    }
    fs::write(tmp.path().join("secret"), "s").unwrap();
    set_mode(tmp.path(), 0o755);
    set_mode(&tmp.path().join("closed"), 0);
    set_mode(&tmp.path().join("secret"), 0);
    let scan = without_rights(|| look(tmp.path()));
    set_mode(&tmp.path().join("closed"), 0o700);
    assert_eq!(unknowns(&scan), [("/closed", "file.unreadable"), ("/secret", "file.unreadable")]);
    assert_eq!(paths(&scan), ["/open", "/open/f"], "an unlisted folder is unknown itself");
}

#[test]
fn a_cancelled_scan_answers_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let gauge = Gauge { cancel: AtomicBool::new(true), ..Gauge::default() };
    let eyes = Eyes { ignored: &|_, _| false, reading: Reading::Unless(&|_| None), gauge: &gauge, threads: 2 };
    assert!(scan(Folder::open(tmp.path()).unwrap(), &eyes).is_err());
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs `work` in a thread (and those it starts) that has no more rights on the disk than anybody: root reads everything.
fn without_rights<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let drop_rights = || {
        use rustix::process::Uid;
        if rustix::process::geteuid().is_root() {
            // Of this thread only: the C library's function would change the whole process.
            let nobody = Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(drop_rights).join().unwrap())
}
