//! The agent's side of the control socket: one method per request, each bounded in time.
//!
//! A refusal is an error of its own, apart from a broken connection: after it the client goes on.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::PortId;
use crate::connection::{Connection, ConnectionError};
use crate::message::{
    FdbReport, Hello, LedgerReport, PROTOCOL, PortDevice, PortReport, RefuseReason, Request, Response, RuleReport,
    Status, Underlay,
};
use crate::program::Bundle;

/// A session with a vswitch.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    timeout: Duration,
    vswitch: Hello,
}

/// Everything that a vswitch has attached, with duplicates of its descriptors.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Ports.
    pub ports: Vec<(PortDevice, Vec<OwnedFd>)>,
    /// The underlay, receiving sockets first.
    pub underlay: Option<(Underlay, Vec<OwnedFd>)>,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The vswitch refused it; nothing changed.
    #[error("the vswitch refused: {}", join(.0))]
    Refused(Vec<RefuseReason>),
    /// The vswitch answered something that does not belong to the request.
    #[error("the vswitch answered `{asked}` with something else: use an agent and a vswitch of the same build")]
    Unexpected {
        /// Name of the request.
        asked: &'static str,
    },
    /// The connection does not carry any more: connect again.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl Client {
    /// Connects and says hello; `timeout` bounds each message and each wait for an answer.
    pub fn connect(path: &Path, hello: Hello, timeout: Duration) -> Result<Self, ClientError> {
        Self::over(Connection::connect(path, timeout)?, hello, timeout)
    }

    /// Says hello over an open connection.
    pub fn over(mut connection: Connection, hello: Hello, timeout: Duration) -> Result<Self, ClientError> {
        connection.send(&Request::Hello(hello), &[])?;
        match connection.receive(Some(timeout))?.0 {
            Response::Hello(vswitch) if vswitch.protocol == PROTOCOL => Ok(Self { connection, timeout, vswitch }),
            Response::Hello(vswitch) => {
                Err(ClientError::Refused(vec![RefuseReason::Protocol { ours: vswitch.protocol, theirs: PROTOCOL }]))
            }
            Response::Refused(reasons) => Err(ClientError::Refused(reasons)),
            _ => Err(ClientError::Unexpected { asked: "hello" }),
        }
    }

    /// What the vswitch said of itself.
    pub fn vswitch(&self) -> &Hello {
        &self.vswitch
    }

    /// Gives a port's device and its descriptors.
    pub fn attach(&mut self, device: PortDevice, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.done("attach", &Request::Attach(device), fds)
    }

    /// Takes a port's device away; when this returns no worker touches it any more.
    pub fn detach(&mut self, id: PortId) -> Result<(), ClientError> {
        self.done("detach", &Request::Detach(id), &[])
    }

    /// Gives the underlay's sockets, receiving ones first.
    pub fn attach_underlay(&mut self, underlay: Underlay, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.done("attach underlay", &Request::AttachUnderlay(underlay), fds)
    }

    /// Says that links, addresses or routes are others now, and how long the largest outer IP packet is, in bytes.
    pub fn underlay_changed(&mut self, mtu: u16) -> Result<(), ClientError> {
        self.done("underlay changed", &Request::UnderlayChanged(mtu), &[])
    }

    /// Changes the program; when this returns no frame meets the old one any more.
    pub fn apply(&mut self, bundle: Bundle) -> Result<(), ClientError> {
        self.done("apply", &Request::Apply(bundle), &[])
    }

    /// Asks the vswitch to end.
    pub fn shutdown(&mut self) -> Result<(), ClientError> {
        self.done("shutdown", &Request::Shutdown, &[])
    }

    /// Everything attached.
    pub fn inventory(&mut self) -> Result<Inventory, ClientError> {
        self.connection.send(&Request::Inventory, &[])?;
        let mut inventory = Inventory::default();
        loop {
            let (response, fds) = self.answer()?;
            match response {
                Response::Attached(device) => inventory.ports.push((device, fds)),
                Response::AttachedUnderlay(underlay) => inventory.underlay = Some((underlay, fds)),
                Response::Done => return Ok(inventory),
                Response::Refused(reasons) => return Err(ClientError::Refused(reasons)),
                _ => return Err(ClientError::Unexpected { asked: "inventory" }),
            }
        }
    }

    /// Where the program stands.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status, &[])? {
            Response::Status(status) => Ok(status),
            _ => Err(ClientError::Unexpected { asked: "status" }),
        }
    }

    /// All rules with their counters.
    pub fn rules(&mut self) -> Result<Vec<RuleReport>, ClientError> {
        match self.ask(&Request::Rules, &[])? {
            Response::Rules(rules) => Ok(rules),
            _ => Err(ClientError::Unexpected { asked: "rules" }),
        }
    }

    /// The forwarding database.
    pub fn fdb(&mut self) -> Result<Vec<FdbReport>, ClientError> {
        match self.ask(&Request::Fdb, &[])? {
            Response::Fdb(entries) => Ok(entries),
            _ => Err(ClientError::Unexpected { asked: "fdb" }),
        }
    }

    /// Ports with their counters.
    pub fn ports(&mut self) -> Result<Vec<PortReport>, ClientError> {
        match self.ask(&Request::Ports, &[])? {
            Response::Ports(ports) => Ok(ports),
            _ => Err(ClientError::Unexpected { asked: "ports" }),
        }
    }

    /// The ledger and all drop counters.
    pub fn ledger(&mut self) -> Result<LedgerReport, ClientError> {
        match self.ask(&Request::Ledger, &[])? {
            Response::Ledger(report) => Ok(report),
            _ => Err(ClientError::Unexpected { asked: "ledger" }),
        }
    }

    fn done(&mut self, asked: &'static str, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.ask(request, fds)? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Unexpected { asked }),
        }
    }

    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        self.connection.send(request, fds)?;
        match self.answer()?.0 {
            Response::Refused(reasons) => Err(ClientError::Refused(reasons)),
            response => Ok(response),
        }
    }

    fn answer(&mut self) -> Result<(Response, Vec<OwnedFd>), ConnectionError> {
        let answer = self.connection.receive(Some(self.timeout));
        if matches!(answer, Err(ConnectionError::TimedOut(_))) {
            self.connection.give_up();
        }
        answer
    }
}

