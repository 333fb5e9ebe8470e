//! Cuts an IPv4 packet into fragments (RFC 791, section 3.2, "An Example Fragmentation Procedure").
//!
//! The checksum of the packet's payload must be complete before the cut, so frames with a partial checksum, and with
//! them all super-frames, are refused: segment them instead. A fragment may be cut again.

use crate::frame::{Csum, Frame};
use crate::ipv4::{
    FLAG_DONT_FRAGMENT, FLAG_MORE_FRAGMENTS, FRAGMENT_OFFSET, HEADER_LEN, HEADER_LEN_MAX, Ipv4View, fill_checksum,
};
use crate::key::Field;
use crate::parse::{Ingress, parse};

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
/// "The copied flag indicates that this option is copied into all fragments on fragmentation" (section 3.1).
const OPTION_COPIED: u8 = 0x80;
const CUT: usize = 8;

/// Why a frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// Not a well-formed IPv4 packet.
    #[error("not an IPv4 packet, which is the only kind that is fragmented on its way")]
    NotIpv4,
    /// DF is set: answer with "fragmentation needed" instead.
    #[error("DF is set")]
    DontFragment,
    /// The checksum must be completed first.
    #[error("the checksum is partial: complete it, or segment the super-frame")]
    ChecksumPartial,
    /// An option that lies about its length.
    #[error("an IP option is cut short")]
    Options,
    /// The fragments reach beyond what the offset can say.
    #[error("the fragment ends beyond 65,535 bytes")]
    TooLong,
    /// Not even eight bytes fit.
    #[error("an MTU of {mtu} does not hold the header of {header_len} bytes and 8 bytes more")]
    MtuTooSmall {
        /// The MTU asked for.
        mtu: u16,
        /// The packet's header length.
        header_len: usize,
    },
}

/// The fragments of one frame, in order.
#[derive(Debug)]
pub struct Fragments<'a> {
    link: &'a [u8],
    head: Head,
    later_head: Head,
    rest: &'a [u8],
    offset: usize,
    more: bool,
    mtu: usize,
}

/// One fragment: headers of its own, and a part of the packet's payload.
#[derive(Debug)]
pub struct Fragment<'a> {
    link: &'a [u8],
    head: Head,
    payload: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
struct Head {
    bytes: [u8; HEADER_LEN_MAX],
    len: usize,
}

impl<'a> Fragments<'a> {
    /// Prepares to cut `frame` so that no IP packet is longer than `mtu`. A packet that fits comes out as it is.
    pub fn new(frame: &'a Frame, mtu: u16) -> Result<Self, FragmentError> {
        if matches!(frame.offload.csum, Csum::Partial { .. }) {
            return Err(FragmentError::ChecksumPartial);
        }
        Self::of_bytes(frame.bytes(), mtu)
    }

    /// [`Self::new`] of a frame that has no offload state.
    pub fn of_bytes(frame: &'a [u8], mtu: u16) -> Result<Self, FragmentError> {
        let parsed = parse(frame, Ingress::default()).map_err(|_| FragmentError::NotIpv4)?;
        let (link, packet) = frame.split_at(parsed.l3.into());
        if parsed.key.field(Field::EthType) as u16 != crate::ethernet::ETHERTYPE_IPV4 {
            return Err(FragmentError::NotIpv4);
        }
        let ip = Ipv4View::parse(packet).map_err(|_| FragmentError::NotIpv4)?;
        if ip.dont_fragment() {
            return Err(FragmentError::DontFragment);
        }
        let header_len = ip.header_len();
        if usize::from(mtu) < header_len + CUT {
            return Err(FragmentError::MtuTooSmall { mtu, header_len });
        }
        let offset = ip.fragment_offset() as usize;
        if offset + ip.payload().len() + header_len > 0xffff {
            return Err(FragmentError::TooLong);
        }
        Ok(Self {
            link,
            head: Head::new(&packet[..HEADER_LEN], ip.options()),
            later_head: Head::of_later(&packet[..HEADER_LEN], ip.options())?,
            rest: ip.payload(),
            offset,
            more: ip.more_fragments(),
            mtu: mtu.into(),
        })
    }
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        let room = self.mtu.checked_sub(self.head.len)?;
        let is_last = self.rest.len() <= room;
        let len = if is_last { self.rest.len() } else { room / CUT * CUT };
        let (payload, rest) = self.rest.split_at(len);
        let mut head = self.head;
        head.finish(len, self.offset, self.more || !is_last);
        self.rest = rest;
        self.offset += len;
        self.head = self.later_head;
        if is_last {
            // Ends the iterator: no header fits any more.
            self.mtu = 0;
        }
        Some(Fragment { link: self.link, head, payload })
    }
}

