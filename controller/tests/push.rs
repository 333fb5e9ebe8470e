//! The controller as a whole, over real sockets: agents that are made up by the test, on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use weft_api::object::Object;
use weft_api::wire::proto::fabric_client::FabricClient;
use weft_api::wire::proto::{
    Ack, AgentHello, AgentMessage, ControllerMessage, QueryKind, Report, agent_message, controller_message, report,
    update,
};
use weft_api::wire::{Changes, FEATURES, HostProgram, MESSAGE_LEN_MAX, PROTOCOL, Position};
use weft_controller::store::{StoreError, Txn};
use weft_controller::{Config, Controller, PushSecurity, RunError, pki};

const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    addr: SocketAddr,
    store: std::sync::Arc<dyn weft_controller::store::Store>,
    sessions: std::sync::Arc<weft_controller::push::service::Sessions>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), RunError>>,
}

fn config(dir: &Path, push_security: PushSecurity) -> Config {
    Config {
        store: dir.join("store.redb"),
        api_socket: dir.join("api.sock"),
        api_tcp: None,
        push_listen: "127.0.0.1:0".parse().unwrap(),
        push_security,
        build: "test".into(),
    }
}

async fn start(config: Config) -> Running {
    begin(Controller::open(config).await.unwrap())
}

fn begin(controller: Controller) -> Running {
    let (addr, store, sessions) = (controller.push_addr().unwrap(), controller.store(), controller.sessions());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(controller.serve(async { drop(stopped.await) }));
    Running { addr, store, sessions, stop, ended }
}

impl Running {
    async fn finish(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.ended).await.unwrap().unwrap().unwrap();
    }

    fn commit(&self, puts: Vec<serde_json::Value>, deletes: &[&str]) -> u64 {
        let puts: Vec<Object> = puts.iter().map(|v| Object::from_value(v).unwrap()).collect();
        let snapshot = self.store.snapshot();
        let deletes = snapshot.objects.keys().filter(|key| deletes.contains(&key.to_string().as_str())).cloned();
        self.store.commit(Txn { puts, deletes: deletes.collect(), ..Txn::default() }).unwrap().generation
    }

    async fn acked(&self, generation: u64) {
        let mut progress = self.sessions.progress();
        let acked = || self.sessions.read(|hub| hub.hosts().all(|(_, h)| h.acked_generation() >= Some(generation)));
        let wait = async {
            while !acked() {
                progress.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("all hosts acknowledge");
    }
}

fn intent() -> Vec<serde_json::Value> {
    let port = |name: &str, station: u8, host: &str| {
        json!({"kind": "Port", "tenant": "red", "name": name, "spec": {
            "network": "n", "mac": format!("02:00:00:00:00:0{station}"), "addresses": [format!("10.9.0.{station}")],
            "host": host, "attach": {"tap": {"netns": name, "ifname": "eth0"}},
        }})
    };
    let host =
        |name: &str, address: &str| json!({"kind": "Host", "name": name, "spec": {"kind": "weft", "address": address}});
    vec![
        json!({"kind": "Tenant", "name": "red", "spec": {}}),
        json!({"kind": "Network", "tenant": "red", "name": "n", "spec": {"vni": 42}}),
        json!({"kind": "Subnet", "tenant": "red", "name": "v4", "spec": {"network": "n", "cidr": "10.9.0.0/24"}}),
        host("h1", "192.0.2.1"),
        host("h2", "192.0.2.2"),
        port("a", 1, "h1"),
        port("b", 2, "h2"),
    ]
}

/// An agent without devices: it takes programs and acknowledges them.
struct Agent {
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<ControllerMessage>,
    program: HostProgram,
    position: Option<Position>,
    opened: u64,
    deltas: u32,
}

impl Agent {
    async fn begin(channel: Channel, host: Option<&str>) -> Result<Self, Status> {
        let (up, rest) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(rest));
        if let Some(host) = host {
            request.metadata_mut().insert("weft-host", host.parse().unwrap());
        }
        let features = FEATURES.iter().map(ToString::to_string).collect();
        let hello = AgentHello { protocol: PROTOCOL, features, instance: "a".into(), ..Default::default() };
        let mut client = FabricClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        let agent = Self {
            down: client.session(request).await?.into_inner(),
            up,
            program: HostProgram::default(),
            position: None,
            opened: 0,
            deltas: 0,
        };
        agent.say(agent_message::Kind::Hello(hello)).await;
        Ok(agent)
    }

    async fn say(&self, kind: agent_message::Kind) {
        // The controller may have ended the session.
        let _ = self.up.send(AgentMessage { kind: Some(kind) }).await;
    }

    /// Does what comes until the session ends, and returns why.
    async fn follow(&mut self) -> String {
        let mut why = String::new();
        while let Ok(Some(message)) = self.down.message().await {
            match message.kind.unwrap() {
                controller_message::Kind::Update(update) => {
                    let position = update.position.unwrap();
                    self.program = match update.kind.unwrap() {
                        update::Kind::Full(full) => HostProgram::from_wire(full).unwrap(),
                        update::Kind::Unchanged(_) => self.program.clone(),
                        update::Kind::Delta(delta) => {
                            assert_eq!(delta.base, self.position);
                            self.deltas += 1;
                            self.program.patched(Changes { deletes: delta.deletes, puts: delta.puts }).unwrap()
                        }
                    };
                    assert_eq!(self.program.digest(), position.digest);
                    self.position = Some(position.clone());
                    self.say(agent_message::Kind::Ack(Ack { position: Some(position), error: String::new() })).await;
                }
                controller_message::Kind::Open(open) => self.opened = open.generation,
                controller_message::Kind::Query(query) => {
                    let result = Some(report::Result::Json(b"[1]".to_vec()));
                    self.say(agent_message::Kind::Report(Report { query_id: query.id, result })).await;
                }
                controller_message::Kind::Refuse(refuse) => why = refuse.why,
                controller_message::Kind::Hello(hello) => assert_eq!(hello.protocol, PROTOCOL),
            }
        }
        why
    }
}

