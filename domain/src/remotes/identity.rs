//! Where folder remotes may lie, and whether a folder is still the one that was registered.
//!
//! Invariant: no two devices, and no device and our own files, ever share a folder; a run touches a folder only while its
//! root carries the id, and the folder the inode, of its registration. To who is no administrator, everything that he may
//! not have looks like a folder that does not exist.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use uuid::Uuid;

use super::{
    folder::{Folder, dress},
    scan::{ROOT_ID, TEMPORARY, disk_clock_ns},
};
use crate::{
    Actor,
    config::Settings,
    db::{self, Tx},
    error::{Fault, Kind},
};

/// Why a folder can't be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No absolute path without `..`.
    #[error("the folder must be an absolute path without `..`, in UTF-8")]
    Path,
    /// It lies below no allowed root. Said to administrators only.
    #[error("the folder lies below none of DRIFTLESS_REMOTE_ROOTS")]
    NotAllowed,
    /// There is none, or none that the user may have.
    #[error("there is no such folder")]
    NotFound,
    /// It equals, contains or lies within another device's, or one of ours. Said to administrators only.
    #[error("the folder overlaps with another device's, or with the server's own files")]
    Overlaps,
    /// It could not be looked at.
    #[error("the folder could not be looked at")]
    Disk(#[source] io::Error),
    /// The database.
    #[error("the folder's neighbours could not be read")]
    Db(#[from] db::Error),
}

crate::db::from_sqlx!(Error::Db);

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Path | Error::NotAllowed | Error::NotFound => Kind::Invalid,
            Error::Overlaps => Kind::Conflict,
            Error::Disk(_) => Kind::Unavailable,
            Error::Db(e) => e.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Path => "remote.path_invalid",
            Error::NotAllowed => "remote.not_allowed",
            Error::NotFound => "remote.not_found",
            Error::Overlaps => "remote.overlaps",
            Error::Disk(_) => "remote.unreadable",
            Error::Db(e) => e.code(),
        }
    }

    fn field(&self) -> Option<&str> {
        (!matches!(self, Error::Db(_) | Error::Disk(_))).then_some("remote")
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Error::Db(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// What a device's row keeps of its folder, to know it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The id of the allowed root.
    pub root: Uuid,
    /// The folder, absolute.
    pub path: String,
    /// The folder's inode.
    pub inode: u64,
}

/// Why a registered folder must not be touched. A run that meets one of these is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The root can't be opened, or carries no id.
    #[error("the root of the folder is missing (not mounted?)")]
    RootMissing,
    /// The root carries another id.
    #[error("another disk or folder lies where the root of the folder was")]
    RootNotOurs,
    /// The folder itself can't be opened.
    #[error("the folder is missing")]
    FolderMissing,
    /// Another folder lies in its place.
    #[error("another folder lies in the place of the registered one")]
    FolderReplaced,
}

impl Lost {
    /// Stable code.
    pub fn code(self) -> &'static str {
        match self {
            Lost::RootMissing => "remote.root_missing",
            Lost::RootNotOurs => "remote.root_not_ours",
            Lost::FolderMissing => "remote.folder_missing",
            Lost::FolderReplaced => "remote.folder_replaced",
        }
    }
}

/// The queue of runs whose folders lie below the root `id`: only processes that see the root serve it.
pub fn queue(root: Uuid) -> String {
    format!("folder:{root}")
}

/// The allowed roots as one process sees them. Disks come and go: look again from time to time.
#[derive(Debug)]
pub struct Roots {
    paths: Vec<PathBuf>,
    seen: HashSet<Uuid>,
    /// Said of these already.
    unseen: HashSet<PathBuf>,
}

impl Roots {
    /// None seen yet.
    pub fn new(settings: &Settings) -> Self {
        Roots { paths: settings.remote_roots.clone(), seen: HashSet::new(), unseen: HashSet::new() }
    }

