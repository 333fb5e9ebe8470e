//! The numbered frame: 60 octets of Ethernet, IPv4 and UDP, which is 64 on a wire with its check sequence.

use std::net::Ipv4Addr;

use weft_packet::checksum::checksum;

/// Octets without the frame check sequence.
pub(crate) const FRAME_LEN: usize = 60;
/// Octets of UDP payload: a run's mark, the number, padding.
pub(crate) const PAYLOAD_LEN: usize = FRAME_LEN - PAYLOAD;
/// Where the receiver listens.
pub(crate) const PORT: u16 = 7064;

/// An end of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) mac: [u8; 6],
    pub(crate) address: Ipv4Addr,
}

/// A frame but for its number and source port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    bytes: [u8; FRAME_LEN],
}

impl Template {
    /// The UDP checksum is 0, none, so that nothing but the number and the source port changes from frame to frame.
    pub(crate) fn new(run: u32, from: End, to: End) -> Self {
        let mut bytes = [0; FRAME_LEN];
        bytes[..6].copy_from_slice(&to.mac);
        bytes[6..12].copy_from_slice(&from.mac);
        bytes[12..14].copy_from_slice(&[8, 0]);
        let ip_len = (FRAME_LEN - IP) as u16;
        bytes[IP..UDP].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes[IP + 2..IP + 4].copy_from_slice(&ip_len.to_be_bytes());
        bytes[IP + 12..IP + 16].copy_from_slice(&from.address.octets());
        bytes[IP + 16..UDP].copy_from_slice(&to.address.octets());
        let check = checksum(&bytes[IP..UDP]);
        bytes[IP + 10..IP + 12].copy_from_slice(&check.to_be_bytes());
        bytes[UDP + 2..UDP + 4].copy_from_slice(&PORT.to_be_bytes());
        bytes[UDP + 4..UDP + 6].copy_from_slice(&((FRAME_LEN - UDP) as u16).to_be_bytes());
        bytes[PAYLOAD..PAYLOAD + 4].copy_from_slice(&run.to_be_bytes());
        Self { bytes }
    }

    /// Frame `number` of `flows`; a flow has a source port of its own.
    pub(crate) fn write(&self, number: u64, flows: u64, out: &mut [u8; FRAME_LEN]) {
        *out = self.bytes;
        out[UDP..UDP + 2].copy_from_slice(&((number % flows) as u16).to_be_bytes());
        out[PAYLOAD + 4..PAYLOAD + 12].copy_from_slice(&number.to_be_bytes());
    }
}

/// The number in a UDP payload, when it is one of this run's.
pub(crate) fn number(payload: &[u8], run: u32) -> Option<u64> {
    let (mark, rest) = payload.split_first_chunk::<4>()?;
    let number = rest.first_chunk::<8>()?;
    (*mark == run.to_be_bytes() && payload.len() == PAYLOAD_LEN).then(|| u64::from_be_bytes(*number))
}

const IP: usize = 14;
const UDP: usize = 34;
const PAYLOAD: usize = 42;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_the_frame_and_only_its_own_run_reads_it() {
        let end = |last| End { mac: [2, 0, 0, 0, 0, last], address: Ipv4Addr::new(10, 9, 0, last) };
        let template = Template::new(7, end(1), end(2));
        let mut frame = [0; FRAME_LEN];
        for number in [0, 1, 65_536, 123_456_789] {
            template.write(number, 65_536, &mut frame);
            assert_eq!(super::number(&frame[PAYLOAD..], 7), Some(number));
            assert_eq!(super::number(&frame[PAYLOAD..], 8), None);
            assert_eq!(checksum(&frame[IP..UDP]), 0);
        }
        assert_eq!(super::number(b"short", 7), None);
    }
}
