//! An answer's head: bytes to status, fields and framing.
//!
//! `httparse` reads; what it forgives is refused here: bare line feeds, empty lines before the status line, and every
//! framing that two parsers could read differently. Field values stay slices of the bytes that were read.

use super::Limits;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use httparse::{Header, ParserConfig, Status};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// No message may have more fields than this, whatever `Limits` says: they are parsed on the stack.
pub(super) const MOST_FIELDS: usize = 128;

/// How bytes can fail to be an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Malformed(&'static str),
    TooLarge,
    TooManyFields,
}

/// How long the body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Unsaid,
    Known(u64),
    Chunked,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    /// All fields but `Transfer-Encoding`, repetitions of `Content-Length`, and a `Connection` that says no more than
    /// `close` or `keep-alive`.
    pub(super) headers: HeaderMap,
    pub(super) length: Length,
    /// The connection ends with this answer.
    pub(super) close: bool,
    /// `keep-alive` was said, which only HTTP/1.0 needs. A `close` beside it wins.
    stays: bool,
}

/// Takes a head off the front of `bytes`. `None`: it is not whole yet.
pub(super) fn take(bytes: &mut BytesMut, limits: &Limits) -> Result<Option<Head>, Flaw> {
    let Some(lines) = lines(&bytes[..bytes.len().min(limits.head)], limits)? else {
        return if bytes.len() >= limits.head {
            Err(Flaw::TooLarge)
        } else {
            Ok(None)
        };
    };
    let text = bytes.split_to(lines.end).freeze();
    let mut head = Head {
        status: StatusCode::from_u16(lines.status)
            .map_err(|_| Flaw::Malformed("a status below 100"))?,
        version: lines.version,
        headers: HeaderMap::with_capacity(lines.fields.len()),
        length: Length::Unsaid,
        close: false,
        stays: false,
    };
    for field in &lines.fields {
        head.field(&text, field)?;
    }
    head.close |= head.version == Version::HTTP_10 && !head.stays;
    Ok(Some(head))
}

/// Takes a section of trailers off the front of `bytes`, its empty line included. `None`: it is not whole yet.
pub(super) fn take_trailers(
    bytes: &mut BytesMut,
    limits: &Limits,
) -> Result<Option<HeaderMap>, Flaw> {
    let within = &bytes[..bytes.len().min(limits.head)];
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let room = &mut room[..limits.fields.min(MOST_FIELDS)];
    let (end, fields) = match httparse::parse_headers(within, room).map_err(flaw)? {
        Status::Partial if bytes.len() >= limits.head => return Err(Flaw::TooLarge),
        Status::Partial => return Ok(None),
        Status::Complete((end, parsed)) => (end, places(within, end, parsed)?),
    };
    let text = bytes.split_to(end).freeze();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in &fields {
        let (name, value) = field.read(&text)?;
        if super::trailers::may_trail(&name) {
            headers.append(name, value);
        }
    }
    Ok(Some(headers))
}

impl Head {
    fn field(&mut self, text: &Bytes, field: &Place) -> Result<(), Flaw> {
        let (name, value) = field.read(text)?;
        // Told by length first: most names are none of the three.
        match field.name_length {
            10 if name == header::CONNECTION && self.connection(value.as_bytes()) => return Ok(()),
            14 if name == header::CONTENT_LENGTH => {
                let length = decimal(value.as_bytes())?;
                match self.length {
                    Length::Unsaid => self.length = Length::Known(length),
                    Length::Known(other) if other == length => return Ok(()),
                    Length::Known(_) => return Err(Flaw::Malformed("two content lengths")),
                    Length::Chunked => return Err(BOTH),
                }
            }
            17 if name == header::TRANSFER_ENCODING => {
                if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Flaw::Malformed("a transfer encoding other than chunked"));
                }
                match self.length {
                    Length::Unsaid if self.version == Version::HTTP_10 => {
                        return Err(Flaw::Malformed("a transfer encoding in HTTP/1.0"));
                    }
                    Length::Unsaid => self.length = Length::Chunked,
                    Length::Known(_) => return Err(BOTH),
                    Length::Chunked => return Err(Flaw::Malformed("two transfer encodings")),
                }
                return Ok(());
            }
            _ => {}
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// True when that was all it said, as most answers do.
    fn connection(&mut self, value: &[u8]) -> bool {
        let mut understood = true;
        for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            let close = option.eq_ignore_ascii_case(b"close");
            let stays = option.eq_ignore_ascii_case(b"keep-alive");
            self.close |= close;
            self.stays |= stays;
            understood &= close || stays;
        }
        understood
    }
}

