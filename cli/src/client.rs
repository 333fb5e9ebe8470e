//! The client of the REST API: HTTP/1.1 over the controller's Unix socket or over TLS.
//!
//! One connection per request: a command makes a handful, and a stale connection would be one more thing to explain.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use weft_api::report::Problem;

use crate::args::Global;
use crate::exit::{Refused, Unreachable, Usage};
use crate::lab::keeper::API_SOCKET;
use crate::lab::registry;

/// Where the API is and how to get in.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    timeout: Duration,
}

#[derive(Clone)]
enum Endpoint {
    Unix {
        path: PathBuf,
        /// The lab that it is in.
        lab: Option<String>,
    },
    Tls {
        host: String,
        port: u16,
        token: String,
        config: Arc<rustls::ClientConfig>,
    },
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            // Without the token: nobody wants it in a log.
            Self::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// Answers longer than this are cut off.
const BODY_LEN_MAX: usize = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(20);
const PORT_HTTPS: u16 = 443;

impl Client {
    /// By the common options: the API that is named, the lab that is named, the only lab, this host's controller.
    pub fn open(global: &Global) -> Result<Self> {
        let endpoint = match (&global.lab, &global.api) {
            // A named lab wins over an API that may come from the environment.
            (None, Some(url)) => Endpoint::parse(url, global)?,
            (None, None) if registry::names()?.is_empty() => Endpoint::of_this_host()?,
            (lab, _) => return Ok(Self::of_lab(&registry::connect(lab.as_deref())?)),
        };
        Ok(Self { endpoint, timeout: TIMEOUT })
    }

    /// The controller of a lab.
    pub fn of_lab(lab: &registry::Lab) -> Self {
        let endpoint = Endpoint::Unix { path: lab.path(API_SOCKET), lab: Some(lab.name.clone()) };
        Self { endpoint, timeout: TIMEOUT }
    }

    /// With this much time for an answer.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, body) = self.request(Method::GET, path, "application/json", String::new()).await?;
        read(path, &body)
    }

    /// Sends a text and reads the answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, content_type: &str, body: String) -> Result<T> {
        let (_, body) = self.request(Method::POST, path, content_type, body).await?;
        read(path, &body)
    }

    /// Deletes something.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, body) = self.request(Method::DELETE, path, "application/json", String::new()).await?;
        read(path, &body)
    }

    async fn request(&self, method: Method, path: &str, kind: &str, body: String) -> Result<(StatusCode, Bytes)> {
        let answer = tokio::time::timeout(self.timeout, self.exchange(method, path, kind, body)).await;
        let late = |_| Unreachable(format!("{:?} did not answer within {} s", self.endpoint, self.timeout.as_secs()));
        let (status, body) = answer.map_err(late)??;
        if status.is_success() { Ok((status, body)) } else { Err(refusal(status, &body)) }
    }

    async fn exchange(&self, method: Method, path: &str, kind: &str, body: String) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        match &self.endpoint {
            Endpoint::Unix { path: socket, lab } => {
                let unreachable = |e| unreachable_unix(socket, lab.as_deref(), &e);
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                request = request.header(HOST, "weft");
                send(stream, request.body(Full::from(body))?).await
            }
            Endpoint::Tls { host, port, token, config } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await;
                let tcp = tcp.map_err(|e| Unreachable(format!("cannot connect to {host}:{port}: {e}")))?;
                let name = ServerName::try_from(host.clone()).with_context(|| format!("`{host}` is no server name"))?;
                let tls = TlsConnector::from(config.clone()).connect(name, tcp).await.map_err(|e| {
                    Unreachable(format!("no TLS session with {host}:{port}: {e}; --ca must name the fabric's CA"))
                })?;
                request = request.header(HOST, host).header(AUTHORIZATION, format!("Bearer {token}"));
                send(tls, request.body(Full::from(body))?).await
            }
        }
    }
}

impl Endpoint {
    fn of_this_host() -> Result<Self> {
        if Path::new(API_SOCKET).exists() {
            return Ok(Self::Unix { path: API_SOCKET.into(), lab: None });
        }
        Err(Unreachable(format!(
            "no lab is running and this host has no controller at {API_SOCKET}: start a lab with `weft lab up FILE`, \
             or name a controller with --api"
        ))
        .into())
    }

