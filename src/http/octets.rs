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
        if class & PATH != 0 && !matches!(byte, b'/' | b'.' | b'%' | b'\\' | b';') {
            class |= PLAIN;
        }
        if class & NAME != 0 && byte != b'.' && !byte.is_ascii_uppercase() {
            class |= LABEL;
        }
        table[i] = class;
        i += 1;
    }
    table
}

/// A path's byte that means one thing and says nothing of segments.
pub(super) const PLAIN: u8 = 32;
/// A host name's byte in lower case, within a label.
pub(super) const LABEL: u8 = 64;

/// How many bytes at the begin of `bytes` are of `class`.
#[inline]
pub(super) fn run(bytes: &[u8], class: u8) -> usize {
    let end = bytes.iter().position(|&byte| !is(byte, class));
    end.unwrap_or(bytes.len())
}

#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Where the first control byte (below 0x20, or 0x7F) at or after `from` stands.
#[inline]
pub(super) fn find_control(bytes: &[u8], from: usize) -> Option<usize> {
    let (words, rest) = bytes.get(from..)?.as_chunks();
    let mut at = from;
    for word in words {
        let controls = controls(u64::from_le_bytes(*word));
        if controls != 0 {
            return Some(at + first(controls));
        }
        at += 8;
    }
    rest.iter().position(u8::is_ascii_control).map(|i| at + i)
}

const fn all(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Which of eight bytes the lowest bit belongs to.
#[inline]
fn first(bits: u64) -> usize {
    (bits.trailing_zeros() / 8) as usize
}

/// The high bit of each byte that is a control.
#[inline]
fn controls(word: u64) -> u64 {
    // In seven bits 0x7F becomes 0 and the controls 1 to 0x20: what 0x5F more does not lift over 0x7F.
    let shifted = ((word & all(0x7f)) + all(1)) & all(0x7f);
    !((shifted + all(0x5f)) | word) & all(0x80)
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
