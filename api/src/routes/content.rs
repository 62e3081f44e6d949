//! The contents of files, streamed both ways, one file or a whole folder as a tar.

use chrono::{DateTime, Utc};
use driftless_domain::{
    Actor, Domain, archive,
    bandwidth::Direction,
    commit::Base,
    contents::{self, Reader},
    files,
    tree::{self, Node},
    uploads::{self, Put},
};
use driftless_sync::path::TreePath;
use poem::{Body, Request, web::Data};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Query,
    payload::{Binary, Json},
};

use super::{
    Tag,
    entry::{Entry, tree_path},
    files::RefusedPath,
};
use crate::{
    bearer::Bearer,
    conditions::{self, Read},
    problem::{ApiError, Problem},
    stream_body::RawBody,
};

/// Contents, or why there are none.
#[derive(ApiResponse)]
enum Content {
    /// All of it; a folder as a tar.
    #[oai(status = 200)]
    Whole(
        Binary<Body>,
        /// Bytes; absent for a folder.
        #[oai(header = "Content-Length")]
        Option<u64>,
        /// Names the version.
        #[oai(header = "ETag")]
        Option<String>,
        /// Modification time.
        #[oai(header = "Last-Modified")]
        Option<String>,
        /// SHA-256 of the contents.
        #[oai(header = "Content-Digest")]
        Option<String>,
        /// Always as a download.
        #[oai(header = "Content-Disposition")]
        String,
        /// Ranges of bytes are answered.
        #[oai(header = "Accept-Ranges")]
        Option<String>,
    ),
    /// The range that was asked for.
    #[oai(status = 206)]
    Part(
        Binary<Body>,
        /// Bytes of the range.
        #[oai(header = "Content-Length")]
        u64,
        /// Names the version.
        #[oai(header = "ETag")]
        String,
        /// Which bytes of how many.
        #[oai(header = "Content-Range")]
        String,
        /// Always as a download.
        #[oai(header = "Content-Disposition")]
        String,
    ),
    /// You have this version already.
    #[oai(status = 304)]
    NotModified(
        /// Names the version.
        #[oai(header = "ETag")]
        String,
    ),
    /// The range lies outside.
    #[oai(status = 416)]
    OutOfRange(
        Json<Problem>,
        /// How many bytes there are.
        #[oai(header = "Content-Range")]
        String,
    ),
}

/// The file after a PUT.
#[derive(ApiResponse)]
enum Written {
    /// It was there before.
    #[oai(status = 200)]
    Changed(Json<Entry>, #[oai(header = "ETag")] String),
    /// It is new.
    #[oai(status = 201)]
    Created(Json<Entry>, #[oai(header = "ETag")] String),
}

#[derive(ApiResponse)]
enum Removed {
    /// It is in the trash now.
    #[oai(status = 204)]
    Done,
}

/// What came of an archive.
#[derive(Object)]
struct ArchiveReceived {
    /// Files that are in the tree now as the archive has them.
    files: u64,
    /// Their bytes.
    bytes: u64,
    /// How many entries were not taken.
    refused_count: u64,
    /// The first 1,000 of those, by their names in the archive.
    refused: Vec<RefusedPath>,
}

pub(crate) struct Contents;

fn disposition(name: &str) -> String {
    // Names are anybody's input: only letters and digits go plain, everything else by RFC 8187.
    let escaped: String = name
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") }
        })
        .collect();
    format!("attachment; filename*=UTF-8''{escaped}")
}

fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn file(request: &Request, domain: &Domain, actor: &Actor, reader: &Reader, name: &str) -> Content {
    let (size, etag) = (reader.file.size, conditions::etag(reader.version));
    let body = |range: std::ops::Range<u64>| {
        if request.method() == poem::http::Method::HEAD {
            return Binary(Body::empty());
        }
        let bytes = reader.stream(range);
        Binary(Body::from_bytes_stream(contents::metered(domain, actor, Direction::Download, bytes)))
    };
    match conditions::range(request.headers(), reader.version, size) {
        Err(()) => {
            let problem = Problem::new("contents.out_of_range", format!("the file has {size} bytes"));
            Content::OutOfRange(Json(problem), format!("bytes */{size}"))
        }
        Ok(Some(range)) => {
            let of = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            Content::Part(body(range.clone()), range.end - range.start, etag, of, disposition(name))
        }
        Ok(None) => Content::Whole(
            body(0..size),
            Some(size),
            Some(etag),
            Some(http_date(reader.file.modified_at)),
            Some(conditions::digest(reader.file.hash)),
            disposition(name),
            Some("bytes".into()),
        ),
    }
}

async fn folder(request: &Request, domain: &Domain, actor: &Actor, node: &Node) -> Result<Content, ApiError> {
    let name = format!("{}.tar", node.path.name().unwrap_or("files"));
    let body = if request.method() == poem::http::Method::HEAD {
        Body::empty()
    } else {
        Body::from_bytes_stream(archive::download(domain, actor, &node.path).await?)
    };
    Ok(Content::Whole(Binary(body), None, None, None, None, disposition(&name), None))
}

