//! Waiting for descriptors, and waking a thread that waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self as kernel, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// Events that one wait returns at most.
const EVENTS_MAX: usize = 64;

/// A set of descriptors to wait for.
pub struct Epoll {
    fd: OwnedFd,
    raw: Vec<kernel::Event>,
    events: Vec<Event>,
}

// SAFETY: the pointers that make `raw` not `Send` are the kernel's copies of our tokens, numbers that nobody follows.
unsafe impl Send for Epoll {}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, as long as there is.
    Read,
    /// Something to read, once per arrival.
    ReadEdge,
    /// Something to read, or room to write.
    ReadWrite,
}

/// What happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What the descriptor was added with.
    pub token: u64,
    /// There is something to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The device or the other end is gone, or an error waits.
    pub gone: bool,
}

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        let fd = kernel::create(kernel::CreateFlags::CLOEXEC)?;
        Ok(Self { fd, raw: Vec::with_capacity(EVENTS_MAX), events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Adds a descriptor. The caller removes it before it closes it: a duplicate elsewhere would keep it in the set.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(kernel::add(&self.fd, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what to wait for.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(kernel::modify(&self.fd, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Removes a descriptor.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(kernel::delete(&self.fd, fd)?)
    }

    /// Waits for events, at most as long as `timeout`; a signal ends the wait with none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<&[Event]> {
        let timeout = timeout.map(timespec);
        self.raw.clear();
        self.events.clear();
        match kernel::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.raw), timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(&[]),
            other => other?,
        };
        self.events.extend(self.raw.iter().map(|raw| {
            let flags = raw.flags;
            Event {
                token: raw.data.u64(),
                readable: flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
                gone: flags.intersects(EventFlags::ERR | EventFlags::HUP),
            }
        }));
        Ok(&self.events)
    }
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.fd).field("events", &self.events).finish_non_exhaustive()
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::ReadEdge => EventFlags::IN | EventFlags::ET,
            Self::ReadWrite => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// Wakes a thread from its wait: an eventfd.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// A new one, to be added to the sleeper's [`Epoll`] with [`Interest::Read`].
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Wakes; from any thread, any number of times.
    pub fn wake(&self) {
        // The only failure is a counter at its limit, and then the sleeper is awake already.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Makes it quiet again; done by the sleeper.
    pub fn drain(&self) {
        // The only failure is that nobody woke us, which is as good.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_ends_the_wait_of_another_thread() {
        let mut epoll = Epoll::new().unwrap();
        let waker = Waker::new().unwrap();
        epoll.add(&waker, 7, Interest::Read).unwrap();
        assert!(epoll.wait(Some(Duration::ZERO)).unwrap().is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            let events = epoll.wait(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(events, [Event { token: 7, readable: true, writable: false, gone: false }]);
        });
        waker.drain();
        assert!(epoll.wait(Some(Duration::ZERO)).unwrap().is_empty());
        epoll.remove(&waker).unwrap();
        waker.wake();
        assert!(epoll.wait(Some(Duration::ZERO)).unwrap().is_empty());
    }
}
