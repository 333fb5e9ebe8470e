//! A frame: one contiguous buffer with headroom, and the offload state that travels with it.
//!
//! Contiguous even at 64 KiB: a header is pushed in front and a vnet header written before it without
//! moving a byte, so a super-frame costs one copy in and one copy out, both the kernel's. Buffers come
//! from a worker's own [`FramePool`]; their starts are coloured so that 32 of them do not share one L1 set.

use core::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// Bytes in front of a fresh frame, before colouring: a vnet header and the outer headers of any rung.
pub const HEADROOM: usize = 192;
/// The longest Ethernet frame that a buffer holds: a 65,535-byte IP packet, its header and two tags.
pub const FRAME_LEN_MAX: usize = 65_535 + 14 + 8;
/// Bytes of one buffer.
pub const BUFFER_LEN: usize = 68 * 1024;
const COLOURS: usize = 16;

/// What is known of the frame's L4 checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Csum {
    /// Complete in the frame, but nobody has verified it.
    #[default]
    Unknown,
    /// The check field holds the folded, un-inverted pseudo-header sum; sum from `start` (bytes from the
    /// Ethernet header) and store the inverse at `start + offset`.
    Partial {
        /// First byte that the sum covers.
        start: u16,
        /// Where the check field lies, from `start`.
        offset: u16,
    },
    /// Complete and verified, by us or by a sender that we trust to have verified it.
    Verified,
}

/// What kind of super-frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of one flow (USO), over IPv4 or IPv6.
    Udp,
}

/// A super-frame: many segments that share one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gso {
    /// Protocol of the segments.
    pub kind: GsoKind,
    /// L4 payload bytes of each segment but the last; never zero.
    pub size: u16,
    /// Whether CWR is set on the first segment only (RFC 3168; `VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
}

/// The offload state of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offload {
    /// State of the L4 checksum. A frame with `gso` is always `Partial`.
    pub csum: Csum,
    /// Set on super-frames.
    pub gso: Option<Gso>,
}

/// One Ethernet frame with room in front of it. It is passed on many times on its way, so it is one pointer.
#[derive(Debug)]
pub struct Frame(Box<State>);

/// What a frame's pointer points to, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct State {
    buf: Box<[u8]>,
    fresh_head: u32,
    head: u32,
    len: u32,
    /// The offload state; whoever changes bytes keeps it true.
    pub offload: Offload,
}

impl Deref for Frame {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Frame {
    /// The frame, from its Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.head as usize..(self.head + self.len) as usize]
    }

    /// The frame, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let State { buf, head, len, .. } = &mut *self.0;
        &mut buf[*head as usize..(*head + *len) as usize]
    }

    /// Bytes in the frame.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "an empty frame has no meaning of its own")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes free in front of the frame.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head as usize
    }

    /// Everything that a device may write: `prefix_len` bytes in front of the frame, then up to the buffer's end.
    /// Follow with [`Self::set_len`] for the part behind the prefix.
    #[inline]
    pub fn rx_space(&mut self, prefix_len: usize) -> &mut [u8] {
        let from = self.head as usize - prefix_len;
        let to = (self.head as usize + FRAME_LEN_MAX).min(self.buf.len());
        &mut self.0.buf[from..to]
    }

    /// Sets the length after a device or a builder wrote into [`Self::rx_space`].
    ///
    /// # Panics
    /// When `len` is longer than the buffer: the caller's bug.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(self.head as usize + len <= self.buf.len(), "a frame of {len} bytes does not fit its buffer");
        self.len = len as u32;
    }

    /// The `prefix_len` bytes in front of the frame and the frame, to be written out in one piece.
    #[inline]
    pub fn with_prefix(&mut self, prefix_len: usize) -> &mut [u8] {
        let from = self.head as usize - prefix_len;
        let to = (self.head + self.len) as usize;
        &mut self.0.buf[from..to]
    }

    /// The bytes in front of the frame and the frame, read only, as [`Self::with_prefix`].
    #[inline]
    pub fn prefixed(&self, prefix_len: usize) -> &[u8] {
        &self.buf[self.head as usize - prefix_len..(self.head + self.len) as usize]
    }

    /// Grows the frame by `count` bytes at its front and returns them. A partial checksum's start moves along.
    ///
    /// # Panics
    /// When the headroom is used up: the caller's bug, [`HEADROOM`] covers every rung.
    #[inline]
    pub fn push_front(&mut self, count: usize) -> &mut [u8] {
        assert!(count <= self.head as usize, "headroom used up");
        self.head -= count as u32;
        self.len += count as u32;
        if let Csum::Partial { start, .. } = &mut self.offload.csum {
            *start += count as u16;
        }
        let head = self.head as usize;
        &mut self.0.buf[head..head + count]
    }

    /// Removes `count` bytes from the front (at most the whole frame). A partial checksum's start moves along.
    #[inline]
    pub fn pull_front(&mut self, count: usize) {
        let count = count.min(self.len as usize) as u32;
        self.head += count;
        self.len -= count;
        if let Csum::Partial { start, .. } = &mut self.offload.csum {
            *start = start.saturating_sub(count as u16);
        }
    }

    /// Replaces the content, with no offload state.
    ///
    /// # Panics
    /// When `bytes` is longer than [`FRAME_LEN_MAX`]: the caller's bug.
    #[inline]
    pub fn fill(&mut self, bytes: &[u8]) {
        self.head = self.fresh_head;
        self.set_len(bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        self.offload = Offload::default();
    }

    #[inline]
    fn reset(&mut self) {
        self.head = self.fresh_head;
        self.len = 0;
        self.offload = Offload::default();
    }
}

