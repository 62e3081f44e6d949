//! What a device leaves out: ignored names by pattern, and folders that are not selected.
//!
//! Invariant: what is left out is unknown to the plan, never absent, so it is never deleted. A pattern that leaves out a folder
//! leaves out all below it.
//! Left out: where the lists are stored. Nothing is read from a `.gitignore` of the user: that file means something else.

use ::ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};

use crate::path::TreePath;

/// Ignored on every device, before its own list: litter of desktops and editors.
pub const DEFAULT_PATTERNS: [&str; 4] = [".DS_Store", "Thumbs.db", "~$*", "*.tmp"];
/// Our own files, ignored whatever a list says: half-written replacements and the mark of a remote's root.
pub const OWN_PATTERNS: [&str; 2] = [".driftless-tmp-*", ".driftless-root"];

/// Most patterns of a device's list.
pub const MAX_PATTERNS: usize = 1000;
/// Longest pattern in bytes.
pub const MAX_PATTERN_BYTES: usize = 1000;

/// A list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A line is no pattern.
    #[error("line {line} of the ignore list, {pattern:?}, is no pattern: {reason}")]
    Pattern {
        /// From 1.
        line: usize,
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than [`MAX_PATTERNS`] lines, or patterns that together are too large to match with.
    #[error("the ignore list is too large")]
    TooLarge,
}

impl IgnoreError {
    /// Stable code of the HTTP API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pattern { .. } => "ignore.pattern_invalid",
            Self::TooLarge => "ignore.too_large",
        }
    }
}

/// A device's ignore list in gitignore syntax, with the defaults before it and our own files after it.
#[derive(Clone)]
pub struct IgnoreList {
    list: Gitignore,
    own: Gitignore,
}

impl IgnoreList {
    /// Takes the lines of a device's list; empty lines and comments (`#`) are allowed. `!pattern` takes a default back.
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut builder = GitignoreBuilder::new("/");
        // git takes `[a` as a literal; here it is more likely a slip, and a slip should be named.
        builder.allow_unclosed_class(false);
        for pattern in DEFAULT_PATTERNS {
            builder.add_line(None, pattern).expect("the default patterns are valid");
        }
        for (index, pattern) in lines.into_iter().enumerate() {
            if index >= MAX_PATTERNS {
                return Err(IgnoreError::TooLarge);
            }
            let wrong = |reason: String| IgnoreError::Pattern {
                line: index + 1,
                pattern: pattern.chars().take(100).collect(),
                reason,
            };
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(wrong(format!("longer than {MAX_PATTERN_BYTES} bytes")));
            }
            if pattern.chars().any(char::is_control) {
                return Err(wrong("it has a control character".into()));
            }
            builder.add_line(None, pattern).map_err(|error| wrong(error.to_string()))?;
        }
        let mut own = GitignoreBuilder::new("/");
        for pattern in OWN_PATTERNS {
            own.add_line(None, pattern).expect("our own patterns are valid");
        }
        Ok(Self {
            list: builder.build().map_err(|_| IgnoreError::TooLarge)?,
            own: own.build().expect("our own patterns are few"),
        })
    }

    /// Whether this path, or a folder above it, is ignored. The path is relative to what the device is kept in step with. A scan
    /// that does not go into ignored folders may ask [`ignores_entry`](Self::ignores_entry), which is cheaper.
    pub fn ignores(&self, path: &TreePath, is_folder: bool) -> bool {
        let mut above = std::iter::successors(path.parent(), TreePath::parent);
        self.ignores_entry(path, is_folder) || above.any(|folder| self.ignores_entry(&folder, true))
    }

    /// Whether this very path is ignored, without a look at the folders above it.
    pub fn ignores_entry(&self, path: &TreePath, is_folder: bool) -> bool {
        let text = path.as_str();
        !path.is_root()
            && (self.own.matched(text, is_folder).is_ignore() || self.list.matched(text, is_folder).is_ignore())
    }
}

impl std::fmt::Debug for IgnoreList {
    /// Without the compiled matchers, which fill pages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IgnoreList").field("patterns", &self.list.len()).finish_non_exhaustive()
    }
}

impl Default for IgnoreList {
    fn default() -> Self {
        Self::new([]).expect("an empty list is valid")
    }
}

