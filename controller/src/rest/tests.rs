//! The API as clients see it. Every answer here is checked against the document that the API serves.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use weft_api::object::Name;
use weft_api::report::{ApplyStatus, FabricReport, LedgerReport, QueryKind};

use super::*;
use crate::push::QueryFailure;
use crate::store::MemoryStore;

/// Hosts that answer from a script: `h1` does, others are away.
struct Scripted;

#[async_trait]
impl Fabric for Scripted {
    fn report(&self) -> FabricReport {
        FabricReport { store_id: "s".to_owned(), ..FabricReport::default() }
    }

    async fn applied(&self, generation: u64, _wait: Duration) -> ApplyStatus {
        ApplyStatus { generation, complete: true, ..ApplyStatus::default() }
    }

    async fn query(&self, host: &str, kind: QueryKind) -> Result<Vec<u8>, QueryFailure> {
        match (host, kind) {
            ("h1", QueryKind::Ledger) => Ok(serde_json::to_vec(&LedgerReport::default()).unwrap()),
            ("h1", QueryKind::Fdb) => Ok(b"nonsense".to_vec()),
            ("h1", _) => Ok(b"[]".to_vec()),
            _ => Err(QueryFailure::NotConnected(Name::new(host).unwrap())),
        }
    }
}

struct Api {
    router: axum::Router,
    document: Value,
    /// Operations that were exercised.
    seen: BTreeSet<String>,
}

impl Api {
    fn new() -> Self {
        let mut seed = 0;
        let random = move || {
            seed += 0x9e37_79b9;
            seed
        };
        let state = ApiState::new(Arc::new(MemoryStore::new("s")), Arc::new(Scripted), random);
        Self { router: router(state), document: serde_json::to_value(document()).unwrap(), seen: BTreeSet::new() }
    }

    async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, Value) {
        let response = self.send(method.clone(), path, headers, body).await;
        let status = response.status();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}: {bytes:?}"));
        self.judge(&method, path, status, &kind, &value);
        (status, value)
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
    }

    /// Checks an answer against the document.
    fn judge(&mut self, method: &Method, path: &str, status: StatusCode, kind: &str, value: &Value) {
        let path = path.split('?').next().unwrap();
        let Some(template) = self.template(path) else {
            assert_eq!(status, StatusCode::NOT_FOUND, "{path} is not in the document");
            return;
        };
        let operation = &self.document["paths"][&template][method.as_str().to_lowercase()];
        if operation.is_null() {
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path} is not in the document");
            return;
        }
        let responses = operation["responses"].as_object().unwrap();
        let response = responses.get(status.as_str()).unwrap_or(&responses["default"]);
        let schema = &response["content"][kind]["schema"];
        assert!(!schema.is_null(), "{method} {template} does not document {status} with {kind}");
        let mut root = json!({"components": self.document["components"]});
        root.as_object_mut().unwrap().extend(schema.as_object().unwrap().clone());
        let validator = jsonschema::validator_for(&root).unwrap();
        let wrong: Vec<String> = validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{method} {template} answered {value:#}, but {wrong:?}");
        if status.is_success() {
            self.seen.insert(format!("{method} {template}"));
        }
    }

    fn template(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split('/').collect();
        let paths = self.document["paths"].as_object().unwrap().keys();
        paths
            .filter(|template| {
                let wanted: Vec<&str> = template.split('/').collect();
                let fits = |(wanted, part): (&&str, &&str)| wanted.starts_with('{') || wanted == part;
                wanted.len() == parts.len() && wanted.iter().zip(&parts).all(fits)
            })
            .min_by_key(|template| template.matches('{').count())
            .cloned()
    }

    async fn get(&mut self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path, &[], "").await
    }
}