impl Fragment<'_> {
    /// Bytes of the frame that it makes.
    pub fn frame_len(&self) -> usize {
        self.link.len() + self.head.len + self.payload.len()
    }

    /// Makes `out` the fragment's frame.
    pub fn write(&self, out: &mut Frame) {
        out.fill(&[]);
        out.set_len(self.frame_len());
        let (link, packet) = out.bytes_mut().split_at_mut(self.link.len());
        let (head, payload) = packet.split_at_mut(self.head.len);
        link.copy_from_slice(self.link);
        head.copy_from_slice(&self.head.bytes[..self.head.len]);
        payload.copy_from_slice(self.payload);
    }
}

impl Head {
    fn new(fixed: &[u8], options: &[u8]) -> Self {
        let mut head = Self { bytes: [0; HEADER_LEN_MAX], len: fixed.len() };
        head.bytes[..fixed.len()].copy_from_slice(fixed);
        head.push(options);
        head.pad();
        head
    }

    fn of_later(fixed: &[u8], mut options: &[u8]) -> Result<Self, FragmentError> {
        let mut head = Self::new(fixed, &[]);
        while let [kind, behind @ ..] = options {
            match *kind {
                OPTION_END => break,
                OPTION_NOTHING => options = behind,
                kind => {
                    let len = behind.first().map_or(0, |len| usize::from(*len));
                    let Some((option, rest)) = options.split_at_checked(len).filter(|_| len >= 2) else {
                        return Err(FragmentError::Options);
                    };
                    if kind & OPTION_COPIED != 0 {
                        head.push(option);
                    }
                    options = rest;
                }
            }
        }
        head.pad();
        Ok(head)
    }

    fn push(&mut self, option: &[u8]) {
        self.bytes[self.len..self.len + option.len()].copy_from_slice(option);
        self.len += option.len();
    }

    /// The bytes behind the options are zero already, which ends the list.
    fn pad(&mut self) {
        self.len = self.len.next_multiple_of(4);
        self.bytes[0] = 0x40 | (self.len / 4) as u8;
    }