    fn parse(url: &str, global: &Global) -> Result<Self> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix { path: path.into(), lab: None });
        }
        let uri: Uri = url.parse().map_err(|e| Usage(format!("--api: `{url}` is no URL: {e}")))?;
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(Usage(format!("--api: `{url}` is neither unix:PATH nor https://HOST:PORT")).into());
        };
        let missing = |what: &str| Usage(format!("https needs {what}"));
        let token_file = global.token_file.as_ref().ok_or_else(|| missing("a token: give --token-file FILE"))?;
        let ca = global.ca.as_ref().ok_or_else(|| missing("the fabric's CA: give --ca FILE"))?;
        let token = fs::read_to_string(token_file).with_context(|| format!("--token-file {}", token_file.display()))?;
        Ok(Self::Tls {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(PORT_HTTPS),
            token: token.trim().to_owned(),
            config: Arc::new(tls_config(ca)?),
        })
    }
}

fn tls_config(ca: &Path) -> Result<rustls::ClientConfig> {
    let what = || format!("--ca {}: cannot be read as certificates (PEM)", ca.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(what)? {
        roots.add(certificate.with_context(what)?).with_context(what)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| Unreachable(format!("the controller broke off: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_LEN_MAX).collect().await;
    driver.abort();
    let body = body.map_err(|e| anyhow!("the controller's answer cannot be read: {e}"))?.to_bytes();
    Ok((status, body))
}

fn unreachable_unix(socket: &Path, lab: Option<&str>, error: &std::io::Error) -> Unreachable {
    if let Some(lab) = lab {
        return Unreachable(format!(
            "the controller of lab `{lab}` does not answer ({error}): see `weft --lab {lab} lab logs ctl`, and start it \
             anew with `weft --lab {lab} lab restart controller`"
        ));
    }
    let fix = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "only the user that runs the controller may use it",
        _ => "is the controller running?",
    };
    Unreachable(format!("cannot connect to {}: {error}; {fix}", socket.display()))
}

fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).with_context(|| format!("the answer to {path} is not what this build of weft expects"))
}

/// What the API says about a refused request: what happened, and each mistake on a line.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = if text.is_empty() { String::new() } else { format!(": {}", text.trim()) };
        return failure(status, format!("the API refused: {status}{text}"));
    };
    let mut lines = vec![problem.detail];
    lines.extend(problem.errors.iter().map(|m| format!("  {m}")));
    let text = lines.join("\n");
    failure(status, text)
}

/// A controller that answers was reached: what it could not do has failed, the rest is refused.
fn failure(status: StatusCode, text: String) -> anyhow::Error {
    if status.is_server_error() { anyhow!(text) } else { Refused(text).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn a_controller_that_could_not_do_it_was_reached_nevertheless() {
        for (status, refused) in [(507, false), (503, false), (409, true), (404, true)] {
            let error = refusal(StatusCode::from_u16(status).unwrap(), b"{}");
            assert_eq!((error.is::<Refused>(), error.is::<Unreachable>()), (refused, false), "{status}");
        }
    }

    #[test]
    fn an_api_of_another_scheme_is_a_mistake_in_the_command_line() {
        for url in ["ftp://x", "http://x", "x", "https://x"] {
            let cli = Cli::parse_from(["weft", "--api", url, "status"]);
            let error = Endpoint::parse(url, &cli.global).unwrap_err();
            assert!(error.is::<Usage>(), "{url}: {error}");
        }
    }

    #[test]
    fn a_lab_without_its_controller_says_how_to_start_it() {
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = unreachable_unix(Path::new("/x"), Some("t"), &error).to_string();
        assert!(text.ends_with("`weft --lab t lab restart controller`"), "{text}");
    }

    #[test]
    fn a_refusal_names_every_mistake() {
        let body = serde_json::json!({
            "type": "urn:weft:problem:invalid",
            "title": "Unprocessable Entity",
            "status": 422,
            "detail": "2 mistakes, nothing was applied",
            "errors": [
                {"document": 0, "object": "port red/a", "path": "spec.host", "why": "no host `x`", "fix": "add it"},
                {"document": 1, "object": "", "path": "kind", "why": "missing", "fix": ""},
            ],
        });
        let text = refusal(StatusCode::BAD_REQUEST, body.to_string().as_bytes()).to_string();
        assert!(text.starts_with("2 mistakes"), "{text}");
        assert!(
            text.contains("port red/a: spec.host: no host `x`: add it") && text.contains("document 2: kind"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_without_a_known_body_still_says_something() {
        let text = refusal(StatusCode::NOT_FOUND, b"gone").to_string();
        assert_eq!(text, "the API refused: 404 Not Found: gone");
    }
}
