//! What is answered when something is wrong.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{PartialSchema, ToSchema};
use weft_api::object::{FieldError, FieldErrors, ObjectKey};
use weft_api::report::Problem;

use crate::manifest::ApplyError;
use crate::push::QueryFailure;
use crate::store::StoreError;

/// A problem on its way out.
#[derive(Debug)]
pub(super) struct ApiError(Problem);

impl ApiError {
    pub(super) fn new(status: StatusCode, sort: &str, detail: impl Into<String>) -> Self {
        Self(Problem {
            kind: format!("urn:weft:problem:{sort}"),
            title: status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        })
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub(super) fn absent(key: &ObjectKey) -> Self {
        Self::new(StatusCode::NOT_FOUND, "absent", format!("there is no {key}: `weft get` lists what there is"))
    }

    pub(super) fn internal(failed: &impl fmt::Display) -> Self {
        tracing::error!(%failed, "a request failed");
        let detail = "the controller failed; its log says more, and nothing was changed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<FieldErrors> for ApiError {
    fn from(errors: FieldErrors) -> Self {
        let mistakes = if errors.0.len() == 1 { "1 mistake" } else { &format!("{} mistakes", errors.0.len()) };
        let detail = format!("the request has {mistakes}; nothing was changed");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        error.0.errors = errors.0;
        error
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let (status, sort) = match &error {
            StoreError::Generation { .. } => (StatusCode::CONFLICT, "conflict"),
            StoreError::Revision { .. } => (StatusCode::PRECONDITION_FAILED, "revision"),
            StoreError::Twice(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            StoreError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            StoreError::Busy { .. } | StoreError::Disk { .. } | StoreError::Content { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "store")
            }
        };
        Self::new(status, sort, error.to_string())
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Fields(errors) => errors.into(),
            ApplyError::Store(error) => error.into(),
        }
    }
}

impl From<QueryFailure> for ApiError {
    fn from(failure: QueryFailure) -> Self {
        let (status, sort) = match &failure {
            QueryFailure::NoHost(_) => (StatusCode::NOT_FOUND, "absent"),
            QueryFailure::NotConnected(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-connected"),
            QueryFailure::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
            QueryFailure::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            QueryFailure::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            QueryFailure::Refused { .. } => (StatusCode::BAD_GATEWAY, "refused"),
        };
        Self::new(status, sort, failure.to_string())
    }
}

/// Adds the schemas that only problems use.
pub(super) fn with_schemas(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    document
}
