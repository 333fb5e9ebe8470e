//! Request parts, read so that what is wrong with them is answered as a problem too.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use weft_api::object::Name;

use super::problem::ApiError;

/// A body of text: YAML or JSON, told apart by its looks.
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection: BytesRejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "send parts of up to 16 MiB");
            }
            ApiError::bad(rejection.body_text())
        })?;
        match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(Self(text)),
            Err(_) => Err(ApiError::bad("the body is not UTF-8: send YAML or JSON in UTF-8")),
        }
    }
}

/// The options after the question mark.
pub(super) struct Options<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Options<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(options) = query.map_err(|rejection: QueryRejection| ApiError::bad(rejection.body_text()))?;
        Ok(Self(options))
    }
}

/// A name in a path.
pub(super) fn name(text: &str) -> Result<Name, ApiError> {
    Name::new(text).map_err(|error| ApiError::bad(error.to_string()))
}

/// The condition on a single object: `If-Match: "REVISION"` or `If-None-Match: *`. The outer `None` is no condition.
pub(super) fn condition(headers: &HeaderMap) -> Result<Option<Option<u64>>, ApiError> {
    let bad = || ApiError::bad("write If-Match: \"REVISION\" with the ETag of an earlier answer, or If-None-Match: *");
    if let Some(tag) = headers.get(header::IF_MATCH) {
        let tag = tag.to_str().ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
        let revision = tag.and_then(|tag| tag.parse().ok()).ok_or_else(bad)?;
        return Ok(Some(Some(revision)));
    }
    match headers.get(header::IF_NONE_MATCH) {
        Some(tag) if tag == "*" => Ok(Some(None)),
        Some(_) => Err(bad()),
        None => Ok(None),
    }
}
