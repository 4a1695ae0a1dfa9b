//! A gRPC message in the routing file: bytes, written in base64 (RFC 4648 §4).

use std::{fmt, str::FromStr};

use bytes::Bytes;

use crate::units::{Invalid, as_text};

/// An encoded message, without its length prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message(pub Bytes);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl FromStr for Message {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        decode(text.as_bytes())
            .map(|bytes| Message(bytes.into()))
            .ok_or_else(|| Invalid("this is not base64".into()))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.chunks(3) {
            let mut group = [0; 3];
            group[..chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for place in 0..4 {
                let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
                let padding = place > chunk.len();
                write!(f, "{}", if padding { '=' } else { letter as char })?;
            }
        }
        Ok(())
    }
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let letters = text
        .strip_suffix(b"==")
        .or(text.strip_suffix(b"="))
        .unwrap_or(text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in letters.chunks(4) {
        let mut bits = 0;
        for letter in chunk {
            bits = bits << 6 | ALPHABET.iter().position(|known| known == letter)? as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

as_text!(Message, "CgNhYmM=", { "contentEncoding": "base64" });

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: Vec<u8>) {
            let message = Message(bytes.into());
            prop_assert_eq!(message.to_string().parse::<Message>().unwrap(), message);
        }
    }

    #[test]
    fn it_is_base64_as_others_write_it() {
        assert_eq!(
            Message(Bytes::from_static(b"light w")).to_string(),
            "bGlnaHQgdw=="
        );
        for bad in ["a", "====", "a===", "bGlnaHQgdw=", "%%%%"] {
            assert!(bad.parse::<Message>().is_err(), "{bad}");
        }
    }
}
