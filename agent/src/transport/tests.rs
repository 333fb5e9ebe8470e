//! The carrier against a controller that greets, and says who it believes the agent to be.

use std::net::SocketAddr;
use std::pin::Pin;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Response, Status, Streaming};
use weft_api::wire::proto::fabric_server::{Fabric, FabricServer};
use weft_api::wire::proto::{
    AgentHello, ControllerHello, ControllerMessage, Refuse, agent_message, controller_message,
};

use super::*;

/// Greets, then refuses with what it knows of the agent.
struct Controller;

#[tonic::async_trait]
impl Fabric for Controller {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let named = request.metadata().get("weft-host").map(|name| name.to_str().unwrap().to_owned());
        let certificates = request.peer_certs().map_or(0, |certificates| certificates.len());
        let mut incoming = request.into_inner();
        let Some(agent_message::Kind::Hello(hello)) = incoming.message().await?.and_then(|m| m.kind) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let greeting = ControllerHello { protocol: hello.protocol, ..ControllerHello::default() };
        let why = format!("{named:?} with {certificates} certificates");
        let answers = [controller_message::Kind::Hello(greeting), controller_message::Kind::Refuse(Refuse { why })];
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.map(|kind| Ok(ControllerMessage { kind: Some(kind) }))))))
    }
}

async fn serve(tls: Option<ServerTlsConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let server = server.add_service(FabricServer::new(Controller)).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    addr
}

fn config(controller: String, security: Security) -> Config {
    Config {
        host: "h1".into(),
        controller,
        security,
        state_dir: std::path::PathBuf::new(),
        control: std::path::PathBuf::new(),
        underlay: [192, 0, 2, 1].into(),
        udp_port: 4789,
        workers: 1,
        spin_us: None,
        rung: None,
        vswitch: Vec::new(),
    }
}

/// Carries one session: the texts of its events, in order.
async fn session(config: &Config) -> Vec<String> {
    let (tell, mut events) = mpsc::channel(16);
    let (say, outgoing) = mpsc::channel(16);
    let hello = agent_message::Kind::Hello(AgentHello { protocol: 1, ..AgentHello::default() });
    tokio::spawn(Carrier::new(config).unwrap().carry(3, outgoing, tell));
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(match event {
            Event::Connected(3) => {
                say.send(AgentMessage { kind: Some(hello.clone()) }).await.unwrap();
                "connected".to_owned()
            }
            Event::Message(3, message) => match message.kind.unwrap() {
                controller_message::Kind::Hello(_) => "hello".to_owned(),
                controller_message::Kind::Refuse(refuse) => refuse.why,
                other => panic!("{other:?}"),
            },
            Event::Disconnected(3, why) => format!("ended: {why}"),
            other => panic!("{other:?}"),
        });
    }
    seen
}

/// An authority, and what it signed for the controller and for host h1.
struct Pki {
    dir: tempfile::TempDir,
    server: ServerTlsConfig,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let leaf = |name: SanType, usage| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![name];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (cert, key) = leaf(SanType::URI("weft://host/h1".try_into().unwrap()), ExtendedKeyUsagePurpose::ClientAuth);
        for (name, text) in [("ca.pem", &ca), ("host.pem", &cert), ("host.key", &key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let (cert, key) =
            leaf(SanType::DnsName("weft-controller".try_into().unwrap()), ExtendedKeyUsagePurpose::ServerAuth);
        let server =
            ServerTlsConfig::new().identity(Identity::from_pem(cert, key)).client_ca_root(Certificate::from_pem(ca));
        Self { dir, server }
    }

    fn security(&self, server_name: &str) -> Security {
        let file = |name| self.dir.path().join(name);
        Security::Tls {
            ca: file("ca.pem"),
            cert: file("host.pem"),
            key: file("host.key"),
            server_name: Some(server_name.into()),
        }
    }
}

#[tokio::test]
async fn without_tls_the_host_is_named_in_the_metadata() {
    let addr = serve(None).await;
    let seen = session(&config(format!("http://{addr}"), Security::Insecure)).await;
    let who = r#"Some("h1") with 0 certificates"#;
    assert_eq!(seen, ["connected", "hello", who, "ended: the controller ended it"]);
}

#[tokio::test]
async fn with_tls_the_certificate_says_who_the_host_is() {
    let pki = Pki::new();
    let addr = serve(Some(pki.server.clone())).await;
    let seen = session(&config(format!("https://{addr}"), pki.security("weft-controller"))).await;
    assert_eq!(seen[..3], ["connected", "hello", "None with 1 certificates"], "{seen:?}");
}

#[tokio::test]
async fn a_controller_with_another_name_or_authority_is_not_talked_to() {
    let (pki, other) = (Pki::new(), Pki::new());
    let addr = serve(Some(pki.server.clone())).await;
    for security in [pki.security("somebody-else"), other.security("weft-controller")] {
        let seen = session(&config(format!("https://{addr}"), security)).await;
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].contains("certificate"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_controller_that_turns_the_host_away_makes_its_certificate_suspect() {
    let (pki, other) = (Pki::new(), Pki::new());
    let addr = serve(Some(pki.server.clone())).await;
    std::fs::copy(pki.dir.path().join("ca.pem"), other.dir.path().join("ca.pem")).unwrap();
    let seen = session(&config(format!("https://{addr}"), other.security("weft-controller"))).await;
    let end = seen.last().unwrap();
    assert!(end.contains("openssl x509") && end.contains("host.pem"), "{seen:?}");
}

#[tokio::test]
async fn a_controller_that_is_not_there_ends_the_session_with_its_cause() {
    let seen = session(&config("http://127.0.0.1:1".into(), Security::Insecure)).await;
    assert!(seen[0].contains("refused"), "{seen:?}");
}

#[test]
fn a_missing_certificate_is_named() {
    let pki = Pki::new();
    std::fs::remove_file(pki.dir.path().join("host.pem")).unwrap();
    let config = config("https://127.0.0.1:1".into(), pki.security("weft-controller"));
    let Err(error) = Carrier::new(&config) else { panic!() };
    assert!(error.to_string().contains("host.pem") && error.to_string().contains("weft host enroll"), "{error}");
}
