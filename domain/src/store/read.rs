//! Reading contents out of packs, whole or in a range.
//!
//! Invariant: what is read is checked against nothing but its length; packs never change, and `driftless verify` reads hashes.

use std::{io, ops::Range};

use bytes::Bytes;
use driftless_sync::hash::ContentHash;
use futures::{Stream, StreamExt, stream as streams};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Error, Store};

/// Bytes read from the store at once.
const PIECE: u64 = 1 << 20;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The pack's name in the store.
    pub pack: Uuid,
    /// First byte within the pack.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The places of `chunks` in their order. A chunk that is not stored is [`Error::Missing`].
pub async fn places(conn: &mut PgConnection, user_id: i64, chunks: &[ContentHash]) -> Result<Vec<Place>, Error> {
    let rows: Vec<(i64, Uuid, i32, i32)> = sqlx::query_as(
        "select u.n, p.name, c.pack_offset, c.length from unnest($2::bytea[]) with ordinality u(h, n)
         cross join lateral (select * from chunks where user_id = $1 and sha256 = u.h limit 1) c
         cross join lateral (select name from packs where id = c.pack_id limit 1) p order by u.n",
    )
    .bind(user_id)
    .bind(chunks.iter().map(|h| &h.0[..]).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    if rows.len() < chunks.len() {
        let found: std::collections::HashSet<_> = rows.iter().map(|r| r.0).collect();
        let missing = chunks.iter().zip(1..).filter(|(_, n)| !found.contains(n)).map(|(h, _)| *h).collect();
        return Err(Error::Missing(missing));
    }
    Ok(rows
        .into_iter()
        .map(|(_, pack, offset, length)| Place { pack, offset: offset as u64, length: length as u64 })
        .collect())
}

/// Places side by side in a pack, in this order, as one: read by one call.
fn joined(places: Vec<Place>) -> Vec<Place> {
    let mut joined: Vec<Place> = Vec::with_capacity(places.len());
    for place in places {
        match joined.last_mut() {
            Some(last) if last.pack == place.pack && last.offset + last.length == place.offset => {
                last.length += place.length;
            }
            _ => joined.push(place),
        }
    }
    joined
}

/// The bytes `range` of the contents that lie at `places`, in pieces of at most 1 MiB, reading one piece ahead.
pub fn stream(store: Store, places: Vec<Place>, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in joined(places) {
        let from = range.start.clamp(start, start + place.length) - start;
        let to = range.end.clamp(start, start + place.length) - start;
        let mut at = from;
        while at < to {
            let length = PIECE.min(to - at);
            pieces.push((place.pack, place.offset + at, length as usize));
            at += length;
        }
        start += place.length;
    }
    streams::iter(pieces)
        .map(move |(pack, offset, length)| {
            let store = store.clone();
            async move { store.blobs().read(pack, offset, length).await }
        })
        .buffered(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_in_one_pack_are_read_together() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let place = |pack, offset, length| Place { pack, offset, length };
        let places = vec![place(a, 0, 5), place(a, 5, 7), place(b, 12, 1), place(a, 12, 2), place(a, 10, 2)];
        let found: Vec<_> = joined(places).iter().map(|p| (p.pack, p.offset, p.length)).collect();
        assert_eq!(found, [(a, 0, 12), (b, 12, 1), (a, 12, 2), (a, 10, 2)]);
    }
}