async fn read(request: &Request, domain: &Domain, actor: &Actor, path: &TreePath) -> Result<Content, ApiError> {
    let mut tx = domain.begin(actor).await?;
    let node = tree::node(&mut tx, actor, path).await?;
    if node.is_folder() {
        drop(tx);
        return folder(request, domain, actor, &node).await;
    }
    match conditions::read(request.headers(), node.version) {
        Read::Failed => Err(uploads::Error::Precondition(path.clone()).into()),
        Read::NotModified => Ok(Content::NotModified(conditions::etag(node.version))),
        Read::Go => {
            let reader = contents::open(&mut tx, domain, actor, node.version).await?;
            Ok(file(request, domain, actor, &reader, path.name().unwrap_or_default()))
        }
    }
}

/// The base that a write's conditions name; looks at the tree only when there are any.
async fn write_base(request: &Request, domain: &Domain, actor: &Actor, path: &TreePath) -> Result<Base, ApiError> {
    let conditional = ["if-match", "if-none-match"].iter().any(|n| request.headers().contains_key(*n));
    let current = if conditional {
        let mut tx = domain.begin(actor).await?;
        tree::stat(&mut tx, actor, path).await?.map(|n| n.version)
    } else {
        None
    };
    conditions::base(request, current).ok_or_else(|| uploads::Error::Precondition(path.clone()).into())
}

#[OpenApi(tag = "Tag::Files")]
impl Contents {
    /// Download a file, or a folder as a tar
    ///
    /// Takes Range, If-Match, If-None-Match and If-Range.
    #[oai(path = "/files/content", method = "get", operation_id = "get_content")]
    async fn get_content(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        /// The file or folder.
        path: Query<String>,
    ) -> Result<Content, ApiError> {
        read(request, &domain, &auth.0, &tree_path(&path.0, "path")?).await
    }

    /// What a download would answer, without the bytes
    #[oai(path = "/files/content", method = "head", operation_id = "head_content")]
    async fn head_content(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        /// The file or folder.
        path: Query<String>,
    ) -> Result<Content, ApiError> {
        read(request, &domain, &auth.0, &tree_path(&path.0, "path")?).await
    }

    /// Upload a file in one request
    ///
    /// The body is the contents. Takes If-Match, If-None-Match and Content-Digest. The file changes at one instant, when all
    /// bytes are safe.
    #[oai(path = "/files/content", method = "put", operation_id = "put_content")]
    #[allow(clippy::too_many_arguments)]
    async fn put_content(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        /// Where. Folders above it are made where they are missing.
        path: Query<String>,
        /// Modification time; now when absent and the contents are new.
        modified_at: Query<Option<DateTime<Utc>>>,
        /// Whether it may be executed; as before when absent.
        executable: Query<Option<bool>>,
        body: RawBody,
    ) -> Result<Written, ApiError> {
        let path = tree_path(&path.0, "path")?;
        let base = write_base(request, &domain, &auth.0, &path).await?;
        let hash = conditions::content_digest(request.headers())?;
        let put = Put { path, base, hash, modified_at: modified_at.0, executable: executable.0 };
        let (applied, new) = uploads::put(&domain, &auth.0, put, body.into_stream()).await?;
        let mut tx = domain.begin(&auth.0).await?;
        let entry = Json(Entry::from(tree::at_version(&mut tx, &auth.0, &applied).await?));
        let etag = conditions::etag(applied.version);
        Ok(if new { Written::Created(entry, etag) } else { Written::Changed(entry, etag) })
    }

    /// Delete a file, or a folder with all that is in it
    ///
    /// It goes to the trash. Takes If-Match.
    #[oai(path = "/files/content", method = "delete", operation_id = "delete_content")]
    async fn delete_content(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        /// The file or folder.
        path: Query<String>,
    ) -> Result<Removed, ApiError> {
        let path = tree_path(&path.0, "path")?;
        let base = write_base(request, &domain, &auth.0, &path).await?;
        files::delete_one(&domain, &auth.0, path, base).await?;
        Ok(Removed::Done)
    }

    /// Download a folder as a tar
    #[oai(path = "/files/archive", method = "get", operation_id = "get_archive")]
    async fn get_archive(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        request: &Request,
        /// The folder; the root when absent.
        path: Query<Option<String>>,
    ) -> Result<Content, ApiError> {
        let path = tree_path(path.0.as_deref().unwrap_or("/"), "path")?;
        let mut tx = domain.begin(&auth.0).await?;
        let node = tree::node(&mut tx, &auth.0, &path).await?;
        drop(tx);
        folder(request, &domain, &auth.0, &node).await
    }

    /// Upload many files as a tar
    ///
    /// Each file is committed or named as refused. Links, devices, absolute names and `..` are not taken.
    #[oai(path = "/files/archive", method = "put", operation_id = "put_archive")]
    async fn put_archive(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The folder that they go into; the root when absent.
        path: Query<Option<String>>,
        body: RawBody,
    ) -> Result<Json<ArchiveReceived>, ApiError> {
        let path = tree_path(path.0.as_deref().unwrap_or("/"), "path")?;
        let received = archive::upload(&domain, &auth.0, &path, body.into_stream()).await?;
        let refused = received.refusals.into_iter();
        Ok(Json(ArchiveReceived {
            files: received.files,
            bytes: received.bytes,
            refused_count: received.refused,
            refused: refused.map(|r| RefusedPath { path: r.name, code: r.code.to_owned(), detail: r.detail }).collect(),
        }))
    }
}