/// A folder of a device's selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectedFolder {
    /// The folder.
    pub path: TreePath,
    /// Whether the folders below it belong to it.
    pub include_subfolders: bool,
    /// Selected, or left out.
    pub enabled: bool,
}

/// Whether a path takes part in the sync. The entry that names the nearest folder (with include_subfolders, or as the path's own
/// folder) decides; where none does, a path is in unless some entry selects: selecting anything leaves the rest out. Folders on
/// the way to a selected one are in themselves, what else they hold is not.
pub fn is_selected(folders: &[SelectedFolder], path: &TreePath, is_folder: bool) -> bool {
    let covers = |folder: &SelectedFolder| {
        let own = *path == folder.path || (!is_folder && path.parent().as_ref() == Some(&folder.path));
        own || (folder.include_subfolders && path.starts_with(&folder.path))
    };
    let nearest =
        folders.iter().filter(|folder| covers(folder)).max_by_key(|folder| (folder.path.depth(), !folder.enabled));
    let on_the_way = || is_folder && folders.iter().any(|folder| folder.enabled && folder.path.starts_with(path));
    match nearest {
        Some(folder) => folder.enabled || on_the_way(),
        None => !folders.iter().any(|folder| folder.enabled) || on_the_way(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn litter_and_our_own_files_are_ignored_by_default() {
        let list = IgnoreList::default();
        for text in
            ["/.DS_Store", "/a/Thumbs.db", "/~$letter.docx", "/a/b.tmp", "/.driftless-tmp-1-2", "/.driftless-root"]
        {
            assert!(list.ignores(&path(text), false), "{text}");
        }
        for text in ["/a", "/tmp", "/a.tmpl", "/driftless-root", "/DS_Store"] {
            assert!(!list.ignores(&path(text), false), "{text}");
        }
        assert!(!list.ignores(&TreePath::root(), true));
    }

    #[test]
    fn a_list_is_gitignore_and_can_take_defaults_back() {
        let list =
            IgnoreList::new(["# built things", "", "target/", "/top.txt", "!keep.tmp", "!.driftless-root"]).unwrap();
        for (text, is_folder, ignored) in [
            ("/a/target", true, true),
            ("/a/target/x/y.txt", false, true),
            ("/a/target", false, false),
            ("/top.txt", false, true),
            ("/a/top.txt", false, false),
            ("/keep.tmp", false, false),
            ("/other.tmp", false, true),
            ("/.driftless-root", false, true),
        ] {
            assert_eq!(list.ignores(&path(text), is_folder), ignored, "{text}");
        }
    }

    #[test]
    fn a_wrong_pattern_is_refused_with_its_line() {
        let error = IgnoreList::new(["ok", "[a"]).unwrap_err();
        assert_eq!(error.code(), "ignore.pattern_invalid");
        assert!(error.to_string().contains("line 2"), "{error}");
        let long = "x".repeat(1001);
        assert!(IgnoreList::new([long.as_str()]).is_err());
        assert_eq!(IgnoreList::new(vec!["x"; 1001]).unwrap_err().code(), "ignore.too_large");
    }

    #[test]
    fn the_nearest_folder_of_a_selection_decides() {
        let folder =
            |text: &str, include_subfolders, enabled| SelectedFolder { path: path(text), include_subfolders, enabled };
        let selection =
            [folder("/docs", true, true), folder("/docs/old", true, false), folder("/pictures", false, true)];
        for (text, is_folder, selected) in [
            ("/docs", true, true),
            ("/docs/a/b.txt", false, true),
            ("/docs/old", true, false),
            ("/docs/old/b.txt", false, false),
            ("/pictures", true, true),
            ("/pictures/a.jpg", false, true),
            ("/pictures/2026", true, false),
            ("/pictures/2026/a.jpg", false, false),
            ("/other", true, false),
            ("/top.txt", false, false),
            ("/", true, true),
        ] {
            assert_eq!(is_selected(&selection, &path(text), is_folder), selected, "{text}");
        }
        let only_without = [folder("/big", true, false)];
        assert!(is_selected(&only_without, &path("/a/b"), false));
        assert!(!is_selected(&only_without, &path("/big/b"), false));
        assert!(is_selected(&[], &path("/a"), false));
    }
}
