//! Looking for damage: references that lead nowhere, from versions to the bytes on the disk.
//!
//! Invariant: it changes nothing, and what it finds was there: a reference that looks broken while others commit and collect is looked
//! at again. Left out: mending, and the audit's own chain (`audit::verify`).

use driftless_sync::hash::ContentHash;
use uuid::Uuid;

use crate::{
    Domain,
    cleanup::{self, packs},
    db,
};

/// Problems that are named; the rest is counted.
const NAMED: usize = 1000;
/// Packs of one page.
const PAGE: i64 = 100;

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Verified {
    /// Users whose references were followed.
    pub users: u64,
    /// Packs whose bytes are there.
    pub packs: u64,
    /// Chunks that lie in those packs.
    pub chunks: u64,
    /// Objects of the store that no pack's row names. They are in nobody's way, and nothing removes them.
    pub unknown: Vec<Uuid>,
    /// How many problems there are.
    pub broken: u64,
    /// The first of them, in words.
    pub problems: Vec<String>,
}

impl Verified {
    fn problem(&mut self, text: String) {
        self.broken += 1;
        if self.problems.len() < NAMED {
            self.problems.push(text);
        }
    }
}

/// Follows every reference. With `read`, all bytes are read and hashed; else the end of each pack is.
///
/// # Errors
/// Only of the database: what is wrong with the files is in the answer.
pub async fn verify(domain: &Domain, read: bool) -> Result<Verified, db::Error> {
    let mut verified = Verified::default();
    match packs::unknown_objects(domain).await {
        Ok(unknown) => verified.unknown = unknown,
        Err(cleanup::Error::Database(e)) => return Err(e),
        Err(e) => verified.problem(format!("the store can't be listed: {}", describe(&e))),
    }
    let mut tx = domain.begin_system().await?;
    let users: Vec<i64> = sqlx::query_scalar("select user_id from heads order by user_id").fetch_all(&mut *tx).await?;
    drop(tx);
    for user in users {
        references(domain, user, &mut verified).await?;
        verified.users += 1;
    }
    let mut after = 0;
    loop {
        let packs = packs(domain, after).await?;
        let Some(last) = packs.last() else { return Ok(verified) };
        after = last.id;
        for pack in &packs {
            bytes(domain, pack, read, &mut verified).await?;
        }
    }
}

/// Chunks that versions and pins name and that are not stored, and chunks without a living pack.
async fn references(domain: &Domain, user: i64, verified: &mut Verified) -> Result<(), db::Error> {
    let mut tx = domain.begin_system().await?;
    let missing: Vec<Vec<u8>> = sqlx::query_scalar(
        "(select sha256 from versions where user_id = $1 and sha256 is not null and chunks is null and size > 0
          union all select unnest(chunks) from versions where user_id = $1 and chunks is not null
          union all select sha256 from pins where user_id = $1)
         except select sha256 from chunks where user_id = $1",
    )
    .bind(user)
    .fetch_all(&mut *tx)
    .await?;
    for hash in &missing {
        // One statement sees one moment, so this is no race.
        verified.problem(format!("user {user}: chunk {} is needed and not stored", hex(hash)));
    }
    let homeless: Vec<Vec<u8>> = sqlx::query_scalar(
        "select c.sha256 from chunks c left join packs p on p.id = c.pack_id and p.user_id = c.user_id and p.state = 'live'
         where c.user_id = $1 and p.id is null",
    )
    .bind(user)
    .fetch_all(&mut *tx)
    .await?;
    for hash in &homeless {
        verified.problem(format!("user {user}: chunk {} lies in no living pack", hex(hash)));
    }
    Ok(())
}

struct Pack {
    id: i64,
    name: Uuid,
    size: i64,
}

async fn packs(domain: &Domain, after: i64) -> Result<Vec<Pack>, db::Error> {
    let mut tx = domain.begin_system().await?;
    let rows: Vec<(i64, Uuid, i64)> =
        sqlx::query_as("select id, name, size from packs where id > $1 and state = 'live' order by id limit $2")
            .bind(after)
            .bind(PAGE)
            .fetch_all(&mut *tx)
            .await?;
    Ok(rows.into_iter().map(|(id, name, size)| Pack { id, name, size }).collect())
}

async fn bytes(domain: &Domain, pack: &Pack, read: bool, verified: &mut Verified) -> Result<(), db::Error> {
    let mut tx = domain.begin_system().await?;
    let chunks: Vec<(Vec<u8>, i32, i32)> = sqlx::query_as(
        "select c.sha256, c.pack_offset, c.length from packs p join chunks c on c.user_id = p.user_id and c.pack_id = p.id
         where p.id = $1 order by c.pack_offset",
    )
    .bind(pack.id)
    .fetch_all(&mut *tx)
    .await?;
    drop(tx);
    let blobs = domain.store().blobs();
    let size = u64::try_from(pack.size).unwrap_or(0);
    if size > 0 && blobs.read(pack.name, size - 1, 1).await.is_err() && is_live(domain, pack.id).await? {
        verified.problem(format!("pack {}: its {size} bytes are not all in the store", pack.name));
        return Ok(());
    }
    verified.packs += 1;
    for (hash, offset, length) in chunks {
        let (offset, length) = (u64::from(offset.unsigned_abs()), length.unsigned_abs() as usize);
        if offset + length as u64 > size {
            verified.problem(format!("pack {}: chunk {} lies beyond its end", pack.name, hex(&hash)));
        } else if read {
            let good = blobs.read(pack.name, offset, length).await.is_ok_and(|b| ContentHash::of(&b).0[..] == hash[..]);
            if !good && is_live(domain, pack.id).await? {
                verified.problem(format!("pack {}: chunk {} is damaged", pack.name, hex(&hash)));
            }
        }
        verified.chunks += 1;
    }
    Ok(())
}

/// Whether the pack is still needed: else its object may be gone with good reason.
async fn is_live(domain: &Domain, pack: i64) -> Result<bool, db::Error> {
    let mut tx = domain.begin_system().await?;
    Ok(sqlx::query_scalar("select exists (select from packs where id = $1 and state = 'live')")
        .bind(pack)
        .fetch_one(&mut *tx)
        .await?)
}

fn describe(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
}

fn hex(hash: &[u8]) -> String {
    ContentHash::try_from(hash).map_or_else(|_| "of no valid hash".to_owned(), |hash| hash.to_string())
}
