//! Objects one by one. An answer's ETag is the object's revision, which a later write can demand with `If-Match`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use weft_api::object::{FieldError, FieldErrors, Host, Kind, Name, Network, Object, ObjectKey, Port, Subnet, Tenant};
use weft_api::report::{ApplyReport, ChangeKind};

use super::ApiState;
use super::body::{Text, condition, name};
use super::problem::ApiError;
use crate::manifest::{Document, OwnedRequest, Verb, documents};

/// The generation in which a written object stands.
const GENERATION: HeaderName = HeaderName::from_static("weft-generation");

macro_rules! object_routes {
    ($module:ident, $kind:ident, $param:tt in $one:tt, $all:tt $(, $tenant:ident in $scoped:tt)?) => {
        mod $module {
            use super::*;

            pub(super) fn routes() -> OpenApiRouter<ApiState> {
                let routes = OpenApiRouter::default().routes(routes!(list)).routes(routes!(get, put, delete));
                $(
                    let routes = routes.routes(routes!($tenant::list));
                )?
                routes
            }

            object_routes!(@list list, $all, $kind);
            $(
                mod $tenant {
                    use super::*;

                    /// Lists the objects of this kind that a tenant has.
                    #[utoipa::path(get, path = $scoped,
                        params(("tenant" = String, Path, description = "The tenant's name.")),
                        responses((status = 200, description = "By name.", body = Vec<$kind>)))]
                    pub(super) async fn list(
                        State(state): State<ApiState>,
                        Path(tenant): Path<String>,
                    ) -> Result<Response, ApiError> {
                        list_of_tenant(&state, Kind::$kind, &tenant)
                    }
                }
            )?

            /// Gets an object.
            #[utoipa::path(get, path = $one, params(PathNames),
                responses((status = 200, description = "The object.", body = $kind,
                    headers(("etag" = String, description = "Its revision.")))))]
            async fn get(State(state): State<ApiState>, Path(names): Path<PathNames>) -> Result<Response, ApiError> {
                get_one(&state, &names.key(Kind::$kind)?)
            }

            /// Creates or replaces an object.
            #[utoipa::path(put, path = $one, params(PathNames),
                request_body(content = $kind, description = "The document; what the path says may be left out."),
                responses(
                    (status = 200, description = "Replaced, or as wanted already.", body = $kind),
                    (status = 201, description = "Created.", body = $kind)))]
            async fn put(
                State(state): State<ApiState>,
                Path(names): Path<PathNames>,
                headers: HeaderMap,
                Text(text): Text,
            ) -> Result<Response, ApiError> {
                put_one(&state, names.key(Kind::$kind)?, &headers, &text).await
            }

            /// Deletes an object.
            #[utoipa::path(delete, path = $one, params(PathNames),
                responses((status = 200, description = "Deleted.", body = ApplyReport)))]
            async fn delete(
                State(state): State<ApiState>,
                Path(names): Path<PathNames>,
                headers: HeaderMap,
            ) -> Result<Json<ApplyReport>, ApiError> {
                delete_one(&state, names.key(Kind::$kind)?, &headers).await
            }

            object_routes!(@names $param $($tenant)?);
        }
    };
    (@list $handler:ident, $path:tt, $kind:ident) => {
        /// Lists all objects of this kind.
        #[utoipa::path(get, path = $path,
            responses((status = 200, description = "By tenant and name.", body = Vec<$kind>)))]
        async fn $handler(State(state): State<ApiState>) -> Response {
            list_all(&state, Kind::$kind)
        }
    };
    (@names $param:tt $tenant:ident) => {
        #[derive(serde::Deserialize, utoipa::IntoParams)]
        #[into_params(parameter_in = Path)]
        struct PathNames {
            /// The tenant's name.
            tenant: String,
            /// The object's name.
            name: String,
        }

        impl PathNames {
            fn key(&self, kind: Kind) -> Result<ObjectKey, ApiError> {
                Ok(ObjectKey::scoped(kind, &name(&self.tenant)?, &name(&self.name)?))
            }
        }
    };
    (@names $param:tt) => {
        /// The object's name.
        #[derive(serde::Deserialize, utoipa::IntoParams)]
        #[into_params(names($param), parameter_in = Path)]
        struct PathNames(String);

        impl PathNames {
            fn key(&self, kind: Kind) -> Result<ObjectKey, ApiError> {
                Ok(ObjectKey::global(kind, &name(&self.0)?))
            }
        }
    };
}

