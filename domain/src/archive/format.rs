//! The tar format: POSIX ustar with pax and GNU long names, read and written as a stream.
//!
//! Invariant: no length that the archive states is believed beyond its bounds: names and extended headers are at most [`MAX_META`] bytes,
//! and a file that ends early is an error. Sparse files and links are told, never followed.

use std::{fmt::Write, pin::Pin};

use bytes::{Buf, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, stream};

use super::Error;
use crate::tree::FileInfo;

const BLOCK: usize = 512;
/// Bytes of an extended header at most.
const MAX_META: u64 = 1 << 20;
/// Bytes of a file at most: what a signed number holds, and its padding.
const MAX_SIZE: u64 = 1 << 62;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Source<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send + 'a>>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Folder,
    /// Something that is not taken, by its plural.
    Other(&'static str),
}

/// An entry's header.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub kind: EntryKind,
    pub size: u64,
    pub modified_at: Option<DateTime<Utc>>,
    pub executable: bool,
}

/// Reads a tar entry by entry.
pub(super) struct Reader<'a> {
    source: Source<'a>,
    buffer: BytesMut,
    /// Bytes of the current entry that were not read yet, and its padding.
    left: u64,
    padding: u64,
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
    mtime: Option<DateTime<Utc>>,
}

impl<'a> Reader<'a> {
    pub fn new(source: Source<'a>) -> Self {
        Reader { source, buffer: BytesMut::new(), left: 0, padding: 0 }
    }