    /// The ids of roots that were not seen before, in the order of the setting. Blocks. A root without an id gets one here, at
    /// its first use; one that can't be opened or written is left out, with one warning until it can.
    pub fn look(&mut self) -> Vec<Uuid> {
        let mut fresh = Vec::new();
        for root in &self.paths {
            match Folder::open(root).and_then(|folder| ensure_id(&folder)) {
                Ok(id) => {
                    self.unseen.remove(root);
                    if self.seen.insert(id) {
                        fresh.push(id);
                    }
                }
                Err(error) => {
                    if self.unseen.insert(root.clone()) {
                        tracing::warn!(root = %root.display(), %error, "this root of folder remotes is not served until it can be read");
                    }
                }
            }
        }
        fresh
    }
}

/// Checks that `actor` may register the folder `path` as a device, and says what its row is to keep. Holds a lock until the
/// end of `tx`, so that of two overlapping registrations the later one sees the other.
pub async fn register_check(tx: &mut Tx, settings: &Settings, actor: &Actor, path: &str) -> Result<Placement, Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('driftless.remotes'))").execute(&mut **tx).await?;
    let others: Vec<(Uuid, String)> =
        sqlx::query_as("select root, path from remote_folders()").fetch_all(&mut **tx).await?;
    let (settings, actor, path) = (settings.clone(), actor.clone(), path.to_owned());
    let hidden = !actor.is_admin();
    let check = move || check(&settings, &actor, &path, &others);
    match tokio::task::spawn_blocking(check).await.expect("a check panics only by a defect") {
        Err(Error::NotAllowed | Error::Overlaps | Error::Disk(_)) if hidden => Err(Error::NotFound),
        other => other,
    }
}

fn check(settings: &Settings, actor: &Actor, path: &str, others: &[(Uuid, String)]) -> Result<Placement, Error> {
    let path = plain(path).ok_or(Error::Path)?;
    let root =
        settings.remote_roots.iter().filter(|root| path.starts_with(root)).max_by_key(|root| root.as_os_str().len());
    let root = root.ok_or(Error::NotAllowed)?;
    if !actor.is_admin() && !path.starts_with(root.join(actor.name())) {
        return Err(Error::NotFound);
    }
    let disk = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound,
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Error::NotFound,
        _ => Error::Disk(e),
    };
    let top = Folder::open(root).map_err(disk)?;
    let folder = open_below(&top, root, &path).map_err(disk)?;
    let id = ensure_id(&top).map_err(Error::Disk)?;
    let lineage = folder.lineage().map_err(Error::Disk)?;
    let ours = [settings.data_dir.clone(), settings.data_dir.join("postgres"), settings.store.clone()];
    let neighbours = ours.into_iter().map(|path| (None, path));
    let neighbours = neighbours.chain(others.iter().map(|(root, path)| (Some(*root), PathBuf::from(path))));
    for (root, other) in neighbours {
        if overlap(&path, &lineage, id, root, &other) {
            return Err(Error::Overlaps);
        }
    }
    let path = path.to_str().expect("it was made of text").to_owned();
    Ok(Placement { root: id, path, inode: lineage[0].1 })
}

/// Whether `other` holds or lies in the folder: by what the disk says where it can be seen from here, else by the text, which
/// says something only of paths of one root (or of this machine).
fn overlap(path: &Path, lineage: &[(u64, u64)], id: Uuid, root: Option<Uuid>, other: &Path) -> bool {
    let by_text = path.starts_with(other) || other.starts_with(path);
    if by_text && root.is_none_or(|root| root == id) {
        return true;
    }
    let Ok(theirs) = Folder::open(other).and_then(|folder| folder.lineage()) else { return false };
    lineage.contains(&theirs[0]) || theirs.contains(&lineage[0])
}

/// Opens the folder of a device, if it is still the registered one. Blocks.
pub fn open(settings: &Settings, placement: &Placement) -> Result<Folder, Lost> {
    let path = Path::new(&placement.path);
    let mut lost = Lost::RootMissing;
    for root in settings.remote_roots.iter().filter(|root| path.starts_with(root)) {
        let Ok(top) = Folder::open(root) else { continue };
        match read_id(&top) {
            Ok(Some(id)) if id == placement.root => {
                let folder = open_below(&top, root, path).map_err(|_| Lost::FolderMissing)?;
                let same = folder.stat().is_ok_and(|stat| stat.print.inode == placement.inode);
                return if same { Ok(folder) } else { Err(Lost::FolderReplaced) };
            }
            Ok(Some(_)) => lost = Lost::RootNotOurs,
            _ => {}
        }
    }
    Err(lost)
}

