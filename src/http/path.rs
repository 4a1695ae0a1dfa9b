//! Reads a path once, before routing: what was matched is what is forwarded.
//!
//! Decided here: dot segments, and escapes of bytes that need none (`%61` is `a`, RFC 3986 §6.2.2.2). Never
//! rewritten, because servers read them in two ways: `//`, `%2f`, `%5c`, `\` and `;`. A path with one of these
//! is *ambiguous*, and is refused (400 `ambiguous_path`) wherever the matched host has any path rule besides
//! the catch-all; where no rule looks at paths it passes as it came. Refused always: an escape that is none, an
//! escaped control byte, an overlong UTF-8 sequence, a byte that is not visible ASCII.

use std::borrow::Cow;

use super::{
    octets::{self, PATH, PLAIN, UNRESERVED},
    target::bad,
};
use crate::fault::Fault;

/// A path as it is matched and forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    pub text: Cow<'a, str>,
    /// Servers may read it in two ways.
    pub ambiguous: bool,
}

/// Reads `raw`, which begins with `/`. A clean path costs one scan and no allocation.
pub fn read(raw: &str) -> Result<Path<'_>, Fault> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(bad("a path that does not begin with a slash"));
    }
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // After a slash, a slash is ambiguous and a dot may be a segment of its own.
        let begun = match byte {
            b'/' => !matches!(bytes.get(at + 1), Some(b'/' | b'.')),
            b'.' => true,
            _ => octets::is(byte, PLAIN),
        };
        if !begun {
            return read_closely(raw);
        }
        at += 1 + octets::run(&bytes[at + 1..], PLAIN);
    }
    Ok(Path {
        text: Cow::Borrowed(raw),
        ambiguous: false,
    })
}

#[cold]
fn read_closely(raw: &str) -> Result<Path<'_>, Fault> {
    let (text, mut ambiguous) = unescape(raw)?;
    ambiguous |= text.contains("//");
    let text = match has_dot_segments(&text) {
        true => Cow::Owned(remove_dot_segments(&text)),
        false => text,
    };
    Ok(Path { text, ambiguous })
}

/// Replaces escapes of unreserved bytes, checks all others, and says whether something ambiguous was seen.
fn unescape(raw: &str) -> Result<(Cow<'_, str>, bool), Fault> {
    let bytes = raw.as_bytes();
    let mut ambiguous = false;
    let mut out = String::new();
    // Up to where `raw` is in `out`.
    let mut copied = 0;
    let mut at = 0;
    // The byte that was escaped just before, where it may begin an overlong sequence.
    let mut lead = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte != b'%' {
            if !octets::is(byte, PATH) {
                return Err(bad("a byte in the path that must be escaped"));
            }
            ambiguous |= matches!(byte, b'\\' | b';');
            lead = 0;
            at += 1;
            continue;
        }
        let Some(decoded) = hex(bytes.get(at + 1))
            .zip(hex(bytes.get(at + 2)))
            .map(|(h, l)| h << 4 | l)
        else {
            return Err(bad(
                "an escape in the path that is not two hexadecimal digits",
            ));
        };
        match decoded {
            0..0x20 | 0x7f => return Err(bad("an escaped control byte in the path")),
            0xc0 | 0xc1 => return Err(bad("an overlong UTF-8 sequence in the path")),
            0x80..0xa0 if lead == 0xe0 => {
                return Err(bad("an overlong UTF-8 sequence in the path"));
            }
            0x80..0x90 if lead == 0xf0 => {
                return Err(bad("an overlong UTF-8 sequence in the path"));
            }
            b'/' | b'\\' => ambiguous = true,
            _ if octets::is(decoded, UNRESERVED) => {
                out.push_str(&raw[copied..at]);
                out.push(char::from(decoded));
                copied = at + 3;
            }
            _ => {}
        }
        lead = decoded;
        at += 3;
    }
    if copied == 0 {
        return Ok((Cow::Borrowed(raw), ambiguous));
    }
    out.push_str(&raw[copied..]);
    Ok((Cow::Owned(out), ambiguous))
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).map(|value| value as u8)
}

