//! Super-frames as a TAP of Linux 6.18 hands them over (vnet header of 12 bytes, little-endian, all offloads on): what
//! the kernel wrote is decoded, and encoded to the byte; the segments are right in every checksum.

use weft_packet::offload::{Verdict, verify};
use weft_packet::segment::segment;
use weft_packet::{FramePool, GsoKind, Layout, vnet};

struct Golden {
    header: &'static str,
    /// The headers of the frame.
    frame: &'static str,
    payload: (u8, usize),
    kind: GsoKind,
    size: u16,
    count: usize,
}

const GOLDEN: [Golden; 4] = [
    Golden {
        header: "01013600b405220010000000",
        frame: "020000000002020000000001080045001cac215d40004006e8da0a0900010a090002ea1201bbe338071f000003e95018faf030b3\
                0000",
        payload: (b'z', 7300),
        kind: GsoKind::TcpV4,
        size: 1460,
        count: 5,
    },
    Golden {
        header: "01044a00a005360010000000",
        frame: "02000000000202000000000186dd600a5e7e1c340640fd090000000000000000000000000001fd0900000000000000000000000000\
                02980a01bbe66a6f22000003e95018fd2016510000",
        payload: (b'z', 7200),
        kind: GsoKind::TcpV6,
        size: 1440,
        count: 5,
    },
    Golden {
        header: "01052a00e803220006000000",
        frame: "020000000002020000000001080045000dc8d8df0000401180310a0900010a0900029ea901bb0db421da",
        payload: (b'q', 3500),
        kind: GsoKind::Udp,
        size: 1000,
        count: 4,
    },
    Golden {
        header: "01053e00e803360006000000",
        frame: "02000000000202000000000186dd600e4edd0db41140fd090000000000000000000000000001fd0900000000000000000000000000\
                02977401bb0db407dc",
        payload: (b'q', 3500),
        kind: GsoKind::Udp,
        size: 1000,
        count: 4,
    },
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_super_frame_of_a_linux_guest_is_read_and_written_as_linux_does() {
    for golden in GOLDEN {
        let header: [u8; 12] = bytes(golden.header).try_into().unwrap();
        let frame = [bytes(golden.frame), vec![golden.payload.0; golden.payload.1]].concat();
        let offload = vnet::decode(&header, &frame).unwrap();
        let gso = offload.gso.unwrap();
        assert_eq!((gso.kind, gso.size, gso.ecn), (golden.kind, golden.size, false));
        assert_eq!(vnet::encode(offload, &frame), header);
    }
}

#[test]
fn its_segments_have_right_checksums() {
    for golden in GOLDEN {
        let mut pool = FramePool::new(8);
        let mut frame = pool.take().unwrap();
        frame.fill(&[bytes(golden.frame), vec![golden.payload.0; golden.payload.1]].concat());
        frame.offload = vnet::decode(&bytes(golden.header).try_into().unwrap(), frame.bytes()).unwrap();
        let mut segments = Vec::new();
        assert_eq!(segment(&frame, u16::MAX, &mut pool, &mut segments), Ok(golden.count));
        for segment in segments {
            let layout = Layout::of(segment.bytes()).unwrap();
            assert_eq!(verify(segment.bytes(), &layout), Verdict::Good);
        }
    }
}