    fn finish(&mut self, payload_len: usize, offset: usize, more: bool) {
        let header = &mut self.bytes[..self.len];
        header[2..4].copy_from_slice(&((self.len + payload_len) as u16).to_be_bytes());
        let reserved = u16::from_be_bytes([header[6], header[7]]);
        let reserved = reserved & !(FLAG_DONT_FRAGMENT | FLAG_MORE_FRAGMENTS | FRAGMENT_OFFSET);
        let flag = if more { FLAG_MORE_FRAGMENTS } else { 0 };
        header[6..8].copy_from_slice(&(reserved | flag | (offset / CUT) as u16).to_be_bytes());
        fill_checksum(header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FramePool;
    use proptest::prelude::*;

    fn packet(options: &[u8], fragment_word: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        let header_len = HEADER_LEN + options.len();
        let total = (header_len + payload.len()) as u16;
        frame.extend([0x40 | (header_len / 4) as u8, 0xb8]);
        frame.extend(total.to_be_bytes());
        frame.extend([0xab, 0xcd]);
        frame.extend(fragment_word.to_be_bytes());
        // Protocol 253 is for experiments: no L4 header to be right or wrong.
        frame.extend([64, 253, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
        frame.extend(options);
        frame.extend(payload);
        frame
    }

    fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut pool = FramePool::new(1);
        let mut out = pool.take().unwrap();
        let write = |f: Fragment<'_>| {
            f.write(&mut out);
            assert_eq!(out.len(), f.frame_len());
            out.bytes().to_vec()
        };
        Fragments::of_bytes(frame, mtu).unwrap().map(write).collect()
    }

    fn ip(frame: &[u8]) -> Ipv4View<'_> {
        Ipv4View::parse(&frame[14..]).unwrap()
    }

    proptest! {
        #[test]
        fn fragments_fit_and_make_up_the_packet(
            payload in proptest::collection::vec(any::<u8>(), 0..4000), mtu in 28u16..1600, more: bool, start in 0u16..100,
        ) {
            let payload = if more { &payload[..payload.len() / 8 * 8] } else { &payload };
            let word = start | if more { FLAG_MORE_FRAGMENTS } else { 0 };
            let frame = packet(&[], word, payload);
            let pieces = cut(&frame, mtu);
            let mut whole: Vec<u8> = vec![];
            for (index, piece) in pieces.iter().enumerate() {
                let view = ip(piece);
                prop_assert!(view.is_checksum_valid());
                prop_assert!(view.total_len() <= mtu);
                prop_assert_eq!(view.fragment_offset() as usize, usize::from(start) * 8 + whole.len());
                prop_assert_eq!(view.more_fragments(), more || index + 1 < pieces.len());
                prop_assert_eq!((view.identification(), view.tos(), view.ttl()), (0xabcd, 0xb8, 64));
                prop_assert_eq!(&piece[..14], &frame[..14]);
                whole.extend(view.payload());
            }
            prop_assert_eq!(whole, payload);
        }
    }

    #[test]
    fn only_options_with_the_copied_flag_are_in_later_fragments() {
        let record_route = [7, 7, 4, 0, 0, 0, 0];
        let router_alert = [0x94, 4, 0, 0];
        let options = [&record_route[..], &[1], &router_alert].concat();
        let pieces = cut(&packet(&options, 0, &[5; 110]), 80);
        assert_eq!(pieces.len(), 3);
        assert_eq!(ip(&pieces[0]).options(), options);
        assert_eq!(ip(&pieces[0]).payload().len(), 48);
        assert_eq!(ip(&pieces[1]).options(), router_alert);
        assert_eq!((ip(&pieces[1]).payload().len(), ip(&pieces[2]).payload().len()), (56, 6));
    }

    #[test]
    fn what_cannot_be_cut_says_why() {
        let why = |frame: &[u8], mtu| Fragments::of_bytes(frame, mtu).err();
        assert_eq!(why(&packet(&[], FLAG_DONT_FRAGMENT, &[5; 100]), 80), Some(FragmentError::DontFragment));
        assert_eq!(why(&packet(&[0x94, 9, 0, 0], 0, &[5; 100]), 80), Some(FragmentError::Options));
        let small = FragmentError::MtuTooSmall { mtu: 27, header_len: 20 };
        assert_eq!(why(&packet(&[], 0, &[5; 100]), 27), Some(small));
        assert_eq!(why(&packet(&[], FRAGMENT_OFFSET, &[5; 100]), 80), Some(FragmentError::TooLong));
        assert_eq!(why(&[2; 60], 80), Some(FragmentError::NotIpv4));
        let mut pool = FramePool::new(1);
        let mut frame = pool.take().unwrap();
        frame.fill(&packet(&[], 0, &[5; 100]));
        frame.offload.csum = Csum::Partial { start: 34, offset: 6 };
        assert_eq!(Fragments::new(&frame, 80).err(), Some(FragmentError::ChecksumPartial));
    }
}
