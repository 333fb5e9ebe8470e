//! Workers as threads: each sleeps in epoll until a queue, a socket or an order wakes it.
//!
//! To be woken takes longer than to forward a frame, so a worker looks on for a bounded time before it sleeps. When it
//! found nothing it gives way before it looks again: where processors are scarce, the guests run on this one. Beside a
//! bulk transfer that stays on this host it sleeps at once, because more frames per burst are worth more there; beside
//! one that comes over the underlay it looks on as long as nobody else wants the processor for long.
//!
//! Orders are taken between two rounds, so whoever is answered knows that no frame is in the middle of anything. A
//! panic in a worker ends the process: the agent starts another one with the same descriptors.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_sys::epoll::Waker;
use weft_sys::process;

use super::{Command, Reply, Wake, Worker};
use crate::control::{Fleet, FleetError};
use crate::counters::IoCounters;
use crate::learn::Learned;
use crate::limits::LIMITS;
use crate::publish::Publisher;
use crate::tables::Tables;

/// The worker threads of a process.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    orders: SyncSender<Order>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Do(Command, SyncSender<Reply>),
    Stop,
}

impl Threads {
    /// Starts `workers` threads, pinned to a CPU each where there are enough. An idle one looks on for `spin` before it
    /// sleeps; `None` leaves that to the number of CPUs.
    pub fn start(
        workers: usize,
        spin: Option<Duration>,
        now: Instant,
    ) -> io::Result<(Self, Arc<Publisher>, Arc<Learned>)> {
        let seed = seed(now);
        let publisher = Publisher::new(Tables::new(seed), workers);
        let learned = Arc::new(Learned::new(now, &LIMITS));
        let spin = spin.unwrap_or(if process::cpus() > workers { SPIN } else { Duration::ZERO });
        let pin = process::cpus() >= workers && workers > 1;
        let mut handles = Vec::new();
        for index in 0..workers {
            let waker = Arc::new(Waker::new()?);
            let worker = Worker::new(index, workers, &publisher, learned.clone(), seed, waker.clone())?;
            let (orders, receiver) = sync_channel(1);
            let body = move || {
                if pin {
                    // Not fatal: a container may forbid it, and the scheduler does well enough.
                    let _ = process::pin_to_cpu(index);
                }
                run(worker, Spin::new(spin, now), &receiver);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
            handles.push(Handle { orders, waker, thread: Some(thread) });
        }
        Ok((Self { handles }, publisher, learned))
    }

    /// Ends all threads at their next batch boundary.
    pub fn stop(&mut self) {
        for handle in &self.handles {
            if handle.orders.send(Order::Stop).is_ok() {
                handle.waker.wake();
            }
        }
        for thread in self.handles.iter_mut().filter_map(|handle| handle.thread.take()) {
            let _ = thread.join();
        }
    }
}

impl Fleet for Threads {
    fn workers(&self) -> usize {
        self.handles.len()
    }

    fn ask(&mut self, command: &Command) -> Result<Vec<Reply>, FleetError> {
        let silent = |worker| FleetError::Silent { worker, waited: ANSWER_MAX };
        let mut answers = Vec::with_capacity(self.handles.len());
        for (index, handle) in self.handles.iter().enumerate() {
            let (answer, answers_here) = sync_channel(1);
            // A worker that still has an order in its queue hangs.
            handle.orders.try_send(Order::Do(command.clone(), answer)).map_err(|_| silent(index))?;
            handle.waker.wake();
            answers.push(answers_here);
        }
        let receive =
            |(index, answer): (usize, Receiver<Reply>)| answer.recv_timeout(ANSWER_MAX).map_err(|_| silent(index));
        answers.into_iter().enumerate().map(receive).collect()
    }
}

fn run(mut worker: Worker, mut spin: Spin, orders: &Receiver<Order>) {
    let _guard = AbortOnPanic;
    let mut now = Instant::now();
    loop {
        let timeout = if spin.goes_on(now) {
            if spin.idle {
                std::thread::yield_now();
                spin.gave_way(now, Instant::now());
            }
            Some(Duration::ZERO)
        } else {
            worker.next_wake().map(|at| at.saturating_duration_since(now))
        };
        let wake = match worker.wait(timeout) {
            Ok(wake) => wake,
            Err(error) => {
                tracing::error!(%error, "epoll failed");
                std::process::abort();
            }
        };
        if wake == Wake::Order {
            while let Ok(order) = orders.try_recv() {
                match order {
                    // Nobody waits for the answer any more: no reason to stop.
                    Order::Do(command, answer) => drop(answer.try_send(worker.command(&command))),
                    Order::Stop => return,
                }
            }
        }
        now = Instant::now();
        let frames = worker.round(now);
        spin.saw(frames, worker.io(), now);
    }
}

/// How long a worker looks on before it sleeps.
#[derive(Debug)]
struct Spin {
    span: Duration,
    /// Until then.
    until: Instant,
    /// A bulk transfer goes on, as far as one can tell, until then.
    bulk_until: Instant,
    /// The last round found nothing.
    idle: bool,
    /// Super-frames that came in so far: the sign of a bulk transfer.
    super_frames: u64,
    /// Datagrams of the underlay that came in so far.
    datagrams: u64,
}

impl Spin {
    const fn new(span: Duration, now: Instant) -> Self {
        Self { span, until: now, bulk_until: now, idle: true, super_frames: 0, datagrams: 0 }
    }

