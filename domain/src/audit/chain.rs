//! The hash chain over the audit: sealing entries in order, and checking that nobody tampered with them.
//!
//! Invariant: `hash` = SHA-256 over the previous entry's hash (32 zero bytes before the first) and the canonical JSON of the
//! entry with its `chain_seq`. Numbers are dense from 1. Only the holder of the advisory lock seals.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;

use super::{COLUMNS, Recorded, SealError, canonical, lines};
use crate::{Domain, Tx, db};

/// A link of the chain.
pub(super) type Hash = [u8; 32];

/// Entries sealed in one transaction.
pub(super) const BATCH: i64 = 5_000;

pub(super) fn link(previous: &Hash, body: &Value) -> Hash {
    Sha256::new().chain_update(previous).chain_update(canonical(body)).finalize().into()
}

/// What a turn of the sealer did.
pub(super) struct Turn {
    /// Entries that it sealed; none while another process is sealing.
    pub sealed: usize,
    /// The last number of the chain, as far as this process can see.
    pub head: i64,
}

/// Seals one batch of what waits.
pub(super) async fn seal(domain: &Domain) -> Result<Turn, db::Error> {
    let mut tx = domain.begin_system().await?;
    let (waiting, seen): (bool, i64) = sqlx::query_as(
        "select exists (select from audit where chain_seq is null), (select coalesce(max(chain_seq), 0) from audit)",
    )
    .fetch_one(&mut *tx)
    .await?;
    if !waiting || !lock(&mut tx).await? {
        return Ok(Turn { sealed: 0, head: seen });
    }
    let (mut seq, mut hash) = head(&mut tx).await?;
    let select = format!("select {COLUMNS} from audit where chain_seq is null order by id limit $1");
    let entries: Vec<Recorded> = sqlx::query_as(AssertSqlSafe(select)).bind(BATCH).fetch_all(&mut *tx).await?;
    let (mut ids, mut seqs, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for entry in &entries {
        seq += 1;
        hash = link(&hash, &entry.body(seq));
        ids.push(entry.id);
        seqs.push(seq);
        hashes.push(hash.to_vec());
    }
    sqlx::query(
        "update audit set chain_seq = sealed.seq, hash = sealed.hash
         from unnest($1::bigint[], $2::bigint[], $3::bytea[]) as sealed (id, seq, hash) where audit.id = sealed.id",
    )
    .bind(&ids)
    .bind(&seqs)
    .bind(&hashes)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Turn { sealed: entries.len(), head: seq })
}

/// Takes the sealer's lock until the transaction ends; false when another process has it.
async fn lock(tx: &mut Tx) -> Result<bool, db::Error> {
    let got = sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended('driftless.audit_sealer', 0))")
        .fetch_one(&mut **tx)
        .await?;
    Ok(got)
}

/// The chain's last number and hash.
async fn head(tx: &mut Tx) -> Result<(i64, Hash), db::Error> {
    let last: Option<(i64, Vec<u8>)> =
        sqlx::query_as("select chain_seq, hash from audit where chain_seq is not null order by chain_seq desc limit 1")
            .fetch_optional(&mut **tx)
            .await?;
    Ok(last.map_or((0, [0; 32]), |(seq, hash)| (seq, hash.try_into().unwrap_or_default())))
}

/// A page of sealed entries after `seq`, in the order of the chain.
pub(super) async fn after(domain: &Domain, seq: i64, limit: i64) -> Result<Vec<Recorded>, db::Error> {
    let mut tx = domain.begin_system().await?;
    let select = format!("select {COLUMNS} from audit where chain_seq > $1 order by chain_seq limit $2");
    Ok(sqlx::query_as(AssertSqlSafe(select)).bind(seq).bind(limit).fetch_all(&mut *tx).await?)
}

/// The hash of the entry at `seq`, if there is one.
pub(super) async fn hash_at(domain: &Domain, seq: i64) -> Result<Option<Hash>, db::Error> {
    let mut tx = domain.begin_system().await?;
    let hash: Option<Vec<u8>> =
        sqlx::query_scalar("select hash from audit where chain_seq = $1").bind(seq).fetch_optional(&mut *tx).await?;
    Ok(hash.and_then(|h| h.try_into().ok()))
}

/// A chain without a fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// Sealed entries in the database.
    pub entries: i64,
    /// Lines of this data folder that agree with them.
    pub lines: u64,
    /// The time of the last sealed entry.
    pub until: Option<DateTime<Utc>>,
}

/// Why a check of the chain ended.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// An entry is missing: the numbers jump.
    #[error("entry {0} of the chain is missing")]
    Missing(i64),
    /// An entry, or the one before it, was changed.
    #[error("entry {0} of the chain was changed after it was sealed")]
    Changed(i64),
    /// A line of a file does not agree with the chain.
    #[error("{file}, line {line}: {problem}")]
    Line {
        /// The file's name.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The check itself could not be done.
    #[error(transparent)]
    Unchecked(#[from] SealError),
}

/// Recomputes the whole chain, then holds the lines of this data folder against it.
pub async fn verify(domain: &Domain) -> Result<Verified, Broken> {
    let (mut seq, mut hash, mut until) = (0, [0; 32], None);
    loop {
        let page = after(domain, seq, BATCH).await.map_err(SealError::Chain)?;
        if page.is_empty() {
            break;
        }
        for entry in page {
            seq += 1;
            if entry.chain_seq != Some(seq) {
                return Err(Broken::Missing(seq));
            }
            hash = link(&hash, &entry.body(seq));
            if entry.hash.as_deref() != Some(hash.as_slice()) {
                return Err(Broken::Changed(seq));
            }
            until = Some(entry.at);
        }
    }
    let lines = lines::verify(domain).await?;
    Ok(Verified { entries: seq, lines, until })
}
