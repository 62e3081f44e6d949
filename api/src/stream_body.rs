//! Bodies that are streamed: contents as raw bytes, and a piece of an upload, raw or as a form with the part `chunk_file`.
//!
//! Invariant: no content type is asked for; `curl -T` sends none. A sender who says nothing for [`PATIENCE`] is given up, so that
//! nobody keeps a request, and what it holds, for ever.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use poem::{Body, FromRequest, Request, RequestBody, Result, web::Multipart};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Binary, Payload},
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
};
use tokio_util::io::ReaderStream;

use crate::problem::ApiError;

const PART: &str = "chunk_file";

/// How long a sender may be silent. While we are at work with what came, or hold it to a bandwidth limit, that is no silence of his.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pieces of a body as they come; an error when none comes for [`PATIENCE`].
pub(crate) fn patient<S>(pieces: S) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    within(PATIENCE, pieces)
}

fn within<S>(patience: Duration, pieces: S) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    stream::unfold(Some(Box::pin(pieces)), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(patience, pieces.next()).await {
            Ok(piece) => Some((piece?, Some(pieces))),
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long")), None)),
        }
    })
}

/// Raw bytes.
pub(crate) struct RawBody(Body);

impl RawBody {
    /// The bytes, as they come.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        patient(self.0.into_bytes_stream())
    }
}

fn raw() -> MetaMediaType {
    MetaMediaType { content_type: Binary::<Vec<u8>>::CONTENT_TYPE, schema: Binary::<Vec<u8>>::schema_ref() }
}

impl<'a> ApiExtractor<'a> for RawBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(_: &mut Registry) {}

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { description: None, content: vec![raw()], required: true })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(RawBody(<Body as FromRequest>::from_request(request, body).await?))
    }
}

/// The bytes of a piece.
pub(crate) struct ChunkBody(BoxStream<'static, io::Result<Bytes>>);

impl ChunkBody {
    /// The bytes, as they come.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        self.0
    }
}

impl<'a> ApiExtractor<'a> for ChunkBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(_: &mut Registry) {}

    fn request_meta() -> Option<MetaRequest> {
        let mut form = MetaSchema::new("object");
        form.properties = vec![(PART, Binary::<Vec<u8>>::schema_ref())];
        form.required = vec![PART];
        let form = MetaMediaType { content_type: "multipart/form-data", schema: MetaSchemaRef::Inline(Box::new(form)) };
        Some(MetaRequest { description: None, content: vec![raw(), form], required: true })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let is_form = request.content_type().is_some_and(|c| c.starts_with("multipart/form-data"));
        let pieces = patient(<Body as FromRequest>::from_request(request, body).await?.into_bytes_stream());
        if !is_form {
            return Ok(ChunkBody(pieces.boxed()));
        }
        let mut body = RequestBody::new(Body::from_bytes_stream(pieces));
        let mut form = <Multipart as FromRequest>::from_request(request, &mut body).await?;
        while let Some(part) = form.next_field().await? {
            if part.name() == Some(PART) {
                return Ok(ChunkBody(ReaderStream::with_capacity(part.into_async_read(), 64 << 10).boxed()));
            }
        }
        let detail = "the form has no part chunk_file";
        Err(ApiError::invalid("upload.no_chunk_file", detail, Some(PART.to_owned())).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sender_who_falls_silent_is_given_up() {
        let silent = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending());
        let got: Vec<_> = within(Duration::from_millis(10), silent).collect().await;
        assert_eq!(got[0].as_deref().ok(), Some(&b"x"[..]));
        assert_eq!((got.len(), got[1].as_ref().err().map(io::Error::kind)), (2, Some(io::ErrorKind::TimedOut)));
        let whole: Vec<_> = within(PATIENCE, stream::iter([Ok(Bytes::from_static(b"x"))])).collect().await;
        assert_eq!(whole.len(), 1);
    }
}
