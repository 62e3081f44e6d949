//! Bodies that are streamed: contents as raw bytes, and a piece of an upload, raw or as a form with the part `chunk_file`.
//!
//! Invariant: no content type is asked for; `curl -T` sends none.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use poem::{FromRequest, Request, RequestBody, Result, web::Multipart};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Binary, Payload},
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
};
use tokio_util::io::ReaderStream;

use crate::problem::ApiError;

const PART: &str = "chunk_file";

/// Raw bytes.
pub(crate) struct RawBody(pub poem::Body);

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
        Ok(RawBody(<poem::Body as FromRequest>::from_request(request, body).await?))
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
        if !is_form {
            let body = <poem::Body as FromRequest>::from_request(request, body).await?;
            return Ok(ChunkBody(body.into_bytes_stream().boxed()));
        }
        let mut form = <Multipart as FromRequest>::from_request(request, body).await?;
        while let Some(part) = form.next_field().await? {
            if part.name() == Some(PART) {
                return Ok(ChunkBody(ReaderStream::with_capacity(part.into_async_read(), 64 << 10).boxed()));
            }
        }
        let detail = "the form has no part chunk_file";
        Err(ApiError::invalid("upload.no_chunk_file", detail, Some(PART.to_owned())).into())
    }
}