fn has_dot_segments(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// RFC 3986 §5.2.4. Above the root is the root.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if last {
            out.push('/');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_read_one_way() {
        let cases = [
            // as it came
            ("/", "/", false),
            ("/a", "/a", false),
            ("/a/b/c.html", "/a/b/c.html", false),
            ("/a.b/..c/.d/e../...", "/a.b/..c/.d/e../...", false),
            ("/a/.well-known/x", "/a/.well-known/x", false),
            (
                "/~me/@you:x/a=b&c,d!$'()*+",
                "/~me/@you:x/a=b&c,d!$'()*+",
                false,
            ),
            ("/%20%25%3a%C3%A9", "/%20%25%3a%C3%A9", false),
            ("/%e9", "/%e9", false),
            ("/%252e%252e/", "/%252e%252e/", false),
            ("/{id}|\"^[]", "/{id}|\"^[]", false),
            // escapes that need none
            ("/%61%2D%2e%5F%7e%39", "/a-._~9", false),
            ("/adm%69n", "/admin", false),
            // dot segments
            ("/.", "/", false),
            ("/..", "/", false),
            ("/./a", "/a", false),
            ("/a/./b", "/a/b", false),
            ("/a/../b", "/b", false),
            ("/a/b/..", "/a/", false),
            ("/a/b/.", "/a/b/", false),
            ("/a/b/../../c", "/c", false),
            ("/../../etc/passwd", "/etc/passwd", false),
            ("/public/%2e%2e/admin", "/admin", false),
            ("/public/.%2E/admin", "/admin", false),
            ("/a/%2e/b", "/a/b", false),
            // two ways
            ("//", "//", true),
            ("//a", "//a", true),
            ("/a//b", "/a//b", true),
            ("/a/", "/a/", false),
            ("/a//", "/a//", true),
            ("/a//../b", "/a/b", true),
            ("/a%2fb", "/a%2fb", true),
            ("/a%2Fb", "/a%2Fb", true),
            ("/a%5cb", "/a%5cb", true),
            ("/a%5Cb", "/a%5Cb", true),
            ("/a\\b", "/a\\b", true),
            ("/public\\..\\admin", "/public\\..\\admin", true),
            ("/a;b", "/a;b", true),
            ("/public/..;/admin", "/public/..;/admin", true),
            ("/public/..%2fadmin", "/public/..%2fadmin", true),
            ("/public/%2e%2e%2fadmin", "/public/..%2fadmin", true),
            ("/public/%2e%2e/%2fadmin", "/%2fadmin", true),
        ];
        for (raw, text, ambiguous) in cases {
            let path = read(raw).unwrap();
            assert_eq!((&*path.text, path.ambiguous), (text, ambiguous), "{raw}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for raw in [
            "",
            "a",
            "*",
            "/%",
            "/%6",
            "/%g1",
            "/%1g",
            "/a%",
            "/%%61",
            "/%u002f",
            "/%00",
            "/%0d%0a",
            "/%1f",
            "/%7F",
            "/%c0%ae",
            "/%C1%9c",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/é",
            "/a b",
            "/a#b",
            "/\u{7f}",
            "/a\tb",
            "/%+1",
        ] {
            assert!(read(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn clean_paths_are_borrowed() {
        for raw in ["/", "/v1/orders/42", "/a.b/c", "/%20"] {
            assert!(matches!(read(raw).unwrap().text, Cow::Borrowed(_)), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn reading_again_changes_nothing(raw in "/([a.%/;]|%2e|%2f|%61|%41|\\.\\.|é|//){0,12}") {
            if let Ok(first) = read(&raw) {
                let again = read(&first.text).unwrap();
                prop_assert_eq!(&again.text, &first.text);
                prop_assert!(first.ambiguous || !again.ambiguous);
                prop_assert!(first.text.starts_with('/'));
                prop_assert!(!has_dot_segments(&first.text));
            }
        }
    }
}
