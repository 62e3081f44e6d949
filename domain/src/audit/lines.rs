//! The audit as JSON lines in `<data dir>/audit/<date>.log`, for people and for tools that ship logs.
//!
//! Invariant: the files of a data folder, read in the order of their names, hold each sealed entry once, in the order of the
//! chain, from the first. They follow the database: whoever holds the folder's lock cuts off a half-written last line, reads
//! which entry came last, and appends what the chain has beyond it. So dying at any point costs nothing, and processes may
//! share a data folder or have one each. Old files may be moved away as long as the newest stays.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Broken, Recorded, SealError, canonical,
    chain::{self, Hash},
};
use crate::Domain;

/// Lines written between two looks at the chain.
const BATCH: i64 = 5_000;

/// The last line of a folder: which entry it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    seq: i64,
    hash: String,
}

/// Appends the lines that this data folder lacks. Answers which entry it shows last, or nothing while another process is
/// at it.
pub(super) async fn follow(domain: &Domain) -> Result<Option<i64>, SealError> {
    let folder: Arc<Path> = domain.settings().data_dir.join("audit").into();
    let Some(_lock) = on(&folder, take).await? else { return Ok(None) };
    let last = match on(&folder, last_line).await? {
        Some(last) if chain::hash_at(domain, last.seq).await?.map(hex::encode).as_ref() != Some(&last.hash) => {
            tracing::error!(
                chain_seq = last.seq,
                "the audit lines tell of another history than the database (was it restored?): they are set aside as \
                 *.log.aside, and written anew"
            );
            on(&folder, set_aside).await?;
            None
        }
        last => last,
    };
    let mut seq = last.map_or(0, |l| l.seq);
    loop {
        let page = chain::after(domain, seq, BATCH).await?;
        let Some(end) = page.last().and_then(|e| e.chain_seq) else { return Ok(Some(seq)) };
        on(&folder, move |folder| append(folder, &page)).await?;
        seq = end;
    }
}

/// Runs `work` on the folder where it may block.
async fn on<T: Send + 'static>(
    folder: &Arc<Path>,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let folder = folder.clone();
    blocking(move || work(&folder)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The lock of the folder, which is let go when the file is dropped; none while another has it.
fn take(folder: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(folder)?;
    let file = open_lock(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn open_lock(folder: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(".lock"))
}

/// The folder's files, oldest first.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The last whole line of the newest file that has one; what a dying writer left after it is cut off.
fn last_line(folder: &Path) -> io::Result<Option<Last>> {
    for path in files(folder)?.iter().rev() {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let tail = tail(&mut file)?;
        if let Some(line) = tail {
            let damaged =
                || io::Error::new(io::ErrorKind::InvalidData, format!("{}: the last line is damaged", path.display()));
            let (seq, hash, _) = parse(&line).ok_or_else(damaged)?;
            return Ok(Some(Last { seq, hash }));
        }
    }
    Ok(None)
}

/// Cuts `file` after its last newline and answers the line before it.
fn tail(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    // Entries are small, but nothing bounds them: read back in growing steps.
    let mut span = 64 * 1024;
    loop {
        let start = length.saturating_sub(span);
        let mut end_part = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut end_part)?;
        let newline = end_part.iter().rposition(|b| *b == b'\n');
        let before = newline.and_then(|n| end_part[..n].iter().rposition(|b| *b == b'\n'));
        if let (Some(n), true) = (newline, before.is_some() || start == 0) {
            let whole = start + n as u64 + 1;
            if whole < length {
                file.set_len(whole)?;
                file.sync_all()?;
            }
            return Ok(Some(end_part[before.map_or(0, |b| b + 1)..n].to_vec()));
        }
        if start == 0 {
            file.set_len(0)?;
            return Ok(None);
        }
        span *= 4;
    }
}

/// A line's number and hash, and what the hash covers.
fn parse(line: &[u8]) -> Option<(i64, String, Value)> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let hash = value.as_object_mut()?.remove("hash")?.as_str()?.to_owned();
    Some((value.get("chain_seq")?.as_i64()?, hash, value))
}

fn line(entry: &Recorded) -> String {
    let mut body = entry.body(entry.chain_seq.unwrap_or_default());
    if let (Some(map), Some(hash)) = (body.as_object_mut(), &entry.hash) {
        map.insert("hash".to_owned(), Value::String(hex::encode(hash)));
    }
    canonical(&body) + "\n"
}