const MANIFEST: &str = "
{kind: Tenant, name: red}
---
{kind: Network, tenant: red, name: blue, spec: {}}
---
{kind: Subnet, tenant: red, name: v4, spec: {network: blue, cidr: 10.9.0.0/24}}
---
{kind: Host, name: h1, spec: {kind: weft, address: 192.0.2.1}}
---
{kind: Host, name: h2, spec: {kind: weft, address: 192.0.2.2}}
---
{kind: Host, name: old, spec: {kind: vtep, address: 192.0.2.9, networks: [red/blue]}}
---
{kind: Port, tenant: red, name: a, spec: {network: blue, host: h1, attach: {tap: {netns: a, ifname: eth0}}}}
";

#[tokio::test]
async fn every_route_answers_as_its_document_says() {
    let mut api = Api::new();
    let (status, report) = api.ask(Method::POST, "/v1/apply?dry_run=true", &[], MANIFEST).await;
    assert_eq!((status, &report["generation"]), (StatusCode::OK, &json!(0)));
    let (status, report) = api.ask(Method::POST, "/v1/apply", &[], MANIFEST).await;
    assert_eq!((status, &report["generation"]), (StatusCode::OK, &json!(1)));
    assert_eq!(report["changes"].as_array().unwrap().len(), 7);
    for (path, count) in [
        ("/v1/tenants", 1),
        ("/v1/networks", 1),
        ("/v1/subnets", 1),
        ("/v1/ports", 1),
        ("/v1/hosts", 3),
        ("/v1/tenants/red/networks", 1),
        ("/v1/tenants/red/subnets", 1),
        ("/v1/tenants/red/ports", 1),
    ] {
        let (status, list) = api.get(path).await;
        assert_eq!((status, list.as_array().unwrap().len()), (StatusCode::OK, count), "{path}");
    }
    for path in [
        "/v1/status",
        "/v1/apply/1/status?wait_ms=10",
        "/v1/hosts/h1/flows",
        "/v1/hosts/h1/ports",
        "/v1/hosts/h1/drops",
        "/v1/hosts/h1/ledger",
        "/openapi.json",
    ] {
        assert_eq!(api.get(path).await.0, StatusCode::OK, "{path}");
    }
    for path in [
        "/v1/tenants/red/ports/a",
        "/v1/tenants/red/subnets/v4",
        "/v1/hosts/old",
        "/v1/hosts/h1",
        "/v1/hosts/h2",
        "/v1/tenants/red/networks/blue",
        "/v1/tenants/red",
    ] {
        let (status, object) = api.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        let (status, again) = api.ask(Method::PUT, path, &[], &object.to_string()).await;
        assert_eq!((status, again), (StatusCode::OK, object), "{path}");
        assert_eq!(api.ask(Method::DELETE, path, &[], "").await.0, StatusCode::OK, "{path}");
        assert_eq!(api.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(api.ask(Method::POST, "/v1/delete", &[], MANIFEST).await.0, StatusCode::OK);

    let document = api.document.clone();
    let mut unseen = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let operation = format!("{} {path}", method.to_uppercase());
            if !api.seen.contains(&operation) {
                unseen.push(operation);
            }
        }
    }
    // The scripted host answers this one with nonsense, which another test looks at.
    assert_eq!(unseen, ["GET /v1/hosts/{host}/fdb"]);
}

#[tokio::test]
async fn the_served_document_is_the_one_that_describes_the_routes() {
    let mut api = Api::new();
    let (_, served) = api.get("/openapi.json").await;
    assert_eq!(served, api.document);
    let text = served.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(served["components"]["schemas"].get(reference).is_some(), "{reference} is described");
    }
    // Routes get in by `routes!` only, which takes them together with their description.
    for source in
        [include_str!("mod.rs"), include_str!("intent.rs"), include_str!("objects.rs"), include_str!("queries.rs")]
    {
        assert!(!source.contains(".route("), "a route without a description");
    }
}