/// Goes down from the root name by name, never through a link.
fn open_below(top: &Folder, root: &Path, path: &Path) -> io::Result<Folder> {
    let below = path.strip_prefix(root).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut folder = top.again()?;
    for name in below {
        folder = folder.enter(name.to_str().ok_or(io::ErrorKind::InvalidInput)?)?;
    }
    Ok(folder)
}

fn plain(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let names = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    // Collected anew, so that doubled slashes and one at the end are gone.
    (path.is_absolute() && names).then(|| path.components().collect())
}

fn read_id(root: &Folder) -> io::Result<Option<Uuid>> {
    let mut file = match root.read(ROOT_ID) {
        Ok((file, _)) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut text = String::new();
    Read::by_ref(&mut file).take(100).read_to_string(&mut text)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{ROOT_ID} holds no id"));
    Uuid::try_parse(text.trim()).map(Some).map_err(|_| wrong())
}

/// The root's id, made now if it has none. Of several processes that make one at once, the first decides.
fn ensure_id(root: &Folder) -> io::Result<Uuid> {
    if let Some(id) = read_id(root)? {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    let draft = format!("{TEMPORARY}root-{}", id.simple());
    let mut file: File = root.create(&draft)?;
    let written = writeln!(file, "{id}")
        .and_then(|()| dress(&file, 0o644, None, disk_clock_ns()))
        .and_then(|()| file.sync_all())
        .and_then(|()| root.rename_into_free(&draft, root, ROOT_ID));
    match written {
        Ok(()) => root.sync().map(|()| id),
        Err(e) => {
            let _ = root.unlink(&draft);
            match e.kind() {
                io::ErrorKind::AlreadyExists => read_id(root)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
                _ => Err(e),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    struct Server {
        tmp: tempfile::TempDir,
        settings: Settings,
    }

    impl Server {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            for name in ["srv/anna/docs/deep", "srv/bob", "srv/data/store", "elsewhere"] {
                fs::create_dir_all(tmp.path().join(name)).unwrap();
            }
            let at = |name: &str| tmp.path().join(name).into_os_string();
            let settings = Settings::from_lookup(|name| match name {
                "DRIFTLESS_REMOTE_ROOTS" => Some(at("srv")),
                "DRIFTLESS_DATA_DIR" => Some(at("srv/data")),
                _ => None,
            });
            Server { settings: settings.unwrap(), tmp }
        }

        fn at(&self, name: &str) -> String {
            self.tmp.path().join(name).to_str().unwrap().to_owned()
        }

        fn check(&self, actor: &Actor, name: &str, others: &[(Uuid, String)]) -> Result<Placement, &'static str> {
            check(&self.settings, actor, &self.at(name), others).map_err(|e| e.code())
        }
    }

    fn actor(name: &str, admin: bool) -> Actor {
        Actor { user_id: 1, name: name.into(), admin, session: None }
    }

    #[test]
    fn an_administrator_takes_any_folder_below_a_root_and_others_only_their_own() {
        let server = Server::new();
        let (admin, anna) = (actor("root", true), actor("anna", false));
        assert!(server.check(&admin, "srv/bob", &[]).is_ok());
        assert!(server.check(&anna, "srv/anna", &[]).is_ok());
        assert!(server.check(&anna, "srv/anna/docs/", &[]).is_ok());
        assert_eq!(server.check(&anna, "srv/bob", &[]), Err("remote.not_found"));
        assert_eq!(server.check(&anna, "srv", &[]), Err("remote.not_found"));
        assert_eq!(server.check(&actor("..", false), "srv", &[]), Err("remote.not_found"));
        assert_eq!(server.check(&admin, "elsewhere", &[]), Err("remote.not_allowed"));
        assert_eq!(server.check(&admin, "srv/missing", &[]), Err("remote.not_found"));
        assert_eq!(server.check(&admin, "srv/../elsewhere", &[]), Err("remote.path_invalid"));
        assert_eq!(check(&server.settings, &admin, "srv", &[]).map_err(|e| e.code()), Err("remote.path_invalid"));
    }

    #[test]
    fn a_link_below_the_root_leads_nowhere() {
        let server = Server::new();
        symlink(server.at("elsewhere"), server.at("srv/anna/link")).unwrap();
        assert_eq!(server.check(&actor("anna", false), "srv/anna/link", &[]), Err("remote.not_found"));
    }

    #[test]
    fn folders_that_overlap_are_refused_under_whatever_name() {
        let server = Server::new();
        let admin = actor("root", true);
        let docs = server.check(&admin, "srv/anna/docs", &[]).unwrap();
        let others = [(docs.root, docs.path.clone())];
        for name in ["srv/anna/docs", "srv/anna", "srv/anna/docs/deep", "srv"] {
            assert_eq!(server.check(&admin, name, &others), Err("remote.overlaps"), "{name}");
        }
        assert!(server.check(&admin, "srv/bob", &others).is_ok());
        // Another name for the same folder, as another machine or an earlier setting may have known it.
        symlink(server.at("srv/anna"), server.at("elsewhere/alias")).unwrap();
        let alias = [(Uuid::nil(), server.at("elsewhere/alias/docs"))];
        assert_eq!(server.check(&admin, "srv/anna/docs/deep", &alias), Err("remote.overlaps"));
        assert_eq!(server.check(&admin, "srv/anna", &alias), Err("remote.overlaps"));
        // The same text on another machine's root is another folder, unless it is seen from here.
        let elsewhere = [(Uuid::nil(), server.at("srv/gone"))];
        assert!(server.check(&admin, "srv/bob", &elsewhere).is_ok());
    }

    #[test]
    fn our_own_files_are_never_a_remote() {
        let server = Server::new();
        for name in ["srv/data", "srv/data/store", "srv"] {
            assert_eq!(server.check(&actor("root", true), name, &[]), Err("remote.overlaps"), "{name}");
        }
    }

    #[test]
    fn a_root_gets_its_id_once() {
        let server = Server::new();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| Roots::new(&server.settings).look())).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| id.len() == 1 && *id == ids[0]));
        assert_eq!(fs::read_dir(server.at("srv")).unwrap().count(), 4, "no draft is left");
        fs::write(server.at("srv/.driftless-root"), "nonsense").unwrap();
        assert!(Roots::new(&server.settings).look().is_empty());
    }

    #[test]
    fn a_root_that_comes_later_is_new_once() {
        let server = Server::new();
        fs::rename(server.at("srv"), server.at("unmounted")).unwrap();
        let mut roots = Roots::new(&server.settings);
        assert!(roots.look().is_empty());
        fs::rename(server.at("unmounted"), server.at("srv")).unwrap();
        assert_eq!(roots.look().len(), 1);
        assert!(roots.look().is_empty());
    }

    #[test]
    fn a_folder_that_is_not_the_registered_one_is_not_opened() {
        let server = Server::new();
        let place = server.check(&actor("anna", false), "srv/anna/docs", &[]).unwrap();
        let open = || open(&server.settings, &place).map(|_| ());
        assert_eq!(open(), Ok(()));
        fs::rename(server.at("srv/anna/docs"), server.at("srv/anna/old")).unwrap();
        assert_eq!(open(), Err(Lost::FolderMissing));
        fs::create_dir(server.at("srv/anna/docs")).unwrap();
        assert_eq!(open(), Err(Lost::FolderReplaced));
        fs::write(server.at("srv/.driftless-root"), Uuid::new_v4().to_string()).unwrap();
        assert_eq!(open(), Err(Lost::RootNotOurs));
        fs::remove_file(server.at("srv/.driftless-root")).unwrap();
        assert_eq!(open(), Err(Lost::RootMissing));
        fs::rename(server.at("srv"), server.at("unmounted")).unwrap();
        assert_eq!(open(), Err(Lost::RootMissing));
    }
}