/// Appends `entries` and makes them durable. An entry goes into the file of its day, but never into an older file than the
/// newest: one that was committed late must not stand before what is already written.
fn append(folder: &Path, entries: &[Recorded]) -> io::Result<()> {
    let newest = files(folder)?.pop().and_then(|p| p.file_stem().map(|s| s.to_string_lossy().into_owned()));
    let mut day = newest.unwrap_or_default();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        day = day.max(first.at.format("%Y-%m-%d").to_string());
        let next = |e: &Recorded| e.at.format("%Y-%m-%d").to_string() > day;
        let (today, later) = rest.split_at(rest.iter().position(next).unwrap_or(rest.len()));
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join(format!("{day}.log")))?;
        file.write_all(today.iter().map(line).collect::<String>().as_bytes())?;
        file.sync_all()?;
        rest = later;
    }
    File::open(folder)?.sync_all()
}

/// Keeps the lines of a history that the database no longer tells, out of the way.
fn set_aside(folder: &Path) -> io::Result<()> {
    for path in files(folder)? {
        let mut target = path.with_extension("log.aside");
        for n in 2.. {
            if !target.exists() {
                break;
            }
            target = path.with_extension(format!("log.aside{n}"));
        }
        fs::rename(&path, target)?;
    }
    File::open(folder)?.sync_all()
}

/// Checks every line of this data folder against the chain. Answers how many there are.
pub(super) async fn verify(domain: &Domain) -> Result<u64, Broken> {
    let folder = domain.settings().data_dir.join("audit");
    let checked = match blocking(move || check(&folder)).await {
        Ok(checked) => checked?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(SealError::Lines(e).into()),
    };
    let Some((first, last)) = checked.ends else { return Ok(0) };
    // Each line is tied to the one before it: if both ends agree with the database, so does all between.
    let before = known(domain, first.seq - 1).await?.unwrap_or([0; 32]);
    if hex::encode(chain::link(&before, &first.body)) != first.hash {
        return Err(first.broken("changed after it was written"));
    }
    for end in [first, last] {
        if known(domain, end.seq).await?.map(hex::encode).as_ref() != Some(&end.hash) {
            return Err(end.broken("the database has another entry, or none, in its place"));
        }
    }
    Ok(checked.lines)
}

async fn known(domain: &Domain, seq: i64) -> Result<Option<Hash>, Broken> {
    Ok(chain::hash_at(domain, seq).await.map_err(SealError::Chain)?)
}

/// The first or last line of a folder.
#[derive(Clone)]
struct End {
    seq: i64,
    hash: String,
    body: Value,
    file: String,
    line: usize,
}

impl End {
    fn broken(self, problem: &'static str) -> Broken {
        Broken::Line { file: self.file, line: self.line, problem }
    }
}

#[derive(Default)]
struct Checked {
    lines: u64,
    ends: Option<(End, End)>,
}

/// Reads all files and checks that each line's hash follows from the line before.
fn check(folder: &Path) -> io::Result<Result<Checked, Broken>> {
    let lock = open_lock(folder)?;
    lock.lock()?;
    let mut checked = Checked::default();
    for path in files(folder)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (number, text) in BufReader::new(File::open(&path)?).split(b'\n').enumerate() {
            let wrong = |problem| Ok(Err(Broken::Line { file: file.clone(), line: number + 1, problem }));
            let Some((seq, hash, body)) = parse(&text?) else { return wrong("not a line of the audit") };
            if checked.ends.as_ref().is_some_and(|(_, last)| !follows(last, seq, &hash, &body)) {
                return wrong("changed, or lines before it are missing");
            }
            let end = End { seq, hash, body, file: file.clone(), line: number + 1 };
            let first = checked.ends.take().map_or_else(|| end.clone(), |(first, _)| first);
            checked.ends = Some((first, end));
            checked.lines += 1;
        }
    }
    Ok(Ok(checked))
}

fn follows(last: &End, seq: i64, hash: &str, body: &Value) -> bool {
    let mut previous: Hash = [0; 32];
    hex::decode_to_slice(&last.hash, &mut previous).is_ok()
        && seq == last.seq + 1
        && hex::encode(chain::link(&previous, body)) == hash
}
