//! One end of the control socket: whole messages with their descriptors, each within a time limit.
//!
//! Blocking on purpose: both ends are plain threads. After an error in the middle of a message the two sides no longer
//! agree where the next one starts, so the connection is broken for good and says so.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError, HEADER_LEN};
use crate::message::FDS_MAX;

/// A connected control socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    timeout: Duration,
    broken: bool,
}

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The other side went away between two messages: the normal end.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side did not take or give a message in time.
    #[error("the other side did not finish a message within {0:?}")]
    TimedOut(Duration),
    /// More descriptors than one message carries.
    #[error("{got} descriptors with one message: it carries at most {FDS_MAX}")]
    TooManyDescriptors {
        /// How many, at least.
        got: usize,
    },
    /// An earlier error left the two sides out of step.
    #[error("an earlier error broke this connection: open a new one")]
    Broken,
    /// The message has no bytes, or the bytes are no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The kernel refused.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ConnectionError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Connection {
    /// A connection over an accepted or connected stream; `timeout` bounds each message.
    pub fn new(stream: UnixStream, timeout: Duration) -> Self {
        Self { stream, timeout, broken: false }
    }

    /// Connects to a listening socket.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ConnectionError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A full backlog makes connect() wait for as long as a send would.
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(timeout))?;
        match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => Ok(Self::new(UnixStream::from(socket), timeout)),
            Err(Errno::AGAIN) => Err(ConnectionError::TimedOut(timeout)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends one message and its descriptors.
    pub fn send<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ConnectionError> {
        if self.broken {
            return Err(ConnectionError::Broken);
        }
        if fds.len() > FDS_MAX {
            return Err(ConnectionError::TooManyDescriptors { got: fds.len() });
        }
        let bytes = codec::encode(message)?;
        let sent = self.send_all(&bytes, fds);
        self.broken |= sent.is_err();
        sent
    }

    /// Receives one message and its descriptors. `idle_max` bounds the wait for its first byte, none waits for ever.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        idle_max: Option<Duration>,
    ) -> Result<(T, Vec<OwnedFd>), ConnectionError> {
        if self.broken {
            return Err(ConnectionError::Broken);
        }
        if !self.wait(PollFlags::IN, idle_max.map(|max| Instant::now() + max))? {
            return Err(ConnectionError::TimedOut(idle_max.unwrap_or_default()));
        }
        let received = self.receive_all();
        self.broken |= received.is_err();
        let (body, fds) = received?;
        // A body that does not decode leaves both sides in step: the server can still refuse it by name.
        Ok((codec::decode(&body)?, fds))
    }

    /// Breaks the connection: an answer that comes too late must not be taken for the next one.
    pub fn give_up(&mut self) {
        self.broken = true;
    }

    /// The stream, to look at the peer's credentials or to shut it down from another thread.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn send_all(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ConnectionError> {
        let deadline = Instant::now() + self.timeout;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut sent = 0;
        while sent < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            match rustix::net::sendmsg(&self.stream, &[io::IoSlice::new(&bytes[sent..])], &mut control, flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_until(PollFlags::OUT, deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ConnectionError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn receive_all(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), ConnectionError> {
        let deadline = Instant::now() + self.timeout;
        let mut fds = Vec::new();
        let mut header = [0; HEADER_LEN];
        let mut have = 0;
        while have < HEADER_LEN {
            match self.receive_some(&mut header[have..], &mut fds, deadline)? {
                0 if have == 0 => return Err(ConnectionError::Closed),
                0 => return Err(cut_short()),
                count => have += count,
            }
        }
        let len = codec::body_len(header)?;
        let mut body = Vec::new();
        while body.len() < len {
            let from = body.len();
            body.resize(len.min(from + CHUNK_LEN), 0);
            match self.receive_some(&mut body[from..], &mut fds, deadline)? {
                0 => return Err(cut_short()),
                count => body.truncate(from + count),
            }
        }
        Ok((body, fds))
    }

    fn receive_some(
        &self,
        into: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<usize, ConnectionError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match rustix::net::recvmsg(&self.stream, &mut [io::IoSliceMut::new(into)], &mut control, flags) {
                Ok(message) => {
                    fds.extend(control.drain().flat_map(|part| match part {
                        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                        _ => Vec::new(),
                    }));
                    if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
                        return Err(ConnectionError::TooManyDescriptors { got: fds.len() + 1 });
                    }
                    return Ok(message.bytes);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_until(PollFlags::IN, deadline)?,
                Err(Errno::CONNRESET) => return Err(ConnectionError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn wait_until(&self, what: PollFlags, deadline: Instant) -> Result<(), ConnectionError> {
        if self.wait(what, Some(deadline))? { Ok(()) } else { Err(ConnectionError::TimedOut(self.timeout)) }
    }

    /// Whether the stream became ready before the deadline.
    fn wait(&self, what: PollFlags, deadline: Option<Instant>) -> Result<bool, ConnectionError> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout =
                left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            match rustix::event::poll(&mut [PollFd::new(&self.stream, what)], timeout.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn cut_short() -> ConnectionError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other side went away in the middle of a message").into()
}

/// A body grows by this much at a time, so that a claimed length costs the claimer real bytes.
const CHUNK_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    const SOON: Duration = Duration::from_millis(50);

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().unwrap();
        (Connection::new(a, SOON * 20), Connection::new(b, SOON))
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_and_the_next_one_without() {
        let (mut a, mut b) = pair();
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        a.send(&Request::Inventory, &[ours.as_fd(), ours.as_fd()]).unwrap();
        a.send(&Request::Status, &[]).unwrap();
        let (request, fds) = b.receive::<Request>(None).unwrap();
        assert_eq!((request, fds.len()), (Request::Inventory, 2));
        UnixStream::from(fds.into_iter().next().unwrap()).write_all(b"x").unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        let (request, fds) = b.receive::<Request>(None).unwrap();
        assert_eq!((request, fds.len()), (Request::Status, 0));
    }

    #[test]
    fn a_large_message_crosses_in_pieces() {
        let (mut a, mut b) = pair();
        let text = "x".repeat(3 << 20);
        let sender = std::thread::spawn({
            let text = text.clone();
            move || a.send(&text, &[]).unwrap()
        });
        assert!(b.receive::<String>(None).unwrap().0 == text);
        sender.join().unwrap();
    }

    #[test]
    fn a_half_message_times_out_and_breaks_the_connection() {
        let (a, mut b) = pair();
        (&a.stream).write_all(&[9, 0, 0, 0, 1]).unwrap();
        assert!(matches!(b.receive::<Request>(None), Err(ConnectionError::TimedOut(_))));
        assert!(matches!(b.receive::<Request>(None), Err(ConnectionError::Broken)));
    }

    #[test]
    fn silence_times_out_and_the_connection_stays_usable() {
        let (mut a, mut b) = pair();
        assert!(matches!(b.receive::<Request>(Some(SOON)), Err(ConnectionError::TimedOut(_))));
        a.send(&Request::Status, &[]).unwrap();
        assert_eq!(b.receive::<Request>(Some(SOON)).unwrap().0, Request::Status);
    }

    #[test]
    fn a_body_that_is_no_message_leaves_both_sides_in_step() {
        let (mut a, mut b) = pair();
        (&a.stream).write_all(&[1, 0, 0, 0, 0xee]).unwrap();
        assert!(matches!(b.receive::<Request>(None), Err(ConnectionError::Codec(_))));
        a.send(&Request::Status, &[]).unwrap();
        assert_eq!(b.receive::<Request>(None).unwrap().0, Request::Status);
    }

    #[test]
    fn the_end_between_messages_is_closed_and_inside_one_is_an_error() {
        let (a, mut b) = pair();
        drop(a);
        assert!(matches!(b.receive::<Request>(None), Err(ConnectionError::Closed)));
        let (a, mut b) = pair();
        (&a.stream).write_all(&[9]).unwrap();
        drop(a);
        assert!(matches!(b.receive::<Request>(None), Err(ConnectionError::Io(_))));
    }
}
