//! Names that a file system which does not tell upper from lower case (or one form of a letter from another) can't hold
//! side by side.
//!
//! Invariant: of the paths that such a folder takes for one, exactly one syncs: the one that is there, else the first by
//! bytes. Left out: two names for one path of the tree, which the scan sees itself.

use std::collections::HashMap;

use driftless_sync::path::TreePath;

use super::{
    folder::Folder,
    scan::{Reason, Scan, TEMPORARY, Unknown},
};

/// The paths of the tree that can't come into the device's folder beside what syncs there. `folds` says of a folder whether
/// its file system takes two spellings for one name; it is asked only where the answer matters.
pub fn clashes(scan: &Scan, tree: &[TreePath], folds: &mut dyn FnMut(&TreePath) -> bool) -> Vec<Unknown> {
    let mut groups: HashMap<(Option<TreePath>, String), Vec<(bool, &TreePath)>> = HashMap::new();
    for (there, path) in scan.found.iter().map(|f| (true, &f.path)).chain(tree.iter().map(|p| (false, p))) {
        let Some(name) = path.name() else { continue };
        let group = groups.entry((path.parent(), name.to_lowercase())).or_default();
        if group.iter().all(|(_, known)| *known != path) {
            group.push((there, path));
        }
    }
    let mut found: Vec<Unknown> = groups
        .into_iter()
        .filter(|((folder, _), paths)| paths.len() > 1 && folder.as_ref().is_some_and(&mut *folds))
        .flat_map(|(_, mut paths)| {
            paths.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.as_str().cmp(b.1.as_str())));
            paths.into_iter().skip(1)
        })
        .map(|(_, path)| Unknown { path: Some(path.clone()), shown: path.to_string(), reason: Reason::Clash })
        .collect();
    found.sort_by(|a, b| a.shown.cmp(&b.shown));
    found
}

/// Whether the file system of `folder` takes two spellings for one name. False where that can't be tried.
pub fn folds(folder: &Folder) -> bool {
    let name = format!("{TEMPORARY}probe-{}-w", uuid::Uuid::new_v4().simple());
    if folder.create(&name).is_err() {
        return false;
    }
    let folds = folder.stat_name(&name.to_uppercase()).is_ok();
    let _ = folder.unlink(&name);
    folds
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::remotes::scan::{Eyes, Gauge, Reading, scan};

    fn paths(texts: &[&str]) -> Vec<TreePath> {
        texts.iter().map(|t| TreePath::parse(t).unwrap()).collect()
    }

    fn shown(scan: &Scan, tree: &[&str], folds: bool) -> Vec<String> {
        clashes(scan, &paths(tree), &mut |_| folds).into_iter().map(|u| u.shown).collect()
    }

    #[test]
    fn the_first_by_bytes_syncs_where_case_folds_and_both_elsewhere() {
        let tree = ["/a/X", "/a/x", "/b/x", "/b/X", "/c/x", "/A/x"];
        assert_eq!(shown(&Scan::default(), &tree, true), ["/a/x", "/b/x"]);
        assert!(shown(&Scan::default(), &tree, false).is_empty());
        assert_eq!(shown(&Scan::default(), &["/a", "/A", "/A/x"], true), ["/a"]);
    }

    #[test]
    fn what_the_device_holds_goes_on_syncing() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("readme"), "").unwrap();
        let gauge = Gauge::default();
        let eyes = Eyes { ignored: &|_, _| false, reading: Reading::Unless(&|_| None), gauge: &gauge, threads: 1 };
        let scan = scan(Folder::open(tmp.path()).unwrap(), &eyes).unwrap();
        assert_eq!(shown(&scan, &["/README", "/readme"], true), ["/README"]);
    }

    #[test]
    fn no_folder_is_asked_about_when_no_names_are_alike() {
        clashes(&Scan::default(), &paths(&["/a", "/b/a", "/c"]), &mut |_| panic!("nothing to ask"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_ordinary_file_system_tells_cases_apart() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(!folds(&Folder::open(tmp.path()).unwrap()));
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
