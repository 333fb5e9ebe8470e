//! Explicit congestion notification through a tunnel (RFC 6040), and the outer DSCP.
//!
//! A frame that is neither IPv4 nor IPv6 carries no mark: it goes out unmarked and is not dropped for an outer one,
//! as in the kernel.

use weft_packet::{DropReason, Field, Frame, Layout, offload};

const ECN_MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const CE: u8 = 3;

/// Where the outer DSCP comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dscp {
    /// From the inner packet.
    #[default]
    Copy,
    /// This value, 0 to 63, for all.
    Fixed(u8),
}

/// The outer TOS or traffic class of a frame that is to be sent: ECN copied (RFC 6040, section 4.1, normal mode).
pub fn outer_tos(frame: &[u8], dscp: Dscp) -> u8 {
    let inner = inner_tos(frame).unwrap_or(0);
    match dscp {
        Dscp::Copy => inner,
        Dscp::Fixed(value) => value << 2 | inner & ECN_MASK,
    }
}

/// The inner ECN after decapsulation (RFC 6040, figure 4): `Ok(None)` when it stays as it is.
pub const fn combine(inner_tos: u8, outer_tos: u8) -> Result<Option<u8>, DropReason> {
    match (inner_tos & ECN_MASK, outer_tos & ECN_MASK) {
        (NOT_ECT, CE) => Err(DropReason::EcnInvalid),
        (CE, _) => Ok(None),
        (_, CE) => Ok(Some(CE)),
        // An outer ECT(1) over an inner ECT(0) is kept as ECT(1): the milder of the two marks of RFC 6660.
        (2, 1) => Ok(Some(1)),
        _ => Ok(None),
    }
}

/// The whole inner TOS that [`combine`] asks for, for the frame of a received packet; `None` when nothing changes.
pub fn decap_tos(frame: &[u8], outer_tos: u8) -> Result<Option<u8>, DropReason> {
    // Without an outer mark every inner one stays: the usual case, and it spares a look at the headers.
    if outer_tos & ECN_MASK == NOT_ECT {
        return Ok(None);
    }
    let Some(inner) = inner_tos(frame) else { return Ok(None) };
    Ok(combine(inner, outer_tos)?.map(|ecn| inner & !ECN_MASK | ecn))
}

/// Writes the TOS that [`decap_tos`] asked for; the IPv4 header checksum stays right.
pub fn set_tos(frame: &mut Frame, tos: u8) {
    if let Some(layout) = Layout::of(frame.bytes()) {
        offload::write_field(frame, Some(&layout), Field::IpTos, tos.into());
    }
}

fn inner_tos(frame: &[u8]) -> Option<u8> {
    Layout::of(frame).map(|layout| layout.tos(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_combine_as_in_figure_4_of_rfc_6040() {
        const ECT0: u8 = 2;
        const ECT1: u8 = 1;
        let drop = Err(DropReason::EcnInvalid);
        let table = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), drop]),
            (ECT0, [Ok(ECT0), Ok(ECT0), Ok(ECT1), Ok(CE)]),
            (ECT1, [Ok(ECT1), Ok(ECT1), Ok(ECT1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
                let dscp = 0x2c << 2;
                assert_eq!(
                    combine(dscp | inner, outer).map(|ecn| ecn.unwrap_or(inner)),
                    expected,
                    "{inner} in {outer}"
                );
            }
        }
    }

    #[test]
    fn the_outer_tos_copies_ecn_and_copies_or_fixes_dscp() {
        let mut frame = [0; 34];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[15] = 0xb9;
        frame[17] = 20;
        assert_eq!(outer_tos(&frame, Dscp::Copy), 0xb9);
        assert_eq!(outer_tos(&frame, Dscp::Fixed(8)), 0x21);
        frame[12] = 9;
        assert_eq!(outer_tos(&frame, Dscp::Copy), 0);
        assert_eq!(decap_tos(&frame, CE), Ok(None));
    }
}
