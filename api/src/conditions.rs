//! Conditions and ranges of HTTP (RFC 9110): ETags, If-Match, If-None-Match, If-Range, Range, Content-Digest.
//!
//! Invariant: an ETag is strong and names a version, `"v12"`, so it changes whenever contents, time or mode do. A range that can't be
//! understood is ignored, as the RFC wants; one that lies outside is 416.

use std::ops::Range;

use base64::{Engine, engine::general_purpose::STANDARD};
use driftless_domain::commit::Base;
use driftless_sync::hash::ContentHash;
use poem::{Request, http::HeaderMap};

use crate::problem::ApiError;

/// The ETag of a version.
pub(crate) fn etag(version: i64) -> String {
    format!("\"v{version}\"")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// All that is said under a name, in one list; what can't be read stays in it, so that no condition is taken for absent.
fn list(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// Whether a list of ETags names the version; none is what is not there. Weak tags match only where `weak` ones may.
fn names(list: &str, version: Option<i64>, weak: bool) -> bool {
    let Some(version) = version else { return false };
    let own = etag(version);
    list.split(',').map(str::trim).any(|tag| tag == "*" || tag == own || (weak && tag.strip_prefix("W/") == Some(&own)))
}

/// What If-Match and If-None-Match make of a write to what is there now: the base to commit on, or none when they fail.
pub(crate) fn base(request: &Request, current: Option<i64>) -> Option<Base> {
    let headers = request.headers();
    if let Some(list) = list(headers, "if-match") {
        return names(&list, current, false).then(|| current.map_or(Base::Absent, Base::Version));
    }
    match list(headers, "if-none-match").as_deref() {
        Some(list) if names(list, current, true) => None,
        Some("*") => Some(Base::Absent),
        Some(_) => Some(current.map_or(Base::Absent, Base::Version)),
        None => Some(Base::Any),
    }
}

/// What the conditions of a read say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Answer it.
    Go,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// The conditions of a read.
pub(crate) fn read(headers: &HeaderMap, version: i64) -> Read {
    if list(headers, "if-match").is_some_and(|list| !names(&list, Some(version), false)) {
        return Read::Failed;
    }
    if list(headers, "if-none-match").is_some_and(|list| names(&list, Some(version), true)) {
        return Read::NotModified;
    }
    Read::Go
}

/// The range that is asked for: none for all of it, an error for one that lies outside.
pub(crate) fn range(headers: &HeaderMap, version: i64, size: u64) -> Result<Option<Range<u64>>, ()> {
    let Some(spec) = header(headers, "range").and_then(|r| r.strip_prefix("bytes=")) else { return Ok(None) };
    if header(headers, "if-range").is_some_and(|tag| tag != etag(version)) {
        return Ok(None);
    }
    let Some((from, to)) = spec.split_once('-').map(|(f, t)| (f.trim(), t.trim())) else { return Ok(None) };
    let range = match (from, to) {
        ("", last) => match last.parse::<u64>() {
            Ok(last) => size.saturating_sub(last)..size,
            Err(_) => return Ok(None),
        },
        (from, to) => match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => from..size.min(to.saturating_add(1)),
            (Ok(from), Err(_)) if to.is_empty() => from..size,
            _ => return Ok(None),
        },
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(()) }
}

/// The SHA-256 of a Content-Digest (RFC 9530), where one is sent; other algorithms are passed over.
pub(crate) fn content_digest(headers: &HeaderMap) -> Result<Option<ContentHash>, ApiError> {
    let Some(list) = header(headers, "content-digest") else { return Ok(None) };
    let bad = || {
        let field = Some("Content-Digest".to_owned());
        ApiError::invalid("contents.digest_invalid", "must be like sha-256=:<base64>:", field)
    };
    let mut found = None;
    for item in list.split(',') {
        let (name, value) = item.trim().split_once('=').ok_or_else(bad)?;
        if name.eq_ignore_ascii_case("sha-256") {
            let text = value.strip_prefix(':').and_then(|v| v.strip_suffix(':')).ok_or_else(bad)?;
            let bytes = STANDARD.decode(text).map_err(|_| bad())?;
            found = Some(ContentHash::try_from(&bytes[..]).map_err(|_| bad())?);
        }
    }
    Ok(found)
}

/// The Content-Digest of contents.
pub(crate) fn digest(hash: ContentHash) -> String {
    format!("sha-256=:{}:", STANDARD.encode(hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value"))).collect()
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (spec, want) in [
            ("bytes=0-4", Ok(Some(0..5))),
            ("bytes=5-", Ok(Some(5..10))),
            ("bytes=-3", Ok(Some(7..10))),
            ("bytes=-30", Ok(Some(0..10))),
            ("bytes=8-99", Ok(Some(8..10))),
            ("bytes=10-", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=4-2", Ok(None)),
            ("bytes=0-1,3-4", Ok(None)),
            ("lines=0-1", Ok(None)),
            ("bytes=a-b", Ok(None)),
        ] {
            assert_eq!(range(&headers(&[("range", spec)]), 1, 10), want, "{spec}");
        }
        let stale = headers(&[("range", "bytes=0-4"), ("if-range", "\"v2\"")]);
        assert_eq!(range(&stale, 1, 10), Ok(None), "the rest of another version is of no use");
    }

    #[test]
    fn conditions_of_a_read_compare_versions() {
        assert_eq!(read(&headers(&[("if-none-match", "W/\"v1\", \"v3\"")]), 1), Read::NotModified);
        assert_eq!(read(&headers(&[("if-none-match", "\"v2\"")]), 1), Read::Go);
        assert_eq!(read(&headers(&[("if-match", "\"v2\"")]), 1), Read::Failed);
        assert_eq!(read(&headers(&[("if-match", "*")]), 1), Read::Go);
    }

    #[test]
    fn a_condition_that_cannot_be_read_is_not_taken_for_absent() {
        let request = |name: &'static str, values: &[&[u8]]| {
            let mut request = Request::builder().finish();
            for value in values {
                request.headers_mut().append(name, HeaderValue::from_bytes(value).expect("bytes of a header"));
            }
            request
        };
        let unreadable = request("if-match", &[b"\"v1\xff\""]);
        assert_eq!(base(&unreadable, Some(1)), None);
        assert_eq!(read(unreadable.headers(), 1), Read::Failed);
        let lines = request("if-match", &[b"\"v1\"", b"\"v2\""]);
        assert_eq!(base(&lines, Some(2)), Some(Base::Version(2)));
        assert_eq!(base(&request("if-none-match", &[b"\"v1\"", b"\"v2\""]), Some(2)), None);
    }

    #[test]
    fn a_digest_is_read_back_and_rubbish_refused() {
        let hash = ContentHash::of(b"x");
        let sent = headers(&[("content-digest", &format!("sha-512=:AA==:, {}", digest(hash)))]);
        assert_eq!(content_digest(&sent).expect("ours"), Some(hash));
        for bad in ["sha-256=abc", "sha-256=:abc:", "rubbish"] {
            assert!(content_digest(&headers(&[("content-digest", bad)])).is_err(), "{bad}");
        }
    }
}
