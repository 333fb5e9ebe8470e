//! Netlink messages: a header, a fixed part, attributes that nest; all in native byte order (netlink(7)).

/// A request being built.
#[derive(Debug, Clone)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request with its fixed part.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(super) fn put(mut self, kind: u16, data: &[u8]) -> Self {
        let len = (ATTRIBUTE_LEN + data.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a text attribute, with its zero at the end.
    pub(super) fn put_text(self, kind: u16, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.put(kind, &data)
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ATTRIBUTE_LEN]);
        let mut filled = fill(self);
        let len = (filled.bytes.len() - at) as u16;
        filled.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        filled.bytes[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
        filled
    }

    /// Adds bytes that are no attribute, such as a fixed part inside a nest.
    pub(super) fn raw(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self
    }

    /// The request, ready to be sent.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages in one datagram; stops at the first that lies about its length.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let (kind, sequence) = (u16_at(bytes, 4)?, u32_at(bytes, 8)?);
        let body = bytes.get(HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, sequence, body })
    })
}

/// The attributes in `bytes`: kind (without its flag bits) and data; stops at the first that lies about its length.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let data = bytes.get(ATTRIBUTE_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// A text attribute without its zero.
pub(super) fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

const HEADER_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let bytes =
            Message::new(16, 5, &[1, 2, 3, 4]).put_text(3, "lo").nest(18, |m| m.put(1, &7u32.to_ne_bytes())).finish(9);
        let answer = answers(&bytes).next().unwrap();
        assert_eq!((answer.kind, answer.sequence, &answer.body[..4]), (16, 9, &[1, 2, 3, 4][..]));
        let got: Vec<_> = attributes(&answer.body[4..]).collect();
        assert_eq!((got[0].0, text(got[0].1).as_str()), (3, "lo"));
        assert_eq!(attributes(got[1].1).next(), Some((1, &7u32.to_ne_bytes()[..])));
        assert_eq!(answers(&bytes).count(), 1);
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for len in [0u32, 3, 15, 17, u32::MAX] {
            let mut bytes = Message::new(16, 5, &[]).finish(1);
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(answers(&bytes).count(), 0, "{len}");
        }
        assert_eq!(attributes(&[1, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
    }
}
