//! A list too long for one request, in parts that any process may take in.

use sqlx::types::Json;

use super::{Error, Listed, Scope};
use crate::{Actor, Domain};

/// Files of one request at most.
pub const MAX_FILES: usize = 10_000;
/// Parts of a list at most.
const MAX_PARTS: i32 = 1000;
/// Bytes of a list's name at most.
const MAX_LIST_ID: usize = 255;

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Part {
    /// Names the list among the device's.
    pub list_id: String,
    /// Its number, from 0; sending one again replaces it.
    pub part: i32,
    /// Whether it is the last.
    pub last: bool,
}

fn invalid(code: &'static str, field: &str, problem: impl Into<String>) -> Error {
    Error::Invalid { code, field: field.into(), problem: problem.into() }
}

/// Takes a part in. With the last one, answers all files; before, nothing.
pub async fn collect(
    domain: &Domain,
    actor: &Actor,
    device_id: &str,
    part: Option<&Part>,
    files: Vec<Listed>,
) -> Result<Option<Vec<Listed>>, Error> {
    if files.len() > MAX_FILES {
        let problem = format!("has more than {MAX_FILES} files; send it in parts, with list_id, part and last");
        return Err(invalid("file_list.too_long", "file_list", problem));
    }
    let Some(part) = part else { return Ok(Some(files)) };
    if part.list_id.is_empty() || part.list_id.len() > MAX_LIST_ID || part.list_id.contains('\0') {
        return Err(invalid("file_list.id_invalid", "list_id", "must have 1 to 255 bytes"));
    }
    if !(0..MAX_PARTS).contains(&part.part) {
        return Err(invalid("file_list.part_invalid", "part", format!("must be 0 to {}", MAX_PARTS - 1)));
    }
    let mut tx = domain.begin(actor).await?;
    let scope = Scope::load(&mut tx, actor, device_id, None).await?;
    sqlx::query(
        "insert into report_parts (user_id, device_id, list_id, part, files) values ($1, $2, $3, $4, $5)
         on conflict (device_id, list_id, part) do update set files = excluded.files, at = queue.now()",
    )
    .bind(actor.user_id)
    .bind(scope.device)
    .bind(&part.list_id)
    .bind(part.part)
    .bind(Json(&files))
    .execute(&mut *tx)
    .await?;
    if !part.last {
        tx.commit().await?;
        return Ok(None);
    }
    let parts: Vec<(i32, Json<Vec<Listed>>)> =
        sqlx::query_as("select part, files from report_parts where device_id = $1 and list_id = $2 order by part")
            .bind(scope.device)
            .bind(&part.list_id)
            .fetch_all(&mut *tx)
            .await?;
    // A complete list with a hole would make files look deleted.
    if parts.iter().zip(0..).any(|(p, n)| p.0 != n) || parts.len() as i32 != part.part + 1 {
        return Err(invalid(
            "file_list.parts_missing",
            "part",
            "parts before the last one are missing; send them first",
        ));
    }
    sqlx::query("delete from report_parts where device_id = $1 and list_id = $2")
        .bind(scope.device)
        .bind(&part.list_id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(parts.into_iter().flat_map(|(_, files)| files.0).collect()))
}