    /// The next entry; none at the end. Whatever was not read of the one before is skipped.
    pub async fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        self.skip().await?;
        let mut extended = Extended::default();
        loop {
            if !self.fill(BLOCK).await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(cut()) };
            }
            let block = self.buffer.split_to(BLOCK);
            if block.iter().all(|b| *b == 0) {
                // The end. What follows is padding, read so that the sender can finish.
                while self.fill(1).await? {
                    self.buffer.clear();
                }
                return Ok(None);
            }
            let header = Header(&block);
            header.check()?;
            let size = header.number(124..136)?;
            match block[156] {
                b'L' | b'x' => {
                    let meta = self.meta(size).await?;
                    if block[156] == b'L' { extended.name = Some(text(&meta)?) } else { pax(&meta, &mut extended)? }
                }
                b'K' | b'g' => drop(self.meta(size).await?),
                kind => return self.entry(&header, kind, extended.size.unwrap_or(size), extended).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, kind: u8, size: u64, extended: Extended) -> Result<Entry, Error> {
        let name = match extended.name {
            Some(name) => name,
            None => header.name()?,
        };
        let kind = match kind {
            b'0' | 0 | b'7' if name.ends_with('/') => EntryKind::Folder,
            b'0' | 0 | b'7' => EntryKind::File,
            b'5' => EntryKind::Folder,
            b'1' => EntryKind::Other("hard links"),
            b'2' => EntryKind::Other("symbolic links"),
            b'3' | b'4' | b'6' => EntryKind::Other("devices and pipes"),
            b'S' => EntryKind::Other("sparse files"),
            _ => EntryKind::Other("entries of this type"),
        };
        // Links and devices carry no bytes, whatever their header says.
        let size = if matches!(kind, EntryKind::Other(w) if w != "sparse files" && w != "entries of this type") {
            0
        } else {
            size
        };
        if size > MAX_SIZE {
            return Err(Error::Malformed("an entry is larger than a file can be".into()));
        }
        (self.left, self.padding) = (size, size.next_multiple_of(BLOCK as u64) - size);
        let mtime = header.number(136..148).ok().and_then(|s| DateTime::from_timestamp(i64::try_from(s).ok()?, 0));
        Ok(Entry {
            name,
            kind,
            size,
            modified_at: extended.mtime.or(mtime),
            executable: header.number(100..108).unwrap_or(0) & 0o100 != 0,
        })
    }

    /// The bytes of the current entry.
    pub fn contents(&mut self) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + use<'_, 'a> {
        stream::unfold(self, |reader| async move {
            if reader.left == 0 {
                return None;
            }
            Some((reader.piece().await.map_err(Into::into), reader))
        })
    }

    async fn piece(&mut self) -> Result<Bytes, Error> {
        if !self.fill(1).await? {
            self.left = 0;
            return Err(cut());
        }
        let length = (self.buffer.len() as u64).min(self.left) as usize;
        self.left -= length as u64;
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Passes over what is left of the current entry.
    pub async fn skip(&mut self) -> Result<(), Error> {
        let mut left = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        while left > 0 {
            if !self.fill(1).await? {
                return Err(cut());
            }
            let length = (self.buffer.len() as u64).min(left) as usize;
            self.buffer.advance(length);
            left -= length as u64;
        }
        Ok(())
    }

    async fn meta(&mut self, size: u64) -> Result<Bytes, Error> {
        if size > MAX_META {
            return Err(Error::Malformed("an extended header is too long".into()));
        }
        let padded = (size as usize).next_multiple_of(BLOCK);
        if !self.fill(padded).await? {
            return Err(cut());
        }
        Ok(self.buffer.split_to(padded).freeze().slice(..size as usize))
    }

    /// Reads until `bytes` are at hand; false when the source ends before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, Error> {
        while self.buffer.len() < bytes {
            match self.source.next().await {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(e)) => return Err(crate::ingest::Error::Source(e).into()),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn cut() -> Error {
    Error::Malformed("it ends in the middle of an entry".into())
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| Error::Malformed("a name is not UTF-8".into()))
}

/// `<length> <key>=<value>\n`, as often as it fits.
fn pax(mut meta: &[u8], extended: &mut Extended) -> Result<(), Error> {
    let bad = || Error::Malformed("an extended header can't be read".into());
    while !meta.is_empty() {
        let space = meta.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&meta[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > meta.len() {
            return Err(bad());
        }
        let record = &meta[space + 1..length - 1];
        meta = &meta[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.name = Some(text(value)?),
            b"size" => extended.size = Some(text(value)?.parse().map_err(|_| bad())?),
            b"mtime" => extended.mtime = seconds(&text(value)?),
            _ => {}
        }
    }
    Ok(())
}

/// `1700000000.123456789` as a time.
fn seconds(text: &str) -> Option<DateTime<Utc>> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    DateTime::from_timestamp(whole.parse().ok()?, digits.parse().ok()?)
}

struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn check(&self) -> Result<(), Error> {
        let sum: u64 =
            self.0.iter().enumerate().map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
        if self.number(148..156)? == sum {
            Ok(())
        } else {
            Err(Error::Malformed("a header's checksum is wrong".into()))
        }
    }

    /// Octal, or GNU's binary when the first bit is set.
    fn number(&self, at: std::ops::Range<usize>) -> Result<u64, Error> {
        let field = &self.0[at];
        let bad = || Error::Malformed("a number in a header can't be read".into());
        if field[0] & 0x80 != 0 {
            let (high, low) = field.split_at(field.len() - 8);
            let low = u64::from_be_bytes(low.try_into().map_err(|_| bad())?);
            let clear = high.iter().enumerate().all(|(i, b)| *b == if i == 0 { 0x80 } else { 0 });
            return if clear { Ok(low) } else { Err(bad()) };
        }
        let text = std::str::from_utf8(field).map_err(|_| bad())?;
        let text = text.trim_matches(|c| c == ' ' || c == '\0');
        if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| bad()) }
    }

    fn name(&self) -> Result<String, Error> {
        let name = text(&self.0[..100])?;
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500])? } else { String::new() };
        Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
    }
}

