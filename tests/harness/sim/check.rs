//! What is true at every moment: no frame arrives at another tenant's guest, none arrives twice, none arrives that was
//! refused, and what arrives is what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::guest::{Guest, Kind, Seen, TENANTS, read};

/// A guest's device on one host. While a guest moves it may have one on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the host.
    pub host: usize,
    /// Whose device.
    pub guest: Guest,
}

/// A frame that a guest sent, and where it came out.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where it went in.
    pub from: Place,
    /// Whom it is for, or whom it asks for.
    pub to: Guest,
    /// What it is.
    pub kind: Kind,
    /// Where it came out.
    pub arrived: BTreeSet<Place>,
    bytes: Vec<u8>,
}

/// All frames.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: BTreeMap<u64, Sent>,
    answers: BTreeSet<(Place, Ipv4Addr)>,
    /// Frames that came out.
    pub arrivals: u64,
}

impl Traffic {
    /// Makes a frame and remembers it.
    pub fn send(&mut self, from: Place, to: Guest, kind: Kind) -> (u64, Vec<u8>) {
        let nonce = self.sent.len() as u64 + 1;
        let bytes = from.guest.frame(kind, to, nonce);
        self.sent.insert(nonce, Sent { from, to, kind, arrived: BTreeSet::new(), bytes: bytes.clone() });
        (nonce, bytes)
    }

    /// What became of a frame.
    ///
    /// # Panics
    /// When there is none of that nonce.
    pub fn sent(&self, nonce: u64) -> &Sent {
        &self.sent[&nonce]
    }

    /// How many frames went in.
    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Forgets which address requests were answered.
    pub fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// Whether a request for the address was answered at the place.
    pub fn was_answered(&self, at: Place, address: Ipv4Addr) -> bool {
        self.answers.contains(&(at, address))
    }

    /// A frame came out of a guest's device.
    ///
    /// # Panics
    /// When it may not.
    pub fn arrived(&mut self, at: Place, frame: &[u8]) {
        self.arrivals += 1;
        match read(frame) {
            Seen::Nonce(nonce) => self.nonce_arrived(at, nonce, frame),
            Seen::ArpAnswer(address, mac) => {
                let asked = Guest { slot: usize::from(address.octets()[3].wrapping_sub(1)), ..at.guest };
                assert_eq!(
                    (address, mac),
                    (asked.ipv4(), asked.mac()),
                    "{at:?} is told another tenant's location of {address}"
                );
                self.answers.insert((at, address));
            }
            Seen::Unexplained => panic!("{at:?} received what nobody sent: {frame:02x?}"),
        }
    }

    fn nonce_arrived(&mut self, at: Place, nonce: u64, frame: &[u8]) {
        let sent = self.sent.get_mut(&nonce).unwrap_or_else(|| panic!("{at:?} received nonce {nonce}, sent by nobody"));
        let tenant = TENANTS[sent.from.guest.tenant];
        assert_eq!(
            at.guest.tenant, sent.from.guest.tenant,
            "{at:?} received nonce {nonce} of tenant {tenant}: {sent:?}"
        );
        assert!(sent.kind.may_arrive(), "{at:?} received nonce {nonce}, which must arrive nowhere: {sent:?}");
        assert!(is_same(frame, &sent.bytes), "{at:?} received nonce {nonce} changed: {frame:02x?} of {sent:02x?}");
        assert!(sent.arrived.insert(at), "{at:?} received nonce {nonce} twice: {sent:?}");
        if sent.kind.is_unicast() {
            assert_eq!(at.guest, sent.to, "nonce {nonce} is for somebody else: {sent:?}");
            assert_eq!(sent.arrived.len(), 1, "unicast nonce {nonce} arrived at two places: {sent:?}");
        }
    }
}

/// Datagrams that were coalesced and cut again may have another IPv4 identification, and with it another header
/// checksum: where fragmenting is forbidden it means nothing (RFC 6864, section 4.1).
fn is_same(frame: &[u8], sent: &[u8]) -> bool {
    let plain = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        if let [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, header @ ..] = frame.as_mut_slice() {
            header[4..6].fill(0);
            header[10..12].fill(0);
        }
        frame
    };
    plain(frame) == plain(sent)
}
