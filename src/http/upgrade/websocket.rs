//! The keys of a WebSocket's handshake over HTTP/1.1 (RFC 6455 §4), which HTTP/2 does without (RFC 8441 §5).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::{HeaderName, HeaderValue};

pub const KEY: HeaderName = http::header::SEC_WEBSOCKET_KEY;
pub const ACCEPT: HeaderName = http::header::SEC_WEBSOCKET_ACCEPT;

/// Behind the key before it is hashed: no other protocol's server would do so.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of our own: 16 bytes at random, and no secret.
pub fn key() -> HeaderValue {
    value(&fastrand::u128(..).to_le_bytes())
}

/// True for 16 bytes in base64.
pub fn is_key(key: &HeaderValue) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    matches!(key.as_bytes().split_at_checked(22), Some((text, b"==")) if text.iter().all(inner))
}

/// What a server answers to `key`.
pub fn accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), GUID].concat();
    value(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text).as_ref())
}

fn value(bytes: &[u8]) -> HeaderValue {
    // Base64 is all visible ASCII.
    HeaderValue::from_str(&base64(bytes)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Base64 with padding (RFC 4648 §4): of a few bytes, so that it need not be fast.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(padded);
        for place in 0..4 {
            text.push(match place <= three.len() {
                true => DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char,
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_holds() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_is_padded() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let encoded = texts.map(|text| base64(text.as_bytes()));
        assert_eq!(
            encoded,
            [
                "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"
            ]
        );
    }

    #[test]
    fn keys_of_ours_are_keys_and_differ() {
        let (one, two) = (key(), key());
        assert!(is_key(&one) && is_key(&two) && one != two);
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZ===",
            "abc",
        ] {
            assert!(!is_key(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