    /// Takes note of what a round found: its frames, and what all rounds so far did.
    fn saw(&mut self, frames: usize, io: &IoCounters, now: Instant) {
        self.idle = frames == 0;
        let from_underlay = io.underlay_rx_datagrams != self.datagrams;
        self.datagrams = io.underlay_rx_datagrams;
        if io.rx_super_frames != self.super_frames {
            self.super_frames = io.rx_super_frames;
            self.bulk_until = now + BULK;
        }
        if !self.idle {
            let looks_on = from_underlay || now >= self.bulk_until;
            self.until = if looks_on { now + self.span } else { now };
        }
    }

    /// Takes note of how long others had the processor. A ping-pong is worth the wait, a bulk transfer is not.
    fn gave_way(&mut self, from: Instant, to: Instant) {
        if to < self.bulk_until && to - from > BUSY {
            self.until = from;
        }
    }

    fn goes_on(&self, now: Instant) -> bool {
        now < self.until
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A seed for hash tables that nobody outside can guess.
fn seed(now: Instant) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(now)
}

/// How long an idle worker looks on where there is a CPU besides the workers': as long as a guest takes to answer.
const SPIN: Duration = Duration::from_micros(50);
/// Who gave way for longer than this is on a processor that is wanted: by its next turn a socket's queue is long.
const BUSY: Duration = Duration::from_micros(40);
/// How long a super-frame counts as the sign of a bulk transfer.
const BULK: Duration = Duration::from_millis(1);
/// How long a worker may take to come to the end of a burst.
const ANSWER_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn io(rx_super_frames: u64, underlay_rx_datagrams: u64) -> IoCounters {
        IoCounters { rx_super_frames, underlay_rx_datagrams, ..IoCounters::default() }
    }

    #[test]
    fn an_idle_worker_looks_on_for_its_time_and_not_at_all_when_it_may_not() {
        let start = Instant::now();
        for (span, expected) in [(SPIN, [true, false]), (Duration::ZERO, [false, false])] {
            let mut spin = Spin::new(span, start);
            assert!(!spin.goes_on(start), "nothing came in yet");
            spin.saw(1, &io(0, 0), start);
            spin.saw(0, &io(0, 0), start + SPIN / 2);
            assert_eq!([SPIN / 2, SPIN].map(|after| spin.goes_on(start + after)), expected);
        }
    }

    #[test]
    fn a_worker_sleeps_at_once_beside_a_bulk_transfer_on_its_host() {
        let start = Instant::now();
        let mut spin = Spin::new(SPIN, start);
        spin.saw(6, &io(6, 0), start);
        spin.saw(1, &io(6, 0), start + BULK / 2);
        assert!(!spin.goes_on(start + BULK / 2));
        spin.saw(1, &io(6, 0), start + BULK);
        assert!(spin.goes_on(start + BULK));
    }

    #[test]
    fn beside_a_bulk_transfer_over_the_underlay_it_looks_on_until_others_want_its_processor() {
        let start = Instant::now();
        let mut spin = Spin::new(SPIN, start);
        spin.saw(6, &io(6, 6), start);
        spin.gave_way(start, start + BUSY);
        assert!(spin.goes_on(start + BUSY));
        spin.gave_way(start, start + 2 * BUSY);
        assert!(!spin.goes_on(start));
        spin.saw(1, &io(6, 7), start + BULK);
        spin.gave_way(start + BULK, start + BULK + BUSY + BUSY / 8);
        assert!(spin.goes_on(start + BULK + BUSY + BUSY / 8), "no bulk transfer any more");
    }
}
