//! Uploads in pieces, which any server process can take on.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Domain,
    uploads::{self, Completed, Upload},
};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use uuid::Uuid;

use super::{
    Tag,
    entry::{self, tree_path},
};
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError, stream_body::ChunkBody};

/// An upload to open.
#[derive(Object)]
struct NewUpload {
    /// The device that sends it; may be given as a query parameter instead. Without one the path is the tree's.
    device_id: Option<String>,
    /// Where the file will be; relative to the device's base path.
    file_path: String,
    /// The file's name; when given, it must be the last part of the path.
    file_name: Option<String>,
    /// Bytes in all.
    total_size: u64,
    /// Bytes of each piece but the last, 65,536 to 8,388,608.
    #[oai(default = "default_chunk")]
    chunk_size: u32,
    /// SHA-256 of the whole, when it is known already.
    hash: Option<String>,
    /// The version that it replaces, 0 for a new file. Absent: what the device last agreed on.
    base_version: Option<i64>,
    /// Modification time of the file.
    modified_at: Option<DateTime<Utc>>,
    /// Whether the file may be executed.
    #[oai(default)]
    executable: bool,
}

fn default_chunk() -> u32 {
    uploads::DEFAULT_CHUNK
}

/// An upload that was opened.
#[derive(Object)]
struct UploadStarted {
    /// Names the upload.
    upload_id: Uuid,
    /// Bytes of each piece but the last.
    chunk_size: u32,
    /// How many pieces to send, numbered from 0.
    total_chunks: u64,
    /// Keep it to go on later, at any server: it is what resume takes as the upload's id.
    resume_token: String,
    /// When it is over unless something is sent.
    expires_at: DateTime<Utc>,
}

/// How far an upload is.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct UploadProgress {
    /// Names the upload.
    upload_id: Uuid,
    /// The piece that was just taken.
    chunk_number: Option<u64>,
    /// Pieces that are safe.
    completed_chunks: i64,
    /// Pieces in all.
    total_chunks: u64,
    /// Of 100.
    progress_percent: f64,
    /// Whether the file is in the tree.
    completed: bool,
    /// When it is over unless something is sent.
    expires_at: DateTime<Utc>,
}

impl UploadProgress {
    fn new(upload: &Upload, chunk_number: Option<u64>) -> Self {
        let total = upload.total_chunks();
        let done = if upload.is_done() { total as i64 } else { upload.received };
        let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
        UploadProgress {
            upload_id: upload.id,
            chunk_number,
            completed_chunks: done,
            total_chunks: total,
            progress_percent: (percent * 100.0).round() / 100.0,
            completed: upload.is_done(),
            expires_at: upload.expires_at(),
        }
    }
}

/// What is left to send.
#[derive(Object)]
struct UploadResumed {
    /// Names the upload.
    upload_id: Uuid,
    /// Bytes of each piece but the last.
    chunk_size: u32,
    /// Pieces in all.
    total_chunks: u64,
    /// Pieces that are safe.
    completed_chunks: i64,
    /// Numbers of the pieces that are missing.
    missing_chunks: Vec<i32>,
    /// When it is over unless something is sent.
    expires_at: DateTime<Utc>,
}

/// Where the file is now.
#[derive(Object)]
struct UploadCompleted {
    /// Where it is.
    path: String,
    /// Names the entry.
    entry_id: i64,
    /// Its version.
    version: i64,
    /// Something else was at the path, so the file was put beside it, under `path`.
    conflict: bool,
}

/// The work that goes on.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct UploadCompleting {
    /// Names the upload; ask for its progress.
    upload_id: Uuid,
    /// The job.
    job_id: Option<i64>,
}

#[derive(ApiResponse)]
enum Completion {
    /// The file is in the tree.
    #[oai(status = 200)]
    Done(Json<UploadCompleted>),
    /// Much is left to hash; a job completes it.
    #[oai(status = 202)]
    Accepted(Json<UploadCompleting>),
}

#[derive(ApiResponse)]
enum Cancelled {
    /// It is gone.
    #[oai(status = 204)]
    Done,
}

pub(crate) struct Uploads;

/// An id that can't be is an upload that is not there.
fn id(text: &str) -> Result<Uuid, ApiError> {
    text.parse().map_err(|_| uploads::Error::NotFound.into())
}

