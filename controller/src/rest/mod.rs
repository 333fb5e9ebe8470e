//! The REST API: intent in, status out, and the OpenAPI document that says how.
//!
//! Every route is registered together with its description, so the document cannot lack one. Whatever goes wrong is
//! answered as a problem (RFC 9457) with every bad field in it.

mod body;
mod fabric;
mod intent;
mod objects;
mod problem;
mod queries;
mod serve;
mod tls;

pub use fabric::{Fabric, LiveFabric};
pub use serve::{ServeError, TOKEN_LEN_MIN, TlsApi, TlsConfig, UnixApi, serve_tls, serve_unix};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::manifest::{self, ApplyError, TEXT_LEN_MAX};
use crate::store::Store;
use problem::ApiError;
use weft_api::report::ApplyReport;

/// No request takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait for acknowledgements that one request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What the handlers work on.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    fabric: Arc<dyn Fabric>,
    random: Mutex<Box<dyn FnMut() -> u64 + Send>>,
    document: OpenApi,
}

impl ApiState {
    /// An API over the store and the hosts; `random` is where allocated MAC addresses come from.
    pub fn new(store: Arc<dyn Store>, fabric: Arc<dyn Fabric>, random: impl FnMut() -> u64 + Send + 'static) -> Self {
        Self(Arc::new(Shared { store, fabric, random: Mutex::new(Box::new(random)), document: document() }))
    }

    /// Applies a request away from the async threads: a commit waits for the disk.
    async fn apply(&self, request: manifest::OwnedRequest) -> Result<ApplyReport, ApiError> {
        let shared = self.0.clone();
        let applied = tokio::task::spawn_blocking(move || {
            let mut random = shared.random.lock().unwrap_or_else(PoisonError::into_inner);
            manifest::apply(&*shared.store, &request.borrowed(), &mut **random)
        });
        match applied.await {
            Ok(result) => result.map_err(|error: ApplyError| error.into()),
            Err(failed) => Err(ApiError::internal(&failed)),
        }
    }
}

/// The whole API as a service.
pub fn router(state: ApiState) -> axum::Router {
    let (router, _) = described().split_for_parts();
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(TEXT_LEN_MAX))
        .layer(from_fn(bound_time))
        .with_state(state)
}

/// The OpenAPI document of the API.
pub fn document() -> OpenApi {
    let (_, mut document) = described().split_for_parts();
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let refusal = ResponseBuilder::new()
        .description("The request was refused or failed, and nothing was changed.")
        .content("application/problem+json", problem)
        .build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().filter_map(Option::as_mut) {
            operation.responses.responses.insert("default".to_owned(), refusal.clone().into());
        }
    }
    document
}

fn described() -> OpenApiRouter<ApiState> {
    let info = InfoBuilder::new()
        .title("Weft")
        .version("v1")
        .description(Some("Tenants, networks, subnets, ports and hosts: what is wanted, and how it stands."))
        .build();
    OpenApiRouter::with_openapi(problem::with_schemas(OpenApiBuilder::new().info(info).build()))
        .merge(intent::routes())
        .merge(objects::routes())
        .merge(queries::routes())
        .routes(routes!(openapi))
}

/// The OpenAPI document of this API.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "An OpenAPI 3.1 document.", body = Object)))]
async fn openapi(State(state): State<ApiState>) -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], axum::Json(&state.0.document)).into_response()
}

async fn no_such_route(request: Request) -> ApiError {
    let detail = format!("there is nothing at {}: see /openapi.json", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "no-route", detail)
}

async fn no_such_method(request: Request) -> ApiError {
    let detail = format!("{} is not for {}: see /openapi.json", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "no-method", detail)
}

async fn bound_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} s: ask for less", REQUEST_TIMEOUT.as_secs());
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
