//! Lists that come in parts, in any order and more than once.
//!
//! Invariant: a list is whole when its last part and all before it are here; a part that comes again takes the place of the
//! earlier one. Parts stay for a day, so the last one may be sent again and answers anew.

use serde_json::{from_str, to_string};
use sqlx::FromRow;

use super::{Device, Error, Listing, invalid};
use crate::{Actor, Tx, devices};
use driftless_sync::path::TreePath;

/// Most parts of a list.
pub const MAX_PARTS: i32 = 1000;

/// Which part of which list.
#[derive(Debug, Clone)]
pub struct Part {
    /// The client's text for the list, 1 to 64 characters.
    pub list_id: String,
    /// From 1.
    pub part: i32,
    /// Whether no part follows.
    pub last: bool,
}

impl Part {
    /// From the fields of a request: either list_id and part are given or neither.
    ///
    /// # Errors
    /// [`Error::Invalid`] when one comes without the other.
    pub fn from_fields(list_id: Option<String>, part: Option<i32>, last: bool) -> Result<Option<Part>, Error> {
        match (list_id, part) {
            (None, None) => Ok(None),
            (Some(list_id), Some(part)) => Ok(Some(Part { list_id, part, last })),
            (Some(_), None) => Err(invalid("report.part_invalid", "part", "a list in parts numbers them from 1")),
            (None, Some(_)) => Err(invalid("report.list_id_invalid", "list_id", "a part names its list")),
        }
    }
}

/// What there is of a list.
pub(super) enum Gathered {
    /// All of it.
    All(Listing),
    /// These parts are not here, as far as is known; none of them are when the last is still to come.
    Missing(Vec<i32>),
}

/// Keeps a part and answers the whole list once it is here.
pub(super) async fn gather(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    scope: &TreePath,
    complete: bool,
    part: &Part,
    listing: Listing,
) -> Result<Gathered, Error> {
    let length = part.list_id.chars().count();
    if !(1..=64).contains(&length) || part.list_id.chars().any(char::is_control) {
        return Err(invalid("report.list_id_invalid", "list_id", "1 to 64 characters, none a control character"));
    }
    if !(1..=MAX_PARTS).contains(&part.part) {
        return Err(invalid("report.part_invalid", "part", format!("parts are numbered 1 to {MAX_PARTS}")));
    }
    // Two parts at once take turns, so that the later one finds the earlier.
    devices::lock(tx, device.id).await?;
    keep(tx, actor, device, scope, complete, part, &listing).await?;
    let have = kept(tx, device, &part.list_id).await?;
    if have.iter().any(|p| p.complete != complete || p.base_path != scope.as_str()) {
        return Err(Error::Parts("the parts of a list must agree on complete and base_path"));
    }
    let mut ends = have.iter().filter(|p| p.last).map(|p| p.part);
    let Some(last) = ends.next() else { return Ok(Gathered::Missing(missing(&have, part.part))) };
    if ends.next().is_some() || have.iter().any(|p| p.part > last) {
        return Err(Error::Parts("a list has one last part, and none after it"));
    }
    let missing = missing(&have, last);
    if !missing.is_empty() {
        return Ok(Gathered::Missing(missing));
    }
    all(tx, device, &part.list_id).await
}

#[derive(FromRow)]
struct Kept {
    part: i32,
    last: bool,
    complete: bool,
    base_path: String,
}

fn missing(have: &[Kept], up_to: i32) -> Vec<i32> {
    (1..=up_to).filter(|n| have.iter().all(|p| p.part != *n)).collect()
}

async fn keep(
    tx: &mut Tx,
    actor: &Actor,
    device: &Device,
    scope: &TreePath,
    complete: bool,
    part: &Part,
    listing: &Listing,
) -> Result<(), Error> {
    let entries = to_string(listing).expect("paths, hashes and numbers are JSON");
    sqlx::query(
        "insert into list_parts (user_id, device_id, list_id, part, last, complete, base_path, entries)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (device_id, list_id, part) do update set last = excluded.last, complete = excluded.complete,
             base_path = excluded.base_path, entries = excluded.entries, at = excluded.at",
    )
    .bind(actor.user_id())
    .bind(device.id)
    .bind(&part.list_id)
    .bind(part.part)
    .bind(part.last)
    .bind(complete)
    .bind(scope.as_str())
    .bind(entries)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn kept(tx: &mut Tx, device: &Device, list_id: &str) -> Result<Vec<Kept>, Error> {
    Ok(sqlx::query_as(
        "select part, last, complete, base_path from list_parts where device_id = $1 and list_id = $2
         and at > queue.now() - interval '1 day' order by part",
    )
    .bind(device.id)
    .bind(list_id)
    .fetch_all(&mut **tx)
    .await?)
}

/// All files of a list; what the device sent of other lists is no longer of use.
async fn all(tx: &mut Tx, device: &Device, list_id: &str) -> Result<Gathered, Error> {
    sqlx::query("delete from list_parts where device_id = $1 and list_id <> $2")
        .bind(device.id)
        .bind(list_id)
        .execute(&mut **tx)
        .await?;
    let texts: Vec<String> =
        sqlx::query_scalar("select entries from list_parts where device_id = $1 and list_id = $2 order by part")
            .bind(device.id)
            .bind(list_id)
            .fetch_all(&mut **tx)
            .await?;
    let mut whole = Listing::default();
    for text in texts {
        let part: Listing = from_str(&text).map_err(|_| Error::Parts("send this list again from its first part"))?;
        whole.files.extend(part.files);
        whole.unknown.extend(part.unknown);
    }
    Ok(Gathered::All(whole))
}
