//! Where the API listens: on a Unix socket for its owner, and on TCP only with TLS and a bearer token.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::problem::ApiError;
use super::tls::{Proof, TlsListener};

/// The shortest bearer token that is taken, in characters.
pub const TOKEN_LEN_MIN: usize = 16;

/// How the API is served on TCP.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where.
    pub listen: SocketAddr,
    /// The certificate chain, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// What clients must show in `Authorization: Bearer TOKEN`.
    pub token: String,
}

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address or path cannot be had.
    #[error("cannot serve the API on {at}: {source}: free it, or choose another")]
    Listen {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens there already.
    #[error("another controller serves the API on {0}: stop that one, or choose another path")]
    InUse(PathBuf),
    /// There is something else than a socket.
    #[error("{0} is there and is no socket: move it away, or choose another path")]
    NoSocket(PathBuf),
    /// The certificate or its key cannot be used.
    #[error("the API's certificate or key cannot be used: {0}: make them with `weft pki init`")]
    Certificate(String),
    /// The token is no secret.
    #[error("the API's token is shorter than {TOKEN_LEN_MIN} characters: use a longer one")]
    Token,
}

/// The API's Unix socket, bound.
#[derive(Debug)]
pub struct UnixApi {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixApi {
    /// Binds the path, for its owner only; a socket that nobody listens on is replaced.
    pub async fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { at: path.display().to_string(), source };
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(ServeError::NoSocket(path.to_owned()));
            }
            if UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        // Bound under another name until its rights are set: nobody gets in between.
        let binding = path.with_extension("binding");
        if let Err(error) = std::fs::remove_file(&binding)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        let listener = UnixListener::bind(&binding).map_err(failed)?;
        std::fs::set_permissions(&binding, Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&binding, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown` resolves, then removes the socket.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let served = axum::serve(self.listener, router).with_graceful_shutdown(shutdown).await;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => served.and(Err(error)),
            _ => served,
        }
    }
}

/// The API's TCP address, bound.
pub struct TlsApi {
    listener: TlsListener,
    token: [u8; 32],
}

impl TlsApi {
    /// Binds the address and reads the certificate.
    pub async fn bind(config: &TlsConfig) -> Result<Self, ServeError> {
        if config.token.len() < TOKEN_LEN_MIN {
            return Err(ServeError::Token);
        }
        let server = server_config(config).map_err(ServeError::Certificate)?;
        let failed = |source| ServeError::Listen { at: config.listen.to_string(), source };
        let tcp = TcpListener::bind(config.listen).await.map_err(failed)?;
        let listener = TlsListener::new(tcp, Arc::new(server)).map_err(failed)?;
        Ok(Self { listener, token: Sha256::digest(&config.token).into() })
    }

    /// Where clients connect: of use where the port was left to the system.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.at()
    }

    /// Serves until `shutdown` resolves.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let token = self.token;
        let guarded =
            router.layer(from_fn(move |ConnectInfo(proof): ConnectInfo<Proof>, request: Request, next: Next| {
                admit(token, proof, request, next)
            }));
        let service = guarded.into_make_service_with_connect_info::<Proof>();
        axum::serve(self.listener, service).with_graceful_shutdown(shutdown).await
    }
}

/// Serves the API on a Unix socket until `shutdown` resolves.
pub async fn serve_unix(
    path: &Path,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let served = UnixApi::bind(path).await?.serve(router, shutdown).await;
    served.map_err(|source| ServeError::Listen { at: path.display().to_string(), source })
}

/// Serves the API on TCP, with TLS and a bearer token, until `shutdown` resolves.
pub async fn serve_tls(
    config: &TlsConfig,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let served = TlsApi::bind(config).await?.serve(router, shutdown).await;
    served.map_err(|source| ServeError::Listen { at: config.listen.to_string(), source })
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(config.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(config.key.as_bytes()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    let mut server = builder.with_single_cert(chain, key).map_err(|error| error.to_string())?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

/// Lets in who shows the token. Digests are compared, so that the time it takes says nothing about the token.
async fn admit(token: [u8; 32], proof: Proof, request: Request, next: Next) -> Response {
    let shown = bearer(request.headers()).map(Sha256::digest);
    if shown.is_some_and(|shown| shown[..] == token[..]) {
        proof.shown();
        return next.run(request).await;
    }
    let detail = "send Authorization: Bearer TOKEN with the API's token";
    let mut refusal = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    refusal
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
