//! Questions to one host's data plane.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use weft_api::object::{HostKind, Kind, ObjectKey};
use weft_api::report::{DropReport, FdbReport, FlowReport, LedgerReport, PortReport, QueryKind};

use super::ApiState;
use super::body::name;
use super::problem::ApiError;

macro_rules! queries {
    ($($(#[doc = $doc:literal])+ $handler:ident: $path:tt, $kind:ident -> $body:ty;)+) => {
        pub(super) fn routes() -> OpenApiRouter<ApiState> {
            OpenApiRouter::default()$(.routes(routes!($handler)))+
        }

        $(
            $(#[doc = $doc])+
            #[utoipa::path(get, path = $path,
                params(("host" = String, Path, description = "The host's name.")),
                responses((status = 200, description = "As the host answered.", body = $body)))]
            async fn $handler(
                State(state): State<ApiState>,
                Path(host): Path<String>,
            ) -> Result<Json<$body>, ApiError> {
                ask(&state, &host, QueryKind::$kind).await
            }
        )+
    };
}

queries! {
    /// The rules in force on a host, with what they did.
    flows: "/v1/hosts/{host}/flows", Flows -> Vec<FlowReport>;
    /// The ports of a host, with their counters.
    ports: "/v1/hosts/{host}/ports", Ports -> Vec<PortReport>;
    /// The forwarding database of a host.
    fdb: "/v1/hosts/{host}/fdb", Fdb -> Vec<FdbReport>;
    /// What a host dropped, by reason.
    drops: "/v1/hosts/{host}/drops", Drops -> Vec<DropReport>;
    /// The balance of frames of a host.
    ledger: "/v1/hosts/{host}/ledger", Ledger -> LedgerReport;
}

/// The answer is read and written again, so that what leaves here is what the API's document says.
async fn ask<T: DeserializeOwned + Serialize>(
    state: &ApiState,
    host: &str,
    kind: QueryKind,
) -> Result<Json<T>, ApiError> {
    let name = name(host)?;
    let snapshot = state.0.store.snapshot();
    let Some(declared) = snapshot.host(&name) else {
        return Err(ApiError::absent(&ObjectKey::global(Kind::Host, &name)));
    };
    if declared.spec.kind == HostKind::Vtep {
        let detail = format!("host {name} is of kind: vtep: it has no agent to ask");
        return Err(ApiError::new(StatusCode::CONFLICT, "no-agent", detail));
    }
    let answer = state.0.fabric.query(host, kind).await?;
    serde_json::from_slice(&answer).map(Json).map_err(|error| {
        let detail = format!("host {name} answered what this build cannot read ({error}): use the same build on both");
        ApiError::new(StatusCode::BAD_GATEWAY, "unreadable", detail)
    })
}
