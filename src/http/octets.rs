//! Which bytes may stand where in HTTP: one table, and a search for control bytes.

/// A field name or a method (RFC 9110 §5.6.2).
pub(super) const TOKEN: u8 = 1;
/// A path, as hyper's `Uri` will read it.
pub(super) const PATH: u8 = 2;
/// A query, likewise.
pub(super) const QUERY: u8 = 4;
/// A host name: letters, digits, `-`, `.`, `_`, `~`.
pub(super) const NAME: u8 = 8;
/// RFC 3986 §2.3: escaped or not, it is the same byte.
pub(super) const UNRESERVED: u8 = 16;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0x21;
    while i < 0x7f {
        let byte = i as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() {
            class |= TOKEN | NAME | UNRESERVED;
        }
        if matches!(byte, b'-' | b'.' | b'_' | b'~') {
            class |= TOKEN | NAME | UNRESERVED;
        }
        if matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|'
        ) {
            class |= TOKEN;
        }
        // A fragment never travels; the rest is what `http::Uri` refuses, and with it hyper, without a word.
        if !matches!(byte, b'#' | b'<' | b'>' | b'`' | b'?') {
            class |= PATH;
        }
        if !matches!(byte, b'#' | b'<' | b'>' | b'"') {
            class |= QUERY;
        }
        table[i] = class;
        i += 1;
    }
    table
}

#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Where the first control byte (below 0x20, or 0x7F) at or after `from` stands.
#[inline]
pub(super) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let (words, tail) = bytes.get(from..)?.as_chunks::<8>();
    let mut at = from;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete;
        // A borrow can only spoil bytes above the first hit, and only the first is asked for.
        let hits = (below | delete) & HIGH;
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    tail.iter()
        .position(|&byte| byte < 0x20 || byte == 0x7f)
        .map(|i| at + i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_are_found_wherever_they_stand() {
        for len in 0..40 {
            for from in 0..=len {
                for at in 0..len {
                    for byte in 0..=255u8 {
                        let mut bytes = vec![b'a'; len];
                        bytes[at] = byte;
                        let expected = (byte.is_ascii_control() && at >= from).then_some(at);
                        assert_eq!(
                            find_control(&bytes, from),
                            expected,
                            "{byte:#x} at {at}/{len} from {from}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_many_is_found() {
        let bytes = b"\x80\xff~ \x1f\x7f\x00\x20\xa0\x9f";
        assert_eq!(find_control(bytes, 0), Some(4));
        assert_eq!(find_control(bytes, 5), Some(5));
        assert_eq!(find_control(bytes, 7), None);
    }

    #[test]
    fn paths_and_queries_are_what_uri_reads() {
        for byte in 0x21..0x7f_u8 {
            for (class, before) in [(PATH, "/"), (QUERY, "/?")] {
                let mut text = before.as_bytes().to_vec();
                text.push(byte);
                let read = http::Uri::try_from(&text[..])
                    .is_ok_and(|uri| uri.to_string().as_bytes() == text);
                if class == PATH && byte == b'?' {
                    continue;
                }
                assert_eq!(is(byte, class), read, "{:?}", byte as char);
            }
        }
    }
}