/// One request over the API's socket; the body of its answer.
async fn call(socket: &Path, method: &str, path: &str, body: &str) -> serde_json::Value {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: weft\r\nContent-Type: application/yaml\r\n");
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

async fn plain(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intent_reaches_agents_and_comes_back_as_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), PushSecurity::Insecure)).await;
    let first = running.commit(intent(), &[]);
    running.sessions.progress().wait_for(|_| running.sessions.read(|hub| hub.generation() == first)).await.unwrap();

    let mut agents = Vec::new();
    for host in ["h1", "h2"] {
        let mut agent = Agent::begin(plain(running.addr).await, Some(host)).await.unwrap();
        agents.push(tokio::spawn(async move {
            let why = agent.follow().await;
            (agent, why)
        }));
    }
    running.acked(first).await;
    let report = running.sessions.query("h1", QueryKind::Ports).await;
    assert_eq!(report, Ok(b"[1]".to_vec()));
    let nobody = running.sessions.query("h7", QueryKind::Ports).await.unwrap_err();
    assert!(nobody.to_string().contains("h7"), "{nobody}");

    let second = running.commit(vec![], &["port red/b"]);
    running.acked(second).await;
    let third = running.commit(vec![], &["host h2"]);
    running.acked(third).await;
    let (h2, why) = tokio::time::timeout(PATIENCE, agents.remove(1)).await.unwrap().unwrap();
    assert!(why.contains("no host h2"), "{why}");
    assert!(h2.program.is_empty(), "its only port is gone");

    running.finish().await;
    let (h1, why) = agents.remove(0).await.unwrap();
    assert_eq!(why, "", "a controller that stops refuses nobody");
    assert_eq!(h1.position.unwrap().generation, third);
    assert!(h1.deltas >= 1 && h1.opened >= second && !h1.program.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_in_force_when_apply_and_wait_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let running = start(config(dir.path(), PushSecurity::Insecure)).await;
    let manifest: Vec<String> = intent().iter().map(ToString::to_string).collect();
    let applied = call(&socket, "POST", "/v1/apply", &manifest.join("\n---\n")).await;
    let generation = applied["generation"].as_u64().unwrap_or_else(|| panic!("{applied}"));
    let path = format!("/v1/apply/{generation}/status");

    let mut agent = Agent::begin(plain(running.addr).await, Some("h1")).await.unwrap();
    let following = tokio::spawn(async move {
        agent.follow().await;
        agent
    });
    let early = call(&socket, "GET", &format!("{path}?wait_ms=300"), "").await;
    assert_eq!((&early["complete"], &early["laggards"][0]["host"]), (&json!(false), &json!("h2")), "{early}");

    let mut second = Agent::begin(plain(running.addr).await, Some("h2")).await.unwrap();
    let second = tokio::spawn(async move { second.follow().await });
    let late = call(&socket, "GET", &format!("{path}?wait_ms=10000"), "").await;
    assert_eq!((&late["complete"], &late["laggards"]), (&json!(true), &json!([])), "{late}");
    assert!(late["p99_ms"].is_u64(), "{late}");

    let status = call(&socket, "GET", "/v1/status", "").await;
    assert_eq!(status["hosts"][0]["connected"], json!(true), "{status}");
    assert_eq!(status["hosts"][0]["acked_generation"], json!(generation), "{status}");
    running.finish().await;
    assert_eq!(following.await.unwrap().position.unwrap().generation, generation);
    second.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_was_killed_goes_on_where_its_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), PushSecurity::Insecure)).await;
    let generation = running.commit(intent(), &[]);
    let id = running.store.store_id().to_owned();
    running.ended.abort();
    assert!(running.ended.await.unwrap_err().is_cancelled());
    drop((running.store, running.sessions));

    // A killed process lets go of its store at once, cancelled tasks when they next run.
    let reopen = async {
        loop {
            match Controller::open(config(dir.path(), PushSecurity::Insecure)).await {
                Ok(controller) => break controller,
                Err(RunError::Store(StoreError::Busy { .. })) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let again = begin(tokio::time::timeout(PATIENCE, reopen).await.unwrap());
    assert_eq!((again.store.store_id(), again.store.snapshot().generation), (id.as_str(), generation));
    let mut agent = Agent::begin(plain(again.addr).await, Some("h1")).await.unwrap();
    let following = tokio::spawn(async move { agent.follow().await });
    let mut progress = again.sessions.progress();
    let h1_acked =
        || again.sessions.read(|hub| hub.hosts().any(|(_, host)| host.acked_generation() == Some(generation)));
    tokio::time::timeout(PATIENCE, progress.wait_for(|_| h1_acked())).await.unwrap().unwrap();
    again.finish().await;
    following.await.unwrap();
}

#[tokio::test]
async fn plain_text_is_for_loopback_only_and_needs_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = config(dir.path(), PushSecurity::Insecure);
    open.push_listen = "0.0.0.0:0".parse().unwrap();
    let refused = Controller::open(open).await.err().unwrap();
    assert!(matches!(refused, RunError::Insecure(_)), "{refused}");

    let running = start(config(dir.path(), PushSecurity::Insecure)).await;
    let nameless = Agent::begin(plain(running.addr).await, None).await.err().unwrap();
    assert_eq!(nameless.code(), tonic::Code::Unauthenticated);
    let mut stranger = Agent::begin(plain(running.addr).await, Some("h9")).await.unwrap();
    assert!(stranger.follow().await.contains("no host h9"));
    running.finish().await;
}

struct Fabric {
    dir: tempfile::TempDir,
}

impl Fabric {
    fn new(random: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        pki::init(&dir.path().join("pki"), &[], [random; 32], now).unwrap();
        for host in ["h1", "h9"] {
            pki::enroll(&dir.path().join("pki"), &host.parse().unwrap(), &dir.path().join(host), now).unwrap();
        }
        Self { dir }
    }

    fn text(&self, dir: &str, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(dir).join(file)).unwrap()
    }

    fn security(&self) -> PushSecurity {
        let file = |name| self.dir.path().join("pki").join(name);
        PushSecurity::Tls {
            certificate: file(pki::file::CONTROLLER),
            key: file(pki::file::CONTROLLER_KEY),
            ca: file(pki::file::CA),
        }
    }

    fn ca(&self) -> ClientTlsConfig {
        let ca = Certificate::from_pem(self.text("pki", pki::file::CA));
        ClientTlsConfig::new().ca_certificate(ca).domain_name(pki::CONTROLLER_NAME)
    }

    fn identity(&self, dir: &str, certificate: &str, key: &str) -> Identity {
        Identity::from_pem(self.text(dir, certificate), self.text(dir, key))
    }

    fn host(&self, host: &str) -> Identity {
        self.identity(host, pki::file::HOST, pki::file::HOST_KEY)
    }
}