const BOTH: Flaw = Flaw::Malformed("both a content length and a transfer encoding");

/// Where a field stands in the head. A copy of positions, because the head can be frozen only once nothing borrows it.
struct Place {
    name: u32,
    name_length: u32,
    value: u32,
    value_length: u32,
}

impl Place {
    fn read(&self, text: &Bytes) -> Result<(HeaderName, HeaderValue), Flaw> {
        let (name, value) = (self.name as usize, self.value as usize);
        let name = &text[name..name + self.name_length as usize];
        let name = match usual(name) {
            Some(name) => name,
            None => HeaderName::from_bytes(name).map_err(|_| Flaw::Malformed("a field's name"))?,
        };
        let value = text.slice(value..value + self.value_length as usize);
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| Flaw::Malformed("a field's value"))?;
        Ok((name, value))
    }
}

/// The fields of nearly every answer, told by length: `HeaderName::from_bytes` takes five times as long.
fn usual(name: &[u8]) -> Option<HeaderName> {
    /// A bit makes letters small and leaves a hyphen as it is; `lower` has no others, and `name` is a token.
    fn says<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
        name.as_array()
            .is_some_and(|name: &[u8; N]| name.map(|byte| byte | 0x20) == *lower)
    }
    Some(match name.len() {
        4 if says(name, b"date") => header::DATE,
        6 if says(name, b"server") => header::SERVER,
        10 if says(name, b"connection") => header::CONNECTION,
        12 if says(name, b"content-type") => header::CONTENT_TYPE,
        14 if says(name, b"content-length") => header::CONTENT_LENGTH,
        17 if says(name, b"transfer-encoding") => header::TRANSFER_ENCODING,
        _ => return None,
    })
}

struct Lines {
    status: u16,
    version: Version,
    fields: Places,
    end: usize,
}

type Places = SmallVec<[Place; 24]>;

fn lines(bytes: &[u8], limits: &Limits) -> Result<Option<Lines>, Flaw> {
    // httparse would skip empty lines, which only a server may (RFC 9112 section 2.2).
    match bytes.first() {
        None => return Ok(None),
        Some(b'H') => {}
        Some(_) => return Err(Flaw::Malformed("no status line")),
    }
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default()
        .parse_response_with_uninit_headers(
            &mut answer,
            bytes,
            &mut room[..limits.fields.min(MOST_FIELDS)],
        )
        .map_err(flaw)?;
    let Status::Complete(end) = parsed else {
        return Ok(None);
    };
    Ok(Some(Lines {
        status: answer.code.unwrap_or(0),
        version: match answer.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        },
        fields: places(bytes, end, answer.headers)?,
        end,
    }))
}

