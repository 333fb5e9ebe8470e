//! Bytes of the control socket: a 32-bit little-endian length and a postcard body.
//!
//! Sans-IO. A length is a claim of the other side, so nobody allocates by it: bodies grow as their bytes arrive.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{MESSAGE_LEN_MAX, Request, Response};

/// Bytes in front of each body.
pub const HEADER_LEN: usize = 4;

/// Why bytes are not a message, or a message has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The body is too long for one message.
    #[error(
        "a message of {len} bytes is longer than the {MESSAGE_LEN_MAX} that one may have: split the change into several bundles"
    )]
    TooLong {
        /// Bytes of the body, or what the other side claimed.
        len: usize,
    },
    /// The body is no such message.
    #[error("the body is no message that this build knows: {0}")]
    Malformed(#[from] postcard::Error),
    /// Something follows the message in its own body.
    #[error("{count} bytes follow the message in its own body")]
    Trailing {
        /// How many bytes.
        count: usize,
    },
}

/// The message with its length in front, ready to be sent.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = postcard::to_extend(message, vec![0; HEADER_LEN])?;
    let len = bytes.len() - HEADER_LEN;
    if len > MESSAGE_LEN_MAX {
        return Err(CodecError::TooLong { len });
    }
    bytes[..HEADER_LEN].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

/// The length of the body behind this header.
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, CodecError> {
    let len = u32::from_le_bytes(header) as usize;
    if len > MESSAGE_LEN_MAX { Err(CodecError::TooLong { len }) } else { Ok(len) }
}

/// The message whose whole body this is.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let (message, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() { Ok(message) } else { Err(CodecError::Trailing { count: rest.len() }) }
}

/// Entry for fuzzing: any bytes, as a request and as a response. What decodes must survive a round trip.
///
/// # Panics
/// When a decoded message does not encode to an equal one: that is the finding.
pub fn fuzz(data: &[u8]) {
    if let Ok(request) = decode::<Request>(data) {
        let again: Request = round_trip(&request);
        assert!(again == request, "{request:?}");
    }
    if let Ok(response) = decode::<Response>(data) {
        let again: Response = round_trip(&response);
        assert!(again == response, "{response:?}");
    }
}

fn round_trip<T: Serialize + DeserializeOwned>(message: &T) -> T {
    let bytes = encode(message).unwrap_or_else(|error| unreachable!("decoded, so it encodes: {error}"));
    decode(&bytes[HEADER_LEN..]).unwrap_or_else(|error| unreachable!("encoded, so it decodes: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Hello;
    use crate::program::Bundle;
    use crate::rule::{Action, Instruction, Match, Rule, RuleKey};
    use crate::{DomainId, Op, TableId};
    use weft_packet::{DropReason, Field};

    fn apply() -> Request {
        let matches = Match::ANY.with(Field::IpSrc, u128::MAX).with_masked(Field::Reg3, 5, 7);
        let rule = Rule {
            key: RuleKey { table: TableId(1), priority: 7, matches },
            instructions: vec![
                Instruction::Apply(vec![Action::Drop(DropReason::Policy)]),
                Instruction::Goto(TableId(2)),
            ],
            owner: "port red/a".into(),
            domain: DomainId(3),
        };
        Request::Apply(Bundle { replace: true, ops: vec![Op::PutRule(rule)], ..Bundle::default() })
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let bytes = encode(&apply()).unwrap();
        let header = bytes[..HEADER_LEN].try_into().unwrap();
        assert_eq!(body_len(header).unwrap(), bytes.len() - HEADER_LEN);
        assert_eq!(decode::<Request>(&bytes[HEADER_LEN..]).unwrap(), apply());
    }

    #[test]
    fn a_body_with_something_behind_its_message_is_refused() {
        let mut bytes = encode(&Request::Status).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<Request>(&bytes[HEADER_LEN..]), Err(CodecError::Trailing { count: 1 })));
    }

    #[test]
    fn a_claimed_length_past_the_bound_is_refused() {
        assert!(matches!(body_len([0xff; 4]), Err(CodecError::TooLong { .. })));
        assert_eq!(body_len((MESSAGE_LEN_MAX as u32).to_le_bytes()).unwrap(), MESSAGE_LEN_MAX);
    }

    #[test]
    fn mutated_messages_never_panic() {
        let hello = Hello { protocol: 1, features: vec!["x".into()], instance: "i".into(), build: "b".into() };
        let seeds = [encode(&apply()).unwrap(), encode(&Request::Hello(hello)).unwrap()];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000_usize {
            let mut body = seeds[round % seeds.len()][HEADER_LEN..].to_vec();
            for _ in 0..1 + round % 4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % body.len();
                body[at] = (state >> 20) as u8;
                body.truncate(body.len() - (state >> 60) as usize % body.len().min(3));
            }
            fuzz(&body);
        }
    }
}