/// The header of an entry; a folder without a file.
pub(super) fn header(name: &str, file: Option<&FileInfo>) -> Bytes {
    let name = if file.is_none() { format!("{name}/") } else { name.to_owned() };
    let (size, mtime) = file.map_or((0, 0), |f| (f.size, f.modified_at.timestamp().max(0) as u64));
    let mode = if file.is_none_or(|f| f.executable) { 0o755 } else { 0o644 };
    let mut out = BytesMut::new();
    // Names that don't fit, and sizes of 8 GiB and more, go into a pax header before.
    let mut records = String::new();
    if name.len() > 100 {
        record(&mut records, "path", &name);
    }
    if size >= 1 << 33 {
        record(&mut records, "size", &size.to_string());
    }
    if !records.is_empty() {
        out.extend_from_slice(&block("pax", records.len() as u64, 0, 0o644, b'x'));
        out.extend_from_slice(records.as_bytes());
        out.extend_from_slice(&padding(records.len() as u64));
    }
    let kind = if file.is_none() { b'5' } else { b'0' };
    out.extend_from_slice(&block(&name, if size >= 1 << 33 { 0 } else { size }, mtime, mode, kind));
    out.freeze()
}

/// A pax record, whose length counts its own digits.
fn record(records: &mut String, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let _ = writeln!(records, "{length} {key}={value}");
}

fn block(name: &str, size: u64, mtime: u64, mode: u32, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let cut = name.floor_char_boundary(100);
    block[..cut].copy_from_slice(&name.as_bytes()[..cut]);
    let mut put = |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, format!("{mode:07o}"));
    put(108, "0000000".into());
    put(116, "0000000".into());
    put(124, format!("{size:011o}"));
    put(136, format!("{:011o}", mtime.min((1 << 33) - 1)));
    put(148, "        ".into());
    put(257, "ustar".into());
    put(263, "00".into());
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Zeros up to the next block.
pub(super) fn padding(size: u64) -> Bytes {
    Bytes::from_static(&[0; BLOCK]).slice(..(size.next_multiple_of(BLOCK as u64) - size) as usize)
}

/// What ends an archive.
pub(super) fn end() -> Bytes {
    Bytes::from_static(&[0; 2 * BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftless_sync::hash::ContentHash;

    async fn read(bytes: Vec<u8>) -> Result<Vec<(String, EntryKind, Vec<u8>)>, Error> {
        let pieces: Vec<Result<Bytes, BoxError>> = bytes.chunks(100).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let mut reader = Reader::new(Box::pin(stream::iter(pieces)));
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().await? {
            let pieces: Vec<_> = reader.contents().collect().await;
            let bytes = pieces.into_iter().flat_map(|p| p.expect("whole")).collect();
            entries.push((entry.name, entry.kind, bytes));
        }
        Ok(entries)
    }

    fn file(size: u64) -> FileInfo {
        FileInfo { size, hash: ContentHash([0; 32]), modified_at: DateTime::UNIX_EPOCH, executable: false }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_long_names_too() {
        let long = format!("folder/{}", "n".repeat(200));
        let bytes = [
            header("folder", None),
            header(&long, Some(&file(3))),
            Bytes::from_static(b"abc"),
            padding(3),
            header("empty", Some(&file(0))),
            end(),
        ]
        .concat();
        let entries = read(bytes.clone()).await.expect("our own archive");
        assert_eq!(entries[0], ("folder/".into(), EntryKind::Folder, vec![]));
        assert_eq!(entries[1], (long, EntryKind::File, b"abc".to_vec()));
        assert_eq!(entries[2], ("empty".into(), EntryKind::File, vec![]));
        for cut in [100, 700, 1500, 2000] {
            assert!(read(bytes[..cut].to_vec()).await.is_err(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn rubbish_is_refused_without_a_panic() {
        let mut header = header("a", Some(&file(5))).to_vec();
        header[124..136].copy_from_slice(&[0xff; 12]);
        assert!(read(header).await.is_err());
        assert!(read(vec![7; 2048]).await.is_err());
        for size in [u64::MAX, u64::MAX - 511, i64::MAX as u64 + 1] {
            let mut records = String::new();
            record(&mut records, "size", &size.to_string());
            let extended = block("pax", records.len() as u64, 0, 0o644, b'x');
            let entry = block("a", 5, 0, 0o644, b'0');
            let rest = padding(records.len() as u64);
            let archive = [&extended[..], records.as_bytes(), &rest, &entry, b"hello"].concat();
            assert!(read(archive).await.is_err(), "{size}");
        }
        assert!(read(Vec::new()).await.expect("an empty archive").is_empty());
    }
}