/// Turns borrowed fields into positions, and refuses bare line feeds on the way: a line of a head ends where the next
/// name begins, so looking at the two bytes before each name and at the last four sees them all.
fn places(bytes: &[u8], end: usize, fields: &[Header<'_>]) -> Result<Places, Flaw> {
    const BARE: Flaw = Flaw::Malformed("a line feed without a carriage return");
    let start = bytes.as_ptr() as usize;
    let mut places = Places::new();
    for field in fields {
        let name = field.name.as_ptr() as usize - start;
        if name != 0 && !bytes[..name].ends_with(b"\r\n") {
            return Err(BARE);
        }
        places.push(Place {
            name: name as u32,
            name_length: field.name.len() as u32,
            value: (field.value.as_ptr() as usize - start) as u32,
            value_length: field.value.len() as u32,
        });
    }
    if !bytes[..end].ends_with(b"\r\n\r\n") {
        return Err(BARE);
    }
    Ok(places)
}

fn flaw(error: httparse::Error) -> Flaw {
    match error {
        httparse::Error::TooManyHeaders => Flaw::TooManyFields,
        httparse::Error::HeaderName => Flaw::Malformed("a field's name"),
        httparse::Error::HeaderValue => Flaw::Malformed("a field's value"),
        httparse::Error::NewLine => Flaw::Malformed("a line's end"),
        httparse::Error::Status => Flaw::Malformed("the status line"),
        httparse::Error::Version => Flaw::Malformed("the version"),
        httparse::Error::Token => Flaw::Malformed("a token"),
    }
}

/// Digits only: no sign, no list, no room for two readings.
fn decimal(value: &[u8]) -> Result<u64, Flaw> {
    const BAD: Flaw = Flaw::Malformed("the content length");
    if value.is_empty() {
        return Err(BAD);
    }
    value.iter().try_fold(0u64, |sum, &digit| {
        let digit = match digit {
            b'0'..=b'9' => u64::from(digit - b'0'),
            _ => return Err(BAD),
        };
        sum.checked_mul(10)
            .and_then(|sum| sum.checked_add(digit))
            .ok_or(BAD)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Option<Head>, Flaw> {
        take(&mut BytesMut::from(text), &Limits::default())
    }

    fn whole(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().unwrap()
    }

    fn refused(text: &[u8]) -> bool {
        matches!(parse(text), Err(Flaw::Malformed(_)))
    }

    #[test]
    fn a_head_leaves_what_follows() {
        let mut bytes = BytesMut::from(&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..]);
        let head = take(&mut bytes, &Limits::default()).unwrap().unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.length, Length::Known(2));
        assert_eq!(&bytes[..], b"hi");
    }

    #[test]
    fn every_prefix_is_partial() {
        let text = b"HTTP/1.1 200 OK\r\na: b\r\nlong-name:  c d \r\n\r\n";
        for end in 0..text.len() {
            assert!(matches!(parse(&text[..end]), Ok(None)), "{end}");
        }
    }

    #[test]
    fn obs_text_and_absent_reasons_pass() {
        let head = parse(b"HTTP/1.1 200\r\nx: caf\xe9\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(head.headers["x"].as_bytes(), b"caf\xe9");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let corpus: &[&[u8]] = &[
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\n\n",
            b"HTTP/1.1 200 OK\n\r\n",
            b"HTTP/1.1 200 OK\r\n\n",
            b"HTTP/1.1 200 OK\na: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na: b\n\r\n",
            b"HTTP/1.1 200 OK\r\na: b\r\n c: d\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n a: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"http/1.1 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0x1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: \x0bchunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ];
        for text in corpus {
            assert!(refused(text), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn one_length_said_twice_is_one() {
        let head = whole("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(head.length, Length::Known(5));
        assert_eq!(head.headers.get_all("content-length").iter().count(), 1);
    }

    #[test]
    fn transfer_encoding_is_not_passed_on() {
        let head = whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
        assert_eq!(head.length, Length::Chunked);
        assert!(head.headers.is_empty());
    }

    #[test]
    fn who_closes() {
        let closes = |version: &str, fields: &str| {
            whole(&format!("HTTP/{version} 200 OK\r\n{fields}\r\n")).close
        };
        assert!(!closes("1.1", ""));
        assert!(!closes("1.1", "connection: Keep-Alive\r\n"));
        assert!(!closes("1.1", "connection: upgrade, x\r\n"));
        assert!(closes("1.1", "connection: Close\r\n"));
        assert!(closes("1.1", "connection: x , close\r\n"));
        assert!(closes("1.0", ""));
        assert!(!closes("1.0", "connection: keep-alive\r\n"));
        assert!(!closes("1.0", "connection: x, keep-alive\r\n"));
        assert!(closes("1.0", "connection: keep-alive, close\r\n"));
        assert!(closes(
            "1.0",
            "connection: close\r\nconnection: keep-alive\r\n"
        ));
    }

    #[test]
    fn limits_hold_to_the_byte_and_the_field() {
        let text = b"HTTP/1.1 200 OK\r\na: b\r\nc: d\r\n\r\n";
        let parse = |head, fields| {
            take(&mut BytesMut::from(&text[..]), &Limits { head, fields }).map(|h| h.is_some())
        };
        assert_eq!(parse(text.len(), 2), Ok(true));
        assert_eq!(parse(text.len() - 1, 2), Err(Flaw::TooLarge));
        assert_eq!(parse(text.len(), 1), Err(Flaw::TooManyFields));
    }

    #[test]
    fn trailers_lose_framing_fields_and_keep_the_rest() {
        let mut bytes = BytesMut::from(&b"digest: x\r\ncontent-length: 3\r\n\r\nrest"[..]);
        let fields = take_trailers(&mut bytes, &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!(fields.len(), 1);
        assert_eq!(fields["digest"], "x");
        assert_eq!(&bytes[..], b"rest");
    }

    #[test]
    fn trailers_with_bare_line_feeds_are_refused() {
        for text in [&b"a: b\n\r\n"[..], b"a: b\nc: d\r\n\r\n", b"a: b\r\n\n"] {
            let taken = take_trailers(&mut BytesMut::from(text), &Limits::default());
            assert!(matches!(taken, Err(Flaw::Malformed(_))), "{taken:?}");
        }
    }
}
