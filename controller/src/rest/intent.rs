//! Whole manifests, and how far they got.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use weft_api::report::{ApplyReport, ApplyStatus, FabricReport};

use super::body::{Options, Text};
use super::problem::ApiError;
use super::{ApiState, WAIT_MAX};
use crate::manifest::{OwnedRequest, Verb, documents};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(apply))
        .routes(routes!(apply_status))
        .routes(routes!(delete))
        .routes(routes!(status))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ApplyOptions {
    /// Plan and tell, but change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitOptions {
    /// How long to wait for hosts that have not acknowledged the generation, up to 30000.
    #[serde(default)]
    wait_ms: u64,
}

/// Creates or replaces every object of a manifest, all of them or none.
#[utoipa::path(post, path = "/v1/apply", params(ApplyOptions),
    request_body(content = String, content_type = "application/yaml", description = "Documents in YAML or JSON."),
    responses((status = 200, description = "Applied.", body = ApplyReport)))]
async fn apply(
    State(state): State<ApiState>,
    Options(options): Options<ApplyOptions>,
    Text(text): Text,
) -> Result<Json<ApplyReport>, ApiError> {
    change(&state, Verb::Put, &text, options).await
}

/// Deletes every object that a manifest names, all of them or none. Specs are not read.
#[utoipa::path(post, path = "/v1/delete", params(ApplyOptions),
    request_body(content = String, content_type = "application/yaml", description = "Documents in YAML or JSON."),
    responses((status = 200, description = "Deleted.", body = ApplyReport)))]
async fn delete(
    State(state): State<ApiState>,
    Options(options): Options<ApplyOptions>,
    Text(text): Text,
) -> Result<Json<ApplyReport>, ApiError> {
    change(&state, Verb::Delete, &text, options).await
}

async fn change(
    state: &ApiState,
    verb: Verb,
    text: &str,
    options: ApplyOptions,
) -> Result<Json<ApplyReport>, ApiError> {
    let documents = documents(text)?;
    let request = OwnedRequest { verb, documents, revisions: Vec::new(), dry_run: options.dry_run };
    state.apply(request).await.map(Json)
}

/// How far a generation got: which hosts acknowledged it, how fast, and which did not.
#[utoipa::path(get, path = "/v1/apply/{generation}/status",
    params(("generation" = u64, Path, description = "As an apply returned it."), WaitOptions),
    responses((status = 200, description = "How far it got.", body = ApplyStatus)))]
async fn apply_status(
    State(state): State<ApiState>,
    Path(generation): Path<String>,
    Options(options): Options<WaitOptions>,
) -> Result<Json<ApplyStatus>, ApiError> {
    let Ok(generation) = generation.parse::<u64>() else {
        return Err(ApiError::bad(format!("`{generation}` is no generation: use the number that an apply returned")));
    };
    let newest = state.0.store.snapshot().generation;
    if generation > newest {
        let detail = format!("there is no generation {generation} yet: the newest is {newest}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "absent", detail));
    }
    let wait = Duration::from_millis(options.wait_ms).min(WAIT_MAX);
    Ok(Json(state.0.fabric.applied(generation, wait).await))
}

/// How the controller and all hosts stand.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, description = "How they stand.", body = FabricReport)))]
async fn status(State(state): State<ApiState>) -> Json<FabricReport> {
    Json(state.0.fabric.report())
}
