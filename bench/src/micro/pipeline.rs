//! A whole worker between two memory ports: receive, parse, classify, execute, send.
//!
//! Only the worker's round is timed, not the guests. What is in it and no device has: a copy in and, per frame, a lock
//! on each side. The receiving port takes nothing, so every frame ends as a counted drop at the device.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use weft_packet::Offload;
use weft_program::PortId;
use weft_program::message::{Offloads, PortDevice, PortKind, Request, Response};
use weft_vswitch::Inline;
use weft_vswitch::control::Control;
use weft_vswitch::port::MemoryEnd;

use super::guests::{FROM_PORT, TO_PORT, program, udp_v4};
use super::timer::{Timed, time_parts};

const BURST: usize = 32;

/// Time per frame with 1 to 100,000 flows.
pub(super) fn rows() -> Result<Vec<Timed>> {
    [1, 1_000, 100_000].into_iter().map(row).collect()
}

fn row(flows: usize) -> Result<Timed> {
    let (mut vswitch, guest) = vswitch()?;
    let frames: Vec<Vec<u8>> = (0..flows as u32).map(udp_v4).collect();
    let now = Instant::now();
    let mut next = frames.iter().cycle();
    let mut burst = |vswitch: &mut Control<Inline>| {
        let pushed = next.by_ref().take(BURST).filter(|frame| guest.push(frame, Offload::default())).count();
        let start = Instant::now();
        let carried = vswitch.step(now);
        (start.elapsed(), pushed == BURST && carried == BURST)
    };
    for _ in 0..2 * flows.div_ceil(BURST) {
        ensure!(burst(&mut vswitch).1, "a burst of {BURST} frames was not carried whole");
    }
    let name = format!("worker between memory ports, {flows} flows");
    Ok(time_parts(&name, BURST, || burst(&mut vswitch).0))
}

fn vswitch() -> Result<(Control<Inline>, MemoryEnd)> {
    let now = Instant::now();
    let mut vswitch = Control::inline(1, 7, now)?;
    let device = |id: PortId| {
        let (name, netns, ifname) = Default::default();
        PortDevice { id, name, kind: PortKind::Memory, fds: 0, mtu: 1500, offloads: Offloads::default(), netns, ifname }
    };
    let refused = |why| anyhow!("the port was refused: {why:?}");
    let guest = vswitch.attach_memory(device(FROM_PORT), BURST).map_err(refused)?;
    vswitch.attach_memory(device(TO_PORT), 0).map_err(refused)?;
    let answer = vswitch.handle(now, Request::Apply(program()), Vec::new()).pop();
    ensure!(answer.is_some_and(|answer| answer.response == Response::Done), "the program was refused");
    Ok((vswitch, guest))
}