#[tokio::test]
async fn a_bad_request_is_a_problem_that_says_what_to_do() {
    let mut api = Api::new();
    api.ask(Method::POST, "/v1/apply", &[], MANIFEST).await;
    let big = " ".repeat(TEXT_LEN_MAX + 1);
    for (method, path, body, status, detail) in [
        (Method::GET, "/v1/nothing", "", 404, "there is nothing at /v1/nothing: see /openapi.json"),
        (Method::PATCH, "/v1/apply", "", 405, "PATCH is not for /v1/apply: see /openapi.json"),
        (Method::POST, "/v1/apply", "kind: [", 422, "the request has 1 mistake; nothing was changed"),
        (
            Method::POST,
            "/v1/apply?dryrun=1",
            "",
            400,
            "Failed to deserialize query string: dryrun: unknown field `dryrun`, expected `dry_run`",
        ),
        (Method::POST, "/v1/apply", big.as_str(), 413, "send parts of up to 16 MiB"),
        (Method::PUT, "/v1/tenants/green", "{} {}", 400, "the body has 2 documents: send one, or use /v1/apply"),
        (Method::PUT, "/v1/tenants/green", "name: red", 422, "the request has 1 mistake; nothing was changed"),
        (
            Method::GET,
            "/v1/tenants/Red",
            "",
            400,
            "`Red` is not a name: use 1 to 63 lowercase letters, digits and hyphens, with no hyphen at either end",
        ),
        (Method::GET, "/v1/tenants/green/ports", "", 404, "there is no tenant green: `weft get` lists what there is"),
        (Method::DELETE, "/v1/tenants/green", "", 404, "there is no tenant green: `weft get` lists what there is"),
        (Method::DELETE, "/v1/tenants/red", "", 422, "the request has 1 mistake; nothing was changed"),
        (Method::GET, "/v1/apply/x/status", "", 400, "`x` is no generation: use the number that an apply returned"),
        (Method::GET, "/v1/apply/9/status", "", 404, "there is no generation 9 yet: the newest is 1"),
        (Method::GET, "/v1/hosts/lost/flows", "", 404, "there is no host lost: `weft get` lists what there is"),
        (Method::GET, "/v1/hosts/old/flows", "", 409, "host old is of kind: vtep: it has no agent to ask"),
        (Method::GET, "/v1/hosts/h2/flows", "", 503, "the agent of host h2 is not connected: see `weft status`"),
    ] {
        let (found, problem) = api.ask(method.clone(), path, &[], body).await;
        assert_eq!((found.as_u16(), problem["detail"].as_str().unwrap()), (status, detail), "{method} {path}");
        assert_eq!(problem["status"], json!(status));
    }
    let (status, problem) = api.get("/v1/hosts/h1/fdb").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(problem["detail"].as_str().unwrap().ends_with("use the same build on both"));
    let (_, list) = api.get("/v1/tenants").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "nothing of all this was applied");
}

#[tokio::test]
async fn every_mistake_of_a_manifest_is_in_the_problem() {
    let mut api = Api::new();
    let text = "kind: Network\ntenant: red\nname: n\nspec:\n  vni: 0\n  colour: red\n---\nkind: Host\nname: h\nspec: {kind: x, address: y}\n";
    let (status, problem) = api.ask(Method::POST, "/v1/apply", &[], text).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let told: Vec<(u64, &str, &str)> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["line"].as_u64().unwrap(), e["object"].as_str().unwrap(), e["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            (2, "network red/n", "tenant"),
            (5, "network red/n", "spec.vni"),
            (6, "network red/n", "spec.colour"),
            (10, "host h", "spec.address"),
            (10, "host h", "spec.kind"),
        ]
    );
}

#[tokio::test]
async fn a_write_on_an_old_revision_is_refused() {
    let mut api = Api::new();
    let path = "/v1/tenants/red";
    let (status, _) = api.ask(Method::PUT, path, &[("if-none-match", "*")], "{}").await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, problem) = api.ask(Method::PUT, path, &[("if-none-match", "*")], "{}").await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(problem["detail"], json!("tenant red is at revision 1, not absent: read it again, and retry"));
    let etag = api.send(Method::GET, path, &[], "").await.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, "\"1\"");
    assert_eq!(api.ask(Method::DELETE, path, &[("if-match", "\"7\"")], "").await.0, StatusCode::PRECONDITION_FAILED);
    assert_eq!(api.ask(Method::DELETE, path, &[("if-match", "7")], "").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.ask(Method::DELETE, path, &[("if-match", &etag)], "").await.0, StatusCode::OK);
}