/// A worker's frame buffers: last in, first out, so that the hottest buffer is used next.
#[derive(Debug)]
pub struct FramePool {
    free: Vec<Frame>,
    made: usize,
    made_max: usize,
}

impl FramePool {
    /// An empty pool that makes buffers as they are needed, at most `made_max` of them.
    pub fn new(made_max: usize) -> Self {
        Self { free: Vec::with_capacity(made_max), made: 0, made_max }
    }

    /// An empty frame; `None` when all `made_max` are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        if let Some(frame) = self.free.pop() {
            return Some(frame);
        }
        self.make()
    }

    #[cold]
    fn make(&mut self) -> Option<Frame> {
        if self.made == self.made_max {
            return None;
        }
        let head = (HEADROOM + (self.made % COLOURS) * 64) as u32;
        self.made += 1;
        let buf = vec![0; BUFFER_LEN].into_boxed_slice();
        Some(Frame(Box::new(State { buf, fresh_head: head, head, len: 0, offload: Offload::default() })))
    }

    /// A frame with the same bytes and offload state; `None` when no buffer is free.
    pub fn copy(&mut self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.take()?;
        copy.fill(frame.bytes());
        copy.offload = frame.offload;
        Some(copy)
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, mut frame: Frame) {
        debug_assert!(self.free.len() < self.made, "a frame came back that this pool did not make");
        frame.reset();
        self.free.push(frame);
    }

    /// Whether [`Self::take`] would give a frame.
    #[inline]
    pub fn has_free(&self) -> bool {
        !self.free.is_empty() || self.made < self.made_max
    }

    /// Frames that are out of the pool.
    pub fn in_use(&self) -> usize {
        self.made - self.free.len()
    }
}

const _: () = assert!(HEADROOM + (COLOURS - 1) * 64 + FRAME_LEN_MAX <= BUFFER_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_header_is_in_front_and_moves_the_checksum_start() {
        let mut pool = FramePool::new(1);
        let mut frame = pool.take().unwrap();
        frame.fill(&[1, 2, 3]);
        frame.offload.csum = Csum::Partial { start: 1, offset: 1 };
        frame.push_front(2).copy_from_slice(&[8, 9]);
        assert_eq!(frame.bytes(), [8, 9, 1, 2, 3]);
        assert_eq!(frame.offload.csum, Csum::Partial { start: 3, offset: 1 });
        frame.pull_front(2);
        assert_eq!(frame.bytes(), [1, 2, 3]);
        assert_eq!(frame.offload.csum, Csum::Partial { start: 1, offset: 1 });
    }

    #[test]
    fn an_empty_pool_says_so_and_a_returned_frame_is_clean() {
        let mut pool = FramePool::new(1);
        let mut frame = pool.take().unwrap();
        assert!(pool.take().is_none());
        frame.fill(&[7; 100]);
        frame.offload.csum = Csum::Verified;
        pool.give(frame);
        assert_eq!(pool.in_use(), 0);
        let frame = pool.take().unwrap();
        assert_eq!((frame.len(), frame.offload), (0, Offload::default()));
    }
}
