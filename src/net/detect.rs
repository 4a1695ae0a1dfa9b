//! Which protocol a connection speaks, by the first bytes of its caller.
//!
//! Silence decides nothing: where no byte has come there is no verdict, and what else may happen meanwhile is the
//! flow's affair. The bytes that were read are handed on, none is lost.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{
    Stream,
    client_hello::{self, ClientHello},
};

/// The client preface of HTTP/2 (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Ports whose protocols are never detected unless the file says otherwise: their servers speak first, or their
/// callers speak in words that look like something else.
pub const OPAQUE_PORTS: [u16; 15] = [
    22, 25, 587, 1883, 3306, 4222, 4444, 5432, 5672, 6222, 6379, 9092, 9300, 11211, 27017,
];

/// A request line without an end that is as long as this is HTTP all the same, and too long by its rules.
const LONGEST_LINE: usize = 16 * 1024;
/// The longest word that is taken for a method.
const LONGEST_METHOD: usize = 32;

/// What a connection speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Http1,
    Http2,
    Tls(ClientHello),
    /// PostgreSQL's start: TLS asked for, or a session opened.
    Postgres,
    Other,
}

impl Kind {
    pub const fn word(&self) -> &'static str {
        match self {
            Kind::Http1 => "http1",
            Kind::Http2 => "http2",
            Kind::Tls(_) => "tls",
            Kind::Postgres => "postgres",
            Kind::Other => "other",
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The application beside us: a line of words is HTTP where it says so, or any text protocol would be refused.
    Own,
    /// Anyone: what a lenient server might still read as a request is HTTP, and judged by its rules. Else a forged
    /// header could reach the application in a request that we did not take for one.
    Stranger,
}

/// The verdict on what has come so far; none where the next bytes decide.
pub fn judge(bytes: &[u8], caller: Caller) -> Option<Kind> {
    match bytes.first()? {
        22 => match client_hello::read(bytes) {
            client_hello::Read::More => None,
            client_hello::Read::Hello(hello) => Some(Kind::Tls(hello)),
            client_hello::Read::Other => Some(Kind::Other),
        },
        0 if is_postgres(bytes) => Some(Kind::Postgres),
        _ if bytes.starts_with(PREFACE) => Some(Kind::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        _ => judge_line(bytes, caller),
    }
}

/// SSLRequest, GSSENCRequest and CancelRequest are one code behind their length; a start names version 3.
fn is_postgres(bytes: &[u8]) -> bool {
    let Some([_, _, high, low, code @ ..]) = bytes.first_chunk::<8>() else {
        return false;
    };
    let length = u16::from_be_bytes([*high, *low]);
    match u32::from_be_bytes(*code) {
        80_877_103 | 80_877_104 => length == 8,
        80_877_102 => length >= 16,
        0x0003_0000..=0x0003_ffff => length > 8,
        _ => false,
    }
}

/// A request line is a method, a space and more; servers skip empty lines before it (RFC 9112 §2.2), and some take
/// other white space.
fn judge_line(bytes: &[u8], caller: Caller) -> Option<Kind> {
    let too_long = match caller {
        Caller::Own => Kind::Other,
        Caller::Stranger => Kind::Http1,
    };
    let Some(begin) = bytes.iter().position(|byte| !is_blank(*byte)) else {
        return (bytes.len() > LONGEST_METHOD).then_some(too_long);
    };
    let line = &bytes[begin..];
    let word = line.iter().take_while(|byte| is_token(**byte)).count();
    if word > LONGEST_METHOD {
        return Some(too_long);
    }
    let behind = match line.get(word) {
        None => return None,
        Some(behind) => *behind,
    };
    // A line's end is no space: "PING\r\n" is no request to anyone.
    if word == 0 || !is_blank(behind) || matches!(behind, b'\r' | b'\n') {
        return Some(Kind::Other);
    }
    match caller {
        Caller::Stranger => Some(Kind::Http1),
        Caller::Own => match memchr::memchr(b'\n', line) {
            Some(end) if says_http(&line[..end]) => Some(Kind::Http1),
            Some(_) => Some(Kind::Other),
            None if line.len() >= LONGEST_LINE => Some(Kind::Http1),
            None => None,
        },
    }
}

/// White space to the most lenient of servers: Python's `http.server` splits a request line at any of these.
fn is_blank(byte: u8) -> bool {
    matches!(byte, 9..=13 | 28..=32 | 0x85 | 0xa0)
}

/// The last word of a request line is its version.
fn says_http(line: &[u8]) -> bool {
    let last = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
    last.is_some_and(|last| last.starts_with(b"HTTP/"))
}

/// Whether a request is for a proxy that its sender chose itself: CONNECT, or a whole URI (RFC 9112 §3.2.2).
pub fn leaves_by_a_proxy(request: &[u8]) -> bool {
    let line = request.trim_ascii_start();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next();
    let target = words.next().unwrap_or(b"");
    let scheme = |scheme: &[u8]| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    method == Some(b"CONNECT") || scheme(b"http://") || scheme(b"https://")
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The first bytes of a connection, read until they tell.
pub struct First {
    caller: Caller,
    bytes: BytesMut,
}

impl First {
    pub fn of(caller: Caller) -> Self {
        First {
            caller,
            bytes: BytesMut::new(),
        }
    }

    /// What the caller speaks; none when it has ended or broken before that was clear. Waits for ever.
    ///
    /// At most 16 KiB are read. Dropping the future loses nothing: the next call goes on.
    pub async fn kind(&mut self, stream: &mut Stream) -> Option<Kind> {
        loop {
            stream.readable().await.ok()?;
            // Reserved only now, so that a silent connection holds no buffer.
            self.bytes.reserve(4096);
            if stream.read_buf(&mut self.bytes).await.ok()? == 0 {
                // What ends in the middle of a word is no HTTP and no TLS.
                return (!self.bytes.is_empty()).then_some(Kind::Other);
            }
            if let Some(kind) = judge(&self.bytes, self.caller) {
                return Some(kind);
            }
        }
    }

    /// What was read.
    pub fn bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stranger(bytes: &[u8]) -> Option<Kind> {
        judge(bytes, Caller::Stranger)
    }

    fn own(bytes: &[u8]) -> Option<Kind> {
        judge(bytes, Caller::Own)
    }

    #[test]
    fn the_ports_that_nobody_looks_at_are_those_of_the_docs() {
        let said = OPAQUE_PORTS.map(|port| port.to_string()).join(", ");
        let docs = include_str!("../../docs/protocols.md");
        let docs = docs.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(docs.contains(&said), "{said}");
    }

    #[test]
    fn http_is_told_by_its_first_line_or_its_preface() {
        for caller in [Caller::Own, Caller::Stranger] {
            assert_eq!(judge(b"", caller), None);
            assert_eq!(judge(b"G", caller), None);
            assert_eq!(judge(b"GET /a HTTP/1.1\r\n", caller), Some(Kind::Http1));
            assert_eq!(judge(b"M-SEARCH * HTTP/1.0\r\n", caller), Some(Kind::Http1));
            assert_eq!(judge(b"PRI * HT", caller), None);
            assert_eq!(judge(PREFACE, caller), Some(Kind::Http2));
        }
    }

    #[test]
    fn an_application_may_speak_lines_that_are_no_http() {
        assert_eq!(own(b"GET /a HT"), None);
        assert_eq!(own(b"set key 0 0 5\r\n"), Some(Kind::Other));
        assert_eq!(own(b"CONNECT {\"verbose\":false}\r\n"), Some(Kind::Other));
        assert_eq!(own(b"PRI * MAIL\r\n"), Some(Kind::Other));
    }

    #[test]
    fn what_a_lenient_server_reads_as_a_request_is_http_from_a_stranger() {
        let long = [&[b'A'; 40][..], b" /admin HTTP/1.1\r\n"].concat();
        let late = [&[b'\n'; 40][..], b"GET /admin HTTP/1.1\r\n"].concat();
        let requests: [&[u8]; 10] = [
            &long,
            &late,
            b"\x0bGET\x0c/admin HTTP/1.1\r\n",
            b"GET /admin\r\n",
            b"GET\t/admin\tHTTP/1.1\r\n",
            b"\r\nGET /admin HTTP/1.1\r\n",
            b" \tGET /admin HTTP/1.1\r\n",
            b"get /admin http/1.1\r\n",
            b"GET  /admin HTTP/1.1 \r\n",
            b"GET /never-ending",
        ];
        for request in requests {
            assert_eq!(stranger(request), Some(Kind::Http1), "{request:?}");
        }
    }

    #[test]
    fn a_request_for_a_proxy_says_so_in_its_line() {
        assert!(leaves_by_a_proxy(b"CONNECT a:443 HTTP/1.1\r\n"));
        assert!(leaves_by_a_proxy(b"GET HTTP://a/ HTTP/1.1\r\n"));
        assert!(!leaves_by_a_proxy(
            b"GET /?to=http://a/ HTTP/1.1\r\nx: CONNECT"
        ));
        assert!(!leaves_by_a_proxy(b"OPTIONS * HTTP/1.1\r\n"));
    }

    #[test]
    fn one_byte_that_begins_no_request_is_enough() {
        for bytes in [
            &b"\x80\x01"[..],
            b"\0\0\0\x2f\x80",
            b"*1\r\n$4\r\nPING\r\n",
            b"{",
            b"PING\r\n",
        ] {
            assert_eq!(stranger(bytes), Some(Kind::Other), "{bytes:?}");
            assert_eq!(own(bytes), Some(Kind::Other), "{bytes:?}");
        }
        assert_eq!(own(&[b'a'; 40]), Some(Kind::Other));
    }

    #[test]
    fn postgres_is_known_by_its_first_message() {
        assert_eq!(own(b"\0\0\0\x08\x04\xd2\x16\x2f"), Some(Kind::Postgres));
        assert_eq!(own(b"\0\0\0\x20\0\x03\0\0user\0"), Some(Kind::Postgres));
        assert_eq!(own(b"\0\0\0\x08\x04\xd2\x16\x20"), Some(Kind::Other));
    }

    #[test]
    fn tls_is_known_once_its_hello_is_whole() {
        let hello = client_hello::written(Some("shop.example"), &["weft/tcp"]);
        assert_eq!(stranger(&hello[..20]), None);
        let Some(Kind::Tls(read)) = stranger(&hello) else {
            panic!("a hello")
        };
        assert_eq!(read.server_name.as_deref(), Some("shop.example"));
    }

    #[test]
    fn a_line_without_an_end_is_http_at_last() {
        let line = [b"GET /".to_vec(), vec![b'a'; LONGEST_LINE]].concat();
        assert_eq!(own(&line), Some(Kind::Http1));
        assert_eq!(own(&[b'\n'; 100]), Some(Kind::Other));
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_verdict(bytes in "[ A-Z\r\n/\\.1]{0,60}", cut in 0..60usize) {
            for caller in [Caller::Own, Caller::Stranger] {
                let bytes = bytes.as_bytes();
                if let Some(kind) = judge(&bytes[..cut.min(bytes.len())], caller) {
                    prop_assert_eq!(judge(bytes, caller), Some(kind));
                }
            }
        }
    }
}