fn join(reasons: &[RefuseReason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn hello(protocol: u16) -> Hello {
        Hello { protocol, features: Vec::new(), instance: "i".into(), build: "b".into() }
    }

    /// A client whose vswitch answers each request with the next of `answers`.
    fn client(answers: Vec<Response>) -> Result<Client, ClientError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let timeout = Duration::from_millis(100);
        std::thread::spawn(move || {
            let mut server = Connection::new(theirs, timeout);
            for answer in answers {
                server.receive::<Request>(None).unwrap();
                server.send(&answer, &[]).unwrap();
            }
            let _ = server.receive::<Request>(None);
            std::thread::sleep(timeout * 2);
        });
        Client::over(Connection::new(ours, timeout), hello(PROTOCOL), timeout)
    }

    #[test]
    fn a_refusal_names_its_reasons_and_the_session_goes_on() {
        let refused = Response::Refused(vec![RefuseReason::Unusable("port 3 is attached already".into())]);
        let mut client = client(vec![Response::Hello(hello(PROTOCOL)), refused, Response::Done]).unwrap();
        let error = client.detach(PortId(3)).unwrap_err();
        assert_eq!(error.to_string(), "the vswitch refused: port 3 is attached already");
        client.detach(PortId(3)).unwrap();
    }

    #[test]
    fn another_protocol_is_refused_at_hello() {
        assert!(matches!(client(vec![Response::Hello(hello(9))]), Err(ClientError::Refused(_))));
    }

    #[test]
    fn a_vswitch_that_does_not_answer_is_an_error_and_not_a_hang() {
        let mut client = client(vec![Response::Hello(hello(PROTOCOL))]).unwrap();
        assert!(matches!(client.status(), Err(ClientError::Connection(ConnectionError::TimedOut(_)))));
        assert!(matches!(client.status(), Err(ClientError::Connection(ConnectionError::Broken))));
    }
}