#[OpenApi(prefix_path = "/sync/upload", tag = "Tag::Files")]
impl Uploads {
    /// Open an upload
    #[oai(path = "/start", method = "post", operation_id = "start_upload")]
    async fn start_upload(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The device, when the body does not name it.
        device_id: Query<Option<String>>,
        body: JsonBody<NewUpload>,
    ) -> Result<Json<UploadStarted>, ApiError> {
        let body = body.0;
        let path = tree_path(&body.file_path, "file_path")?;
        if body.file_name.as_deref().is_some_and(|n| path.name() != Some(n)) {
            let detail = "must be the last part of file_path";
            return Err(ApiError::invalid("upload.name_differs", detail, Some("file_name".into())));
        }
        let new = uploads::New {
            device_id: body.device_id.or(device_id.0),
            path,
            total_size: body.total_size,
            chunk_size: body.chunk_size,
            hash: body.hash.as_deref().map(|h| entry::hash(h, "hash")).transpose()?,
            base_version: body.base_version,
            modified_at: body.modified_at,
            executable: body.executable,
        };
        let upload = uploads::start(&domain, &auth.0, new).await?;
        Ok(Json(UploadStarted {
            upload_id: upload.id,
            chunk_size: upload.chunk_size as u32,
            total_chunks: upload.total_chunks(),
            resume_token: upload.id.to_string(),
            expires_at: upload.expires_at(),
        }))
    }

    /// Send a piece
    ///
    /// Raw bytes, or a form with the part `chunk_file`. Sending a piece again is harmless; pieces may come in any order and at once.
    #[oai(path = "/:upload_id/chunk/:chunk_number", method = "post", operation_id = "upload_chunk")]
    async fn upload_chunk(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The upload.
        upload_id: Path<String>,
        /// Number of the piece, from 0.
        chunk_number: Path<i64>,
        /// SHA-256 of the piece.
        chunk_hash: Query<Option<String>>,
        body: ChunkBody,
    ) -> Result<Json<UploadProgress>, ApiError> {
        let declared = chunk_hash.0.as_deref().map(|h| entry::hash(h, "chunk_hash")).transpose()?;
        let (id, n) = (id(&upload_id.0)?, u64::try_from(chunk_number.0).unwrap_or(u64::MAX));
        let upload = uploads::put_chunk(&domain, &auth.0, id, n, declared, body.into_stream()).await?;
        Ok(Json(UploadProgress::new(&upload, Some(n))))
    }

    /// How far an upload is
    #[oai(path = "/:upload_id/progress", method = "get", operation_id = "get_upload_progress")]
    async fn get_upload_progress(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The upload.
        upload_id: Path<String>,
    ) -> Result<Json<UploadProgress>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let upload = uploads::progress(&mut tx, &auth.0, id(&upload_id.0)?).await?;
        Ok(Json(UploadProgress::new(&upload, None)))
    }

    /// Go on with an upload
    ///
    /// Answers the numbers of the missing pieces, and counts as activity.
    #[oai(path = "/:upload_id/resume", method = "post", operation_id = "resume_upload")]
    async fn resume_upload(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The upload, or its resume token.
        upload_id: Path<String>,
    ) -> Result<Json<UploadResumed>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let (upload, missing) = uploads::missing(&mut tx, &auth.0, id(&upload_id.0)?).await?;
        tx.commit().await?;
        let progress = UploadProgress::new(&upload, None);
        Ok(Json(UploadResumed {
            upload_id: upload.id,
            chunk_size: upload.chunk_size as u32,
            total_chunks: progress.total_chunks,
            completed_chunks: progress.completed_chunks,
            missing_chunks: missing,
            expires_at: progress.expires_at,
        }))
    }

    /// Complete an upload
    ///
    /// Checks that all pieces are there and what they hash to, then the file is in the tree, at one instant. Completing again answers the
    /// same.
    #[oai(path = "/:upload_id/complete", method = "post", operation_id = "complete_upload")]
    async fn complete_upload(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The upload.
        upload_id: Path<String>,
        /// SHA-256 of the whole; the server computes it anyway, and refuses when they differ.
        hash: Query<Option<String>>,
    ) -> Result<Completion, ApiError> {
        let declared = hash.0.as_deref().map(|h| entry::hash(h, "hash")).transpose()?;
        let id = id(&upload_id.0)?;
        Ok(match uploads::complete(&domain, &auth.0, id, declared).await? {
            Completed::Done { applied, conflict } => Completion::Done(Json(UploadCompleted {
                path: applied.path.into(),
                entry_id: applied.entry_id,
                version: applied.version,
                conflict,
            })),
            Completed::Job(job) => {
                Completion::Accepted(Json(UploadCompleting { upload_id: id, job_id: job.map(|j| j.0) }))
            }
        })
    }

    /// Give an upload up
    #[oai(path = "/:upload_id", method = "delete", operation_id = "cancel_upload")]
    async fn cancel_upload(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The upload.
        upload_id: Path<String>,
    ) -> Result<Cancelled, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        uploads::cancel(&mut tx, &auth.0, id(&upload_id.0)?).await?;
        tx.commit().await?;
        Ok(Cancelled::Done)
    }
}