/// With TLS 1.3 a client learns that its certificate is refused when it first reads.
async fn attempt(addr: SocketAddr, tls: ClientTlsConfig, claim: Option<&str>) -> Result<Agent, String> {
    let endpoint = Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|e| format!("{e:?}"))?;
    Agent::begin(channel, claim).await.map_err(|e| format!("{e:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_its_certificate_and_foreign_certificates_are_refused() {
    let (ours, foreign) = (Fabric::new(1), Fabric::new(2));
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path(), ours.security())).await;
    let generation = running.commit(intent(), &[]);
    running.sessions.progress().wait_for(|_| running.sessions.read(|h| h.generation() == generation)).await.unwrap();

    assert!(attempt(running.addr, ours.ca(), None).await.is_err(), "no certificate");
    let stranger = ours.ca().identity(foreign.host("h1"));
    assert!(attempt(running.addr, stranger, None).await.is_err(), "a certificate of another authority");
    let misused = ours.ca().identity(ours.identity("pki", pki::file::CONTROLLER, pki::file::CONTROLLER_KEY));
    assert!(attempt(running.addr, misused, None).await.is_err(), "the controller's certificate is no host's");
    let misled = foreign.ca().identity(ours.host("h1"));
    assert!(attempt(running.addr, misled, None).await.is_err(), "an agent trusts its own authority only");

    // A claim in the metadata counts for nothing: h9 is h9, and is not declared.
    let mut undeclared = attempt(running.addr, ours.ca().identity(ours.host("h9")), Some("h1")).await.unwrap();
    assert!(undeclared.follow().await.contains("no host h9"));

    let mut agent = attempt(running.addr, ours.ca().identity(ours.host("h1")), None).await.unwrap();
    let following = tokio::spawn(async move { agent.follow().await });
    let acked = || running.sessions.read(|hub| hub.hosts().any(|(_, h)| h.acked_generation() == Some(generation)));
    tokio::time::timeout(PATIENCE, running.sessions.progress().wait_for(|_| acked())).await.unwrap().unwrap();
    running.finish().await;
    following.await.unwrap();
}
