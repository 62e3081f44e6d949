//! Paths and names of the tree: the door that every path enters by.
//!
//! Invariant: a [`TreePath`] is absolute, in Unicode normal form C, has no `.`, `..` or empty segment and no control
//! character, and keeps the limits below; so it can be compared byte by byte and joined to a folder without a further look.
//! Left out: what a device calls the file (its spelling is kept with the baseline) and case folding.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Longest path in bytes, after normalisation.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest name in bytes, after normalisation.
pub const MAX_NAME_BYTES: usize = 255;
/// Most segments of a path.
pub const MAX_DEPTH: usize = 100;

/// Why a text is no path or name of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Neither a path nor a name can be empty.
    #[error("it is empty")]
    Empty,
    /// Paths start with `/`.
    #[error("it does not start with /")]
    Relative,
    /// `//` or a trailing `/`.
    #[error("it has an empty segment: two slashes in a row, or one at the end")]
    EmptySegment,
    /// A segment `.`.
    #[error("it has a segment .")]
    Dot,
    /// A segment `..`.
    #[error("it has a segment ..")]
    DotDot,
    /// A name with `/` inside.
    #[error("a name cannot contain /")]
    Slash,
    /// NUL, line ends and the like.
    #[error("it has a control character")]
    Control,
    /// A segment is longer than [`MAX_NAME_BYTES`].
    #[error("a name is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// Longer than [`MAX_PATH_BYTES`].
    #[error("it is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_DEPTH`] segments.
    #[error("it is deeper than {MAX_DEPTH} folders")]
    TooDeep,
}

impl PathError {
    /// Stable code of the HTTP API.
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "path.empty",
            Self::Relative => "path.relative",
            Self::EmptySegment => "path.empty_segment",
            Self::Dot => "path.dot",
            Self::DotDot => "path.dotdot",
            Self::Slash => "path.slash",
            Self::Control => "path.control",
            Self::NameTooLong => "path.name_too_long",
            Self::TooLong => "path.too_long",
            Self::TooDeep => "path.too_deep",
        }
    }
}

/// A validated absolute path of the tree; the root is `/`.
///
/// Ordered as a tree: a folder comes right before everything below it, which plain byte order does not give (`/a b` sorts
/// before `/a/b`).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(Box<str>);

impl TreePath {
    /// The root folder.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Normalises and validates.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if !text.starts_with('/') {
            return Err(PathError::Relative);
        }
        let text = normalised(text)?;
        if text == "/" {
            return Ok(Self::root());
        }
        let mut depth = 0;
        for segment in text[1..].split('/') {
            check_segment(segment)?;
            depth += 1;
        }
        if depth > MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(Self(text.into()))
    }

    /// The text, as it travels and is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The last segment; none for the root.
    pub fn name(&self) -> Option<&str> {
        if self.is_root() { None } else { self.0.rsplit('/').next() }
    }

    /// The folder that holds it; none for the root.
    pub fn parent(&self) -> Option<TreePath> {
        parent_text(&self.0).map(|text| Self(text.into()))
    }

    /// The segments from the root on; empty for the root.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// Number of segments; 0 for the root.
    pub fn depth(&self) -> usize {
        self.segments().count()
    }

    /// The entry called `name` in this folder.
    pub fn join(&self, name: &str) -> Result<TreePath, PathError> {
        let name = parse_name(name)?;
        let folder = if self.is_root() { "" } else { &*self.0 };
        let text = format!("{folder}/{name}");
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if self.depth() >= MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        Ok(Self(text.into()))
    }

    /// Whether it is `folder` or lies below it.
    pub fn starts_with(&self, folder: &TreePath) -> bool {
        text_starts_with(&self.0, &folder.0)
    }

    /// This path as seen from `base`: `/docs/a` from `/docs` is `/a`. None when it is not `base` or below it.
    pub fn relative_to(&self, base: &TreePath) -> Option<TreePath> {
        if !self.starts_with(base) {
            return None;
        }
        if base.is_root() {
            return Some(self.clone());
        }
        let rest = &self.0[base.0.len()..];
        Some(Self(if rest.is_empty() { "/".into() } else { rest.into() }))
    }

    /// The opposite of [`relative_to`](Self::relative_to): `/a` below `/docs` is `/docs/a`.
    pub fn below(&self, base: &TreePath) -> Result<TreePath, PathError> {
        if base.is_root() || self.is_root() {
            return Ok(if self.is_root() { base.clone() } else { self.clone() });
        }
        Self::parse(&format!("{}{}", base.0, self.0))
    }
}

/// The parent of a valid path's text, as a slice of it; none for `/`.
pub(crate) fn parent_text(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(slash) if slash > 0 => Some(&path[..slash]),
        _ => None,
    }
}

