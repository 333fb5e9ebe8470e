//! A listener whose connections speak TLS.
//!
//! Handshakes run beside each other and in bounded time and number, and a connection that does not show the token soon
//! is closed, whatever it sends meanwhile: clients who may not come in keep nobody out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections at once, handshakes included.
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the handshake to the first request with the token.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the system has no descriptor for a new connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

pub(super) struct TlsListener {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    at: SocketAddr,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let at = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(CONNECTIONS_MAX);
        tokio::spawn(accept_all(tcp, TlsAcceptor::from(config), sender));
        Ok(Self { ready, at })
    }

    pub(super) const fn at(&self) -> SocketAddr {
        self.at
    }
}

/// Accepts until nobody takes the connections any more.
async fn accept_all(tcp: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<(Connection, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = sender.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = shaken else {
                tracing::debug!(%peer, "no TLS handshake");
                return;
            };
            // Nobody takes it: the API is being shut down.
            let _ = sender.send((Connection::new(stream, place), peer)).await;
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task lives as long as we do; where the runtime ends first, nothing comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

/// A connection that gives its place back when it ends.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    proof: Proof,
    /// When it ends unless it has shown the token.
    due: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Whether a connection has shown the token.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof(Arc<AtomicBool>);

impl Proof {
    /// It has.
    pub(super) fn shown(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Proof {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        stream.io().proof.clone()
    }
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, place: OwnedSemaphorePermit) -> Self {
        Self { stream, proof: Proof::default(), due: Box::pin(sleep(PROOF_TIMEOUT)), _place: place }
    }

    /// Looked at before each transfer, so that neither a slow sender nor one that does not read stays.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.proof.0.load(Ordering::Relaxed) || self.due.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no token was shown in time"))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
