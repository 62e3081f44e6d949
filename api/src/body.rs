//! JSON request bodies whose errors name the field at fault.
//!
//! poem-openapi says what is wrong but not where; so when a body does not parse, it is held against the schema that the
//! same type documents, and the first property that breaks it is named.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use poem::{FromRequest, Request, RequestBody, Result};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, ParsePayload, Payload},
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::{ParseFromJSON, Type},
};
use serde_json::Value;

use crate::{problem::ApiError, stream_body::patient};

/// Largest JSON body, in bytes: a list of 10,000 files with the longest paths that people have fits.
const LIMIT: usize = 32 << 20;
/// Largest body of who has not signed in.
const STRANGERS: usize = 16 << 10;

/// The JSON body of a request.
pub struct JsonBody<T, const MOST: usize = LIMIT>(pub T);

/// The JSON body of a request that needs no token: the server holds little of it.
pub type StrangersBody<T> = JsonBody<T, STRANGERS>;

impl<T: Type, const MOST: usize> Payload for JsonBody<T, MOST> {
    const CONTENT_TYPE: &'static str = "application/json; charset=utf-8";

    fn check_content_type(content_type: &str) -> bool {
        Json::<T>::check_content_type(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ParseFromJSON, const MOST: usize> ParsePayload for JsonBody<T, MOST> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> Result<Self> {
        if let Some(given) = request.content_type().filter(|c| !Self::check_content_type(c)) {
            return Err(
                ApiError::malformed("request.content_type", format!("send application/json, not {given}")).into()
            );
        }
        let body = <poem::Body as FromRequest>::from_request(request, body).await?;
        let data = whole(body, MOST).await?;
        let read = || -> std::result::Result<Value, _> { serde_json::from_slice(&data) };
        let value =
            read().map_err(|e| ApiError::malformed("request.body_invalid", format!("the body is not JSON: {e}")))?;
        match T::parse_from_json(Some(value)) {
            Ok(parsed) => Ok(JsonBody(parsed)),
            Err(e) => {
                // Read anew: a copy of what is fine would cost more than the body.
                let explained = read().ok().and_then(|value| explain::<T>(&value));
                let (field, detail) = explained.unwrap_or((None, e.into_message()));
                Err(ApiError::invalid("request.field_invalid", detail, field).into())
            }
        }
    }
}

/// Of a body that is too large so much is read and dropped before the answer: a client that is still sending would not see it.
const LINGER: usize = 1 << 20;

/// All bytes of a body, at most `limit`.
async fn whole(body: poem::Body, limit: usize) -> std::result::Result<Bytes, ApiError> {
    let mut pieces = std::pin::pin!(patient(body.into_bytes_stream()));
    let mut bytes = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| ApiError::malformed("request.cut_short", "the body ended early"))?;
        if bytes.len() + piece.len() > limit {
            drop(bytes);
            let mut dropped = piece.len();
            while dropped < LINGER
                && let Some(Ok(piece)) = pieces.next().await
            {
                dropped += piece.len();
            }
            return Err(ApiError::too_large(limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

impl<'a, T: ParseFromJSON, const MOST: usize> ApiExtractor<'a> for JsonBody<T, MOST> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: <Self as Payload>::schema_ref() }],
            required: true,
        })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        <Self as ParsePayload>::from_request(request, body).await
    }
}

fn explain<T: Type>(value: &Value) -> Option<(Option<String>, String)> {
    let mut registry = Registry::new();
    T::register(&mut registry);
    breaks(&registry, &T::schema_ref(), value, "")
}

/// The first place, outermost first, where `value` breaks `schema`: its dotted name and a sentence.
fn breaks(registry: &Registry, schema: &MetaSchemaRef, value: &Value, at: &str) -> Option<(Option<String>, String)> {
    let schema: &MetaSchema = match schema {
        MetaSchemaRef::Inline(s) => s,
        MetaSchemaRef::Reference(name) => registry.schemas.get(name)?,
    };
    // A property that is a reference with a description is wrapped in allOf.
    if let Some(inner) = schema.all_of.iter().find(|s| matches!(s, MetaSchemaRef::Reference(_))) {
        return breaks(registry, inner, value, at);
    }
    let field = || (!at.is_empty()).then(|| at.to_owned());
    let fits = match schema.ty {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !fits {
        let an = if matches!(schema.ty, "object" | "array" | "integer") { "an" } else { "a" };
        return Some((field(), format!("must be {an} {}", schema.ty)));
    }
    if !schema.enum_items.is_empty() && !schema.enum_items.contains(value) {
        let known: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
        return Some((field(), format!("must be one of {}", known.join(", "))));
    }
    if let (Some(items), Some(values)) = (&schema.items, value.as_array()) {
        return values.iter().enumerate().find_map(|(i, v)| breaks(registry, items, v, &format!("{at}[{i}]")));
    }
    schema.properties.iter().find_map(|(name, property)| {
        let inner = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
        match value.get(name) {
            None | Some(Value::Null) if schema.required.contains(name) => Some((Some(inner), "is required".to_owned())),
            None | Some(Value::Null) => None,
            Some(v) => breaks(registry, property, v, &inner).or_else(|| out_of_range(property, v, inner)),
        }
    })
}

/// Integers that their type can't hold, by the format that poem-openapi documents.
fn out_of_range(schema: &MetaSchemaRef, value: &Value, at: String) -> Option<(Option<String>, String)> {
    let MetaSchemaRef::Inline(schema) = schema else { return None };
    let (low, high) = match schema.format? {
        "int16" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        "int32" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        "int64" => (i64::MIN, i64::MAX),
        "uint8" => (0, 255),
        "uint16" => (0, i64::from(u16::MAX)),
        "uint32" => (0, i64::from(u32::MAX)),
        "uint64" => (0, i64::MAX),
        _ => return None,
    };
    let fits = value.as_i64().is_some_and(|v| (low..=high).contains(&v));
    (value.is_number() && !fits).then(|| (Some(at), format!("must be between {low} and {high}")))
}

#[cfg(test)]
mod tests {
    use poem_openapi::{Enum, Object};
    use serde_json::json;

    use super::*;

    #[derive(Enum)]
    #[oai(rename_all = "snake_case")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Object)]
    struct Wheel {
        size: u16,
    }

    #[derive(Object)]
    struct Car {
        name: String,
        /// Documented, so that the reference is wrapped.
        colour: Option<Colour>,
        wheels: Vec<Wheel>,
    }

    #[test]
    fn the_first_field_that_breaks_the_schema_is_named() {
        for (body, field) in [
            (json!({"wheels": []}), "name"),
            (json!({"name": [], "wheels": []}), "name"),
            (json!({"name": "x", "colour": "blue", "wheels": []}), "colour"),
            (json!({"name": "x", "colour": "red", "wheels": {}}), "wheels"),
            (json!({"name": "x", "wheels": [{"size": 1}, {"size": "2"}]}), "wheels[1].size"),
            (json!({"name": "x", "wheels": [{"size": -1}]}), "wheels[0].size"),
        ] {
            assert!(Car::parse_from_json(Some(body.clone())).is_err(), "{body}");
            assert_eq!(explain::<Car>(&body).expect("something is wrong").0.as_deref(), Some(field), "{body}");
        }
        assert!(matches!(Colour::Red, Colour::Red) && !matches!(Colour::Green, Colour::Red));
    }
}
