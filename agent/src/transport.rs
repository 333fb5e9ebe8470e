//! The session's carrier: one gRPC stream, with mutual TLS. A thin shell, it decides nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use weft_api::wire::MESSAGE_LEN_MAX;
use weft_api::wire::proto::AgentMessage;
use weft_api::wire::proto::fabric_client::FabricClient;

use crate::config::{Config, ConfigError, Security};
use crate::core::Event;

/// A controller that is silent so long, and does not answer a ping within the same time, is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How to reach the controller.
#[derive(Debug, Clone)]
pub struct Carrier {
    endpoint: Endpoint,
    /// Says who we are where no certificate does.
    host: Option<String>,
    /// The certificate that says who we are.
    certificate: Option<PathBuf>,
}

impl Carrier {
    /// Reads certificates and key.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let uri = config.controller_uri()?;
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let Security::Tls { ca, cert, key, server_name } = &config.security else {
            return Ok(Self { endpoint, host: Some(config.host.clone()), certificate: None });
        };
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(ca)?))
            .identity(Identity::from_pem(read(cert)?, read(key)?));
        if let Some(name) = server_name {
            tls = tls.domain_name(name.clone());
        }
        let endpoint = endpoint.tls_config(tls).map_err(|e| ConfigError::Tls(chain(&e)))?;
        Ok(Self { endpoint, host: None, certificate: Some(cert.clone()) })
    }

    /// Carries a session until it ends, and tells of each message and of the end.
    pub async fn carry(self, number: u64, outgoing: Receiver<AgentMessage>, events: Sender<Event>) {
        let why = match self.exchange(number, outgoing, &events).await {
            Ok(()) => "the controller ended it".to_owned(),
            Err(Broken::Connecting(why) | Broken::Talking(why)) => why,
            // With TLS 1.3 a client learns only here that it was turned away, and often not why.
            Err(Broken::Unheard(why)) => match &self.certificate {
                Some(path) => format!(
                    "{why}: the controller may not take this host's certificate: see who made it and until when it is \
                     good with `openssl x509 -noout -issuer -dates -in {}`, and make another with `weft host enroll`",
                    path.display()
                ),
                None => why,
            },
        };
        // Without a receiver the agent itself ends.
        let _ = events.send(Event::Disconnected(number, why)).await;
    }

    async fn exchange(
        &self,
        number: u64,
        outgoing: Receiver<AgentMessage>,
        events: &Sender<Event>,
    ) -> Result<(), Broken> {
        let channel = self.endpoint.connect().await.map_err(|e| Broken::Connecting(chain(&e)))?;
        let mut client = FabricClient::new(channel)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(host) = &self.host {
            let host = MetadataValue::try_from(host.as_str()).map_err(|e| Broken::Connecting(e.to_string()))?;
            request.metadata_mut().insert("weft-host", host);
        }
        let ended = |_| Broken::Talking("the agent ends".to_owned());
        // Before the call: a controller may wait for our hello before it answers.
        events.send(Event::Connected(number)).await.map_err(ended)?;
        let mut incoming = client.session(request).await.map_err(|s| Broken::Unheard(told(&s)))?.into_inner();
        let mut broken: fn(String) -> Broken = Broken::Unheard;
        while let Some(message) = incoming.message().await.map_err(|s| broken(told(&s)))? {
            broken = Broken::Talking;
            events.send(Event::Message(number, Box::new(message))).await.map_err(ended)?;
        }
        Ok(())
    }
}

/// Why a session ended, by when it did.
enum Broken {
    /// There was no connection.
    Connecting(String),
    /// The controller said nothing.
    Unheard(String),
    /// It did.
    Talking(String),
}

/// What a status says, with the causes that it hides.
fn told(status: &tonic::Status) -> String {
    match std::error::Error::source(status).map(chain) {
        Some(causes) if !causes.starts_with(status.message()) => format!("{}: {causes}", status.message()),
        Some(causes) => causes,
        None => status.message().to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

/// An error with its causes: the transport's own text says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let told = next.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