fn text_starts_with(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Normalises and validates one name, the last segment of a path.
pub fn parse_name(text: &str) -> Result<String, PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    let name = normalised(text)?;
    if name.contains('/') {
        return Err(PathError::Slash);
    }
    check_segment(&name)?;
    Ok(name)
}

fn normalised(text: &str) -> Result<String, PathError> {
    // Normal form C shrinks a text to a third at most, so a longer one can be refused before the work is done.
    if text.len() > 3 * MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    Ok(match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.to_owned(),
        _ => text.nfc().collect(),
    })
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    match segment {
        "" => Err(PathError::EmptySegment),
        "." => Err(PathError::Dot),
        ".." => Err(PathError::DotDot),
        _ if segment.chars().any(char::is_control) => Err(PathError::Control),
        _ if segment.len() > MAX_NAME_BYTES => Err(PathError::NameTooLong),
        _ => Ok(()),
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // `/` counts as the smallest byte; NUL, the only smaller one, can't occur.
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        match a.iter().zip(b).find(|(x, y)| x != y) {
            Some((b'/', _)) => Ordering::Less,
            Some((_, b'/')) => Ordering::Greater,
            Some((x, y)) => x.cmp(y),
            None => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for TreePath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for TreePath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> String {
        path.0.into()
    }
}

impl AsRef<str> for TreePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_code() {
        let long_name = format!("/{}", "n".repeat(256));
        let long_path = format!("/{}", ["x".repeat(200).as_str(); 21].join("/"));
        let deep = "/d".repeat(101);
        for (text, code) in [
            ("", "path.empty"),
            ("a/b", "path.relative"),
            ("/a//b", "path.empty_segment"),
            ("/a/", "path.empty_segment"),
            ("/a/./b", "path.dot"),
            ("/a/../b", "path.dotdot"),
            ("/..", "path.dotdot"),
            ("/a\0b", "path.control"),
            ("/a\nb", "path.control"),
            (&long_name, "path.name_too_long"),
            (&long_path, "path.too_long"),
            (&deep, "path.too_deep"),
        ] {
            assert_eq!(TreePath::parse(text).unwrap_err().code(), code, "{text:?}");
        }
    }

    #[test]
    fn odd_but_honest_names_are_taken() {
        for text in ["/...", "/ a ", "/a\\b", "/-rf", "/🦀/é", "/.hidden", "/a:b|c*?"] {
            assert_eq!(path(text).as_str(), text);
        }
        assert_eq!(path(&"/d".repeat(100)).depth(), 100);
    }

    #[test]
    fn decomposed_text_becomes_composed() {
        assert_eq!(path("/e\u{301}te\u{301}"), path("/\u{e9}t\u{e9}"));
        assert_eq!(parse_name("o\u{308}").unwrap(), "\u{f6}");
    }

    #[test]
    fn parent_name_and_join_fit_together() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(TreePath::root().join("a").unwrap().join("b").unwrap(), path("/a/b"));
        assert_eq!(path("/a").join("b/c").unwrap_err(), PathError::Slash);
        assert_eq!(path("/a").join("..").unwrap_err(), PathError::DotDot);
    }

    #[test]
    fn a_base_path_is_taken_off_and_put_on() {
        assert_eq!(path("/docs/a/b").relative_to(&path("/docs")), Some(path("/a/b")));
        assert_eq!(path("/docs").relative_to(&path("/docs")), Some(TreePath::root()));
        assert_eq!(path("/docs2/a").relative_to(&path("/docs")), None);
        assert_eq!(path("/a/b").below(&path("/docs")).unwrap(), path("/docs/a/b"));
        assert_eq!(TreePath::root().below(&path("/docs")).unwrap(), path("/docs"));
    }

    #[test]
    fn a_folder_sorts_right_before_what_is_below_it() {
        let mut paths = ["/a/b", "/a b", "/a", "/a-c", "/", "/a/b/c"].map(path);
        paths.sort();
        assert_eq!(paths.map(String::from), ["/", "/a", "/a/b", "/a/b/c", "/a b", "/a-c"].map(String::from));
    }

    proptest! {
        #[test]
        fn parsing_a_parsed_path_changes_nothing(text in "(/[^/\0]{0,20}){1,6}") {
            if let Ok(parsed) = TreePath::parse(&text) {
                prop_assert_eq!(TreePath::parse(parsed.as_str()).unwrap(), parsed.clone());
                if let (Some(parent), Some(name)) = (parsed.parent(), parsed.name()) {
                    prop_assert_eq!(parent.join(name).unwrap(), parsed);
                }
            }
        }
    }
}
