//! Two TAPs of one host: what is read from one is written to the other, vnet header and all.

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use super::{BUF_LEN, BURST, Netns, Wire, nothing};

pub(super) fn run(ready: impl Fn() -> Result<()>) -> Result<()> {
    let (_a, tap_a) = Netns::guest(Wire::Local, "a", 1)?;
    let (_b, tap_b) = Netns::guest(Wire::Local, "b", 2)?;
    let stdin = std::io::stdin();
    let mut buf = vec![0; BUF_LEN];
    ready()?;
    loop {
        let mut fds = [
            PollFd::new(&tap_a, PollFlags::IN),
            PollFd::new(&tap_b, PollFlags::IN),
            PollFd::new(&stdin, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        let [a, b, end] = fds.map(|fd| !fd.revents().is_empty());
        if end {
            return Ok(());
        }
        for (_, from, to) in [(a, &tap_a, &tap_b), (b, &tap_b, &tap_a)].into_iter().filter(|(readable, ..)| *readable) {
            for _ in 0..BURST {
                let Some(len) = nothing(rustix::io::read(from, &mut buf[..]))? else { break };
                // What the kernel refuses is lost, as on any wire.
                let _refused = rustix::io::write(to, &buf[..len]);
            }
        }
    }
}