mod served {
    use std::os::unix::fs::PermissionsExt;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, headers: &str) -> String {
        let request = format!("GET /v1/tenants HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A peer that closes without a TLS goodbye has still said everything.
        let _ = stream.read_to_string(&mut answer).await;
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_and_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let api = UnixApi::bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(api.serve(Api::new().router, async { drop(stopped.await) }));
        assert_eq!(ask(UnixStream::connect(&path).await.unwrap(), "").await, "HTTP/1.1 200 OK");
        assert!(matches!(UnixApi::bind(&path).await, Err(ServeError::InUse(_))));
        drop(stop);
        serving.await.unwrap().unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(UnixApi::bind(&path).await, Err(ServeError::NoSocket(_))));
    }

    /// A client that trusts this certificate.
    fn connector(certificate: &str) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    }

    #[tokio::test]
    async fn a_tls_connection_that_shows_no_token_in_time_is_closed_and_another_stays() {
        const TOKEN: &str = "0123456789abcdef";
        let made = rcgen::generate_simple_self_signed(["weft".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = TlsConfig { listen, certificate: certificate.clone(), key, token: TOKEN.to_owned() };
        let api = TlsApi::bind(&config).await.unwrap();
        let at = api.local_addr();
        let _serving = tokio::spawn(api.serve(Api::new().router, std::future::pending()));
        let connect = async || {
            let tcp = TcpStream::connect(at).await.unwrap();
            connector(&certificate).connect(ServerName::try_from("weft").unwrap(), tcp).await.unwrap()
        };
        let mut known = connect().await;
        let request = format!("GET /v1/tenants HTTP/1.1\r\nhost: weft\r\nauthorization: Bearer {TOKEN}\r\n");
        let mut answer = [0; 4096];
        known.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        assert!(known.read(&mut answer).await.unwrap() > 0);
        let mut slow = connect().await;
        slow.write_all(b"GET /v1/tenants HTTP/1.1\r\nhost: weft\r\n").await.unwrap();

        let mut rest = String::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), slow.read_to_string(&mut rest)).await;
        assert!(closed.is_ok(), "still open");
        assert_eq!(rest, "", "closed without an answer");
        assert!(ask(known, &format!("authorization: Bearer {TOKEN}\r\n")).await.ends_with("200 OK"));
    }

    #[tokio::test]
    async fn tcp_takes_tls_and_the_token_only() {
        let made = rcgen::generate_simple_self_signed(["weft".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let listen = "127.0.0.1:0".parse().unwrap();
        let short = TlsConfig { listen, certificate: certificate.clone(), key: key.clone(), token: "short".to_owned() };
        assert!(matches!(TlsApi::bind(&short).await, Err(ServeError::Token)));
        let api = TlsApi::bind(&TlsConfig { token: "0123456789abcdef".to_owned(), ..short }).await.unwrap();
        let at = api.local_addr();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(api.serve(Api::new().router, async { drop(stopped.await) }));

        let connector = connector(&certificate);
        // A client that never shakes hands keeps nobody out.
        let _silent = TcpStream::connect(at).await.unwrap();
        for (headers, wanted) in [
            ("", "HTTP/1.1 401 Unauthorized"),
            ("authorization: Bearer 0123456789abcdeg\r\n", "HTTP/1.1 401 Unauthorized"),
            ("authorization: Bearer 0123456789abcdef\r\n", "HTTP/1.1 200 OK"),
        ] {
            let tcp = TcpStream::connect(at).await.unwrap();
            let stream = connector.connect(ServerName::try_from("weft").unwrap(), tcp).await.unwrap();
            assert_eq!(ask(stream, headers).await, wanted, "{headers}");
        }
        assert_ne!(ask(TcpStream::connect(at).await.unwrap(), "").await, "HTTP/1.1 200 OK", "plain text");
        drop(stop);
        serving.await.unwrap().unwrap();
    }
}