object_routes!(tenants, Tenant, "tenant" in "/v1/tenants/{tenant}", "/v1/tenants");
object_routes!(hosts, Host, "host" in "/v1/hosts/{host}", "/v1/hosts");
object_routes!(networks, Network, "name" in "/v1/tenants/{tenant}/networks/{name}", "/v1/networks", scoped in "/v1/tenants/{tenant}/networks");
object_routes!(subnets, Subnet, "name" in "/v1/tenants/{tenant}/subnets/{name}", "/v1/subnets", scoped in "/v1/tenants/{tenant}/subnets");
object_routes!(ports, Port, "name" in "/v1/tenants/{tenant}/ports/{name}", "/v1/ports", scoped in "/v1/tenants/{tenant}/ports");

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    tenants::routes().merge(hosts::routes()).merge(networks::routes()).merge(subnets::routes()).merge(ports::routes())
}

fn list_all(state: &ApiState, kind: Kind) -> Response {
    let snapshot = state.0.store.snapshot();
    let objects: Vec<&Object> = snapshot.of_kind(kind).map(|(_, stored)| &*stored.object).collect();
    ([(GENERATION, snapshot.generation.to_string())], Json(objects)).into_response()
}

fn list_of_tenant(state: &ApiState, kind: Kind, tenant: &str) -> Result<Response, ApiError> {
    let (tenant, snapshot) = (name(tenant)?, state.0.store.snapshot());
    let key = ObjectKey::global(Kind::Tenant, &tenant);
    if !snapshot.objects.contains_key(&key) {
        return Err(ApiError::absent(&key));
    }
    let objects: Vec<&Object> = snapshot.tenant_objects(kind, &tenant).collect();
    Ok(([(GENERATION, snapshot.generation.to_string())], Json(objects)).into_response())
}

fn get_one(state: &ApiState, key: &ObjectKey) -> Result<Response, ApiError> {
    let stored = state.0.store.get(key).ok_or_else(|| ApiError::absent(key))?;
    Ok(([(header::ETAG, format!("\"{}\"", stored.revision))], Json(&*stored.object)).into_response())
}

async fn put_one(state: &ApiState, key: ObjectKey, headers: &HeaderMap, text: &str) -> Result<Response, ApiError> {
    let document = one_document(&key, text)?;
    let revisions = condition(headers)?.map(|revision| (key.clone(), revision)).into_iter().collect();
    let request = OwnedRequest { verb: Verb::Put, documents: vec![document], revisions, dry_run: false };
    let report = state.apply(request).await?;
    let printed = key.to_string();
    let created = report.of(ChangeKind::Created).any(|object| object == printed);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let object = get_one(state, &key)?;
    Ok((status, [(GENERATION, report.generation.to_string())], object).into_response())
}

async fn delete_one(state: &ApiState, key: ObjectKey, headers: &HeaderMap) -> Result<Json<ApplyReport>, ApiError> {
    let revisions = condition(headers)?.map(|revision| (key.clone(), revision)).into_iter().collect();
    let document = Document::from_value(Value::Object(envelope(&key)));
    let request = OwnedRequest { verb: Verb::Delete, documents: vec![document], revisions, dry_run: false };
    let report = state.apply(request).await?;
    if report.of(ChangeKind::Deleted).next().is_none() {
        return Err(ApiError::absent(&key));
    }
    Ok(Json(report))
}

/// Reads a body that is one document, and fills in what the path says already.
fn one_document(key: &ObjectKey, text: &str) -> Result<Document, ApiError> {
    let mut documents = documents(text)?;
    let count = documents.len();
    let (Some(mut document), 1) = (documents.pop(), count) else {
        return Err(ApiError::bad(format!("the body has {count} documents: send one, or use /v1/apply")));
    };
    let Value::Object(fields) = &mut document.value else { return Ok(document) };
    let mut errors = Vec::new();
    for (field, wanted) in envelope(key) {
        let found = fields.entry(field.clone()).or_insert_with(|| wanted.clone());
        if *found != wanted {
            errors.push(FieldError {
                document: Some(0),
                line: None,
                object: key.to_string(),
                path: field,
                why: format!("is {found}, but the path says {wanted}"),
                fix: "make both the same".to_owned(),
            });
        }
    }
    if errors.is_empty() { Ok(document) } else { Err(FieldErrors(errors).into()) }
}

fn envelope(key: &ObjectKey) -> Map<String, Value> {
    let text = |name: &Name| Value::from(name.as_str());
    let mut fields = Map::new();
    fields.insert("kind".to_owned(), key.kind.name().into());
    fields.extend(key.tenant.as_ref().map(|tenant| ("tenant".to_owned(), text(tenant))));
    fields.insert("name".to_owned(), text(&key.name));
    fields
}
